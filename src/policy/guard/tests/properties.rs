//! What holds for any bytes.

use proptest::prelude::*;

use super::*;

/// Frames of every kind that the guard tells apart.
fn corpus() -> Vec<Vec<u8>> {
    let v4 = |packet: Vec<u8>| ethernet(GATEWAY, OWN, 0x0800, &packet);
    let v6 = |packet: Vec<u8>| ethernet(GATEWAY, OWN, 0x86dd, &packet);
    let tcp = [
        &[4, 0, 0, 80][..],
        &[0; 8],
        &[0x50, 2, 0, 0, 0, 0, 0, 0],
        &[7; 40],
    ]
    .concat();
    let (next, chain) = behind(6, 60, 58, &advertising(OWN));
    let solicit = solicitation(
        OWN6,
        GATEWAY6,
        &[option(1, OWN), option(14, OTHER)].concat(),
    );
    let discover = ASK.with(&[&[53, 1, 1], &[61, 7, 1], &OWN.octets(), &[55, 2, 1, 3]]);
    let tagged = [&[0, 5, 8, 0][..], &udp4(OWN4, GATEWAY4, 1, 2, &[])].concat();
    vec![
        v4(udp4(OWN4, GATEWAY4, 1000, 53, &[7; 40])),
        v4(ipv4(OWN4, GATEWAY4, 6, &tcp)),
        v4(ipv4(OWN4, GATEWAY4, 1, &[8, 0, 0, 0, 0, 1, 0, 1])),
        v4(ipv4_with(
            OWN4,
            GATEWAY4,
            6,
            &[148, 4, 0, 0, 1, 1, 1, 0],
            0x2000,
            &tcp,
        )),
        v4(dhcp_client(&discover)),
        v6(udp6(OWN6, GATEWAY6, 1000, 53, &[7; 40])),
        v6(ipv6(OWN6, GATEWAY6, 6, 64, &tcp)),
        v6(ipv6(OWN6, GATEWAY6, 58, 64, &icmpv6(128, &[0; 4]))),
        v6(ipv6(OWN_LINK, ALL_NODES6, next, 255, &chain)),
        v6(ipv6(
            OWN6,
            GATEWAY6,
            44,
            64,
            &[&fragment(17, 0, true)[..], &udp(1, 2, &[7; 40])].concat(),
        )),
        v6(ipv6(
            OWN6,
            GATEWAY6,
            43,
            64,
            &[&[6, 2, 0, 1][..], &[0; 20], &tcp].concat(),
        )),
        v6(udp6(
            OWN_LINK,
            ALL_NODES6,
            546,
            547,
            &[1, 1, 2, 3, 0, 3, 0, 12],
        )),
        v6(solicit),
        v6(answer(OWN6, OWN6, &option(2, OWN))),
        ethernet(
            Mac::BROADCAST,
            OWN,
            0x0806,
            &arp(1, OWN, OWN4, OWN, GATEWAY4),
        ),
        ethernet(Mac::BROADCAST, OWN, 0x8035, &arp(3, OWN, ZERO4, OWN, ZERO4)),
        ethernet(GATEWAY, OWN, 46, &[&[0xf0, 0xf0, 3][..], &[0; 43]].concat()),
        ethernet(
            GATEWAY,
            OWN,
            46,
            &[&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &[0; 38]].concat(),
        ),
        ethernet(GATEWAY, OWN, 0x8100, &tagged),
        ethernet(GATEWAY, OWN, 0x88cc, &[0; 46]),
    ]
}

/// A frame of the corpus, or any bytes, with some bytes behind the addresses changed, and cut or grown.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let near = (
        prop::sample::select(corpus()),
        prop::collection::vec((12..200usize, any::<u8>()), 0..4),
        prop_oneof![3 => Just(0isize), 1 => -60..60isize],
    )
        .prop_map(|(mut frame, changes, grow)| {
            for (at, value) in changes {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            let len = frame.len().saturating_add_signed(grow).max(18);
            frame.resize(len, 0);
            frame
        });
    let far = prop::collection::vec(any::<u8>(), 18..400).prop_map(|mut bytes| {
        bytes[6..12].copy_from_slice(&OWN.octets());
        bytes
    });
    prop_oneof![8 => near, 1 => far]
}

fn spec() -> impl Strategy<Value = GuardSpec> {
    let ip = prop::sample::select(vec![IpSpec::Any, addresses(), IpSpec::Dhcp]);
    let mac = prop::sample::select(vec![MacSpec::Declared(vec![OWN]), MacSpec::Any]);
    (ip, mac, any::<[bool; 3]>()).prop_map(|(ip, mac, [dhcp_server, router, link_protocols])| {
        GuardSpec {
            mac,
            may: May {
                dhcp_server,
                router,
                link_protocols,
            },
            ..guest(ip)
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn a_shorter_snapshot_refuses_or_says_that_it_is_too_short(frame in frame(), spec in spec()) {
        if Frame::parse(&frame, frame.len() as u32).is_err() {
            return Ok(());
        }
        let port = Port::new(&spec);
        let whole = port.judge(&frame);
        for shown in 18..frame.len() {
            let judged = port.judge_shown(&frame, shown);
            prop_assert!(
                judged == whole || judged == Err(DropReason::HeadersTooLong),
                "{shown} bytes: {judged:?}, whole: {whole:?}"
            );
        }
        prop_assert_ne!(whole, Err(DropReason::HeadersTooLong));
    }

    #[test]
    fn e_30_of_plain_data_the_answer_is_in_the_subject(
        frame in frame(),
        changes in prop::collection::vec((14..120usize, any::<u8>()), 1..6),
        retagged in any::<bool>(),
        spec in spec(),
    ) {
        let mut changed = frame.clone();
        for (at, value) in changes {
            if let Some(byte) = changed.get_mut(at) {
                *byte = value;
            }
        }
        if retagged {
            // A tag of the segment that frames without one are in.
            changed.splice(12..12, [0x81, 0, 0xe0, 1]);
        }
        let read = |bytes: &[u8]| Frame::parse(bytes, bytes.len() as u32).map(|frame| digest(&frame));
        let (Ok(a), Ok(b)) = (read(&frame), read(&changed)) else {
            return Ok(());
        };
        if a.is_control || b.is_control || a.subject != b.subject {
            return Ok(());
        }
        let port = Port::new(&spec);
        prop_assert_eq!(port.judge(&frame), port.judge(&changed));
    }
}

#[test]
fn e_30_the_property_of_the_subject_is_not_empty() {
    // What the subject does not tell, changed byte by byte in plain data: time to live, identification, payload.
    let port = Port::of_ip();
    let mut seen = 0;
    for frame in corpus() {
        let of = |bytes: &[u8]| digest(&Frame::parse(bytes, bytes.len() as u32).unwrap());
        let before = of(&frame);
        if before.is_control {
            continue;
        }
        for at in 14..frame.len() {
            for value in 0..=255u8 {
                let mut changed = frame.clone();
                changed[at] = value;
                let after = of(&changed);
                if !after.is_control && after.subject == before.subject {
                    assert_eq!(
                        port.judge(&changed),
                        port.judge(&frame),
                        "byte {at} = {value}"
                    );
                    seen += usize::from(changed != frame);
                }
            }
        }
    }
    assert!(seen > 10_000, "{seen}");
}

#[test]
fn e_30_a_million_other_frames_change_no_answer() {
    let port = Port::of_ip();
    let frames = corpus();
    let judge = || -> Vec<_> { frames.iter().map(|frame| port.judge(frame)).collect() };
    let before = judge();
    let mut noise = ethernet(
        GATEWAY,
        OTHER,
        0x0800,
        &udp4(OTHER4, GATEWAY4, 1, 2, &[0; 20]),
    );
    for round in 0..1_000_000u32 {
        noise[26..30].copy_from_slice(&round.to_be_bytes());
        noise[11] = (round % 7) as u8;
        let _ = port.judge(&noise);
    }
    assert_eq!(judge(), before);
}
