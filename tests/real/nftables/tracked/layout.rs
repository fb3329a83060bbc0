//! VLANs by lot: which ports are access ports, which trunks, and who can talk to whom how.

use std::fmt::Write as _;

use super::super::dice::Dice;
use super::super::world::{MARK, NATIVE, PLACES, STATIONS, mac};
use crate::lab::Bench;

pub(super) const VLANS: [u16; 3] = [10, 20, 30];

enum Mode {
    Access(u16),
    Trunk {
        vlans: Vec<u16>,
        native: Option<u16>,
    },
}

/// What each port carries.
pub(super) struct Layout {
    /// Without, every port carries everything, as a bridge does that filters no VLANs.
    pub(super) filters: bool,
    modes: Vec<Mode>,
}

impl Layout {
    pub(super) fn new(dice: &mut Dice, filters: bool) -> Self {
        let mode = |dice: &mut Dice| {
            if !filters {
                return Mode::Trunk {
                    vlans: VLANS.to_vec(),
                    native: Some(NATIVE),
                };
            }
            if dice.once_in(3) {
                return Mode::Access(dice.one(&[10, 10, 20, 30]));
            }
            let mut vlans: Vec<u16> = VLANS.into_iter().filter(|_| !dice.once_in(3)).collect();
            if vlans.is_empty() {
                vlans.push(10);
            }
            let native = dice.once_in(2).then(|| dice.one(&VLANS));
            Mode::Trunk { vlans, native }
        };
        let modes = PLACES.iter().map(|_| mode(dice)).collect();
        Self { filters, modes }
    }

    /// The VLAN of a port's frames without a tag.
    pub(super) fn untagged(&self, port: usize) -> Option<u16> {
        match &self.modes[port] {
            Mode::Access(vid) => Some(*vid),
            Mode::Trunk { native, .. } => *native,
        }
    }

    /// How a port's frames of a VLAN may come in: with which tags.
    pub(super) fn tags(&self, port: usize, vid: u16) -> Vec<Option<u16>> {
        let mut tags = Vec::new();
        if self.untagged(port) == Some(vid) {
            tags.push(None);
        }
        // Where VLANs are not filtered, a tag of the native one is another VLAN to the bridge.
        if let Mode::Trunk { vlans, native } = &self.modes[port]
            && vid != NATIVE
            && (vlans.contains(&vid) || *native == Some(vid))
        {
            tags.push(Some(vid));
        }
        tags
    }

    pub(super) fn is_access(&self, port: usize) -> bool {
        matches!(self.modes[port], Mode::Access(_))
    }

    pub(super) fn members(&self, vid: u16) -> Vec<usize> {
        let ports = 0..PLACES.len();
        ports
            .filter(|port| !self.tags(*port, vid).is_empty())
            .collect()
    }

    /// All VLANs that somebody is in.
    pub(super) fn vlans(&self) -> impl Iterator<Item = u16> {
        let native = (!self.filters).then_some(NATIVE);
        native.into_iter().chain(VLANS)
    }

    /// Frames by which each station is known in each of its VLANs.
    pub(super) fn introductions(&self) -> Vec<(usize, Vec<u8>)> {
        let mut all = Vec::new();
        for vid in self.vlans() {
            for port in self.members(vid) {
                for station in 0..STATIONS {
                    let tag = self.tags(port, vid)[0];
                    all.push((port, plain([0xff; 6], mac(port, station), tag, MARK, 0)));
                }
            }
        }
        all
    }

    /// Our ports, without port security, which the bridge has not, and strict with what opens a connection, as the bridge is
    /// told to be too.
    pub(super) fn toml(&self, bench: &Bench) -> String {
        let mut text = String::from(
            "[defaults]\nspoofing = \"allow\"\ndhcp_server = true\nrouter = true\nlink_protocols = true\n\
             [conntrack]\nloose = false\n[conntrack.timeouts]\ntcp_opening = 600\ntcp_established = 7200\ntcp_closing = 600\n\
             udp_single = 600\nudp_stream = 600\nother = 600\n",
        );
        for (place, mode) in PLACES.iter().zip(&self.modes) {
            let socket = bench.path(&format!("{}.sock", place.name));
            let _ = writeln!(text, "[port.{}]\nsocket = {socket:?}", place.name);
            if let Some(group) = place.group {
                let _ = writeln!(text, "groups = \"{group}\"");
            }
            let _ = match mode {
                _ if !self.filters => writeln!(text, "trunk = \"all\"\nnative = {NATIVE}"),
                Mode::Access(vid) => writeln!(text, "vlan = {vid}"),
                Mode::Trunk { vlans, native } => {
                    let native = native.map_or(String::new(), |vid| format!("\nnative = {vid}"));
                    writeln!(text, "trunk = {vlans:?}{native}")
                }
            };
        }
        text
    }

    /// The commands that make the bridge anew.
    pub(super) fn commands(&self) -> Vec<String> {
        let filtering = u8::from(self.filters);
        let mut all = vec![
            "[ ! -e /sys/class/net/br0 ] || /sbin/ip link del br0".to_owned(),
            format!(
                "/sbin/ip link add br0 type bridge vlan_filtering {filtering} vlan_default_pvid 0 mcast_snooping 0 forward_delay 0"
            ),
        ];
        for (place, mode) in PLACES.iter().zip(&self.modes) {
            let name = place.name;
            all.push(format!("/sbin/ip link set dev {name} master br0"));
            if !self.filters {
                continue;
            }
            let (vlans, untagged): (&[u16], _) = match mode {
                Mode::Access(vid) => (&[], Some(*vid)),
                Mode::Trunk { vlans, native } => (vlans, *native),
            };
            for vid in vlans {
                all.push(format!("bridge vlan add vid {vid} dev {name}"));
            }
            if let Some(vid) = untagged {
                all.push(format!(
                    "bridge vlan add vid {vid} dev {name} pvid untagged"
                ));
            }
        }
        all.push("/sbin/ip link set dev br0 up".to_owned());
        let count = PLACES.len();
        all.push(format!(
            "until [ $(bridge link | grep -c \"state forwarding\") = {count} ]; do usleep 10000; done"
        ));
        all
    }
}

/// A frame of no IP with a number, of the shortest length.
pub(super) fn plain(
    to: [u8; 6],
    from: [u8; 6],
    tag: Option<u16>,
    ethertype: u16,
    number: u16,
) -> Vec<u8> {
    let mut frame = [to, from].concat();
    if let Some(tag) = tag {
        frame.extend(0x8100u16.to_be_bytes());
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(number.to_be_bytes());
    frame.resize(64, 0);
    frame
}
