//! TCP's transitions, one by one.

use super::*;
use crate::frame::tcp::flag::{CWR, ECE, FIN, PSH, RST, URG};

fn connected() -> (World, Connection) {
    let mut world = World::new(&spec());
    let connection = world.connect(v4(0), v4(1));
    assert_eq!(world.phase(), Phase::Established);
    (world, connection)
}

#[test]
fn a_handshake_goes_through_its_phases_and_is_half_open_until_its_end() {
    let mut world = World::new(&spec());
    let (a, b) = ((v4(0), 40_000), (v4(1), 80));
    let half_open = |world: &World| world.tracker().usage(port(0)).half_open;

    let syn = Tcp::new(a, b, SYN | ECE | CWR).at(u32::MAX, 0).made();
    assert_eq!(world.pass(a.0, b.0, &syn), State::New);
    assert_eq!((world.phase(), half_open(&world)), (Phase::SynSent, 1));
    assert_eq!(world.pass(a.0, b.0, &syn), State::Established, "once more");

    let answer = Tcp::new(b, a, SYN | ACK).at(77, 0).made();
    assert_eq!(world.pass(b.0, a.0, &answer), State::Established);
    assert_eq!((world.phase(), half_open(&world)), (Phase::SynReceived, 1));

    let wrong = Tcp::new(a, b, ACK).at(0, 77).made();
    assert_eq!(
        world.pass(a.0, b.0, &wrong),
        State::Invalid,
        "acknowledges no SYN"
    );
    let ack = Tcp::new(a, b, ACK).at(0, 78).made();
    assert_eq!(world.pass(a.0, b.0, &ack), State::Established);
    assert_eq!((world.phase(), half_open(&world)), (Phase::Established, 0));
    let flow = world.flows()[0];
    assert_eq!((flow.opener, flow.peer, flow.vid), (port(0), port(1), VID));
    assert_eq!((flow.src_ip, flow.src_port), (a.0.ip, 40_000));
    assert_eq!((flow.dst_ip, flow.dst_port), (b.0.ip, 80));
    assert_eq!((flow.sent.packets, flow.received.packets), (3, 1));
    assert_eq!((flow.sent.bytes, flow.received.bytes), (3 * 54, 54));
    assert_eq!(flow.terms, terms());
    assert_eq!(world.tracker().usage(port(1)).flows, 0);
}

#[test]
fn a_syn_ack_that_answers_no_syn_is_invalid() {
    let mut world = World::new(&spec());
    let (a, b) = ((v4(0), 40_000), (v4(1), 80));
    let answer = Tcp::new(b, a, SYN | ACK).at(77, 1000);
    assert_eq!(world.pass(b.0, a.0, &answer.made()), State::Invalid);
    world.pass(a.0, b.0, &Tcp::new(a, b, SYN).at(5000, 0).made());
    for ack in [0, 5000, 5002] {
        let wrong = answer.at(77, ack).made();
        assert_eq!(world.pass(b.0, a.0, &wrong), State::Invalid, "{ack}");
    }
    assert_eq!(world.phase(), Phase::SynSent);
    assert_eq!(
        world.pass(b.0, a.0, &answer.at(77, 5001).made()),
        State::Established
    );
}

#[test]
fn data_with_syn_need_not_be_taken_whole() {
    let mut world = World::new(&spec());
    let (a, b) = ((v4(0), 40_000), (v4(1), 80));
    let syn = Tcp::new(a, b, SYN).at(99, 0).data(500);
    assert_eq!(world.pass(a.0, b.0, &syn.made()), State::New);
    let answer = Tcp::new(b, a, SYN | ACK).at(77, 100).data(200);
    assert_eq!(world.pass(b.0, a.0, &answer.made()), State::Established);
    // Before the handshake is complete, as far as the window of the SYN goes (RFC 7413).
    let more = Tcp::new(b, a, ACK).at(278, 100).data(700);
    assert_eq!(world.pass(b.0, a.0, &more.made()), State::Established);
    let again = Tcp::new(a, b, ACK).at(100, 978).data(500);
    assert_eq!(world.pass(a.0, b.0, &again.made()), State::Established);
    assert_eq!(world.phase(), Phase::Established);
}

#[test]
fn both_may_open_at_once() {
    let mut world = World::new(&spec());
    let (a, b) = ((v4(0), 1000), (v4(1), 2000));
    world.pass(a.0, b.0, &Tcp::new(a, b, SYN).at(10, 0).made());
    let theirs = Tcp::new(b, a, SYN).at(20, 0).made();
    assert_eq!(world.pass(b.0, a.0, &theirs), State::Established);
    let mine = Tcp::new(a, b, SYN | ACK).at(10, 21).made();
    assert_eq!(world.pass(a.0, b.0, &mine), State::Established);
    assert_eq!(world.phase(), Phase::SynReceived);
    let theirs = Tcp::new(b, a, SYN | ACK).at(20, 11).made();
    assert_eq!(world.pass(b.0, a.0, &theirs), State::Established);
    assert_eq!(world.phase(), Phase::Established);
    let late = Tcp::new(b, a, SYN).at(20, 0).made();
    assert_eq!(world.pass(b.0, a.0, &late), State::Established);
    let data = Tcp::new(a, b, ACK).at(11, 21).data(100).made();
    assert_eq!(world.pass(a.0, b.0, &data), State::Established);
}

#[test]
fn closing_runs_through_fin_to_time_wait() {
    let (mut world, c) = connected();
    assert_eq!(
        world.by_a(c, c.a(FIN | ACK).at(1000, 5000)),
        State::Established
    );
    assert_eq!(world.phase(), Phase::Closing);
    // The other side still sends.
    assert_eq!(
        world.by_b(c, c.b(ACK).at(5000, 1001).data(300)),
        State::Established
    );
    assert_eq!(world.by_a(c, c.a(ACK).at(1001, 5300)), State::Established);
    assert_eq!(
        world.by_b(c, c.b(FIN | ACK).at(5300, 1001)),
        State::Established
    );
    assert_eq!(world.phase(), Phase::Closing);
    // Nothing comes behind a FIN.
    assert_eq!(
        world.by_a(c, c.a(ACK).at(1001, 5301).data(1)),
        State::Invalid
    );
    assert_eq!(world.by_a(c, c.a(ACK).at(1001, 5301)), State::Established);
    assert_eq!(world.phase(), Phase::TimeWait);
    // The last acknowledgment was lost.
    assert_eq!(
        world.by_b(c, c.b(FIN | ACK).at(5300, 1001)),
        State::Established
    );
}

#[test]
fn either_side_may_open_anew_after_time_wait() {
    for from_peer in [false, true] {
        let (mut world, c) = connected();
        world.by_a(c, c.a(FIN | ACK).at(1000, 5000));
        world.by_b(c, c.b(FIN | ACK).at(5000, 1001));
        world.by_a(c, c.a(ACK).at(1001, 5001));
        assert_eq!(world.phase(), Phase::TimeWait);
        let (from, to) = if from_peer { (c.b, c.a) } else { (c.a, c.b) };
        let syn = Tcp::new(from, to, SYN).at(500, 0).made();
        let look = world.look(from.0, to.0, &syn);
        assert_eq!((look.state, look.flow), (State::New, None));
        assert_eq!(world.pass(from.0, to.0, &syn), State::New);
        assert_eq!(world.phase(), Phase::SynSent);
        assert_eq!(world.flows()[0].opener, from.0.port);
        let answer = Tcp::new(to, from, SYN | ACK).at(9, 501).made();
        assert_eq!(world.pass(to.0, from.0, &answer), State::Established);
    }
}

#[test]
fn e_28_impossible_flags_are_invalid_and_open_nothing() {
    const ALL: [u8; 6] = [FIN, SYN, RST, PSH, ACK, URG];
    let (mut world, c) = connected();
    let before = world.flows();
    let other = Connection {
        a: (c.a.0, 40_001),
        ..c
    };
    for bits in 0u8..64 {
        let flags = ALL.iter().enumerate().fold(0, |flags, (n, flag)| {
            if bits >> n & 1 != 0 {
                flags | flag
            } else {
                flags
            }
        });
        let has = |flag| flags & flag != 0;
        let is_legal = match flags & (SYN | FIN | RST) {
            0 => has(ACK),
            SYN => !has(URG),
            FIN => has(ACK),
            RST => !has(URG),
            _ => false,
        };
        let on_new = world.by_a(other, other.a(flags).at(1, 1));
        let is_syn = is_legal && flags & !PSH == SYN;
        let expected = if is_syn { State::New } else { State::Invalid };
        assert_eq!(on_new, expected, "new, flags {flags:#x}");
        if !is_legal {
            let on_old = world.by_a(c, c.a(flags).at(1000, 5000));
            assert_eq!(on_old, State::Invalid, "established, flags {flags:#x}");
        }
    }
    // XMAS as nmap sends it.
    assert_eq!(
        world.by_a(c, c.a(FIN | PSH | URG).at(1000, 5000)),
        State::Invalid
    );
    assert_eq!(world.flows(), before);
}

#[test]
fn e_28_a_reset_closes_only_where_the_receiver_is() {
    let (mut world, c) = connected();
    let before = world.flows();
    for (seq, expected) in [
        (4999, State::Invalid),
        (0, State::Invalid),
        (15_001, State::Invalid),
        (0x8000_0000, State::Invalid),
        // In the window: the receiver challenges it.
        (5001, State::Established),
        (15_000, State::Established),
    ] {
        assert_eq!(world.by_b(c, c.b(RST).at(seq, 0)), expected, "{seq}");
        assert_eq!(
            world.by_b(c, c.b(RST | ACK).at(seq, 1000)),
            expected,
            "{seq}"
        );
    }
    assert_eq!(world.by_b(c, c.b(RST | ACK).at(5000, 1001)), State::Invalid);
    assert_eq!(world.flows(), before);
    assert_eq!(world.by_b(c, c.b(RST).at(5000, 0)), State::Established);
    assert_eq!(world.phase(), Phase::Closed);
}

#[test]
fn a_refused_syn_is_closed_by_a_reset_that_acknowledges_it() {
    let mut world = World::new(&spec());
    let (a, b) = ((v6(0), 40_000), (v6(1), 80));
    let syn = Tcp::new(a, b, SYN).at(5, 0).made();
    world.pass(a.0, b.0, &syn);
    assert_eq!(
        world.pass(b.0, a.0, &Tcp::new(b, a, RST).at(0, 6).made()),
        State::Invalid
    );
    let wrong = Tcp::new(b, a, RST | ACK).at(0, 7).made();
    assert_eq!(world.pass(b.0, a.0, &wrong), State::Invalid);
    assert_eq!(world.phase(), Phase::SynSent);
    let refusal = Tcp::new(b, a, RST | ACK).at(0, 6).made();
    assert_eq!(world.pass(b.0, a.0, &refusal), State::Established);
    assert_eq!(world.phase(), Phase::Closed);
    assert_eq!(world.pass(a.0, b.0, &syn), State::New);
}

/// RFC 5961, section 4: the receiver challenges; what it sees then is either an exact reset or nothing.
#[test]
fn a_syn_on_a_connection_is_challenged_and_leads_to_a_new_one() {
    let (mut world, c) = connected();
    let before = world.flows();
    // Behind: a late duplicate, or a host that has lost its memory.
    assert_eq!(world.by_a(c, c.a(SYN).at(999, 0)), State::Established);
    assert_eq!(
        world.by_a(c, c.a(SYN).at(0x9000_0000, 0)),
        State::Established
    );
    assert_eq!(world.flows(), before);
    // The challenge is a plain acknowledgment; the answer to it stands where the peer is.
    assert_eq!(world.by_b(c, c.b(ACK).at(5000, 1000)), State::Established);
    assert_eq!(world.by_a(c, c.a(RST).at(1000, 0)), State::Established);
    assert_eq!(world.phase(), Phase::Closed);
    assert_eq!(world.by_a(c, c.a(SYN).at(0x9000_0000, 0)), State::New);
}

#[test]
fn a_syn_ahead_of_all_that_was_sent_is_judged_as_new() {
    let (mut world, c) = connected();
    let syn = c.a(SYN).at(70_000, 0).made();
    let look = world.look(c.a.0, c.b.0, &syn);
    assert_eq!(
        (look.state, look.flow, look.elsewhere),
        (State::New, None, None)
    );
    assert_eq!(world.phase(), Phase::Established, "until it is opened");
    assert_eq!(world.pass(c.a.0, c.b.0, &syn), State::New);
    assert_eq!(world.phase(), Phase::SynSent);
    // The peer still has the old connection: its challenge reaches the opener, whose reset closes.
    assert_eq!(world.by_b(c, c.b(ACK).at(5000, 1000)), State::Established);
    assert_eq!(
        world.by_b(c, c.b(ACK).at(5000, 1000).data(1)),
        State::Invalid
    );
    assert_eq!(world.by_a(c, c.a(RST).at(1000, 0)), State::Established);
    assert_eq!(world.phase(), Phase::Closed);
}

#[test]
fn a_peer_that_has_lost_its_memory_gets_a_new_connection_with_the_next_syn() {
    let (mut world, c) = connected();
    let syn = c.a(SYN).at(0x9000_0000, 0);
    assert_eq!(world.by_a(c, syn), State::Established);
    let answer = c.b(SYN | ACK).at(123_456_789, 0x9000_0001);
    assert_eq!(world.by_b(c, answer), State::Invalid);
    assert_eq!(world.phase(), Phase::Established);
    assert_eq!(world.pass(c.a.0, c.b.0, &syn.made()), State::New);
    assert_eq!(world.by_b(c, answer), State::Established);
}

#[test]
fn a_peer_opens_nothing_on_a_connection_that_is_not_over() {
    let (mut world, c) = connected();
    for seq in [0, 4999, 90_000, 0x9000_0000] {
        assert_eq!(world.by_b(c, c.b(SYN).at(seq, 0)), State::Invalid, "{seq}");
    }
    assert_eq!(world.phase(), Phase::Established);
}

#[test]
fn e_28_data_and_acknowledgments_out_of_the_window_are_invalid_and_change_nothing() {
    let (mut world, c) = connected();
    let before = world.flows();
    for (seq, ack, len, why) in [
        (1000, 5000, 10_003, "runs past the window"),
        (11_003, 5000, 0, "begins past the window"),
        (0x8000_0000, 5000, 10, "half a circle away"),
        (
            1000u32.wrapping_sub(200_000),
            5000,
            10,
            "older than two windows",
        ),
        (1000, 5001, 0, "acknowledges what was not sent"),
        (
            1000,
            5000u32.wrapping_sub(200_000),
            0,
            "acknowledges what is long gone",
        ),
    ] {
        let segment = c.a(ACK).at(seq, ack).data(len);
        assert_eq!(world.by_a(c, segment), State::Invalid, "{why}");
    }
    assert_eq!(world.flows(), before);
    for (seq, ack, len, why) in [
        (1000, 5000, 10_000, "fills the window"),
        (11_000, 5000, 1, "probes a closed window"),
        (999, 5000, 0, "keeps alive"),
        (1000, 5000, 10_000, "sends again"),
    ] {
        let segment = c.a(ACK).at(seq, ack).data(len);
        assert_eq!(world.by_a(c, segment), State::Established, "{why}");
    }
}

/// The option counts only when both have it (RFC 7323, section 2.2), and never for the window of a SYN.
#[test]
fn windows_are_scaled_when_both_sides_say_so() {
    for (mine, theirs) in [(Some(4), Some(15)), (Some(4), None), (None, Some(7))] {
        let mut world = World::new(&spec());
        let (a, b) = ((v4(0), 40_000), (v4(1), 80));
        let c = Connection { a, b };
        let mut syn = c.a(SYN).at(999, 0).window(100);
        let mut answer = c.b(SYN | ACK).at(4999, 1000);
        (syn.scale, answer.scale) = (mine, theirs);
        world.pass(a.0, b.0, &syn.made());
        assert_eq!(world.pass(b.0, a.0, &answer.made()), State::Established);
        world.by_a(c, c.a(ACK).at(1000, 5000).window(1000));
        let window = if mine.and(theirs).is_some() {
            16_000
        } else {
            1000
        };
        assert_eq!(
            world.by_b(c, c.b(ACK).at(5000 + window, 1000).data(3)),
            State::Invalid
        );
        assert_eq!(
            world.by_b(c, c.b(ACK).at(5000, 1000).data(window as usize).window(10)),
            State::Established
        );
        // What the SYN-ACK offered was unscaled, and is not taken back; what follows is scaled by 14 at most.
        let window = if mine.and(theirs).is_some() {
            10 << 14
        } else {
            10_000
        };
        assert_eq!(
            world.by_a(c, c.a(ACK).at(1000 + window, 5000).data(3)),
            State::Invalid
        );
        assert_eq!(
            world.by_a(c, c.a(ACK).at(1000 + window - 1, 5000).data(1)),
            State::Established
        );
    }
}

#[test]
fn a_segment_of_64_kilobytes_counts_whole() {
    for (a, b, len) in [(v4(0), v4(1), 65_495), (v6(0), v6(1), 65_476)] {
        let mut world = World::new(&spec());
        let c = world.connect(a, b);
        world.by_b(c, c.b(ACK).at(5000, 1000).window(65_535));
        assert_eq!(
            world.by_a(c, c.a(ACK).at(1000, 5000).data(len)),
            State::Established
        );
        let ack = 1000 + u32::try_from(len).unwrap();
        assert_eq!(world.by_b(c, c.b(ACK).at(5000, ack + 1)), State::Invalid);
        assert_eq!(world.by_b(c, c.b(ACK).at(5000, ack)), State::Established);
    }
}

#[test]
fn a_connection_is_picked_up_in_the_middle_only_where_that_is_wanted() {
    let (a, b) = ((v4(0), 40_000), (v4(1), 80));
    let c = Connection { a, b };
    let middle = c.a(ACK | PSH).at(700_000, 900_000).data(1000);
    let mut strict = World::new(&spec());
    assert_eq!(strict.by_a(c, middle), State::Invalid);

    let mut world = World::new(&TrackingSpec {
        loose: true,
        ..spec()
    });
    for flags in [RST, RST | ACK, SYN | ACK, FIN | ACK] {
        assert_eq!(
            world.by_a(c, c.a(flags).at(700_000, 900_000)),
            State::Invalid
        );
    }
    assert_eq!(world.pass(a.0, b.0, &middle.made()), State::New);
    assert_eq!(world.phase(), Phase::SynSent);
    assert_eq!(
        world.by_a(c, c.a(ACK).at(701_000, 900_000).data(1000)),
        State::Established
    );
    // The windows are as the first segments show them.
    assert_eq!(
        world.by_b(c, c.b(ACK).at(900_000, 0x9000_0000)),
        State::Invalid
    );
    assert_eq!(
        world.by_b(c, c.b(ACK).at(900_000, 702_000)),
        State::Established
    );
    assert_eq!(world.phase(), Phase::Established);
    assert_eq!(
        world.by_b(c, c.b(ACK).at(0x9000_0000, 702_000).data(9)),
        State::Invalid
    );
    assert_eq!(world.by_b(c, c.b(RST).at(0x9000_0000, 0)), State::Invalid);
    assert_eq!(world.phase(), Phase::Established);
    assert_eq!(world.by_b(c, c.b(RST).at(900_000, 0)), State::Established);
    assert_eq!(world.phase(), Phase::Closed);
}

#[test]
fn options_that_contradict_themselves_end_the_reading() {
    let mut world = World::new(&spec());
    let c = Connection {
        a: (v4(0), 1),
        b: (v4(1), 2),
    };
    let mut head = c.a(SYN).header();
    head[12] = 7 << 4;
    for options in [
        [2, 0, 3, 3, 9, 0, 0, 0],
        [2, 1, 3, 3, 9, 0, 0, 0],
        [2, 200, 3, 3, 9, 0, 0, 0],
    ] {
        let mut bytes = head.clone();
        bytes.extend(options);
        let made = ip(c.a.0.ip, c.b.0.ip, protocol::TCP, &bytes, 0);
        assert_eq!(world.look(c.a.0, c.b.0, &made).state, State::New);
    }
}
