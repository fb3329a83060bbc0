//! `[[assert]]`: what must be true of the policy, one pair of ports and one packet each.

use super::packet::{self, Station};
use super::raw::Section;
use super::reader::Reader;
use super::spec::{Assert, PortSpec};
use super::who::Names;
use super::{Fault, Place};
use crate::counters::{PortId, PortSet};
use crate::policy::rule::Action;

/// Pairs of all asserts together.
const MAX_ASSERTS: usize = 16_384;
const PARTY_RULE: &str = "name a port, group:NAME, uplink, or a list of these";
const PACKET_RULE: &str = "describe a packet, such as \"tcp 10.0.0.5:40000 > 10.0.0.6:5432\"";

/// Reads them all; one that names groups stands for every pair of their ports. Faults in packets need `ports` whole.
pub(super) fn read_asserts(
    sections: Vec<Section>,
    names: &Names,
    ports: &[PortSpec],
    faults: &mut Vec<Fault>,
) -> Vec<Assert> {
    let ports_are_whole = names.len() == ports.len();
    let mut asserts = Vec::new();
    for section in sections {
        let mut reader = Reader::new(section, faults);
        let origin = reader.place();
        let read = [
            read_ports(&mut reader, "from", names),
            read_ports(&mut reader, "to", names),
        ];
        let packet = required(&mut reader, "packet", PACKET_RULE);
        let expect = [
            ("allow", Action::Allow),
            ("deny", Action::Deny),
            ("reject", Action::Reject),
        ];
        let was_said = reader.has("expect");
        let expect = reader.choice("expect", &expect);
        if !was_said {
            let remedy = "add expect = \"deny\", \"allow\" or \"reject\"";
            reader.fault(origin.clone(), "expect", "is missing".to_owned(), remedy);
        }
        let [Some((from, of_group)), Some((to, to_group))] = read else {
            reader.finish();
            continue;
        };
        let has_pairs = from.iter().any(|from| to.iter().any(|to| to != from));
        if !has_pairs && !of_group && !to_group {
            let problem = "is about no pair of ports, and so says nothing".to_owned();
            let remedy = "name two ports: one sends, the other receives";
            reader.fault(origin.clone(), "to", problem, remedy);
        }
        if let (Some((packet, place)), Some(expect), true) = (packet, expect, ports_are_whole) {
            let pairs = from
                .iter()
                .flat_map(|from| to.iter().map(move |to| (from, to)));
            for (from, to) in pairs.filter(|(from, to)| from != to) {
                let station = |id: PortId| Some(Station::of(ports.get(id.index())?, id));
                let (sender, receiver) = (station(from), station(to));
                match packet::build(&packet, sender.as_ref(), receiver.as_ref()) {
                    Ok(frame) => asserts.push(Assert {
                        from,
                        to,
                        packet: packet.clone(),
                        frame,
                        expect,
                        origin: origin.clone(),
                    }),
                    Err(error) => {
                        reader.fault(place.clone(), "packet", error.problem, &error.remedy);
                        break;
                    }
                }
            }
            if asserts.len() > MAX_ASSERTS {
                let problem = format!("{} pairs of ports up to here", asserts.len());
                reader.fault(origin, "", problem, "16384 are the most: name fewer pairs");
                return Vec::new();
            }
        }
        reader.finish();
    }
    asserts
}

fn required(reader: &mut Reader<'_>, key: &'static str, remedy: &str) -> Option<(String, Place)> {
    if !reader.has(key) {
        let place = reader.place();
        reader.fault(place, key, "is missing".to_owned(), remedy);
    }
    reader.text(key, remedy)
}

/// Ports, and whether a group was named, which may have one member today and more tomorrow; nothing when something is wrong.
fn read_ports(
    reader: &mut Reader<'_>,
    key: &'static str,
    names: &Names,
) -> Option<(PortSet, bool)> {
    let mut ports = PortSet::EMPTY;
    let Some((items, _)) = reader.list(key) else {
        let place = reader.place();
        reader.fault(place, key, "is missing".to_owned(), PARTY_RULE);
        return None;
    };
    let (mut is_whole, mut has_group) = (true, false);
    for item in items {
        let Some((text, place)) = reader.text_of(key, item, PARTY_RULE) else {
            is_whole = false;
            continue;
        };
        has_group |= text.starts_with("group:");
        match names.ports(&text) {
            Ok(found) => ports = ports.union(&found),
            Err((problem, remedy)) => {
                is_whole = false;
                reader.fault(place, key, problem, &remedy);
            }
        }
    }
    is_whole.then_some((ports, has_group))
}
