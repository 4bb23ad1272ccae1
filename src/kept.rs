//! The set of relations, kept up to date from invalidation messages: for catalogs too large to
//! be counted at every change.
//!
//! # Why it is what the snapshot sees
//!
//! [`Kept::load`] reads the oids that its snapshot sees. [`Kept::update`] looks up, in a later
//! snapshot, the relations whose rows have changed since. It is right if it knows all of these,
//! and it does:
//!
//! - Those received before the snapshot was taken, and since the last time, are in `named`. Any
//!   others that the snapshot sees have been sent by the time [`procarray::await_messages`]
//!   returns, and are received then.
//! - Looking up one row too many changes nothing, so whatever else is received meanwhile is
//!   looked up, too. It may not be visible yet, and stays named for the next time.
//!
//! A row's message has the oid that it had before the change, so if a row's oid was changed by
//! hand (`allow_system_table_mods`), the new one is not known; and the index used to look up
//! rows may lack a row. So the set is reloaded, from the table alone, once an hour.

use crate::server::catalog_scan::{for_each_relation, ignores_indexes, look_up, pages_of_pg_class};
use crate::server::{inval, procarray};
use roaring::RoaringBitmap;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A smaller `pg_class`, of about ten thousand relations without dead rows, can be counted just
/// as quickly.
const FEWEST_PAGES: u32 = 384;

const LONGEST_LIFE: Duration = Duration::from_secs(3600);

/// The least time that looking up may take: the process may have had to wait for the processor.
const LEAST_PATIENCE: Duration = Duration::from_millis(10);

/// The oids of all relations that a snapshot saw.
pub struct Kept {
    oids: RoaringBitmap,
    loaded_at: Instant,
    loaded_in: Duration,
}

impl Kept {
    /// Whether keeping a set pays if this many relations change between two ticks: looking one
    /// up takes about as long as counting a page.
    pub fn pays(named: &BTreeSet<u32>) -> bool {
        let pages = pages_of_pg_class();
        pages >= FEWEST_PAGES && named.len() < pages as usize / 2 && !ignores_indexes()
    }

    /// Loads what the active snapshot sees. `None` if two relations have the same oid, which
    /// happens only in a damaged catalog.
    pub fn load() -> Option<Self> {
        let loaded_at = Instant::now();
        let mut oids = RoaringBitmap::new();
        let mut are_unique = true;
        for_each_relation(|relation| are_unique &= oids.insert(relation.oid));
        let loaded_in = loaded_at.elapsed();
        are_unique.then_some(Self {
            oids,
            loaded_at,
            loaded_in,
        })
    }

    /// Whether the set must be reloaded, even if nothing has changed.
    pub fn is_too_old(&self) -> bool {
        self.loaded_at.elapsed() >= LONGEST_LIFE
    }

    /// Brings the set up to date with the active snapshot. `named` are the relations that
    /// messages named since the last snapshot and before this one was taken. Returns false if
    /// that is impossible, or takes longer than loading a set; this set must then be discarded.
    pub fn update(&mut self, mut named: BTreeSet<u32>) -> bool {
        if self.is_too_old() || !procarray::await_messages() {
            return false;
        }
        inval::receive();
        let Some(mut since) = inval::named() else {
            return false;
        };
        named.append(&mut since);
        let end = Instant::now() + self.loaded_in.max(LEAST_PATIENCE);
        let mut is_cheap = true;
        look_up(&named, |oid, is_there| {
            _ = if is_there {
                self.oids.insert(oid)
            } else {
                self.oids.remove(oid)
            };
            is_cheap = Instant::now() <= end;
            is_cheap
        });
        #[cfg(debug_assertions)]
        if is_cheap {
            self.check();
        }
        is_cheap
    }

    /// Raises an ERROR unless the set equals what the active snapshot sees.
    #[cfg(debug_assertions)]
    fn check(&self) {
        let seen = Self::load().expect("a catalog without damage").oids;
        let (missing, gone) = (&seen - &self.oids, &self.oids - &seen);
        if !(missing.is_empty() && gone.is_empty()) {
            pgrx::error!("set of relations lacks {missing:?} and has {gone:?}");
        }
    }

    /// How many relations the snapshot saw.
    pub fn relations(&self) -> i64 {
        self.oids.len() as i64
    }
}
