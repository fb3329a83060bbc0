//! What went wrong elsewhere.

use ipnet::IpNet;

use super::*;
use crate::frame::protocol;

const ALLOWED: Option<Action> = Some(Action::Allow);
const DENIED: Option<Action> = Some(Action::Deny);

/// What a list says of a frame from one port to another, untracked, in VLAN 10.
fn verdict(rules: &[Rule], bytes: &[u8]) -> Option<Action> {
    let rules = numbered(rules);
    let frame = Frame::parse(bytes, bytes.len() as u32).unwrap();
    let meeting = Meeting {
        own: port(0),
        peer: port(1),
        direction: Direction::Outbound,
        vid: 10,
        state: State::Untracked,
    };
    let classifier = Classifier::compile(&rules, Direction::Outbound, port(0), 4).unwrap();
    let found = classifier.judge(port(1), &Digest::of(&frame, 10).subject);
    assert_eq!(
        found,
        reference::judge(&rules, meeting, &frame),
        "{bytes:x?}"
    );
    found.map(|decision| decision.action)
}

fn ip(family: Option<Family>, number: u8) -> Kind {
    Kind::Ip {
        family,
        protocol: Some(number),
    }
}

fn net(text: &str) -> Vec<Who> {
    vec![Who::Prefix(text.parse::<IpNet>().unwrap())]
}

fn tcp(action: Action, port: u16) -> Rule {
    Rule {
        kind: ip(None, protocol::TCP),
        port: vec![port..=port],
        ..Rule::any(action)
    }
}

fn with_type(kind: u16, rest: &[u8]) -> Vec<u8> {
    let mut frame = [[2u8; 6], [4; 6]].concat();
    frame.extend(kind.to_be_bytes());
    frame.extend(rest);
    frame
}

/// An IPv4 packet from 10.0.0.1 to 10.0.0.2.
fn v4(number: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 7]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, number, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend(payload);
    packet
}

/// An IPv6 packet from fd00::1 to fd00::2.
fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    for last in [1, 2] {
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    packet.extend(payload);
    packet
}

fn segment(dst: u16) -> Vec<u8> {
    let mut header = vec![0x9c, 0x40];
    header.extend(dst.to_be_bytes());
    header.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 1, 0, 0, 0, 0, 0]);
    header
}

/// One extension header of eight bytes before the rest.
fn behind(next: u8, rest: &[u8]) -> Vec<u8> {
    [&[next, 0, 1, 4, 0, 0, 0, 0], rest].concat()
}

/// A fragment header, with offset in bytes.
fn fragment(next: u8, offset: u16, more: bool, rest: &[u8]) -> Vec<u8> {
    let [high, low] = (offset | u16::from(more)).to_be_bytes();
    [&[next, 0, high, low, 0, 0, 0, 7], rest].concat()
}

/// A rule that names addresses of two families is about either, and about no mixture: an IPv4 address never becomes a
/// condition on an IPv6 packet, and the want of one no condition at all.
#[test]
fn mixed_family_subject() {
    let rule = Rule {
        from: [net("10.0.0.0/8"), net("fd00::/8")].concat(),
        to: [net("10.0.0.9/32"), net("fd00::2/128")].concat(),
        ..Rule::any(Action::Allow)
    };
    let v4_frame = with_type(0x0800, &v4(6, 0, &segment(80)));
    let v6_frame = with_type(0x86dd, &v6(6, &segment(80)));
    // The IPv4 destination is not the one that is named, and the IPv6 one does not stand in for it.
    assert_eq!(verdict(std::slice::from_ref(&rule), &v4_frame), None);
    assert_eq!(verdict(&[rule], &v6_frame), ALLOWED);
    let crossed = Rule {
        from: net("10.0.0.0/8"),
        to: net("fd00::/8"),
        ..Rule::any(Action::Allow)
    };
    let of_another = Rule {
        kind: ip(Some(Family::V6), protocol::TCP),
        from: net("10.0.0.0/8"),
        ..Rule::any(Action::Allow)
    };
    let all_v4 = Rule {
        from: net("0.0.0.0/0"),
        ..Rule::any(Action::Allow)
    };
    for frame in [&v4_frame, &v6_frame] {
        assert_eq!(verdict(&[crossed.clone(), of_another.clone()], frame), None);
    }
    assert_eq!(verdict(std::slice::from_ref(&all_v4), &v4_frame), ALLOWED);
    assert_eq!(verdict(&[all_v4], &v6_frame), None);
    // The same bits: ::a00:1 is not 10.0.0.1.
    let mut low = v6_frame.clone();
    low[22..38].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    let host = Rule {
        from: net("10.0.0.1/32"),
        ..Rule::any(Action::Allow)
    };
    assert_eq!(verdict(std::slice::from_ref(&host), &low), None);
    assert_eq!(verdict(&[host], &v4_frame), ALLOWED);
}

/// The guard of libvirt's clean-traffic looked at untagged frames only.
#[test]
fn vlan_tagged_spoof() {
    let list = [
        Rule {
            from: net("10.0.0.1/32"),
            ..Rule::any(Action::Deny)
        },
        Rule::any(Action::Allow),
    ];
    let packet = v4(6, 0, &segment(80));
    assert_eq!(verdict(&list, &with_type(0x0800, &packet)), DENIED);
    for tpid in [0x8100, 0x88a8, 0x9100] {
        for vid in [0u8, 10, 0xff] {
            let tagged = [&[0, vid, 8, 0], &packet[..]].concat();
            assert_eq!(verdict(&list, &with_type(tpid, &tagged)), DENIED);
        }
    }
}

/// E-9: a rule about an EtherType sees through the tag that may be there, and a second tag is a type of its own.
#[test]
fn e_9_ethertype_behind_tags() {
    let raw = |number| {
        [Rule {
            kind: Kind::EtherType(number),
            ..Rule::any(Action::Allow)
        }]
    };
    let packet = v4(6, 0, &segment(80));
    let once = with_type(0x8100, &[&[0, 10, 8, 0], &packet[..]].concat());
    let twice = with_type(
        0x88a8,
        &[&[0, 10, 0x81, 0, 0, 10, 8, 0], &packet[..]].concat(),
    );
    assert_eq!(verdict(&raw(0x0800), &once), ALLOWED);
    assert_eq!(verdict(&raw(0x8100), &once), None);
    assert_eq!(verdict(&raw(0x0800), &twice), None);
    assert_eq!(verdict(&raw(0x8100), &twice), ALLOWED);
    let about_ip = Rule {
        kind: Kind::Ip {
            family: None,
            protocol: None,
        },
        ..Rule::any(Action::Allow)
    };
    assert_eq!(verdict(&[about_ip], &twice), None);
}

/// E-34: what carries packets in another way is judged by its EtherType, and not read any deeper.
#[test]
fn e_34_encapsulations_are_no_ip() {
    let list = [
        tcp(Action::Deny, 80),
        Rule {
            kind: Kind::Ip {
                family: None,
                protocol: None,
            },
            ..Rule::any(Action::Allow)
        },
    ];
    let packet = v4(6, 0, &segment(80));
    for number in [0x8847, 0x8864, 0x88b5, 0x88f7, 0x88e5, 0x8035, 0x6558] {
        let frame = with_type(number, &packet);
        assert_eq!(verdict(&list, &frame), None, "{number:#x}");
        let named = Rule {
            kind: Kind::EtherType(number),
            ..Rule::any(Action::Allow)
        };
        assert_eq!(verdict(&[named], &frame), ALLOWED);
    }
    let llc = Rule {
        kind: Kind::Llc,
        ..Rule::any(Action::Allow)
    };
    let snap = with_type(52, &[&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0], &packet[..]].concat());
    assert_eq!(verdict(&list, &snap), None);
    assert_eq!(verdict(&[llc], &snap), ALLOWED);
    let by_length = Rule {
        kind: Kind::EtherType(52),
        ..Rule::any(Action::Allow)
    };
    assert_eq!(verdict(&[by_length], &snap), None, "a length is no type");
    // GRE and IP in IP are protocols, whatever is in them.
    for number in [4, 41, 47] {
        let frame = with_type(0x0800, &v4(number, 0, &packet));
        assert_eq!(verdict(&list, &frame), ALLOWED);
    }
}

/// ICMPv6 behind hop-by-hop options (MLD has them always) was taken for another protocol.
#[test]
fn icmpv6_behind_hop_by_hop_options() {
    let advertisement = [134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let list = [
        Rule {
            kind: ip(Some(Family::V6), protocol::ICMPV6),
            icmp: vec![(134, None)],
            ..Rule::any(Action::Deny)
        },
        Rule::any(Action::Allow),
    ];
    let plain = v6(58, &advertisement);
    assert_eq!(verdict(&list, &with_type(0x86dd, &plain)), DENIED);
    for depth in 1..=8 {
        let mut payload = advertisement.to_vec();
        for place in (0..depth).rev() {
            let next = if place == depth - 1 { 58 } else { 60 };
            payload = behind(next, &payload);
        }
        let hidden = v6(0, &payload);
        assert_eq!(
            verdict(&list, &with_type(0x86dd, &hidden)),
            DENIED,
            "{depth}"
        );
    }
}

/// E-25, RFC 1858: a first fragment that ends within the TCP header has no ports, and passes no rule about ports.
#[test]
fn e_25_tiny_first_fragment() {
    let allow = [tcp(Action::Allow, 80)];
    let deny = [tcp(Action::Deny, 22), Rule::any(Action::Allow)];
    for len in 0..20 {
        let tiny = segment(80)[..len].to_vec();
        let frames = [
            with_type(0x0800, &v4(6, 0x2000, &tiny)),
            with_type(0x86dd, &v6(44, &fragment(6, 0, true, &tiny))),
            // And whole packets that are cut short alike.
            with_type(0x0800, &v4(6, 0, &tiny)),
            with_type(0x86dd, &v6(6, &tiny)),
        ];
        for frame in &frames {
            assert_eq!(verdict(&allow, frame), None, "{len}");
            assert_eq!(verdict(&deny, frame), DENIED, "{len}");
            // It is no UDP packet, whatever its ports.
            let other = Rule {
                kind: ip(None, protocol::UDP),
                port: vec![0..=65535],
                ..Rule::any(Action::Deny)
            };
            assert_eq!(verdict(&[other, Rule::any(Action::Allow)], frame), ALLOWED);
        }
    }
    let readable = with_type(0x0800, &v4(6, 0x2000, &segment(80)));
    assert_eq!(verdict(&allow, &readable), ALLOWED);
    assert_eq!(verdict(&deny, &readable), ALLOWED);
}

/// E-25, RFC 3128: a later fragment never passes because its ports are not known, at offset 8 no more than elsewhere.
#[test]
fn e_25_later_fragments_and_rules_about_ports() {
    let allow = tcp(Action::Allow, 80);
    let with_fragments = Rule {
        fragments: true,
        ..allow.clone()
    };
    let deny = [tcp(Action::Deny, 22), Rule::any(Action::Allow)];
    for offset in [1u16, 2, 185, 0x1fff] {
        let frames = [
            with_type(0x0800, &v4(6, offset, &segment(80))),
            with_type(0x0800, &v4(6, 0x2000 | offset, &segment(80))),
            with_type(
                0x86dd,
                &v6(44, &fragment(6, offset << 3, false, &segment(80))),
            ),
            with_type(
                0x86dd,
                &v6(44, &fragment(6, offset << 3, true, &segment(80))),
            ),
        ];
        for frame in &frames {
            assert_eq!(verdict(std::slice::from_ref(&allow), frame), None);
            assert_eq!(verdict(&deny, frame), DENIED);
            assert_eq!(
                verdict(std::slice::from_ref(&with_fragments), frame),
                ALLOWED
            );
            // `fragments` takes nothing else off.
            let elsewhere = Rule {
                from: net("192.0.2.0/24"),
                ..with_fragments.clone()
            };
            let udp = Rule {
                kind: ip(None, protocol::UDP),
                ..with_fragments.clone()
            };
            assert_eq!(verdict(&[elsewhere, udp], frame), None);
            // A rule that does not ask for ports is met.
            let addresses = Rule {
                kind: ip(None, protocol::TCP),
                from: [net("10.0.0.1/32"), net("fd00::1/128")].concat(),
                ..Rule::any(Action::Allow)
            };
            assert_eq!(verdict(&[addresses], frame), ALLOWED);
        }
    }
    // `fragments` is for what has no header, not for one that was cut short.
    let tiny = with_type(0x0800, &v4(6, 0x2000, &segment(80)[..8]));
    assert_eq!(verdict(std::slice::from_ref(&with_fragments), &tiny), None);
    // A later fragment that goes on with extension headers names no protocol.
    let unnamed = with_type(0x86dd, &v6(44, &fragment(60, 8, false, &segment(80))));
    assert_eq!(verdict(&[with_fragments], &unnamed), None);
    assert_eq!(verdict(&deny, &unnamed), DENIED);
}

/// E-24: headers that cannot be followed may hide what a rule refuses, and are never what a rule allows.
#[test]
fn e_24_unknown_next_headers() {
    let allow = [
        tcp(Action::Allow, 80),
        Rule {
            kind: ip(None, protocol::TCP),
            ..Rule::any(Action::Allow)
        },
    ];
    let deny = [tcp(Action::Deny, 80), Rule::any(Action::Allow)];
    let payload = segment(80);
    let mut many = payload.clone();
    for place in (0..9).rev() {
        many = behind(if place == 8 { 6 } else { 60 }, &many);
    }
    let hidden = [
        ("too many", v6(60, &many)),
        (
            "hop-by-hop not first",
            v6(60, &behind(0, &behind(6, &payload))),
        ),
        (
            "a header beyond the packet",
            v6(60, &[6, 200, 0, 0, 0, 0, 0, 0]),
        ),
        ("for experiments", v6(253, &payload)),
        ("for experiments", v6(254, &payload)),
        (
            "two fragment headers",
            v6(44, &fragment(44, 0, true, &fragment(6, 0, true, &payload))),
        ),
        ("a jumbogram", v6(0, &[])),
    ];
    for (what, packet) in &hidden {
        let frame = with_type(0x86dd, packet);
        assert_eq!(verdict(&allow, &frame), None, "{what}");
        assert_eq!(verdict(&deny, &frame), DENIED, "{what}");
        // By what can be read, it can be allowed.
        let all_v6 = Rule {
            kind: Kind::Ip {
                family: Some(Family::V6),
                protocol: None,
            },
            from: net("fd00::/8"),
            ..Rule::any(Action::Allow)
        };
        assert_eq!(verdict(&[all_v6], &frame), ALLOWED, "{what}");
        let of_v4 = Rule {
            kind: ip(Some(Family::V4), protocol::TCP),
            ..Rule::any(Action::Deny)
        };
        assert_eq!(verdict(&[of_v4], &frame), None, "{what}");
    }
    // What is no extension header is a protocol, known or not: it is not TCP.
    for number in [50, 59, 132, 200, 255] {
        let frame = with_type(0x86dd, &v6(number, &payload));
        assert_eq!(verdict(&allow, &frame), None);
        assert_eq!(verdict(&deny, &frame), ALLOWED);
        let named = Rule {
            kind: ip(None, number),
            ..Rule::any(Action::Allow)
        };
        assert_eq!(verdict(&[named], &frame), ALLOWED);
    }
    // Those that are known are looked behind: routing type 0, AH, destination options.
    let shown = [v6(43, &behind(6, &payload)), v6(60, &behind(6, &payload))];
    for packet in &shown {
        assert_eq!(verdict(&allow, &with_type(0x86dd, packet)), ALLOWED);
        assert_eq!(verdict(&deny, &with_type(0x86dd, packet)), DENIED);
    }
}

/// E-12, E-26: an IP header that contradicts itself is the packet of no rule that allows, and may be that of any that refuses.
#[test]
fn e_26_headers_that_lie() {
    let good = v4(6, 0, &segment(80));
    let mut lies: Vec<Vec<u8>> = vec![good.clone(); 5];
    lies[0][0] = 0x65;
    lies[1][0] = 0x44;
    lies[2][0] = 0x4f;
    lies[2][3] = 40;
    lies[3][2] = 0xff;
    lies[4].truncate(19);
    let rule = |action, kind, who: &str| Rule {
        kind,
        from: net(who),
        ..Rule::any(action)
    };
    let any_ip = Kind::Ip {
        family: None,
        protocol: None,
    };
    for lie in &lies {
        let frame = with_type(0x0800, lie);
        assert_eq!(
            verdict(&[rule(Action::Allow, any_ip, "0.0.0.0/0")], &frame),
            None
        );
        assert_eq!(verdict(&[tcp(Action::Allow, 80)], &frame), None);
        let denies = [
            tcp(Action::Deny, 22),
            rule(Action::Deny, any_ip, "192.0.2.1/32"),
            rule(Action::Deny, Kind::Any, "192.0.2.1/32"),
        ];
        for deny in denies {
            assert_eq!(verdict(&[deny, Rule::any(Action::Allow)], &frame), DENIED);
        }
        // The EtherType says which family it claims to be, and is itself not in doubt.
        let others = [
            rule(Action::Deny, any_ip, "fd00::/8"),
            rule(Action::Deny, Kind::EtherType(0x86dd), "0.0.0.0/0"),
            Rule {
                kind: ip(Some(Family::V6), protocol::TCP),
                ..Rule::any(Action::Deny)
            },
        ];
        assert_eq!(verdict(&others, &frame), None);
        let raw = Rule {
            kind: Kind::EtherType(0x0800),
            ..Rule::any(Action::Allow)
        };
        assert_eq!(verdict(&[raw], &frame), ALLOWED);
    }
    // ARP that is cut short is ARP that is cut short.
    let arp = with_type(0x0806, &[0, 1, 8, 0, 6, 4]);
    assert_eq!(
        verdict(&[tcp(Action::Deny, 22), Rule::any(Action::Allow)], &arp),
        ALLOWED
    );
}

/// Ports are those of TCP and UDP, types those of the family's ICMP: another protocol does not meet them with what happens
/// to stand there, nor with zeros.
#[test]
fn conditions_on_layer_4_name_protocols() {
    let ports = Rule {
        port: vec![0..=65535],
        ..Rule::any(Action::Allow)
    };
    let echo = Rule {
        icmp: vec![(0, None), (8, None)],
        ..Rule::any(Action::Allow)
    };
    for number in [1u8, 2, 47, 58, 132, 136] {
        let frame = with_type(0x0800, &v4(number, 0, &[0; 20]));
        assert_eq!(
            verdict(std::slice::from_ref(&ports), &frame),
            None,
            "{number}"
        );
        let expected = if number == 1 { ALLOWED } else { None };
        assert_eq!(
            verdict(std::slice::from_ref(&echo), &frame),
            expected,
            "{number}"
        );
    }
    let foreign = with_type(0x86dd, &v6(1, &[8, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(verdict(std::slice::from_ref(&echo), &foreign), None);
    for number in [6, 17] {
        let frame = with_type(0x0800, &v4(number, 0, &segment(9)));
        assert_eq!(verdict(std::slice::from_ref(&ports), &frame), ALLOWED);
        assert_eq!(verdict(std::slice::from_ref(&echo), &frame), None);
    }
    // Nor does one packet have both.
    let nonsense = Rule {
        icmp: vec![(8, None)],
        port: vec![80..=80],
        ..Rule::any(Action::Deny)
    };
    let unknown = with_type(0x86dd, &v6(253, &[]));
    assert_eq!(verdict(&[nonsense], &unknown), None);
}
