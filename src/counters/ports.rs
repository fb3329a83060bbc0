//! Sets of ports.

use super::{MAX_PORTS, PortId};

const WORDS: usize = MAX_PORTS / 64;

/// A set of ports, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortSet([u64; WORDS]);

impl PortSet {
    /// No port.
    pub const EMPTY: Self = Self([0; WORDS]);

    /// Adds a port.
    pub fn insert(&mut self, port: PortId) {
        if let Some(word) = self.0.get_mut(port.index() / 64) {
            *word |= 1 << (port.index() % 64);
        }
    }

    /// Takes a port out.
    pub fn remove(&mut self, port: PortId) {
        if let Some(word) = self.0.get_mut(port.index() / 64) {
            *word &= !(1 << (port.index() % 64));
        }
    }

    /// Whether the port is in the set.
    #[inline]
    pub fn contains(&self, port: PortId) -> bool {
        let word = self.0.get(port.index() / 64).copied().unwrap_or(0);
        word >> (port.index() % 64) & 1 != 0
    }

    /// Whether there is no port in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// How many ports are in it.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The ports of both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = *self;
        for (word, theirs) in both.0.iter_mut().zip(&other.0) {
            *word &= theirs;
        }
        both
    }

    /// The ports of either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut either = *self;
        for (word, theirs) in either.0.iter_mut().zip(&other.0) {
            *word |= theirs;
        }
        either
    }

    /// The ports in ascending order. The iterator owns its copy of the set.
    pub fn iter(&self) -> Iter {
        Iter {
            left: *self,
            word: 0,
        }
    }
}

impl FromIterator<PortId> for PortSet {
    fn from_iter<I: IntoIterator<Item = PortId>>(ports: I) -> Self {
        let mut set = Self::EMPTY;
        for port in ports {
            set.insert(port);
        }
        set
    }
}

impl IntoIterator for PortSet {
    type Item = PortId;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        self.iter()
    }
}

/// The ports of a set, ascending.
#[derive(Clone, Debug)]
pub struct Iter {
    left: PortSet,
    word: usize,
}

impl Iterator for Iter {
    type Item = PortId;

    fn next(&mut self) -> Option<PortId> {
        loop {
            let bits = self.left.0.get_mut(self.word)?;
            if *bits == 0 {
                self.word += 1;
                continue;
            }
            let bit = bits.trailing_zeros() as usize;
            *bits &= *bits - 1;
            return u16::try_from(self.word * 64 + bit)
                .ok()
                .and_then(PortId::new);
        }
    }
}
