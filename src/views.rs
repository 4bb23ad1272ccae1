//! What SQL sees of the registry; the objects themselves are created in `sql/`.

use crate::census::{CATALOGS, Census};
use crate::registry;
use crate::server::database_list::{database_name, database_oid};
use crate::server::preload::require_preloaded;
use crate::settings::{self, Databases};
use pgrx::prelude::*;
use std::ffi::CStr;

/// The rows of the view. `datname` is null if the database does not exist (any more). It is
/// passed as bytes, because a name may be in any encoding and a Rust string may not; SQL takes
/// the bytes for a `text`, which has the same layout as a `bytea`.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // a row type, which pgrx wants to see here
fn relation_counts() -> TableIterator<
    'static,
    (
        name!(datid, pg_sys::Oid),
        name!(datname, Option<Vec<u8>>),
        name!(relations, i64),
        name!(counted_at, TimestampWithTimeZone),
        name!(changed_at, TimestampWithTimeZone),
        name!(min_relations, i64),
        name!(max_relations, i64),
        name!(max_at, TimestampWithTimeZone),
        name!(ticks, i64),
        name!(recounts, i64),
        name!(last_count_ms, f64),
        name!(stats_since, TimestampWithTimeZone),
        name!(pid, Option<i32>),
    ),
> {
    require_preloaded("count_relations", registry::exists());
    let databases = settings::databases();
    let rows = registry::counted().map(|row| (row, database_name(row.database)));
    let rows: Vec<_> = rows
        .filter(|(_, name)| is_counted(&databases, name.as_deref()))
        .collect();
    TableIterator::new(rows.into_iter().map(|(row, name)| {
        (
            pg_sys::Oid::from(row.database),
            name,
            row.relations,
            timestamp(row.counted_at),
            timestamp(row.changed_at),
            row.min_relations,
            row.max_relations,
            timestamp(row.max_at),
            row.ticks,
            row.recounts,
            row.last_count_us as f64 / 1000.0,
            timestamp(row.stats_since),
            Some(row.pid).filter(|pid| *pid != 0),
        )
    }))
}

/// The rows of the view of kinds; names as in [`relation_counts`], here and in the views below.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // a row type, which pgrx wants to see here
fn relation_counts_by_kind() -> TableIterator<
    'static,
    (
        name!(datid, pg_sys::Oid),
        name!(datname, Option<Vec<u8>>),
        name!(relkind, i8),
        name!(relpersistence, i8),
        name!(relispartition, bool),
        name!(relations, i64),
        name!(counted_at, TimestampWithTimeZone),
    ),
> {
    TableIterator::new(of_censuses(|database, name, census| {
        let rows = census.kinds.iter().map(|kind| {
            (
                database,
                name.clone(),
                kind.relkind as i8,
                kind.relpersistence as i8,
                kind.relispartition,
                kind.relations.into(),
                timestamp(census.taken_at),
            )
        });
        rows.collect()
    }))
}

/// The rows of the view of schemas.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // as above
fn relation_counts_by_schema() -> TableIterator<
    'static,
    (
        name!(datid, pg_sys::Oid),
        name!(datname, Option<Vec<u8>>),
        name!(nspname, Option<Vec<u8>>),
        name!(schemas, i64),
        name!(relations, i64),
        name!(counted_at, TimestampWithTimeZone),
    ),
> {
    TableIterator::new(of_censuses(|database, name, census| {
        let rows = census.schemas.iter().map(|schema| {
            (
                database,
                name.clone(),
                Some(schema.name.clone()).filter(|name| !name.is_empty()),
                schema.schemas.into(),
                schema.relations.into(),
                timestamp(census.taken_at),
            )
        });
        rows.collect()
    }))
}

/// The rows of the view of catalogs.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // as above
fn relation_catalogs() -> TableIterator<
    'static,
    (
        name!(datid, pg_sys::Oid),
        name!(datname, Option<Vec<u8>>),
        name!(relname, Vec<u8>),
        name!(live_rows, Option<i64>),
        name!(dead_rows, Option<i64>),
        name!(rows_inserted, Option<i64>),
        name!(rows_deleted, Option<i64>),
        name!(total_bytes, i64),
        name!(checked_at, TimestampWithTimeZone),
    ),
> {
    TableIterator::new(of_censuses(|database, name, census| {
        let rows = CATALOGS
            .iter()
            .zip(&census.catalogs)
            .map(|((relname, _), catalog)| {
                let statistic = |number| census.has_statistics.then_some(number);
                (
                    database,
                    name.clone(),
                    relname.to_bytes().to_vec(),
                    statistic(catalog.live_rows),
                    statistic(catalog.dead_rows),
                    statistic(catalog.rows_inserted),
                    statistic(catalog.rows_deleted),
                    catalog.total_bytes,
                    timestamp(census.taken_at),
                )
            });
        rows.collect()
    }))
}

/// Applies `rows` to the census of each database that is counted.
fn of_censuses<R>(
    rows: impl Fn(pg_sys::Oid, Option<Vec<u8>>, &Census) -> Vec<R>,
) -> std::vec::IntoIter<R> {
    require_preloaded("count_relations", registry::exists());
    let databases = settings::databases();
    let mut all = Vec::new();
    for (database, census) in registry::censuses() {
        let name = database_name(database);
        if is_counted(&databases, name.as_deref()) {
            all.extend(rows(pg_sys::Oid::from(database), name, &census));
        }
    }
    all.into_iter()
}

/// Whether a database that has a row is still counted. A list contains names, and the database
/// that had a name may have been renamed.
fn is_counted(databases: &Databases, name: Option<&[u8]>) -> bool {
    match (databases, name) {
        (Databases::Listed(names), Some(name)) => {
            names.iter().any(|listed| listed.to_bytes() == name)
        }
        _ => true,
    }
}

/// Restarts minimum, maximum, ticks, recounts and `stats_since`, for the database `datname`, or
/// for all if it is null. Raises an ERROR if there is no such database, or if it is not being
/// counted.
///
/// The argument is a `name`, which has the same layout as a C string.
#[pg_extern(sql = false)]
fn relation_counts_reset(datname: Option<&CStr>) {
    of_one_or_all(datname, registry::reset);
}

/// Requests a census of the database `datname`, or of all if it is null, and does not wait for
/// it. Raises an ERROR as [`relation_counts_reset`] does.
#[pg_extern(sql = false)]
fn relation_counts_census(datname: Option<&CStr>) {
    of_one_or_all(datname, registry::request_census);
}

/// Runs `action`, which returns whether there was anything to do, for one database or for all.
fn of_one_or_all(datname: Option<&CStr>, action: fn(Option<u32>) -> bool) {
    require_preloaded("count_relations", registry::exists());
    if !action(datname.map(database_oid))
        && let Some(name) = datname
    {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!(
                "relations of database \"{}\" are not being counted",
                name.to_string_lossy()
            )
        );
    }
}

fn timestamp(microseconds: i64) -> TimestampWithTimeZone {
    TimestampWithTimeZone::try_from(microseconds).expect("the server's clock is within range")
}
