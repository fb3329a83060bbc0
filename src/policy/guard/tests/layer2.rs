//! E-8, E-10, E-11, E-12, E-34: tags, LLC and EtherTypes.

use super::*;
use DropReason::{EncapsulationRefused, HeaderInvalid, ProtocolRefused};

fn spoken(ip: IpSpec, link_protocols: bool) -> Port {
    let mut spec = guest(ip);
    spec.may.link_protocols = link_protocols;
    Port::new(&spec)
}

#[test]
fn e_10_e_11_e_34_every_ethertype_has_a_verdict() {
    let wrappers = [0x22f3, 0x88e7, 0x8926, 0x893f];
    let tags = [0x8100, 0x88a8, 0x9100, 0x9200, 0x9300];
    let links = [
        0x22ea, 0x22f4, 0x8808, 0x8809, 0x888e, 0x88c7, 0x88cc, 0x88e1, 0x88e3, 0x88f5, 0x88f6,
        0x88f7, 0x88fb, 0x8902, 0x8940, 0x9000,
    ];
    for (bound, link) in [(false, false), (true, false), (false, true), (true, true)] {
        let port = spoken(if bound { addresses() } else { IpSpec::Any }, link);
        for number in 0x600..=0xffffu16 {
            let frame = ethernet(GATEWAY, OWN, number, &[0; 46]);
            let expected = match number {
                // Zeros are no header of these.
                0x0800 | 0x86dd => Err(HeaderInvalid),
                0x0806 | 0x8035 => Err(DropReason::ArpSpoofed),
                _ if tags.contains(&number) || wrappers.contains(&number) => {
                    Err(EncapsulationRefused)
                }
                _ if links.contains(&number) && link => Ok(()),
                _ if links.contains(&number) || bound => Err(ProtocolRefused),
                _ => Ok(()),
            };
            assert_eq!(
                port.judge(&frame).map(drop),
                expected,
                "{number:#06x} {bound} {link}"
            );
        }
    }
}

#[test]
fn e_8_a_tag_is_a_plain_vlan_tag_or_refused() {
    let inner = [&[8, 0][..], &udp4(OWN4, GATEWAY4, 1, 2, &[0; 20])].concat();
    let tagged = |tpid, tci: u16| {
        ethernet(
            GATEWAY,
            OWN,
            tpid,
            &[&tci.to_be_bytes()[..], &inner].concat(),
        )
    };
    for port in [Port::of_mac(), Port::of_ip()] {
        for tpid in [0x8100u16, 0x88a8, 0x9100, 0x9200, 0x9300] {
            for vid in [0u16, 1, 2, 4094, 4095] {
                for priority in [0, 0xe000, 0x1000] {
                    let expected = if tpid == 0x8100 && (1..4095).contains(&vid) {
                        Ok(())
                    } else {
                        Err(EncapsulationRefused)
                    };
                    let frame = tagged(tpid, priority | vid);
                    assert_eq!(port.judge(&frame).map(drop), expected, "{tpid:#x} {vid}");
                }
            }
        }
        // Behind a plain tag everything is judged as without.
        let spoofed = [
            &[0, 5, 8, 0][..],
            &udp4(Ipv4Addr::LOCALHOST, GATEWAY4, 1, 2, &[]),
        ]
        .concat();
        let frame = ethernet(GATEWAY, OWN, 0x8100, &spoofed);
        assert_eq!(
            port.judge(&frame).map(drop),
            Err(DropReason::SourceIpSpoofed)
        );
        let rogue = [&[0, 5, 0x86, 0xdd][..], &advertisement(255, OWN)].concat();
        let frame = ethernet(GATEWAY, OWN, 0x8100, &rogue);
        assert_eq!(port.judge(&frame).map(drop), Err(DropReason::RouterRefused));
        let snap = [&[0, 5, 0, 40, 0xaa, 0xaa, 3][..], &[0; 60]].concat();
        let frame = ethernet(GATEWAY, OWN, 0x8100, &snap);
        assert_eq!(port.judge(&frame).map(drop), Err(EncapsulationRefused));
    }
}

#[test]
fn e_8_stacks_up_to_eight_are_refused() {
    let inner = [&[8, 0][..], &udp4(OWN4, GATEWAY4, 1, 2, &[0; 20])].concat();
    for tpid in [0x8100u16, 0x88a8, 0x9100] {
        for depth in 2..=8 {
            // The first is the frame's type; what follows is its TCI and the next type.
            let mut stack = vec![0, 1];
            for _ in 1..depth {
                stack.extend(tpid.to_be_bytes());
                stack.extend([0, 1]);
            }
            stack.extend(&inner);
            let frame = ethernet(GATEWAY, OWN, 0x8100, &stack);
            for port in [Port::of_mac(), Port::of_ip()] {
                assert_eq!(
                    port.judge(&frame).map(drop),
                    Err(EncapsulationRefused),
                    "{tpid:#x} x {depth}"
                );
            }
        }
    }
}

#[test]
fn e_10_llc_is_judged_by_its_service_access_points() {
    let llc = |dsap, ssap| ethernet(GATEWAY, OWN, 46, &[&[dsap, ssap, 3][..], &[0; 43]].concat());
    for (bound, link) in [(false, false), (true, false), (false, true), (true, true)] {
        let port = spoken(if bound { addresses() } else { IpSpec::Any }, link);
        let mine = if link { Ok(()) } else { Err(ProtocolRefused) };
        let plain = if bound { mine } else { Ok(()) };
        for (dsap, ssap, expected) in [
            (0x42, 0x42, mine),
            (0x42, 0x43, mine),
            (0x43, 0x42, mine),
            (0xfe, 0xfe, mine),
            (0xe0, 0xe0, plain),
            (0xf0, 0xf0, plain),
            (0xff, 0xff, mine),
            (0x06, 0x06, Err(EncapsulationRefused)),
            (0x98, 0x98, Err(EncapsulationRefused)),
            (0xaa, 0xaa, Err(EncapsulationRefused)),
            (0xab, 0xaa, Err(EncapsulationRefused)),
            (0xaa, 0xab, Err(EncapsulationRefused)),
            (0xaa, 0x42, Err(EncapsulationRefused)),
            (0x42, 0xaa, Err(EncapsulationRefused)),
        ] {
            let frame = llc(dsap, ssap);
            assert_eq!(
                port.judge(&frame).map(drop),
                expected,
                "{dsap:#x} {ssap:#x} {bound} {link}"
            );
        }
    }
}

#[test]
fn e_12_a_length_that_is_none_is_refused() {
    let port = Port::of_mac();
    for (length, expected) in [
        (0u16, Err(HeaderInvalid)),
        (2, Err(HeaderInvalid)),
        (3, Ok(())),
        (46, Ok(())),
        (47, Err(HeaderInvalid)),
        (1500, Err(HeaderInvalid)),
        (0x05dd, Err(HeaderInvalid)),
        (0x05ff, Err(HeaderInvalid)),
    ] {
        let frame = ethernet(GATEWAY, OWN, length, &[[0xf0, 0xf0, 3], [0; 3]].concat());
        assert_eq!(port.judge(&frame).map(drop), expected, "{length}");
    }
    let long = ethernet(GATEWAY, OWN, 1501, &[0xf0; 1501]);
    assert_eq!(port.judge(&long).map(drop), Err(HeaderInvalid));
    let long = ethernet(GATEWAY, OWN, 1500, &[0xf0; 1500]);
    assert_eq!(port.judge(&long).map(drop), Ok(()));
    // No LLC in the frame at all.
    let short = &ethernet(GATEWAY, OWN, 3, &[0xf0; 3])[..14];
    assert_eq!(port.judge(short).map(drop), Err(HeaderInvalid));
}
