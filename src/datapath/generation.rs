//! What a burst is judged and delivered by: the gate and the ports of one moment, one immutable whole.
//!
//! A change of configuration makes a new [`Generation`] and puts it in the place of the old with one store. A worker takes
//! the one in force at the beginning of a visit and uses no other until its end, so no frame is judged by a mixture of two,
//! and a port and its policy appear and vanish together: a port that is not in a generation cannot be visited under it.
//!
//! The old one goes when the last worker has let it go, which [`Retired::is_released`] tells. Until then somebody may still
//! be delivering by it, so the number of a port that has gone is given to no other before.

use std::sync::Arc;

use super::Gate;
use crate::counters::PortId;
use crate::port::lanes::Lanes;

/// The ports of a switch, each found by its number. Numbers between may be free.
#[derive(Clone, Debug, Default)]
pub struct Ports(Box<[Option<Arc<Lanes>>]>);

impl Ports {
    /// The port of that number.
    #[inline]
    #[must_use]
    pub fn get(&self, id: PortId) -> Option<&Arc<Lanes>> {
        self.0.get(id.index())?.as_ref()
    }

    /// All ports, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Lanes>> {
        self.0.iter().flatten()
    }
}

/// Each port goes where its number says. Of two with one number the later counts.
impl FromIterator<Arc<Lanes>> for Ports {
    fn from_iter<I: IntoIterator<Item = Arc<Lanes>>>(ports: I) -> Self {
        let mut places = Vec::new();
        for lanes in ports {
            let index = lanes.id().index();
            if places.len() <= index {
                places.resize(index.saturating_add(1), None); // below MAX_PORTS
            }
            if let Some(place) = places.get_mut(index) {
                *place = Some(lanes);
            }
        }
        Self(places.into())
    }
}

/// See the head of this file.
#[derive(Debug)]
pub struct Generation {
    /// Counts up from 1; what a worker remembers of an earlier one is void.
    number: u64,
    /// Whose rings are visited and delivered to.
    pub ports: Ports,
    /// What judges frames.
    pub gate: Gate,
}

impl Generation {
    pub(super) fn new(number: u64, ports: Ports, gate: Gate) -> Self {
        Self {
            number,
            ports,
            gate,
        }
    }

    /// Which one this is; each has a number of its own.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }
}

/// A generation that is not in force any more. Whoever holds it sees to it that no worker has to free it.
#[derive(Debug)]
pub struct Retired(pub(super) Arc<Generation>);

impl Retired {
    /// Whether no worker can touch it any more, nor any other holder of it.
    #[must_use]
    pub fn is_released(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::door::Door;
    use crate::port::lanes::FaultBell;

    #[test]
    fn a_port_is_found_by_its_number_and_a_free_number_is_no_port() {
        let door = Arc::new(Door::new().unwrap());
        let bell = FaultBell::new().unwrap();
        let id = |index| PortId::new(index).unwrap();
        let lanes = |index| Lanes::new(id(index), 1, door.clone(), bell.clone());
        let ports: Ports = [lanes(5), lanes(2)].into_iter().collect();
        assert_eq!(ports.get(id(2)).unwrap().id(), id(2));
        assert_eq!(ports.get(id(5)).unwrap().id(), id(5));
        for free in [0, 1, 3, 4, 6, 1023] {
            assert!(ports.get(id(free)).is_none(), "{free}");
        }
        assert!(ports.iter().map(|lanes| lanes.id()).eq([id(2), id(5)]));
    }
}
