//! Bytes and descriptors on the socket: slow, cut, merged, too many.

use super::super::wire::{MAX_UNREAD, PATIENCE};
use super::*;

/// Many copies of one pipe's write end to send, and the read end, which tells when all are closed.
struct Canary {
    read: OwnedFd,
    write: Option<OwnedFd>,
}

impl Canary {
    fn new() -> Self {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        Self {
            read,
            write: Some(write),
        }
    }

    fn copies(&self, count: usize) -> Vec<BorrowedFd<'_>> {
        vec![self.write.as_ref().unwrap().as_fd(); count]
    }

    /// Whether no descriptor that was sent is still open.
    fn all_closed(&mut self) -> bool {
        self.write = None;
        rustix::io::read(&self.read, &mut [0u8; 1]) == Ok(0)
    }
}

#[test]
fn p_17_a_session_closes_nothing_itself() {
    // Each request alone, so that each is seen to keep what it got and not needed, served or refused.
    for request in (0..48).chain([255]) {
        for count in [1, 2, 64, 65, 253] {
            for body in [
                vec![0; 8],
                table(&[[GUEST, MEM, USER, 0]]),
                single([GUEST; 4]),
            ] {
                let mut canary = Canary::new();
                let mut front = Front::new();
                front.negotiate();
                front.device.kept = Some(Vec::new());
                front.send(request, NEED_REPLY, &body, &canary.copies(count));
                let ended = front.step().is_err();
                front.session.close(&mut front.device);
                assert!(!canary.all_closed(), "request {request}, {count}");
                front.device.kept = None;
                if ended {
                    drop(front.session);
                }
                assert!(canary.all_closed(), "request {request}, {count}");
            }
        }
    }
}

#[test]
fn p_17_a_session_unmaps_nothing_itself_and_reads_nothing_until_it_is_done() {
    let mut front = Front::new();
    let file = front.negotiate();
    front.start_ring(1);
    front.device.kept = Some(Vec::new());
    let old = Arc::downgrade(front.session.backend.shared.table().unwrap());
    let moved = table(&[[GUEST, MEM, USER, 0]]);
    assert_eq!(
        front.ask(SET_MEM_TABLE, NEED_REPLY, &moved, &[file.as_fd()]),
        0
    );
    assert!(front.runs(1));
    assert!(old.upgrade().is_some(), "unmapped by the session");
    front.device.clear = false;
    front.send(GET_FEATURES, PLAIN, &[], &[]);
    front.step().unwrap();
    assert!(front.reply().is_none());
    front.device.kept = None;
    front.device.clear = true;
    assert!(old.upgrade().is_none(), "still mapped");
    front.step().unwrap();
    assert_eq!(front.reply().unwrap().0, GET_FEATURES);
}

#[test]
fn p_1_header_sizes_that_no_request_has() {
    for size in [4097u32, 1 << 31, u32::MAX] {
        let mut front = Front::new();
        front.send_raw(
            &[SET_OWNER, PLAIN, size].map(u32::to_ne_bytes).concat(),
            &[],
        );
        assert!(
            matches!(front.step(), Err(SessionEnd::Broken(Broken::TooLong(found))) if found == size)
        );
    }
    // The longest body is read to its end, and then refused by its request.
    let mut front = Front::new();
    front.negotiate();
    assert_eq!(front.ask(SET_OWNER, NEED_REPLY, &[0; 4096], &[]), 1);
    assert_eq!(front.ask(SET_OWNER, NEED_REPLY, &[0; 4095], &[]), 1);
    assert_eq!(front.ask(SET_OWNER, NEED_REPLY, &[], &[]), 0);
}

#[test]
fn p_1_every_request_with_every_short_body_is_served_or_refused() {
    // SET_PROTOCOL_FEATURES of zero bytes takes back the right to ask: it is told nothing.
    for request in (0..64u32).filter(|request| *request != SET_PROTOCOL_FEATURES) {
        for size in (0..=48).chain([264, 1024, 4095, 4096]) {
            let mut front = Front::new();
            let _file = front.negotiate();
            front.send(request, NEED_REPLY, &vec![0; size], &[]);
            match front.step() {
                Ok(()) => assert_eq!(front.reply().map(|reply| reply.0), Some(request)),
                Err(end) => assert!(
                    matches!(end, SessionEnd::Refused { .. }),
                    "{request} {size}: {end}"
                ),
            }
            front.session.close(&mut front.device);
            assert!(front.device.rings.iter().all(Option::is_none));
        }
    }
}

#[test]
fn p_2_broken_headers_end_the_connection() {
    for flags in [0, 2, 3, 5, 1 | 16, 1 | 1 << 31, u32::MAX] {
        let mut front = Front::new();
        front.send(SET_OWNER, flags, &[], &[]);
        let end = front.step().unwrap_err();
        assert!(
            matches!(end, SessionEnd::Broken(_)) && end.is_violation(),
            "{end}"
        );
    }
}

#[test]
fn p_3_a_dribbled_message_is_served_when_it_is_whole() {
    let mut front = Front::new();
    for byte in message(GET_FEATURES, PLAIN, &[]) {
        assert!(front.reply().is_none());
        front.send_raw(&[byte], &[]);
        front.step().unwrap();
    }
    assert!(front.reply().is_some());
    assert_eq!(front.session.deadline(), None);
}

#[test]
fn p_3_a_message_that_is_not_finished_in_time_ends_the_connection() {
    let whole = message(SET_VRING_NUM, PLAIN, &state(0, 256));
    for cut in [1, 11, 12, 13, 19] {
        let mut front = Front::new();
        assert_eq!(front.session.deadline(), None);
        front.send_raw(&whole[..cut], &[]);
        front.step().unwrap();
        let deadline = front.now + PATIENCE;
        assert_eq!(front.session.deadline(), Some(deadline));
        // More bytes do not buy more time.
        front.now = front.now + PATIENCE - 1;
        front.send_raw(&whole[cut..cut + 1], &[]);
        front.step().unwrap();
        if cut < 19 {
            assert_eq!(front.session.deadline(), Some(deadline));
            assert!(front.session.expired(front.now).is_ok());
            assert!(matches!(
                front.session.expired(deadline),
                Err(SessionEnd::Stalled)
            ));
        } else {
            assert_eq!(front.session.deadline(), None);
        }
    }
}

#[test]
fn p_4_two_messages_in_one_send_are_two_messages() {
    let mut front = Front::new();
    let two = [
        message(GET_FEATURES, PLAIN, &[]),
        message(GET_QUEUE_NUM, PLAIN, &[]),
    ]
    .concat();
    front.send_raw(&two, &[]);
    front.step().unwrap();
    assert_eq!(front.reply().unwrap().0, GET_FEATURES);
    assert_eq!(front.reply().unwrap().0, GET_QUEUE_NUM);
}

#[test]
fn p_4_descriptors_belong_to_the_message_whose_bytes_they_came_with() {
    let kick = event();
    let whole = message(SET_VRING_KICK, NEED_REPLY, &1u64.to_ne_bytes());
    // With any byte of the message, header or body.
    for at in 0..whole.len() {
        let mut front = Front::new();
        front.negotiate();
        front.send_raw(&message(GET_FEATURES, PLAIN, &[]), &[]);
        if at > 0 {
            front.send_raw(&whole[..at], &[]);
        }
        front.send_raw(&whole[at..], &[kick.as_fd()]);
        front.step().unwrap();
        assert_eq!(front.reply().unwrap().0, GET_FEATURES);
        let answer = front.reply().unwrap();
        assert_eq!(
            (answer.0, answer.2),
            (SET_VRING_KICK, vec![0; 8]),
            "with byte {at}"
        );
    }
}

#[test]
fn p_4_descriptors_of_merged_messages_go_to_the_first_and_are_closed() {
    let mut canary = Canary::new();
    let mut front = Front::new();
    front.negotiate();
    let two = [
        message(SET_OWNER, NEED_REPLY, &[]),
        message(SET_VRING_KICK, NEED_REPLY, &1u64.to_ne_bytes()),
    ]
    .concat();
    front.send_raw(&two, &canary.copies(1));
    front.step().unwrap();
    assert_eq!(front.reply().unwrap().2, 1u64.to_ne_bytes());
    assert_eq!(front.reply().unwrap().2, 1u64.to_ne_bytes());
    assert!(canary.all_closed());
}

#[test]
fn p_5_descriptors_that_should_be_there_or_should_not() {
    let mut front = Front::new();
    front.negotiate();
    for request in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
        assert_eq!(front.ask(request, NEED_REPLY, &0u64.to_ne_bytes(), &[]), 1);
        let event = event();
        let nofd = 0x100u64.to_ne_bytes();
        assert_eq!(front.ask(request, NEED_REPLY, &nofd, &[event.as_fd()]), 1);
        assert_eq!(front.ask(request, NEED_REPLY, &nofd, &[]), 0);
        assert_eq!(
            front.ask(request, NEED_REPLY, &0u64.to_ne_bytes(), &[event.as_fd()]),
            0
        );
        assert_eq!(
            front.ask(
                request,
                NEED_REPLY,
                &0x200u64.to_ne_bytes(),
                &[event.as_fd()]
            ),
            1
        );
    }
    let file = memfd(MEM);
    let two = table(&[
        [GUEST, MEM / 2, USER, 0],
        [GUEST + MEM, MEM / 2, USER + MEM, MEM / 2],
    ]);
    assert_eq!(
        front.ask(SET_MEM_TABLE, NEED_REPLY, &two, &[file.as_fd()]),
        1
    );
    assert_eq!(
        front.ask(SET_MEM_TABLE, NEED_REPLY, &two, &[file.as_fd(); 3]),
        1
    );
    assert_eq!(
        front.ask(SET_MEM_TABLE, NEED_REPLY, &two, &[file.as_fd(); 2]),
        0
    );
    let one = single([GUEST + 4 * MEM, MEM, USER + 4 * MEM, 0]);
    assert_eq!(front.ask(ADD_MEM_REG, NEED_REPLY, &one, &[]), 1);
    assert_eq!(
        front.ask(ADD_MEM_REG, NEED_REPLY, &one, &[file.as_fd(); 2]),
        1
    );
}

#[test]
fn p_6_surplus_descriptors_are_closed_whatever_the_request() {
    let mut canary = Canary::new();
    for request in (0..48).chain([255]) {
        for count in [1, 2, 64, 65, 253] {
            let mut front = Front::new();
            front.negotiate();
            front.send(request, NEED_REPLY, &[0; 8], &canary.copies(count));
            match front.step() {
                Ok(()) => assert!(count <= 64, "request {request} took {count} descriptors"),
                Err(SessionEnd::Broken(Broken::TooManyFds)) => assert!(count > 64),
                Err(end) => assert!(matches!(end, SessionEnd::Refused { .. }), "{end}"),
            }
        }
    }
    assert!(canary.all_closed());
}

#[test]
fn p_6_descriptors_before_a_whole_message_are_bounded_and_closed() {
    let mut canary = Canary::new();
    let mut front = Front::new();
    let mut ended = false;
    for byte in message(SET_VRING_KICK, PLAIN, &0u64.to_ne_bytes()) {
        front.send_raw(&[byte], &canary.copies(8));
        ended |= matches!(front.step(), Err(SessionEnd::Broken(Broken::TooManyFds)));
    }
    assert!(ended);
    drop(front);
    assert!(canary.all_closed());
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn p_6_ten_thousand_rounds_leave_the_number_of_descriptors_as_it_was() {
    let mut canary = Canary::new();
    let requests: Vec<u32> = (0..48).chain([255]).collect();
    let mut most = 0;
    let before = open_descriptors();
    for round in 0..10_000usize {
        let request = requests[round % requests.len()];
        let count = 1 + round % 253;
        let mut front = Front::new();
        front.send(request, NEED_REPLY, &[0; 8], &canary.copies(count));
        let step = front.step();
        if count > 64 {
            assert!(matches!(step, Err(SessionEnd::Broken(Broken::TooManyFds))));
        }
        if round % 1_000 == 0 {
            most = most.max(open_descriptors());
        }
        drop(front);
        assert_eq!(
            open_descriptors(),
            before,
            "round {round}, request {request}"
        );
    }
    assert!(
        most >= before + 2,
        "the sockets were open while it was counted"
    );
    assert!(canary.all_closed());
}

#[test]
fn received_descriptors_are_close_on_exec() {
    let mut front = Front::new();
    let _file = front.negotiate();
    front.start_ring(1);
    let kick = front.device.rings[1]
        .as_ref()
        .unwrap()
        .0
        .kick
        .clone()
        .unwrap();
    let flags = rustix::io::fcntl_getfd(&*kick).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn p_28_replies_that_nobody_reads_are_bounded() {
    let mut front = Front::new();
    let mut asked = 0u32;
    let end = loop {
        front.send(GET_FEATURES, PLAIN, &[], &[]);
        asked += 1;
        if let Err(end) = front.step() {
            break end;
        }
        assert!(asked < 1_000_000);
    };
    assert!(matches!(end, SessionEnd::Unread), "{end}");
    assert!(end.is_violation());
    // What was answered until then can still be read, whole.
    let mut read = 0;
    while let Some((request, _, body)) = front.reply() {
        assert_eq!((request, body.len()), (GET_FEATURES, 8));
        read += 1;
    }
    let held = MAX_UNREAD / 20;
    assert!(
        read as usize + held + 2 > asked as usize,
        "{read} of {asked} read, {held} held"
    );
}

#[test]
fn p_28_a_reply_that_waits_is_sent_when_it_is_taken_or_ends_the_connection() {
    let mut front = Front::new();
    while !front.session.wants_write() {
        front.send(GET_FEATURES, PLAIN, &[], &[]);
        front.step().unwrap();
    }
    let deadline = front.session.deadline().unwrap();
    assert_eq!(deadline, front.now + PATIENCE);
    assert!(matches!(
        front.session.expired(deadline),
        Err(SessionEnd::Unread)
    ));
    while front.reply().is_some() {}
    front.session.writable(front.now).unwrap();
    assert!(!front.session.wants_write() && front.session.deadline().is_none());
    assert_eq!(front.reply().unwrap().0, GET_FEATURES);
}

/// A whole conversation up to two running rings, as pieces with their descriptors.
fn conversation() -> Vec<(Vec<u8>, Vec<OwnedFd>)> {
    let plain = |request, body: &[u8]| (message(request, PLAIN, body), vec![]);
    let mut all = vec![
        plain(GET_FEATURES, &[]),
        plain(GET_PROTOCOL_FEATURES, &[]),
        plain(
            SET_PROTOCOL_FEATURES,
            &features::PROTOCOL_OFFERED.to_ne_bytes(),
        ),
        plain(SET_OWNER, &[]),
        plain(SET_FEATURES, &(VERSION_1 | PROTOCOL_BIT).to_ne_bytes()),
        (
            message(SET_MEM_TABLE, NEED_REPLY, &table(&[[GUEST, MEM, USER, 0]])),
            vec![memfd(MEM)],
        ),
    ];
    for index in 0..2u32 {
        let number = u64::from(index).to_ne_bytes();
        all.push(plain(SET_VRING_NUM, &state(index, 256)));
        all.push(plain(SET_VRING_BASE, &state(index, 0)));
        all.push(plain(SET_VRING_ADDR, &addr(index)));
        all.push((message(SET_VRING_KICK, PLAIN, &number), vec![event()]));
        all.push((message(SET_VRING_CALL, PLAIN, &number), vec![event()]));
        all.push(plain(SET_VRING_ENABLE, &state(index, 1)));
    }
    all.push(plain(GET_VRING_BASE, &state(0, 0)));
    all
}

#[test]
fn p_30_a_connection_may_end_at_any_byte() {
    let pieces = conversation();
    let total: usize = pieces.iter().map(|(bytes, _)| bytes.len()).sum();
    for cut in 0..=total {
        let mut front = Front::new();
        let mut left = cut;
        for (bytes, fds) in &pieces {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            let now = left.min(bytes.len());
            if now > 0 {
                front.send_raw(&bytes[..now], &fds);
                front.step().unwrap();
            }
            left -= now;
        }
        front.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let end = front.step().unwrap_err();
        assert!(matches!(end, SessionEnd::Closed), "cut at {cut}: {end}");
        front.session.close(&mut front.device);
        assert!(front.device.rings.iter().all(Option::is_none));
    }
}

/// A closed TCP socket with an hour of SO_LINGER, and unsent bytes that the other end never takes.
#[test]
fn p_7_a_socket_that_lingers_is_closed_without_waiting() {
    use std::io::Write;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (_never_read, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    while stream.write(&[0; 4096]).is_ok() {}
    let hour = std::time::Duration::from_secs(3600);
    rustix::net::sockopt::set_socket_linger(&stream, Some(hour)).unwrap();
    let watch = stream.try_clone().unwrap();
    let mut front = Front::new();
    front.send_raw(
        &message(SET_VRING_KICK, PLAIN, &0u64.to_ne_bytes()),
        &[stream.as_fd()],
    );
    drop(stream);
    assert!(front.step().is_err(), "no eventfd");
    assert_eq!(
        rustix::net::sockopt::socket_linger(&watch).unwrap(),
        None,
        "whoever closes it last does not wait"
    );
}
