//! Shared memory: the latest count of every database.
//!
//! Each worker owns a row until it exits, which the view shows from its first count on;
//! everybody reads them, from any database.

use crate::counter::Tally;
use crate::server::clock;
use crate::server::shared_slots::{self, Slot, WORDS};
use std::sync::atomic::{Ordering, fence};

/// What is known of a database that is being counted. Times are the server's:
/// microseconds since 2000-01-01 UTC.
#[derive(Clone, Copy, Default)]
pub struct Row {
    pub database: u32,
    pub relations: i64,
    /// The latest tick, which confirmed the number.
    pub counted_at: i64,
    /// When the number last became different, or the worker first counted.
    pub changed_at: i64,
    pub min_relations: i64,
    pub max_relations: i64,
    pub max_at: i64,
    pub ticks: i64,
    /// Ticks that ran the query.
    pub recounts: i64,
    /// How long the query took the last time, in microseconds.
    pub last_count_us: i64,
    /// Since when minimum, maximum, ticks and recounts are kept.
    pub stats_since: i64,
    pub pid: i32,
    /// Whether the launcher wants the worker to leave.
    dismissed: bool,
}

impl Row {
    /// The row of a database that has not been counted yet.
    fn new(database: u32, pid: i32) -> Row {
        Row {
            database,
            pid,
            ..Row::default()
        }
    }

    fn observe(&mut self, tally: &Tally, now: i64) {
        let first = self.counted_at == 0;
        if first || tally.relations != self.relations {
            self.relations = tally.relations;
            self.changed_at = now;
        }
        self.counted_at = now;
        if first {
            self.reset(now);
        }
        self.min_relations = self.min_relations.min(tally.relations);
        if tally.relations > self.max_relations {
            self.max_relations = tally.relations;
            self.max_at = now;
        }
        self.ticks += 1;
        if let Some(duration) = tally.counted_in {
            self.recounts += 1;
            self.last_count_us = duration.as_micros() as i64;
        }
    }

    fn reset(&mut self, now: i64) {
        self.min_relations = self.relations;
        self.max_relations = self.relations;
        self.max_at = self.counted_at;
        self.ticks = 0;
        self.recounts = 0;
        self.stats_since = now;
    }

    fn from_words(words: [i64; WORDS]) -> Row {
        let [
            database,
            relations,
            counted_at,
            changed_at,
            min_relations,
            max_relations,
            max_at,
            ticks,
            recounts,
            last_count_us,
            stats_since,
            pid,
            dismissed,
        ] = words;
        Row {
            database: database as u32,
            relations,
            counted_at,
            changed_at,
            min_relations,
            max_relations,
            max_at,
            ticks,
            recounts,
            last_count_us,
            stats_since,
            pid: pid as i32,
            dismissed: dismissed != 0,
        }
    }

    fn to_words(self) -> [i64; WORDS] {
        [
            self.database.into(),
            self.relations,
            self.counted_at,
            self.changed_at,
            self.min_relations,
            self.max_relations,
            self.max_at,
            self.ticks,
            self.recounts,
            self.last_count_us,
            self.stats_since,
            self.pid.into(),
            self.dismissed.into(),
        ]
    }
}

/// The row of this worker's own.
pub struct Entry(&'static Slot);

impl Entry {
    /// Takes a row for `database`; it goes when the process does. `None` if another
    /// worker has one for that database already.
    pub fn claim(database: u32) -> Option<Entry> {
        let slot = shared_slots::claim();
        let pid = slot.owner().unwrap_or_default();
        slot.update(|words| *words = Row::new(database, pid).to_words());
        // Of two that do this at the same time, at least one sees the other. If both
        // do, both give way, and their supervisor tries again.
        fence(Ordering::SeqCst);
        let first = workers().all(|row| row.database != database || row.pid == pid);
        first.then_some(Entry(slot))
    }

    /// Whether the launcher wants this worker to leave.
    pub fn is_dismissed(&self) -> bool {
        Row::from_words(self.0.read()).dismissed
    }

    /// Enters what a tick found out.
    pub fn observe(&self, tally: &Tally) {
        let now = clock::now();
        update(self.0, |row| row.observe(tally, now));
    }
}

fn update(slot: &Slot, change: impl FnOnce(&mut Row)) {
    slot.update(|words| {
        let mut row = Row::from_words(*words);
        change(&mut row);
        *words = row.to_words();
    });
}

/// Asks a worker to leave, which it does when it next wakes up.
pub fn dismiss(pid: i32) {
    for slot in slots().filter(|slot| slot.owner() == Some(pid)) {
        update(slot, |row| row.dismissed = true);
    }
}

/// Whether there are rows to look at: the library has been preloaded.
pub fn exists() -> bool {
    shared_slots::all().is_some()
}

fn slots() -> impl Iterator<Item = &'static Slot> {
    let slots = shared_slots::all().unwrap_or_default();
    slots.iter().filter(|slot| slot.owner().is_some())
}

/// The rows of all workers, also of those that have not counted yet.
pub fn workers() -> impl Iterator<Item = Row> {
    // A slot is claimed a moment before it says what for.
    slots()
        .map(|slot| Row::from_words(slot.read()))
        .filter(|row| row.database != 0)
}

/// The rows of all databases that have been counted.
pub fn counted() -> impl Iterator<Item = Row> {
    workers().filter(|row| row.counted_at != 0)
}

/// Starts minimum, maximum, ticks and recounts afresh, for one database or for all.
/// Returns whether there was something to reset.
pub fn reset(database: Option<u32>) -> bool {
    let now = clock::now();
    let mut found = false;
    for slot in slots() {
        update(slot, |row| {
            let wanted = database.is_none_or(|oid| oid == row.database);
            if wanted && row.counted_at != 0 {
                row.reset(now);
                found = true;
            }
        });
    }
    found
}
