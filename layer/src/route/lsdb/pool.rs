//! Records that several databases in one process share, for the simulator: a record is judged once and kept once.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use proto::Addr;
use proto::wire::SignedRecord;
use rustc_hash::FxHashMap;

use super::super::names::Names;
use super::store::Believed;

/// What the members of one layer, all of which trust the same root, have believed so far.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    by_signature: Arc<Mutex<FxHashMap<Vec<u8>, Weak<Believed>>>>,
    /// The numbers that all give to these members, where there are so many that a table for each would be much.
    names: Option<Arc<Names>>,
}

impl Pool {
    /// One for a layer that has these members, or will have.
    pub fn of(members: impl Iterator<Item = Addr>) -> Self {
        let mut names = Names::default();
        for member in members {
            names.add(member);
        }
        Self {
            names: Some(Arc::new(names)),
            ..Self::default()
        }
    }

    pub(super) fn names(&self) -> Option<Arc<Names>> {
        self.names.clone()
    }

    /// A record that somebody has believed: every byte that is signed is the same.
    pub(super) fn find(&self, record: &SignedRecord) -> Option<Arc<Believed>> {
        let known = self
            .by_signature
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let found = known.get(&record.signature)?.upgrade()?;
        (found.signed.body == record.body).then_some(found)
    }

    pub(super) fn keep(&self, record: &Arc<Believed>) {
        let mut known = self
            .by_signature
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if known.len() == known.capacity() {
            known.retain(|_, record| record.strong_count() > 0);
        }
        known.insert(record.signed.signature.clone(), Arc::downgrade(record));
    }

    /// How many different records are held by anybody.
    pub fn len(&self) -> usize {
        let mut known = self
            .by_signature
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, record| record.strong_count() > 0);
        known.len()
    }

    /// Whether nobody holds any.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
