//! Which kinds of relations there are, in which schemas, and how bloated the catalogs are:
//! taken seldom, and only after something has changed.
//!
//! A count says that there are too many relations, and a census says which. It reads all of
//! `pg_class` row by row rather than with a query, which would permanently need more memory
//! than everything else the worker does. That costs as much as a few counts, so it is taken
//! beside the tick: once per `count_relations.census_naptime`, sooner if it is requested or a
//! warning needs it, and never for more than a hundredth of the time. It shows what one snapshot
//! saw, and says when.
//!
//! What a database has changed without committing leaves dead rows behind, and no message
//! reports them. So an idle database is looked at too, within [`LONGEST_PAUSE`] or the naptime,
//! whichever is longer.

use crate::attempts::pause_after_failures;
use crate::registry::Row;
use crate::server::catalog_lock::{try_lock_of_cache, try_lock_with_indexes};
use crate::server::catalog_scan::{for_each_relation, for_each_schema};
use crate::server::catalog_size::{Figures, figures_of, forget};
use crate::server::shmem::WIDE_WORDS;
use crate::server::signals::cancelable;
use crate::server::transaction::{transaction, with_snapshot};
use crate::server::{backend_status, clock, malloc, recovery, session};
use crate::stopwatch::Stopwatch;
use crate::{counter, settings};
use pgrx::pg_sys;
use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;
use std::time::{Duration, Instant};

/// An idle database is looked at at least this often.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(3 * 60 * 60);

/// A census is followed by a pause of at least this many times its duration, requested or not.
/// Only one for a warning may come earlier, after the same pause since the last of its kind.
const REST_FACTOR: u32 = 199;

/// But no such pause is longer than this: a census of over seven minutes was stopped in the
/// middle of it.
const LONGEST_REST: Duration = Duration::from_secs(24 * 60 * 60);

/// How soon to retry a census that was put off because of others' locks.
const NEXT_TRY: Duration = Duration::from_secs(1);

/// How many schemas have a row of their own.
const LARGEST_SCHEMAS: usize = 10;

/// How many schemas a warning names.
const NAMED_SCHEMAS: usize = 3;

/// The catalogs that grow with relations, and their oids.
pub const CATALOGS: [(&CStr, pg_sys::Oid); 8] = [
    (c"pg_class", pg_sys::RelationRelationId),
    (c"pg_attribute", pg_sys::AttributeRelationId),
    (c"pg_type", pg_sys::TypeRelationId),
    (c"pg_depend", pg_sys::DependRelationId),
    (c"pg_index", pg_sys::IndexRelationId),
    (c"pg_constraint", pg_sys::ConstraintRelationId),
    (c"pg_attrdef", pg_sys::AttrDefaultRelationId),
    (c"pg_statistic", pg_sys::StatisticRelationId),
];

/// Runs while the process takes a census.
pub static TAKING: Stopwatch = Stopwatch::new();

/// What `pg_stat_activity` shows during a census.
const ACTIVITY: &CStr = c"census of relations";

/// How many relations of one kind there are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kind {
    /// All three as in `pg_class`.
    pub relkind: u8,
    pub relpersistence: u8,
    pub relispartition: bool,
    pub relations: u32,
}

/// How many relations a schema has, or several schemas together.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    /// In the database's encoding; empty for the row that sums up all but the largest.
    pub name: Vec<u8>,
    /// How many schemas this row stands for.
    pub schemas: u32,
    pub relations: u32,
}

/// What a database contains.
#[derive(Clone, Debug, PartialEq)]
pub struct Census {
    /// When it was taken, in microseconds since 2000-01-01 UTC.
    pub taken_at: i64,
    /// How long the census took, in microseconds.
    pub duration_us: i64,
    /// The latest request made before the census.
    pub request: i64,
    /// When the latest census for a warning was taken; 0 if none was.
    pub hurried_at: i64,
    pub kinds: Vec<Kind>,
    pub schemas: Vec<Schema>,
    /// As many as there are [`CATALOGS`].
    pub catalogs: Vec<Figures>,
    /// Whether there are statistics: a standby has none.
    pub has_statistics: bool,
}

/// More than can exist: of ten kinds, few come with each of three persistences, and as
/// partitions.
const MOST_KINDS: usize = 64;

/// The largest schemas, temporary ones, and the rest.
const MOST_SCHEMAS: usize = LARGEST_SCHEMAS + 2;

const NAME_BYTES: usize = pg_sys::NAMEDATALEN as usize;
const NAME_WORDS: usize = NAME_BYTES / size_of::<i64>();
const SCHEMA_WORDS: usize = NAME_WORDS + 1;
const CATALOG_WORDS: usize = 5;
/// The oid, five numbers, and three about failed attempts.
const HEAD_WORDS: usize = 9;
const TRIED_AT: usize = 6;
const FAILURES: usize = 7;
const FAILED_IN: usize = 8;

const _: () = assert!(
    HEAD_WORDS + MOST_KINDS + MOST_SCHEMAS * SCHEMA_WORDS + CATALOGS.len() * CATALOG_WORDS
        == WIDE_WORDS
);

impl Census {
    /// Takes a census of the database that the process is connected to. `None` if another
    /// process holds a lock that the census would have to wait for.
    ///
    /// Raises an ERROR if the server does, for example when the census is canceled, or has to
    /// wait all the same.
    fn take(is_visit: bool) -> Option<Census> {
        // For any other lock that would have to be waited for.
        session::wait_for_locks(true);
        TAKING.start();
        let census = cancelable(Self::try_to_take);
        let duration = TAKING.stop();
        session::wait_for_locks(is_visit);
        // Show the counting again afterwards.
        backend_status::running(counter::QUERY);
        backend_status::idle();
        malloc::give_back();
        census.map(|census| Census {
            duration_us: duration.as_micros() as i64,
            ..census
        })
    }

    fn try_to_take() -> Option<Census> {
        let taken_at = clock::now();
        // In a transaction of their own, so that nobody who wants to lock one waits for the whole
        // census.
        let (catalogs, has_statistics) = transaction(|| {
            let mut relations = CATALOGS.into_iter().map(|(_, oid)| oid);
            let is_free = try_lock_of_cache() && relations.all(try_lock_with_indexes);
            is_free.then(|| {
                // A standby that is promoted meanwhile still has none.
                let has_statistics = !recovery::in_progress();
                let figures = CATALOGS.map(|(_, oid)| {
                    let figures = figures_of(oid);
                    forget(oid);
                    figures
                });
                (figures, has_statistics)
            })
        })?;
        let (kinds, schemas) = transaction(|| {
            backend_status::running(ACTIVITY);
            let is_free = try_lock_of_cache() && try_lock_with_indexes(pg_sys::NamespaceRelationId);
            is_free.then(|| with_snapshot(sort))
        })?;
        Some(Census {
            taken_at,
            duration_us: 0,
            request: 0,
            hurried_at: 0,
            kinds,
            schemas,
            catalogs: catalogs.into(),
            has_statistics,
        })
    }

    /// The census as shared memory stores it.
    pub fn to_words(&self, database: u32) -> [i64; WIDE_WORDS] {
        let mut words = vec![
            database.into(),
            self.taken_at,
            self.duration_us,
            self.request,
            self.hurried_at,
            self.has_statistics.into(),
            0, // when the last failed attempt began
            0, // how many have failed
            0, // and how long the last one took
        ];
        let kinds = self.kinds.iter().map(|kind| {
            let what = [
                kind.relkind,
                kind.relpersistence,
                kind.relispartition.into(),
            ];
            let [relkind, relpersistence, relispartition] = what.map(i64::from);
            relkind << 48 | relpersistence << 40 | relispartition << 32 | i64::from(kind.relations)
        });
        words.extend(padded(kinds, MOST_KINDS));
        let schemas = self.schemas.iter().flat_map(|schema| {
            let mut name = [0; NAME_BYTES];
            let length = schema.name.len().min(NAME_BYTES);
            name[..length].copy_from_slice(&schema.name[..length]);
            let counts = i64::from(schema.schemas) << 32 | i64::from(schema.relations);
            let name = name
                .as_chunks()
                .0
                .iter()
                .map(|bytes| i64::from_ne_bytes(*bytes));
            name.chain([counts]).collect::<Vec<_>>()
        });
        words.extend(padded(schemas, MOST_SCHEMAS * SCHEMA_WORDS));
        words.extend(self.catalogs.iter().flat_map(|catalog| {
            [
                catalog.live_rows,
                catalog.dead_rows,
                catalog.rows_inserted,
                catalog.rows_deleted,
                catalog.total_bytes,
            ]
        }));
        words.try_into().expect("as many as it takes")
    }

    /// `None` if it is not of `database`.
    pub fn from_words(words: [i64; WIDE_WORDS], database: u32) -> Option<Census> {
        let (head, rest) = words.split_first_chunk::<HEAD_WORDS>()?;
        let [
            of,
            taken_at,
            duration_us,
            request,
            hurried_at,
            has_statistics,
            ..,
        ] = *head;
        if of != i64::from(database) || taken_at == 0 {
            return None;
        }
        let (kinds, rest) = rest.split_at(MOST_KINDS);
        let (schemas, catalogs) = rest.split_at(MOST_SCHEMAS * SCHEMA_WORDS);
        let kinds = kinds.iter().filter(|word| **word != 0).map(|word| Kind {
            relkind: (word >> 48) as u8,
            relpersistence: (word >> 40) as u8,
            relispartition: (word >> 32) as u8 != 0,
            relations: *word as u32,
        });
        let schemas: &[[i64; SCHEMA_WORDS]] = schemas.as_chunks().0;
        let schemas = schemas.iter().filter_map(|words| {
            let (counts, name) = words.split_last()?;
            let name: Vec<u8> = name.iter().flat_map(|word| word.to_ne_bytes()).collect();
            (*counts != 0).then(|| Schema {
                name: name
                    .split(|byte| *byte == 0)
                    .next()
                    .unwrap_or_default()
                    .to_vec(),
                schemas: (counts >> 32) as u32,
                relations: *counts as u32,
            })
        });
        let catalogs: &[[i64; CATALOG_WORDS]] = catalogs.as_chunks().0;
        let catalogs = catalogs.iter().map(
            |[
                live_rows,
                dead_rows,
                rows_inserted,
                rows_deleted,
                total_bytes,
            ]| Figures {
                live_rows: *live_rows,
                dead_rows: *dead_rows,
                rows_inserted: *rows_inserted,
                rows_deleted: *rows_deleted,
                total_bytes: *total_bytes,
            },
        );
        Some(Census {
            taken_at,
            duration_us,
            request,
            hurried_at,
            kinds: kinds.collect(),
            schemas: schemas.collect(),
            catalogs: catalogs.collect(),
            has_statistics: has_statistics != 0,
        })
    }

    /// What a warning says about the census: which kinds there are most of, and where, leaving
    /// out what belongs to the server itself; and its age, if something has changed since.
    pub fn summary(&self, is_stale: bool) -> String {
        let sum = |wanted: &dyn Fn(&&Kind) -> bool| -> u64 {
            let kinds = self.kinds.iter().filter(wanted);
            kinds.map(|kind| u64::from(kind.relations)).sum()
        };
        let of = |kinds: &'static [u8]| sum(&|kind| kinds.contains(&kind.relkind));
        let [tables, indexes, toast] = [of(b"rp"), of(b"iI"), of(b"t")];
        let others = sum(&|_| true) - tables - indexes - toast;
        let temporary = sum(&|kind| kind.relpersistence == b't');
        let mut text = match is_stale {
            true => format!(
                "{} seconds ago: ",
                (clock::now() - self.taken_at) / 1_000_000
            ),
            false => String::new(),
        };
        text += &format!(
            "Tables {tables}, indexes {indexes}, TOAST tables {toast}, others {others}; {temporary} of them temporary."
        );
        let system: [&[u8]; 5] = [
            b"pg_catalog",
            b"information_schema",
            b"pg_toast",
            b"pg_temp",
            b"",
        ];
        let schemas = self
            .schemas
            .iter()
            .filter(|schema| !system.contains(&schema.name.as_slice()))
            .take(NAMED_SCHEMAS)
            .map(|schema| {
                // A name may have been chosen to look like several.
                let name = String::from_utf8_lossy(&schema.name).replace('"', "\"\"");
                let name = name.replace(char::is_control, "?");
                format!("\"{name}\" ({})", schema.relations)
            });
        let schemas: Vec<_> = schemas.collect();
        if !schemas.is_empty() {
            text += &format!(" Schemas with the most: {}.", schemas.join(", "));
        }
        text
    }
}

/// Sorts all relations by kind, and by schema.
fn sort() -> (Vec<Kind>, Vec<Schema>) {
    let mut kinds = BTreeMap::new();
    let mut schemas = HashMap::new();
    for_each_relation(|relation| {
        let kind = (
            relation.relkind,
            relation.relpersistence,
            relation.relispartition,
        );
        *kinds.entry(kind).or_insert(0) += 1;
        *schemas.entry(relation.schema).or_insert(0) += 1;
    });
    let kinds = kinds.into_iter();
    let kinds = kinds.map(
        |((relkind, relpersistence, relispartition), relations)| Kind {
            relkind,
            relpersistence,
            relispartition,
            relations,
        },
    );
    (kinds.collect(), name_largest(schemas))
}

/// Names the largest schemas, given the number of relations by oid, and sums up the others.
fn name_largest(mut relations: HashMap<u32, u32>) -> Vec<Schema> {
    let mut schemas = Vec::new();
    let [mut temporary, mut rest] = [b"pg_temp".as_slice(), b""].map(|name| Schema {
        name: name.to_vec(),
        schemas: 0,
        relations: 0,
    });
    for_each_schema(|oid, name| {
        // As isAnyTempNamespace() in catalog/namespace.c.
        let is_temporary = name.starts_with(b"pg_temp_") || name.starts_with(b"pg_toast_temp_");
        match relations.remove(&oid) {
            Some(relations) if is_temporary => temporary.add(relations),
            Some(relations) => schemas.push(Schema {
                name: name.to_vec(),
                schemas: 1,
                relations,
            }),
            None => {}
        }
    });
    schemas.sort_by(|a, b| (b.relations, &a.name).cmp(&(a.relations, &b.name)));
    let others = schemas.split_off(schemas.len().min(LARGEST_SCHEMAS));
    let others = others.into_iter().map(|schema| schema.relations);
    // A relation whose schema is missing is in a damaged catalog, and counts.
    for relations in others.chain(relations.into_values()) {
        rest.add(relations);
    }
    schemas.extend([temporary, rest]);
    schemas.retain(|schema| schema.schemas > 0);
    schemas
}

impl Schema {
    fn add(&mut self, relations: u32) {
        self.schemas += 1;
        self.relations += relations;
    }
}

fn padded(words: impl Iterator<Item = i64>, length: usize) -> impl Iterator<Item = i64> {
    words.chain(std::iter::repeat(0)).take(length)
}

/// What shared memory knows about a database's censuses.
#[derive(Default)]
pub struct History {
    pub latest: Option<Census>,
    /// When the latest census that did not finish was begun, in microseconds since 2000-01-01
    /// UTC, and how many in a row have not finished.
    tried_at: i64,
    failures: usize,
    /// How long that census took; zero if the process had no time to say so.
    failed_in: Duration,
}

impl History {
    /// Empty if the words are not of `database`.
    pub fn from_words(words: [i64; WIDE_WORDS], database: u32) -> History {
        if words[0] != i64::from(database) {
            return History::default();
        }
        // If the clock has since been set back to before a census, finished or not, ignore it.
        let now = clock::now();
        let latest = Census::from_words(words, database);
        let has_tried = words[TRIED_AT] <= now;
        History {
            latest: latest.filter(|census| census.taken_at <= now),
            tried_at: words[TRIED_AT],
            failures: if has_tried {
                words[FAILURES] as usize
            } else {
                0
            },
            failed_in: Duration::from_micros(words[FAILED_IN] as u64),
        }
    }

    /// Records that a census of `database` is begun. It counts as failed until its result is
    /// entered: a process that fails has no chance to say so afterwards.
    pub fn begin(words: &mut [i64; WIDE_WORDS], database: u32) {
        if words[0] != i64::from(database) {
            words.fill(0);
            words[0] = database.into();
        }
        words[TRIED_AT] = clock::now();
        words[FAILURES] += 1;
        words[FAILED_IN] = 0;
    }

    /// Records how long the census took that has begun and will not finish.
    pub fn fail(words: &mut [i64; WIDE_WORDS], duration: Duration) {
        words[FAILED_IN] = duration.as_micros() as i64;
    }

    /// Records that the census was put off.
    pub fn put_off(words: &mut [i64; WIDE_WORDS]) {
        words[FAILURES] -= 1;
    }
}

/// How long to take no census after one that took this long.
fn rest_after(duration: Duration) -> Duration {
    (duration * REST_FACTOR).min(LONGEST_REST)
}

/// When the next census of a database is due.
pub struct Schedule {
    database: u32,
    /// Whether the process, if it is a worker, is a visitor.
    pub is_visit: bool,
    /// When the latest census was taken, and how long it took.
    latest: Option<(Instant, Duration)>,
    /// The latest request that it answered.
    served: i64,
    /// When the latest census for a warning was taken.
    hurried: Option<Instant>,
    /// Whether the database may have changed since the latest census.
    pub stale: bool,
    /// No census before this.
    not_before: Option<Instant>,
}

impl Schedule {
    /// The schedule of `database` as its `history` makes it; `stale` says whether the database
    /// may have changed since the latest census.
    pub fn new(database: u32, history: &History, stale: bool, now: Instant) -> Schedule {
        // A time before the machine was started is treated as now.
        let instant = |time| clock::instant(time, now).unwrap_or(now);
        let latest = history.latest.as_ref();
        let hurried_at = latest.map(|census| census.hurried_at);
        let retry = || {
            let pause = pause_after_failures(history.failures).max(rest_after(history.failed_in));
            instant(history.tried_at) + history.failed_in + pause
        };
        Schedule {
            database,
            is_visit: false,
            latest: latest.map(|census| {
                let duration = Duration::from_micros(census.duration_us as u64);
                (instant(census.taken_at), duration)
            }),
            served: latest.map_or(0, |census| census.request),
            hurried: hurried_at.filter(|time| *time != 0).map(instant),
            stale,
            not_before: (history.failures > 0).then(retry),
        }
    }

    /// When the next census is due with this naptime; `None` if at once.
    pub fn due(&self, naptime: Duration) -> Option<Instant> {
        let pause = match self.stale {
            true => naptime,
            // Spread, so that not all are due at the same time.
            false => naptime.max(LONGEST_PAUSE - LONGEST_PAUSE / 256 * (self.database % 64)),
        };
        let due = self.latest.map(|(taken, _)| taken + pause.max(self.rest()));
        due.max(self.not_before)
    }

    fn rest(&self) -> Duration {
        rest_after(self.latest.map_or(Duration::ZERO, |(_, duration)| duration))
    }

    /// Whether this request, if any, is still unanswered.
    pub fn is_asked(&self, request: i64) -> bool {
        request > self.served
    }

    /// When a census that is asked for may be taken; `None` if at once.
    pub fn earliest(&self) -> Option<Instant> {
        let rested = self.latest.map(|(taken, _)| taken + self.rest());
        rested.max(self.not_before)
    }

    /// Takes a census if one is due, or has been asked for; `request` is the latest request.
    /// Returns whether it tried to.
    pub fn follow(&mut self, row: Row, request: i64, now: Instant) -> bool {
        let naptime = settings::census_naptime();
        let is_due = naptime.is_some_and(|naptime| is_over(self.due(naptime), now))
            || self.is_asked(request) && is_over(self.earliest(), now);
        if is_due {
            self.take(row, request, false);
        }
        is_due
    }

    /// Takes a census early, for a warning, unless nothing has changed since the latest one or
    /// it would exceed the limit.
    pub fn hurry(&mut self, row: Row, request: i64, now: Instant) {
        let rested = self.hurried.map(|hurried| hurried + self.rest());
        let is_wanted =
            settings::census_naptime().is_some() && (self.stale || self.latest.is_none());
        if is_wanted && is_over(rested, now) && is_over(self.not_before, now) {
            self.take(row, request, true);
        }
    }

    fn take(&mut self, row: Row, request: i64, in_a_hurry: bool) {
        row.begin_census(self.database);
        let Some(mut census) = Census::take(self.is_visit) else {
            row.put_off_census();
            self.not_before = Some(Instant::now() + NEXT_TRY);
            return;
        };
        let now = Instant::now();
        let duration = Duration::from_micros(census.duration_us as u64);
        self.latest = Some((now, duration));
        self.served = request;
        self.stale = false;
        self.not_before = None;
        if in_a_hurry {
            self.hurried = Some(now);
        }
        census.request = request;
        let since = self.hurried.map(|hurried| now - hurried);
        census.hurried_at = since.map_or(0, |since| clock::now() - since.as_micros() as i64);
        row.enter_census(self.database, &census);
    }
}

/// Whether this time has passed, or is not set.
fn is_over(time: Option<Instant>, now: Instant) -> bool {
    time.is_none_or(|time| now >= time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census() -> Census {
        Census {
            taken_at: clock::now(),
            duration_us: 2_000_000,
            request: 11,
            hurried_at: 0,
            kinds: vec![
                Kind {
                    relkind: b'r',
                    relpersistence: b'p',
                    relispartition: false,
                    relations: 3,
                },
                Kind {
                    relkind: b'I',
                    relpersistence: b'u',
                    relispartition: true,
                    relations: u32::MAX,
                },
            ],
            schemas: vec![
                Schema {
                    name: vec![0xff; 63],
                    schemas: 1,
                    relations: 7,
                },
                Schema {
                    name: Vec::new(),
                    schemas: 12,
                    relations: 5,
                },
            ],
            catalogs: vec![
                Figures {
                    live_rows: 1,
                    dead_rows: 2,
                    rows_inserted: 3,
                    rows_deleted: 4,
                    total_bytes: 5
                };
                CATALOGS.len()
            ],
            has_statistics: true,
        }
    }

    #[test]
    fn a_census_survives_shared_memory_and_is_of_one_database() {
        let census = census();
        let words = census.to_words(u32::MAX);
        assert_eq!(Census::from_words(words, u32::MAX), Some(census));
        assert_eq!(Census::from_words(words, 7), None);
        assert_eq!(Census::from_words([0; WIDE_WORDS], 0), None);
    }

    fn schedule(census: Census, stale: bool, now: Instant) -> Schedule {
        let history = History {
            latest: Some(census),
            ..History::default()
        };
        Schedule::new(0, &history, stale, now)
    }

    /// Late enough to leave room for every census before it.
    fn now() -> Instant {
        Instant::now() + Duration::from_secs(86_400)
    }

    #[test]
    fn an_idle_database_is_looked_at_now_and_then_and_a_stale_one_after_naptime() {
        let now = now();
        let minute = Duration::from_secs(60);
        let pause = |schedule: &Schedule| schedule.due(minute).unwrap() - now;
        let is_about = |pause: Duration, wanted: Duration| {
            pause <= wanted && pause + Duration::from_secs(5) > wanted
        };
        let mut short = census();
        short.duration_us = 1_000;
        let mut idle = schedule(short.clone(), false, now);
        assert!(is_about(pause(&idle), LONGEST_PAUSE));
        idle.database = 63;
        assert!(pause(&idle) > LONGEST_PAUSE * 3 / 4 && pause(&idle) < LONGEST_PAUSE * 4 / 5);
        assert!(is_about(pause(&schedule(short, true, now)), minute));
        // A second of work is half a hundredth of 200, even if somebody asks for more.
        let mut long = census();
        long.duration_us = 1_000_000;
        let rest = Duration::from_secs(199);
        let long = schedule(long, true, now);
        assert!(is_about(pause(&long), rest));
        assert!(is_about(long.earliest().unwrap() - now, rest));
        let none = Schedule::new(0, &History::default(), false, now);
        assert_eq!(none.due(minute), None);
    }

    #[test]
    fn one_that_fails_is_tried_less_and_less_often() {
        let now = now();
        let mut short = census();
        short.duration_us = 1_000;
        let mut words = short.to_words(7);
        for pause in [5, 15, 30] {
            History::begin(&mut words, 7);
            let schedule = Schedule::new(7, &History::from_words(words, 7), true, now);
            let left = schedule.earliest().unwrap() - now;
            assert_eq!(left.as_secs_f64().round() as u64, pause);
        }
        // One that took long costs a hundredth of the time, too.
        History::fail(&mut words, Duration::from_secs(2));
        let schedule = Schedule::new(7, &History::from_words(words, 7), true, now);
        let left = schedule.earliest().unwrap() - now;
        assert_eq!(left.as_secs_f64().round() as u64, 400);
        History::put_off(&mut words);
        assert_eq!(History::from_words(words, 7).failures, 2);
        History::begin(&mut words, 8);
        assert!(History::from_words(words, 8).latest.is_none());
    }

    #[test]
    fn after_a_clock_that_was_set_back_one_is_due_at_once() {
        let mut future = census();
        future.taken_at += 3_600_000_000;
        let mut words = future.to_words(7);
        words[TRIED_AT] = future.taken_at;
        words[FAILURES] = 3;
        let history = History::from_words(words, 7);
        let schedule = Schedule::new(7, &history, true, now());
        assert_eq!(schedule.due(Duration::from_secs(60)), None);
    }
}
