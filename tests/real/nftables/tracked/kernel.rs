//! The kernel's side: a bridge in a guest.

use super::super::world::{PLACES, mac};
use super::gate::{BARRIER, zones};
use super::layout::{Layout, plain};
use super::packet::packet_of;
use super::rules::Policy;
use super::talk::Sent;
use crate::lab::{Bench, BridgeGuest};

pub(super) struct Kernel {
    guest: BridgeGuest,
    _bench: Bench,
}

/// What is told to connection tracking: a segment without SYN opens nothing, and nothing expires while a test lasts.
const SETTINGS: &str = "cd /proc/sys/net/netfilter && echo 0 >nf_conntrack_tcp_loose && \
    for name in udp_timeout udp_timeout_stream icmp_timeout icmpv6_timeout generic_timeout tcp_timeout_syn_sent tcp_timeout_syn_recv \
    tcp_timeout_fin_wait tcp_timeout_close_wait tcp_timeout_last_ack tcp_timeout_time_wait tcp_timeout_close \
    tcp_timeout_max_retrans tcp_timeout_unacknowledged; do echo 600 >nf_conntrack_$name; done";

impl Kernel {
    pub(super) fn boot() -> Self {
        let bench = Bench::new();
        let mut guest = BridgeGuest::boot(&bench, &PLACES.each_ref().map(|place| place.name));
        guest.sh(SETTINGS);
        Self {
            guest,
            _bench: bench,
        }
    }

    /// Makes the bridge anew. No rule holds yet.
    pub(super) fn lay(&mut self, layout: &Layout) {
        self.guest.sh("nft flush ruleset");
        self.guest.sh(&layout.commands().join(" && "));
        self.guest.feed("nft -f -", &zones(&natives(layout)));
    }

    pub(super) fn rule(&mut self, layout: &Layout, policy: &Policy, number: u32) {
        let table = policy.nft(number, &natives(layout));
        self.guest.feed("nft -f -", &table);
    }

    /// Sends frames, and then from each port in each VLAN one that everybody else there gets, twice: by the first what was
    /// delivered has arrived, by the second what came back to its sender.
    pub(super) fn pass(
        &mut self,
        layout: &Layout,
        frames: &[Sent],
        mut note: impl FnMut(usize, Vec<u8>),
    ) {
        for sent in frames {
            self.guest.send(sent.port, &sent.bytes);
        }
        for _ in 0..2 {
            let mut expected = [0; PLACES.len()];
            for vid in layout.vlans() {
                let members = layout.members(vid);
                for port in &members {
                    let tag = layout.tags(*port, vid)[0];
                    let barrier = plain([0xff; 6], mac(*port, 0), tag, BARRIER, 0);
                    self.guest.send(*port, &barrier);
                    for other in members.iter().filter(|other| *other != port) {
                        expected[*other] += 1;
                    }
                }
            }
            for (port, mut barriers) in expected.into_iter().enumerate() {
                while barriers > 0 {
                    let frame = self.guest.receive(port);
                    if packet_of(&frame).0 == BARRIER {
                        barriers -= 1;
                    } else {
                        note(port, frame);
                    }
                }
            }
        }
    }
}

fn natives(layout: &Layout) -> Vec<Option<u16>> {
    let ports = 0..PLACES.len();
    ports.map(|port| layout.untagged(port)).collect()
}
