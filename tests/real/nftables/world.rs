//! The ports that both switches have, and who is behind them.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A port: its mode and its group.
pub(crate) struct Place {
    pub(crate) name: &'static str,
    pub(crate) group: Option<&'static str>,
    pub(crate) isolated: bool,
}

/// The isolated ports share no group: with us such ports reach each other, which the bridge has not.
pub(crate) const PLACES: [Place; 5] = [
    place("a", Some("left"), false),
    place("b", None, true),
    place("c", Some("left"), false),
    place("d", Some("right"), false),
    place("e", None, true),
];

pub(crate) const GROUPS: [&str; 2] = ["left", "right"];

const fn place(name: &'static str, group: Option<&'static str>, isolated: bool) -> Place {
    Place {
        name,
        group,
        isolated,
    }
}

/// Frames come without a tag, or with one of these VLANs. Every port carries every VLAN: so does a bridge that filters none.
pub(crate) const TAGS: [Option<u16>; 4] = [None, Some(10), Some(20), Some(30)];
/// The VLAN of frames without a tag.
pub(crate) const NATIVE: u16 = 1;

/// Two stations behind each port.
pub(crate) fn mac(port: usize, station: usize) -> [u8; 6] {
    [0x52, 0x54, 0, 0, port as u8, station as u8]
}

pub(crate) const STATIONS: usize = 2;

pub(crate) fn ipv4(net: usize, host: u8) -> Ipv4Addr {
    let [a, b, c] = [[10, 0, 0], [10, 0, 1], [192, 168, 7]][net];
    Ipv4Addr::new(a, b, c, host)
}

pub(crate) fn ipv6(net: usize, host: u8) -> Ipv6Addr {
    let [a, b] = [[0xfd00, 0], [0xfd00, 1], [0x2001, 0xdb8]][net];
    Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, host.into())
}

pub(crate) const NETS: usize = 3;
pub(crate) const HOSTS: [u8; 5] = [1, 2, 9, 129, 254];
/// Numbers of TCP and UDP ports.
pub(crate) const NUMBERS: [u16; 10] = [0, 22, 53, 80, 81, 443, 8000, 8080, 8100, 65535];
/// Types of ICMP and ICMPv6.
pub(crate) const KINDS: [u8; 9] = [0, 3, 8, 11, 128, 129, 134, 135, 136];
/// Protocols that rules name by their numbers.
pub(crate) const PROTOCOLS: [u8; 5] = [2, 47, 50, 51, 132];
/// EtherTypes that rules name by their numbers, and one that they do not.
pub(crate) const ETHERTYPES: [u16; 4] = [0x88b5, 0x8847, 0x8864, 0x9999];
/// Passes all lists: with it stations make themselves known, and the end of a round is found.
pub(crate) const MARK: u16 = 0x88b6;
