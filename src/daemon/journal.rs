//! Lines in the log for rules with `log = true`.
//!
//! Workers leave notes ([`crate::policy::log`]), which are written here once a second. Whatever a line says of a packet is a
//! number or a name of the configuration: no byte of a guest's comes into the log as it is.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::Switch;
use crate::frame::protocol;
use crate::policy::log::Logged;
use crate::policy::rule::Action;
use crate::policy::subject::{Depth, Piece, Subject};

impl Switch {
    /// Writes what rules have noted since the last time.
    pub(super) fn write_journal(&self) {
        for (port, id) in self.live.ports() {
            for logged in self.state.fetch_logged(id) {
                line(&port.name, &self.port_name(logged.to), &logged);
            }
        }
    }
}

fn line(port: &str, peer: &str, logged: &Logged) {
    let Some(rule) = logged.rule() else { return };
    let verdict = match rule.action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Reject => "reject",
    };
    tracing::info!(
        port,
        peer,
        verdict,
        rule = rule.origin,
        name = rule.name,
        packet = packet(&logged.subject),
        vlan = logged.subject.vid(),
        suppressed = logged.suppressed,
        "a rule has decided"
    );
}

/// The packet in the words that `portcullis explain` takes, as far as a rule can read it.
fn packet(subject: &Subject) -> String {
    let mut text = match (subject.src_ip(), subject.dst_ip()) {
        (Some(src), Some(dst)) => ip_packet(subject, src, dst),
        _ => match subject.ethertype() {
            0 => "llc".to_owned(),
            number => format!("{number:#06x}"),
        },
    };
    let _ = write!(text, " mac {} > {}", subject.src_mac(), subject.dst_mac());
    text
}

fn ip_packet(subject: &Subject, src: IpAddr, dst: IpAddr) -> String {
    let number = subject.protocol();
    let name = match number {
        protocol::TCP => "tcp".to_owned(),
        protocol::UDP => "udp".to_owned(),
        protocol::ICMP => "icmp".to_owned(),
        protocol::ICMPV6 => "icmpv6".to_owned(),
        number => format!("proto:{number}"),
    };
    let is_read = subject.depth() == Depth::Ports && subject.piece() != Piece::Later;
    let mut text = match number {
        protocol::TCP | protocol::UDP if is_read => {
            let (from, to) = (subject.src_port(), subject.dst_port());
            let (src, dst) = (SocketAddr::new(src, from), SocketAddr::new(dst, to));
            format!("{name} {src} > {dst}")
        }
        protocol::ICMP | protocol::ICMPV6 if is_read => {
            let (kind, code) = (subject.dst_port() >> 8, subject.dst_port() & 0xff);
            format!("{name} {src} > {dst} icmp={kind}/{code}")
        }
        _ => format!("{name} {src} > {dst}"),
    };
    text += match subject.piece() {
        Piece::Whole => "",
        Piece::First => " fragment=first",
        Piece::Later => " fragment=later",
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, from_text};
    use crate::counters::PortId;
    use crate::frame::Frame;
    use crate::policy::digest::Digest;

    #[test]
    fn a_packet_is_said_in_the_words_that_explain_takes() {
        let overrides = Overrides {
            ports: vec![
                "a=/a,mac=52:54:00:00:00:01".to_owned(),
                "b=/b,mac=52:54:00:00:00:02".to_owned(),
            ],
            ..Overrides::default()
        };
        let spec = from_text(None, "", &overrides).unwrap();
        let frame = |words: &str| {
            let (a, b) = (PortId::new(0).unwrap(), PortId::new(1));
            spec.packet(words, a, b).unwrap()
        };
        let mac = " mac 52:54:00:00:00:01 > 52:54:00:00:00:02";
        for words in [
            "tcp 10.0.0.5:40000 > 10.0.0.6:5432",
            "udp [fd00::5]:40000 > [fd00::6]:53",
            "icmp 10.0.0.5 > 10.0.0.6 icmp=3/4",
            "icmpv6 fd00::5 > fd00::6 icmp=128/0",
            "proto:47 10.0.0.5 > 10.0.0.6",
            "tcp 10.0.0.5:40000 > 10.0.0.6:5432 fragment=first",
            "0x88b5",
        ] {
            let bytes = frame(words);
            let len = u32::try_from(bytes.len()).unwrap();
            let parsed = Frame::parse(&bytes, len).unwrap();
            let said = packet(&Digest::of(&parsed, 1).subject);
            assert_eq!(said, format!("{words}{mac}"));
            // And they make the same packet again.
            let again = frame(&said);
            let parsed = Frame::parse(&again, u32::try_from(again.len()).unwrap()).unwrap();
            assert_eq!(packet(&Digest::of(&parsed, 1).subject), said);
        }
    }
}
