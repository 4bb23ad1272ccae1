//! What SQL sees of the registry; the objects themselves are made in `sql/`.

use crate::registry;
use crate::server::database_list::{database_name, database_oid};
use crate::server::preload::require_preloaded;
use crate::settings::{self, Databases};
use pgrx::prelude::*;
use std::ffi::CStr;

/// The rows of the view. `datname` is null if there is no such database (any more). It is
/// bytes, as a name may be in any encoding, which a Rust string may not; SQL takes them
/// for a `text`, which is laid out as a `bytea` is.
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

/// Whether a database that has a row is still counted. What is on a list is a name, and the
/// database that had it may have got another one.
fn is_counted(databases: &Databases, name: Option<&[u8]>) -> bool {
    match (databases, name) {
        (Databases::Listed(names), Some(name)) => {
            names.iter().any(|listed| listed.to_bytes() == name)
        }
        _ => true,
    }
}

/// Restarts minimum, maximum, ticks, recounts and the time they are kept since, for
/// the database `datname`, or for all if it is null. Raises an ERROR if there is no
/// such database, or if it is not being counted.
///
/// The argument is a `name`, which is laid out as a C string is.
#[pg_extern(sql = false)]
fn relation_counts_reset(datname: Option<&CStr>) {
    require_preloaded("count_relations", registry::exists());
    if !registry::reset(datname.map(database_oid))
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
