//! The lists of a whole policy: numbered, and compiled once where ports share them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::counters::PortId;

use super::super::rule::{Direction, Rule, RuleId};
use super::peers::own_part;
use super::{Classifier, MAX_TRIPLES, TooLarge};

/// Compiles the lists of one policy.
///
/// A list is known by its `Arc`: the same list bound to many ports has one range of rule ids, and one classifier but
/// where it names ports on the side of the port that it is bound to.
#[derive(Debug)]
pub struct Compiler {
    ports: usize,
    next: u32,
    left: usize,
    lists: Vec<(RuleId, Arc<[Rule]>)>,
    /// By address; `lists` keeps what is there alive, so that no other list takes its place.
    first: HashMap<*const Rule, RuleId>,
    done: HashMap<(RuleId, Direction, Vec<bool>), Arc<Classifier>>,
}

impl Compiler {
    /// For a switch of that many ports.
    pub fn new(ports: usize) -> Self {
        Self {
            ports,
            next: 0,
            left: MAX_TRIPLES,
            lists: Vec::new(),
            first: HashMap::new(),
            done: HashMap::new(),
        }
    }

    /// Leaves room for that many triples only.
    #[cfg(test)]
    pub(super) fn shrink(&mut self, left: usize) {
        self.left = left;
    }

    /// The id of the list's first rule; the others follow it. Numbered when first seen.
    pub fn number(&mut self, list: &Arc<[Rule]>) -> RuleId {
        if list.is_empty() {
            return RuleId(self.next);
        }
        let (next, lists) = (&mut self.next, &mut self.lists);
        *self.first.entry(list.as_ptr()).or_insert_with(|| {
            let first = RuleId(*next);
            *next = next.saturating_add(u32::try_from(list.len()).unwrap_or(u32::MAX));
            lists.push((first, Arc::clone(list)));
            first
        })
    }

    /// The classifier of a list that is bound to port `own`.
    ///
    /// # Errors
    ///
    /// [`TooLarge`] when the lists compiled so far and this one come to more than [`MAX_TRIPLES`].
    pub fn compile(
        &mut self,
        list: &Arc<[Rule]>,
        direction: Direction,
        own: PortId,
    ) -> Result<Arc<Classifier>, TooLarge> {
        let first = self.number(list);
        let key = (first, direction, own_part(list, direction, own));
        if !list.is_empty()
            && let Some(done) = self.done.get(&key)
        {
            return Ok(Arc::clone(done));
        }
        let rules: Vec<(RuleId, &Rule)> = (first.0..).map(RuleId).zip(list.iter()).collect();
        let (classifier, left) = Classifier::within(self.left, &rules, direction, own, self.ports)?;
        self.left = left;
        let classifier = Arc::new(classifier);
        if !list.is_empty() {
            self.done.insert(key, Arc::clone(&classifier));
        }
        Ok(classifier)
    }

    /// Every list with the id of its first rule, in the order of the ids.
    pub fn lists(&self) -> &[(RuleId, Arc<[Rule]>)] {
        &self.lists
    }
}
