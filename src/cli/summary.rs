//! A frame in one line.

use std::fmt::Write as _;

use crate::frame::{Frame, Network, Transport, tcp};

/// What the first bytes of a frame of `len` bytes say: addresses, protocol, ports.
pub(super) fn summary(bytes: &[u8], len: u32) -> String {
    let frame = match Frame::parse(bytes, len) {
        Ok(frame) => frame,
        Err(reason) => return format!("no frame ({reason}), {len} bytes"),
    };
    let mut text = format!("{} > {}", frame.src(), frame.dst());
    if let Some(tag) = frame.tag() {
        let _ = write!(text, " vlan {}", tag.vid());
    }
    let layers = frame.layers();
    let ports = ports(&layers.transport);
    let between = |src: String, dst: String| match ports {
        Some((from, to)) if src.contains(':') => format!(" [{src}]:{from} > [{dst}]:{to}"),
        Some((from, to)) => format!(" {src}:{from} > {dst}:{to}"),
        None => format!(" {src} > {dst}"),
    };
    match &layers.network {
        Network::Arp(arp) => {
            let what = match arp.operation() {
                1 => "request",
                2 => "reply",
                _ => "other",
            };
            let (from, to) = (arp.sender_ip(), arp.target_ip());
            let _ = write!(text, " arp {what} {from} > {to}");
        }
        Network::Ipv4(ip) => text += &between(ip.src().to_string(), ip.dst().to_string()),
        Network::Ipv6(ip) => text += &between(ip.src().to_string(), ip.dst().to_string()),
        Network::Llc => text += " llc",
        Network::Unknown => {
            let _ = write!(text, " type {:#06x}", frame.ethertype());
        }
        Network::Unseen(_) => {
            let _ = write!(text, " type {:#06x}, unreadable", frame.ethertype());
        }
    }
    text += &transport(&layers.transport);
    let _ = write!(text, ", {len} bytes");
    text
}

fn ports(transport: &Transport<'_>) -> Option<(u16, u16)> {
    match transport {
        Transport::Tcp(tcp) => Some((tcp.src_port(), tcp.dst_port())),
        Transport::Udp(udp) => Some((udp.src_port(), udp.dst_port())),
        _ => None,
    }
}

fn transport(transport: &Transport<'_>) -> String {
    match transport {
        Transport::Tcp(tcp) => format!(" tcp {}", flags(tcp.flags())),
        Transport::Udp(_) => " udp".to_owned(),
        Transport::Icmp(icmp) => format!(" icmp {}/{}", icmp.kind(), icmp.code()),
        Transport::Icmpv6(icmp) => format!(" icmpv6 {}/{}", icmp.kind(), icmp.code()),
        Transport::Fragment => " later fragment".to_owned(),
        Transport::Unknown(number) => format!(" protocol {number}"),
        Transport::Unseen(_) => " unreadable".to_owned(),
        Transport::None => String::new(),
    }
}

/// `syn,ack`.
fn flags(bits: u8) -> String {
    use tcp::flag;
    let names = [
        (flag::SYN, "syn"),
        (flag::FIN, "fin"),
        (flag::RST, "rst"),
        (flag::PSH, "psh"),
        (flag::ACK, "ack"),
        (flag::URG, "urg"),
        (flag::ECE, "ece"),
        (flag::CWR, "cwr"),
    ];
    let set = names.iter().filter(|(bit, _)| bits & bit != 0);
    let set: Vec<&str> = set.map(|(_, name)| *name).collect();
    if set.is_empty() {
        "no flags".to_owned()
    } else {
        set.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, from_text};
    use crate::counters::PortId;

    #[test]
    fn a_frame_is_told_in_one_line() {
        let overrides = Overrides {
            ports: vec![
                "a=/a,mac=52:54:00:00:00:01".to_owned(),
                "b=/b,mac=52:54:00:00:00:02".to_owned(),
            ],
            ..Overrides::default()
        };
        let spec = from_text(None, "", &overrides).unwrap();
        let (a, b) = (PortId::new(0).unwrap(), PortId::new(1));
        let ends = "52:54:00:00:00:01 > 52:54:00:00:00:02";
        for (packet, expected) in [
            (
                "tcp 10.0.0.5:40000 > 10.0.0.6:5432",
                " 10.0.0.5:40000 > 10.0.0.6:5432 tcp syn",
            ),
            (
                "udp [fd00::5]:40000 > [fd00::6]:53 vlan=10",
                " vlan 10 [fd00::5]:40000 > [fd00::6]:53 udp",
            ),
            (
                "icmp 10.0.0.5 > 10.0.0.6 icmp=3/4",
                " 10.0.0.5 > 10.0.0.6 icmp 3/4",
            ),
            ("0x88b5 payload=46", " type 0x88b5"),
        ] {
            let frame = spec.packet(packet, a, b).unwrap();
            let len = u32::try_from(frame.len()).unwrap();
            let told = summary(&frame, len);
            assert_eq!(told, format!("{ends}{expected}, {len} bytes"), "{packet}");
        }
        assert_eq!(summary(&[0; 5], 5), "no frame (runt), 5 bytes");
    }
}
