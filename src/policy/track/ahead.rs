//! The memory of many look-ups, asked for at once.
//!
//! A look-up reads a line or two of an index, and then the two lines of the entry that it names. Among many connections these lie
//! in no cache, and what is asked for one after the other is waited for one after the other. So the packets of a burst are looked up in
//! passes over all of them: where they would be, the lines of the indexes, what those name, the lines of the entries.
//! The two passes that read are as short as can be, since a processor asks for no more lines at a time than it can hold
//! instructions that wait.
//!
//! Nothing is judged here. A [`Hint`] may be wrong, and costs time if it is: what it leads to is compared with the packet's own key
//! like anything else.

use std::hint::black_box;

use super::entry::Entry;
use super::index::{self, Bucket, Choice};
use super::key::Key;
use super::{Burst, FlowRef, Table};
use crate::counters::PortId;
use crate::policy::subject::Subject;

/// Packets that are looked up side by side.
pub const ABREAST: usize = 64;

/// Where a packet's connection seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    port: PortId,
    slot: u32,
}

impl Hint {
    /// The slot, if it is one of the table of `port`.
    #[inline(always)]
    pub(super) fn at(self, port: PortId) -> Option<u32> {
        (self.port == port).then_some(self.slot)
    }
}

/// A packet's place in the table of one of its ports.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    table: &'a Table,
    hash: u64,
    bucket: &'a Bucket,
}

impl<'a> Place<'a> {
    #[inline(always)]
    fn new(table: &'a Table, hash: u64, choice: Choice) -> Option<Self> {
        let bucket = table.bucket(hash, choice)?;
        Some(Self {
            table,
            hash,
            bucket,
        })
    }

    /// What the bucket names.
    #[inline(always)]
    fn guess(&self) -> Option<(Hint, Entry<'a>)> {
        let slot = index::guess(self.bucket, self.hash)?;
        let port = self.table.port;
        Some((Hint { port, slot }, self.table.entry(slot)?))
    }
}

/// Of each packet the places in both tables.
type Sought<'a> = [[Option<Place<'a>>; 2]; ABREAST];

impl Burst<'_> {
    /// Finds out where the connections of packets from one port seem to be, and has their lines at hand: for each the packet's
    /// subject, and to which port it seems to go.
    #[inline]
    pub fn look_ahead<'s>(
        &self,
        from: PortId,
        packets: impl Iterator<Item = (&'s Subject, PortId)>,
    ) -> [Option<Hint>; ABREAST] {
        let tracker = self.tracker();
        let own = tracker.table(from);
        let mut sought: Sought<'_> = [[None; 2]; ABREAST];
        for (sought, (subject, to)) in sought.iter_mut().zip(packets) {
            let (Some(key), Some(own), Some(theirs)) =
                (Key::of_plain(subject), own, tracker.table(to))
            else {
                continue;
            };
            *sought = [
                Place::new(own, own.hash(&key), Choice::First),
                Place::new(theirs, theirs.hash(&key.reversed()), Choice::First),
            ];
        }
        let mut hints = [None; ABREAST];
        if point(&mut hints, &sought) {
            return hints;
        }
        // Most are in the first of their buckets. Of what is not there, the second is asked for as well.
        for (sought, hint) in sought.iter_mut().zip(&hints) {
            for place in sought {
                *place = match place {
                    Some(of) if hint.is_none() => Place::new(of.table, of.hash, Choice::Second),
                    _ => None,
                };
            }
        }
        point(&mut hints, &sought);
        hints
    }

    /// Has the lines of connections at hand that were found before.
    #[inline]
    pub fn fetch(&self, flows: impl Iterator<Item = FlowRef>) {
        let mut entries = [None; ABREAST];
        for (entry, flow) in entries.iter_mut().zip(flows) {
            let table = self.tracker().table(flow.port);
            *entry = table.and_then(|table| table.entry(flow.slot));
        }
        touch(&entries);
    }
}

/// Reads a word of each line.
#[inline(always)]
fn touch(entries: &[Option<Entry<'_>>; ABREAST]) {
    let entries = entries.iter().flatten();
    black_box(entries.fold(0, |read, entry| read ^ entry.touch()));
}

/// Reads the buckets, finds the entries that they name, and reads those. Says whether all have one.
#[inline(always)]
fn point(hints: &mut [Option<Hint>; ABREAST], sought: &Sought<'_>) -> bool {
    let mut read = 0;
    for [own, theirs] in sought {
        for place in [own, theirs].into_iter().flatten() {
            read ^= index::touch(place.bucket);
        }
    }
    black_box(read);
    let mut entries = [None; ABREAST];
    let mut has_all = true;
    for ((hint, entry), [own, theirs]) in hints.iter_mut().zip(&mut entries).zip(sought) {
        let mut found = None;
        if let Some(own) = own {
            found = own.guess();
        }
        if let (None, Some(theirs)) = (found, theirs) {
            found = theirs.guess();
        }
        if let Some((of, its)) = found {
            (*hint, *entry) = (Some(of), Some(its));
        } else {
            has_all &= own.is_none();
        }
    }
    touch(&entries);
    has_all
}
