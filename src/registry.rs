//! Shared memory: the latest count of every database.
//!
//! Each database has a row, keyed by its oid, which the view shows from its first count on. A
//! row outlives its worker, and every process can read it, from any database.
//!
//! # Who writes a row
//!
//! Counts are entered by the worker that is in the database, whose pid is then in the row. Any
//! process may change the rest, one at a time (see [`crate::server::shmem`]). A process that
//! makes or frees a row keeps others from doing so meanwhile; a row with a pid is not freed but
//! marked, and goes with its worker.
//!
//! # What confirms the rows of databases that don't change
//!
//! Writing a thousand rows at each tick, only to say that nothing has changed, would cost more
//! the more databases there are. So such rows *follow* the header, which says when the
//! launcher's latest tick was and how many there have been; `base` is how many of them a row
//! has already taken into account. The launcher writes the header. When it learns that a
//! database has changed, it *settles* the database's row first: what the header said until then
//! becomes the row's own, and the row no longer follows.
//!
//! A reader reads the header first and the row second, each as one update left it. Then the
//! time that it shows is never too late, nor mixed from two states:
//!
//! - *The row follows.* When the header that was read was written, the launcher knew of no
//!   change: otherwise it would have settled the row before, and the row would not follow when
//!   read. (If the row has been settled, visited and made to follow again in between, the
//!   header is older than the row: its ticks do not exceed `base`, and add nothing.)
//! - *The row does not follow.* It speaks for itself.
//! - *The row began to follow just now*, after a worker had counted. That count covered all
//!   that the launcher had been told by then (see [`crate::launcher`]); `base` is the number of
//!   ticks until then, so that only later ones count.
//!
//! With a list of databases there is no launcher, and no row follows.

use crate::census::{Census, History, TAKING};
use crate::counter::{COUNTING, Tally};
use crate::server::clock;
use crate::server::ipc::call_at_exit;
use crate::server::session::my_pid;
use crate::server::shmem::{self, Record, Sizes, WideRecord, exclusively, record};
use crate::worker::REST_FACTOR;
use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// What the log has said about a database, for the next process that counts it.
#[derive(Clone, Copy, Default, PartialEq)]
pub struct Said {
    /// The count that was logged last.
    pub last_logged: Option<i64>,
    /// Whether the log has said that there are too many relations.
    pub warned: bool,
}

record! {
/// What is known about a database. Times are the server's: microseconds since 2000-01-01 UTC.
#[derive(Clone, Copy, Default)]
pub struct Known {
    /// The database's oid; 0 if the row is free.
    pub database: u32,
    pub relations: i64,
    /// The time of the latest tick, which confirmed the number; 0 before the first.
    pub counted_at: i64,
    /// When the number last changed, or was first counted.
    pub changed_at: i64,
    pub min_relations: i64,
    pub max_relations: i64,
    pub max_at: i64,
    pub ticks: i64,
    /// Ticks that counted all relations.
    pub recounts: i64,
    /// How long the last such count took, in microseconds.
    pub last_count_us: i64,
    /// When the next such count may begin, and how long after the last one that is, in
    /// microseconds: the last one may not have finished, and is then not in `last_count_us`.
    rests_until: i64,
    rest_us: i64,
    /// Since when minimum, maximum, ticks and recounts are kept.
    pub stats_since: i64,
    /// The worker that is there; 0 if there is none.
    pub pid: i32,
    /// Whether the database is no longer to be counted; the row then goes with the worker.
    pub dismissed: bool,
    /// Whether the last worker left of its own accord.
    pub left_at_ease: bool,
    /// Whether the database may have changed since its latest census.
    pub stale: bool,
    /// The latest request for a census; 0 if there was none.
    pub requested: i64,
    /// The epoch that the count covers; see [`epoch`].
    pub covered: i64,
    /// Whether the header's ticks are this row's too.
    follows: bool,
    /// How many of the header's ticks are in the row already.
    base: i64,
    /// Both as in [`Said`].
    last_logged: Option<i64>,
    warned: bool,
}
}

impl Known {
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
        self.stale |= tally.changed;
        if let Some(duration) = tally.counted_in {
            self.recounts += 1;
            self.last_count_us = duration.as_micros() as i64;
            self.rest_after(duration, now);
        }
    }

    fn rest_after(&mut self, duration: Duration, now: i64) {
        self.rest_us = (duration * REST_FACTOR).as_micros() as i64;
        self.rests_until = now + self.rest_us;
    }

    /// How long the last count of all relations took, whether it finished or not.
    pub fn last_effort(&self) -> Duration {
        Duration::from_micros(self.rest_us as u64) / REST_FACTOR
    }

    /// How long it is until the next count of all relations may begin.
    pub fn rest_left(&self) -> Duration {
        // The server's clock may have been set meanwhile.
        let rest = (self.rests_until - clock::now()).clamp(0, self.rest_us);
        Duration::from_micros(rest as u64)
    }

    fn reset(&mut self, now: i64) {
        self.min_relations = self.relations;
        self.max_relations = self.relations;
        self.max_at = self.counted_at;
        self.ticks = 0;
        self.recounts = 0;
        self.stats_since = now;
    }

    /// Merges what the header says into the row, if the row follows.
    fn take_in(&mut self, confirmed: Confirmed) {
        if self.follows && confirmed.ticks > self.base {
            self.counted_at = confirmed.at;
            self.ticks += confirmed.ticks - self.base;
            self.base = confirmed.ticks;
        }
    }

    pub fn said(&self) -> Said {
        Said {
            last_logged: self.last_logged,
            warned: self.warned,
        }
    }
}

/// A database's row and its census.
#[derive(Clone, Copy)]
pub struct Row {
    known: &'static Record,
    census: &'static WideRecord,
}

/// The row whose worker this process is, or would be.
static OCCUPIED: OnceLock<Row> = OnceLock::new();

impl Row {
    /// The row of `database`, if it has one.
    pub fn find(database: u32) -> Option<Row> {
        rows().find(|row| row.read().database == database)
    }

    /// The row of `database`, which is given one if it has none. `None` if all are taken.
    pub fn find_or_take(database: u32) -> Option<Row> {
        Row::find_or_take_all(&[database]).remove(&database)
    }

    /// As [`Row::find_or_take`], for many databases: those not in the result have no row.
    pub fn find_or_take_all(databases: &[u32]) -> HashMap<u32, Row> {
        // Room for all there can be, because nothing may be allocated while the table is held.
        let most = records().len();
        let mut free = Vec::with_capacity(most);
        let mut taken = HashMap::with_capacity(most);
        let mut found = HashMap::with_capacity(databases.len());
        exclusively(header().table, || {
            for row in rows() {
                let Known { database, .. } = row.read();
                if database == 0 {
                    free.push(row);
                } else {
                    taken.insert(database, row);
                }
            }
            for database in databases.iter().copied() {
                let row = taken.remove(&database).or_else(|| {
                    let free = free.pop().or_else(Row::another)?;
                    free.census.update(|words| words.fill(0));
                    free.update(|known| {
                        *known = Known {
                            database,
                            ..Known::default()
                        }
                    });
                    Some(free)
                });
                if let Some(row) = row {
                    found.insert(database, row);
                }
            }
        });
        found
    }

    /// A row that was never used.
    fn another() -> Option<Row> {
        let used = used();
        let known = records().get(1 + used)?;
        let census = shmem::wide_records()?.get(used)?;
        header().used.store(used as i64 + 1, Ordering::Release);
        Some(Row { known, census })
    }

    /// Makes this process the worker of `database`, whose row this is, until it exits, however
    /// it exits. Returns whether it was needed: there is no other worker, and the row does not
    /// hold without one.
    pub fn occupy(&self, database: u32) -> bool {
        // A process has only one row.
        let _ = OCCUPIED.set(*self);
        call_at_exit(vacate);
        let pid = my_pid();
        let mut occupied = false;
        self.update(|known| {
            occupied =
                known.database == database && known.pid == 0 && !known.dismissed && !known.follows;
            if occupied {
                known.pid = pid;
            }
        });
        occupied
    }

    /// What is known about the database whose row this is, as one change left it. What the
    /// header confirms is not in it; [`counted`] merges that.
    pub fn read(&self) -> Known {
        Known::from_words(self.known.read())
    }

    /// Enters the result of a tick, which covers `epoch`.
    pub fn observe(&self, tally: &Tally, epoch: i64) {
        let now = clock::now();
        self.update(|known| {
            known.observe(tally, now);
            known.covered = epoch;
        });
    }

    /// Enters that the latest count covers `epoch` as well.
    pub fn cover(&self, epoch: i64) {
        if self.read().covered != epoch {
            self.update(|known| known.covered = epoch);
        }
    }

    /// Enters what the log has now said, for the process that counts next.
    pub fn remember(&self, said: Said) {
        self.update(|known| {
            known.last_logged = said.last_logged;
            known.warned = said.warned;
        });
    }

    /// Records that a census of `database`, whose row this is, has begun.
    pub fn begin_census(&self, database: u32) {
        self.census.update(|words| History::begin(words, database));
    }

    /// Records that a census that had begun was put off.
    pub fn put_off_census(&self) {
        self.census.update(History::put_off);
    }

    /// Enters a census, which has seen everything that the latest tick had been told of.
    pub fn enter_census(&self, database: u32, census: &Census) {
        let census = census.to_words(database);
        self.census.update(|words| *words = census);
        self.update(|known| known.stale = false);
    }

    /// What is known about the censuses of `database`, whose row this is.
    pub fn history(&self, database: u32) -> History {
        History::from_words(self.census.read(), database)
    }

    /// What a warning says about the latest census, if there has been one.
    pub fn summary(&self, database: u32) -> Option<String> {
        let is_stale = self.read().stale;
        let latest = self.history(database).latest?;
        Some(latest.summary(is_stale))
    }

    /// Prepares the row for a worker, which may or may not leave of its own accord.
    pub fn expect_worker(&self) {
        self.update(|known| known.left_at_ease = false);
    }

    /// Makes the row follow the header from now on, if no worker is there and its count covers
    /// more than `epoch`. Returns whether it follows.
    pub fn follow(&self, epoch: i64) -> bool {
        let confirmed = confirmed();
        let mut follows = false;
        self.update(|known| {
            if known.pid == 0 && known.counted_at != 0 && known.covered > epoch && !known.follows {
                known.follows = true;
                known.base = confirmed.ticks;
            }
            follows = known.follows;
        });
        follows
    }

    /// Makes the row stop following the header.
    pub fn settle(&self) {
        let confirmed = confirmed();
        self.update(|known| {
            known.take_in(confirmed);
            known.follows = false;
        });
    }

    fn update(&self, change: impl FnOnce(&mut Known)) {
        self.known.update(|words| {
            let mut known = Known::from_words(*words);
            change(&mut known);
            *words = known.to_words();
        });
    }
}

/// Records that this process, if it is in a database, leaves of its own accord.
pub fn leave_at_ease() {
    update_occupied(|known| known.left_at_ease = true);
}

fn vacate() {
    // What an exit has cut short counts as if it had finished.
    let counting = COUNTING.running();
    if let (Some(duration), Some(row)) = (TAKING.running(), OCCUPIED.get()) {
        row.census.update(|words| History::fail(words, duration));
    }
    let now = clock::now();
    update_occupied(|known| {
        if let Some(duration) = counting {
            known.rest_after(duration, now);
        }
        known.pid = 0;
        if known.dismissed {
            *known = Known::default();
        }
    });
}

/// Changes the row whose worker this process is, if there is one.
fn update_occupied(change: impl FnOnce(&mut Known)) {
    if let Some(row) = OCCUPIED.get() {
        row.update(|known| {
            if known.pid == my_pid() {
                change(known);
            }
        });
    }
}

/// Frees the rows of databases that are no longer to be counted. If a worker is there, it
/// leaves when it next wakes up, and the row goes with it.
pub fn retain(wanted: impl Fn(u32) -> bool) {
    exclusively(header().table, || {
        for row in rows() {
            let Known { database, .. } = row.read();
            if database == 0 || wanted(database) {
                continue;
            }
            row.update(|known| match known.pid {
                0 => *known = Known::default(),
                _ => known.dismissed = true,
            });
        }
    });
}

/// The shared memory that the registry needs for this many databases; `further` numbers come
/// after its own.
pub fn sizes(databases: usize, further: usize) -> Sizes {
    Sizes {
        records: 1 + databases,
        wide_records: databases,
        numbers: NUMBERS + further,
    }
}

/// How many numbers in shared memory the registry needs.
pub const NUMBERS: usize = 7;

/// What does not belong to one database.
pub struct Header {
    /// Whether a process is making or freeing a row.
    table: &'static AtomicI64,
    /// How many rows have ever been used: the first ones.
    used: &'static AtomicI64,
    epoch: &'static AtomicI64,
    waiting: &'static AtomicI64,
    /// How many requests for a census have been begun, and how many completed.
    requests: &'static AtomicI64,
    completed_requests: &'static AtomicI64,
    /// See [`crate::budget`].
    pub balance: &'static AtomicI64,
}

/// The numbers that are shared by all databases. Panics unless the library has been preloaded:
/// for our own processes, and for those who have checked [`exists`].
pub fn header() -> Header {
    let numbers = shmem::numbers().expect("the library is preloaded");
    let [
        table,
        used,
        epoch,
        waiting,
        requests,
        completed_requests,
        balance,
        ..,
    ] = numbers
    else {
        unreachable!("the registry's numbers come first");
    };
    Header {
        table,
        used,
        epoch,
        waiting,
        requests,
        completed_requests,
        balance,
    }
}

/// The number of the launcher's current or next reception of messages. A worker reads it
/// *before* it receives its own; see [`crate::launcher`].
pub fn epoch() -> i64 {
    header().epoch.load(Ordering::SeqCst)
}

/// Ends the epoch: the launcher has received, and all other processes can from now on.
pub fn next_epoch() {
    header().epoch.fetch_add(1, Ordering::SeqCst);
}

/// Whether visits must be short because others wait.
pub fn is_somebody_waiting() -> bool {
    header().waiting.load(Ordering::Relaxed) != 0
}

/// Says whether visits must be short. Called by the launcher.
pub fn set_somebody_waiting(is_so: bool) {
    if is_somebody_waiting() != is_so {
        header().waiting.store(is_so.into(), Ordering::Relaxed);
    }
}

/// What the header confirms.
#[derive(Clone, Copy)]
struct Confirmed {
    /// When the launcher's latest tick was.
    at: i64,
    /// How many ticks the launcher has had.
    ticks: i64,
}

fn confirmed() -> Confirmed {
    let [at, ticks, ..] = records()[0].read();
    Confirmed { at, ticks }
}

/// Confirms all rows that follow the header: their counts were right at the time `at`.
pub fn confirm(at: i64) {
    records()[0].update(|words| {
        words[0] = at;
        words[1] += 1;
    });
}

/// Whether there are rows: the library has been preloaded.
pub fn exists() -> bool {
    shmem::records().is_some_and(|records| !records.is_empty())
}

/// The header's record and those of databases.
fn records() -> &'static [Record] {
    shmem::records().unwrap_or_default()
}

/// The rows of databases, including free ones.
fn rows() -> impl Iterator<Item = Row> {
    let rows = records().iter().skip(1);
    let censuses = shmem::wide_records().unwrap_or_default();
    rows.zip(censuses)
        .map(|(known, census)| Row { known, census })
        .take(used())
}

fn used() -> usize {
    header().used.load(Ordering::Acquire) as usize
}

/// The rows of all databases that have been counted.
pub fn counted() -> impl Iterator<Item = Known> {
    let confirmed = confirmed();
    rows().filter_map(move |row| {
        let mut known = row.read();
        known.take_in(confirmed);
        (known.database != 0 && known.counted_at != 0).then_some(known)
    })
}

/// Restarts minimum, maximum, ticks and recounts, for one database or for all. Returns whether
/// there was something to reset.
pub fn reset(database: Option<u32>) -> bool {
    let now = clock::now();
    let mut found = false;
    for row in rows() {
        let confirmed = confirmed();
        row.update(|known| {
            let wanted = database.is_none_or(|oid| oid == known.database);
            if wanted && known.database != 0 && known.counted_at != 0 {
                known.take_in(confirmed);
                known.reset(now);
                found = true;
            }
        });
    }
    found
}

/// The latest census of all databases that have been counted, by oid.
pub fn censuses() -> impl Iterator<Item = (u32, Census)> {
    rows().filter_map(|row| {
        let known = row.read();
        let is_counted = known.database != 0 && known.counted_at != 0;
        let census = Census::from_words(row.census.read(), known.database)?;
        is_counted.then_some((known.database, census))
    })
}

/// How many requests for a census have been completed: all their rows say so.
pub fn census_requests() -> i64 {
    header().completed_requests.load(Ordering::Acquire)
}

/// Requests a census of one database or of all. Returns whether there was one to ask for.
pub fn request_census(database: Option<u32>) -> bool {
    let request = header().requests.fetch_add(1, Ordering::Relaxed) + 1;
    let mut found = false;
    for row in rows() {
        row.update(|known| {
            let wanted = database.is_none_or(|oid| oid == known.database);
            if wanted && known.database != 0 {
                known.requested = known.requested.max(request);
                found = true;
            }
        });
    }
    // A reader that sees this also sees the rows.
    header().completed_requests.fetch_add(1, Ordering::Release);
    found
}
