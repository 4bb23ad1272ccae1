//! Which kinds of relations, in which schemas, and how bloated the catalogs are: seldom,
//! and only after something has changed.
//!
//! A count says that there are too many relations, and a census which. It reads all of
//! `pg_class` and sorts it, which costs a few counts, so it is taken beside the tick: at
//! most once per `count_relations.census_naptime`, and never for more than a hundredth of
//! the time. It shows what one snapshot saw, and says when.
//!
//! What a database has changed without committing it leaves dead rows behind that
//! nobody announces. So an idle database is looked at too, every [`LONGEST_PAUSE`].

use crate::server::catalog_lock::try_lock_with_indexes;
use crate::server::shared_slots::WIDE_WORDS;
use crate::server::signals::cancelable;
use crate::server::transaction::{transaction, with_snapshot};
use crate::server::{activity, clock, heap, recovery, relation_lock};
use crate::settings;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgrx::spi::{SpiResult, SpiTupleTable};
use std::ffi::CStr;
use std::time::{Duration, Instant};

/// An idle database is looked at at least this often.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(3 * 60 * 60);

/// A census is followed by a pause of at least this many times its duration, and so is one
/// that was taken for a warning, whose next may come meanwhile.
const REST_FACTOR: u32 = 199;

/// How long after a census that others' locks put off to try again.
const NEXT_TRY: Duration = Duration::from_secs(1);

/// How many schemas have a row of their own.
const LARGEST_SCHEMAS: usize = 10;

/// How many of them a warning names.
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

/// What is run, and what `pg_stat_activity` shows. The first column says what a row is
/// about: `k` a kind, `s` a schema. Schemas of one name are all temporary ones, and those
/// without are all that are not among the largest.
const QUERY: &CStr = c"\
WITH counts AS MATERIALIZED (
    SELECT relkind, relpersistence, relispartition, relnamespace, count(*) AS relations
    FROM pg_catalog.pg_class
    GROUP BY relkind, relpersistence, relispartition, relnamespace),
schemas AS (
    SELECT nspname, sum(relations) AS relations,
           nspname LIKE 'pg\\_temp\\_%' OR nspname LIKE 'pg\\_toast\\_temp\\_%' AS temporary
    FROM counts LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = relnamespace
    GROUP BY n.oid, nspname),
ranked AS (
    SELECT *, row_number() OVER (PARTITION BY temporary
                                 ORDER BY relations DESC, nspname) AS place
    FROM schemas),
named AS (
    SELECT CASE WHEN temporary THEN 'pg_temp' WHEN place <= 10 THEN nspname END AS name,
           relations
    FROM ranked)
SELECT 'k'::\"char\", relkind, relpersistence, relispartition, NULL::bytea, NULL::bigint,
       sum(relations)::bigint
FROM counts GROUP BY relkind, relpersistence, relispartition
UNION ALL
SELECT 's', NULL, NULL, NULL, pg_catalog.namesend(name), count(*), sum(relations)::bigint
FROM named GROUP BY name
ORDER BY 1, 7 DESC, 2, 3, 4, 5";

/// The server's statistics of the catalog with the oid `$1`, and its size.
const CATALOG_QUERY: &CStr = c"\
SELECT pg_catalog.pg_stat_get_live_tuples($1), pg_catalog.pg_stat_get_dead_tuples($1),
       pg_catalog.pg_stat_get_tuples_inserted($1), pg_catalog.pg_stat_get_tuples_deleted($1),
       pg_catalog.pg_total_relation_size($1)";

/// How many relations of one kind there are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kind {
    /// As in `pg_class`, all three.
    pub relkind: u8,
    pub relpersistence: u8,
    pub relispartition: bool,
    pub relations: u32,
}

/// How many relations a schema has, or several have.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    /// In the database's encoding; empty for all that are not among the largest.
    pub name: Vec<u8>,
    /// How many schemas it stands for.
    pub schemas: u32,
    pub relations: u32,
}

/// What the server's statistics and the file system have of a catalog.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Catalog {
    pub live_rows: i64,
    pub dead_rows: i64,
    pub rows_inserted: i64,
    pub rows_deleted: i64,
    /// With indexes and TOAST.
    pub total_bytes: i64,
}

/// What there is in a database.
#[derive(Clone, Debug, PartialEq)]
pub struct Census {
    /// When it was taken, in microseconds since 2000-01-01 UTC.
    pub taken_at: i64,
    /// How long that took, in microseconds.
    pub duration_us: i64,
    /// The latest request that had been made before.
    pub request: i64,
    pub kinds: Vec<Kind>,
    pub schemas: Vec<Schema>,
    /// As many as [`CATALOGS`].
    pub catalogs: Vec<Catalog>,
    /// Whether there are statistics: a standby has none.
    pub has_statistics: bool,
}

/// More than there can be: ten kinds, three persistences, and whether it is a partition.
const MOST_KINDS: usize = 64;

/// The largest, temporary ones, and the rest.
const MOST_SCHEMAS: usize = LARGEST_SCHEMAS + 2;

const NAME_BYTES: usize = pg_sys::NAMEDATALEN as usize;
const NAME_WORDS: usize = NAME_BYTES / size_of::<i64>();
const SCHEMA_WORDS: usize = NAME_WORDS + 1;
const CATALOG_WORDS: usize = 5;
const HEAD_WORDS: usize = 5;

const _: () = assert!(
    HEAD_WORDS + MOST_KINDS + MOST_SCHEMAS * SCHEMA_WORDS + CATALOGS.len() * CATALOG_WORDS
        == WIDE_WORDS
);

impl Census {
    /// Takes a census of the database that the process is connected to. `None` if somebody
    /// holds a lock that it would have to wait for.
    ///
    /// Raises an ERROR if the server does, among others when the query is canceled.
    fn take() -> Option<Census> {
        cancelable(|| {
            transaction(|| {
                activity::running(QUERY);
                relation_lock::lock_pg_class();
                let relations = CATALOGS.map(|(_, oid)| oid);
                let all = [pg_sys::NamespaceRelationId].into_iter().chain(relations);
                let free = all.into_iter().all(try_lock_with_indexes);
                let census = free.then(|| with_snapshot(|| Self::ask().unwrap_or_report()));
                activity::idle();
                census
            })
        })
    }

    fn ask() -> SpiResult<Census> {
        let started = Instant::now();
        let taken_at = clock::now();
        let mut kinds = Vec::new();
        let mut schemas = Vec::new();
        let mut catalogs = Vec::new();
        Spi::connect(|client| {
            for row in client.select(QUERY, None, &[])? {
                let relations = row.get::<i64>(7)?.unwrap_or_default() as u32;
                if row.get::<i8>(1)? == Some(b'k' as i8) {
                    kinds.push(Kind {
                        relkind: row.get::<i8>(2)?.unwrap_or_default() as u8,
                        relpersistence: row.get::<i8>(3)?.unwrap_or_default() as u8,
                        relispartition: row.get(4)?.unwrap_or_default(),
                        relations,
                    });
                } else {
                    schemas.push(Schema {
                        name: row.get(5)?.unwrap_or_default(),
                        schemas: row.get::<i64>(6)?.unwrap_or_default() as u32,
                        relations,
                    });
                }
            }
            for (_, oid) in CATALOGS {
                let row = client.select(CATALOG_QUERY, None, &[oid.into()])?.first();
                catalogs.push(Catalog::from_row(&row)?);
            }
            SpiResult::Ok(())
        })?;
        Ok(Census {
            taken_at,
            duration_us: started.elapsed().as_micros() as i64,
            request: 0,
            kinds,
            schemas,
            catalogs,
            has_statistics: !recovery::in_progress(),
        })
    }

    /// As shared memory has it.
    pub fn to_words(&self, database: u32) -> [i64; WIDE_WORDS] {
        let mut words = vec![
            database.into(),
            self.taken_at,
            self.duration_us,
            self.request,
            self.has_statistics.into(),
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
        let (&[of, taken_at, duration_us, request, has_statistics], rest) =
            words.split_first_chunk()?;
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
            ]| Catalog {
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
            kinds: kinds.collect(),
            schemas: schemas.collect(),
            catalogs: catalogs.collect(),
            has_statistics: has_statistics != 0,
        })
    }

    /// What a warning says of it: what there is most of, and where, but for what belongs to
    /// the server itself.
    pub fn summary(&self) -> String {
        let sum = |wanted: &dyn Fn(&&Kind) -> bool| -> u64 {
            let kinds = self.kinds.iter().filter(wanted);
            kinds.map(|kind| u64::from(kind.relations)).sum()
        };
        let of = |kinds: &'static [u8]| sum(&|kind| kinds.contains(&kind.relkind));
        let [tables, indexes, toast] = [of(b"rp"), of(b"iI"), of(b"t")];
        let others = sum(&|_| true) - tables - indexes - toast;
        let temporary = sum(&|kind| kind.relpersistence == b't');
        let mut text = format!(
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
                let name = String::from_utf8_lossy(&schema.name);
                format!("\"{name}\" ({})", schema.relations)
            });
        let schemas: Vec<_> = schemas.collect();
        if !schemas.is_empty() {
            text += &format!(" Schemas with the most: {}.", schemas.join(", "));
        }
        text
    }
}

impl Catalog {
    fn from_row(row: &SpiTupleTable) -> SpiResult<Catalog> {
        let number = |column| SpiResult::Ok(row.get(column)?.unwrap_or_default());
        Ok(Catalog {
            live_rows: number(1)?,
            dead_rows: number(2)?,
            rows_inserted: number(3)?,
            rows_deleted: number(4)?,
            total_bytes: number(5)?,
        })
    }
}

fn padded(words: impl Iterator<Item = i64>, length: usize) -> impl Iterator<Item = i64> {
    words.chain(std::iter::repeat(0)).take(length)
}

/// When the next census of a database is due.
pub struct Schedule {
    /// When the latest was taken, and how long it took.
    latest: Option<(Instant, Duration)>,
    /// The same of the latest one that was taken for a warning, by this process.
    hurried: Option<(Instant, Duration)>,
    /// The latest request that it was for.
    served: i64,
    /// Whether the database has been counted again since then.
    pub stale: bool,
    /// No census before this.
    not_before: Option<Instant>,
}

impl Schedule {
    /// That of a database with this latest census.
    pub fn after(latest: Option<&Census>, stale: bool, now: Instant) -> Schedule {
        let served = latest.map_or(0, |census| census.request);
        let latest = latest.map(|census| {
            let age = Duration::from_micros((clock::now() - census.taken_at).max(0) as u64);
            // An age beyond the clock's start is as good as none.
            let taken = now.checked_sub(age).unwrap_or(now);
            (taken, Duration::from_micros(census.duration_us as u64))
        });
        Schedule {
            latest,
            served,
            hurried: None,
            stale,
            not_before: None,
        }
    }

    /// When it is due with this naptime; `None` if it is at once.
    pub fn due(&self, naptime: Duration) -> Option<Instant> {
        let (taken, duration) = self.latest?;
        let pause = if self.stale {
            naptime
        } else {
            LONGEST_PAUSE.max(naptime)
        };
        Some(taken + pause.max(duration * REST_FACTOR))
    }

    fn is_due(&self, now: Instant) -> bool {
        self.is_allowed(now)
            && settings::census_naptime()
                .is_some_and(|naptime| self.due(naptime).is_none_or(|due| now >= due))
    }

    /// Whether others' locks do not put it off.
    fn is_allowed(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|time| now >= time)
    }

    /// Whether that request, if any, has not been met.
    pub fn is_asked(&self, request: i64) -> bool {
        request > self.served
    }

    /// Takes a census if it is due, or if somebody has asked for one; `request` is the latest
    /// request. Returns it if it did.
    pub fn follow(&mut self, request: i64, now: Instant) -> Option<Census> {
        let due = self.is_due(now) || self.is_asked(request) && self.is_allowed(now);
        let mut census = due.then(|| self.take(now)).flatten()?;
        self.served = request;
        census.request = request;
        Some(census)
    }

    /// Takes a census ahead of its time, for a warning, unless it would be too much.
    pub fn hurry(&mut self, now: Instant) -> Option<Census> {
        let is_over = |(taken, duration)| now >= taken + duration * REST_FACTOR;
        let allowed = settings::census_naptime().is_some() && self.hurried.is_none_or(is_over);
        let census = allowed.then(|| self.take(now)).flatten();
        let census = census.map(|census| Census {
            request: self.served,
            ..census
        });
        if census.is_some() {
            self.hurried = self.latest;
        }
        census
    }

    fn take(&mut self, now: Instant) -> Option<Census> {
        let census = Census::take();
        heap::give_back();
        match &census {
            Some(census) => {
                let duration = Duration::from_micros(census.duration_us as u64);
                self.latest = Some((Instant::now(), duration));
                self.stale = false;
            }
            None => self.not_before = Some(now + NEXT_TRY),
        }
        census
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census() -> Census {
        Census {
            taken_at: clock::now(),
            duration_us: 2_000_000,
            request: 11,
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
                Catalog {
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

    #[test]
    fn an_idle_database_is_looked_at_now_and_then_and_a_stale_one_after_naptime() {
        let now = Instant::now() + Duration::from_secs(86_400);
        let minute = Duration::from_secs(60);
        let mut census = census();
        census.duration_us = 1_000;
        let mut schedule = Schedule::after(Some(&census), false, now);
        let pause = |schedule: &Schedule| schedule.due(minute).unwrap() - now;
        let is_about = |pause: Duration, wanted: Duration| {
            pause <= wanted && pause + Duration::from_secs(5) > wanted
        };
        assert!(is_about(pause(&schedule), LONGEST_PAUSE));
        schedule.stale = true;
        assert!(is_about(pause(&schedule), minute));
        // A second of work is half a hundredth of 200.
        census.duration_us = 1_000_000;
        let schedule = Schedule::after(Some(&census), true, now);
        assert!(is_about(pause(&schedule), Duration::from_secs(199)));
        assert_eq!(Schedule::after(None, false, now).due(minute), None);
    }
}
