//! Every `count_relations.*` setting: its definition, its rule, its typed value.

use crate::server::guc::{
    LIST_INPUT, Refusal, StringRule, define_strictly, define_string,
    reload as reload_configuration, reserve_prefix, split_identifiers,
};
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use std::ffi::{CStr, CString};
use std::time::Duration;

static NAPTIME: GucSetting<i32> = GucSetting::<i32>::new(1_000);
static DATABASES: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"postgres"));
static SKIP_UNCHANGED: GucSetting<bool> = GucSetting::<bool>::new(true);
static LOG_COUNTS: GucSetting<LogCounts> = GucSetting::<LogCounts>::new(LogCounts::All);
static CENSUS_NAPTIME: GucSetting<i32> = GucSetting::<i32>::new(60_000);
static WARN_ABOVE: GucSetting<i32> = GucSetting::<i32>::new(0);
static MAX_DATABASES: GucSetting<i32> = GucSetting::<i32>::new(1_024);
static MAX_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(2);
static ROLE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// Which counts are logged.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum LogCounts {
    #[name = c"all"]
    All,
    #[name = c"changes"]
    Changes,
    #[name = c"none"]
    None,
}

/// The databases to count.
pub enum Databases {
    /// All that allow connections and are not templates.
    All,
    /// These, each once, in the order of the setting.
    Listed(Vec<CString>),
}

const SHORTEST_NAPTIME_MS: i32 = 10;
const LONGEST_NAPTIME_MS: i32 = 24 * 60 * 60 * 1_000;
const MOST_DATABASES: i32 = 1_000_000;
const MOST_WORKERS: i32 = 1_000;

/// Defines all settings. A wrong value in the configuration raises an error, which keeps the
/// server from starting.
pub fn define() {
    define_strictly(c"count_relations.naptime", |name| {
        GucRegistry::define_int_guc(
            name,
            c"Sets the time from one count of relations to the next.",
            c"",
            &NAPTIME,
            SHORTEST_NAPTIME_MS,
            LONGEST_NAPTIME_MS,
            GucContext::Sighup,
            GucFlags::UNIT_MS,
        );
    });
    define_strictly(c"count_relations.databases", |name| {
        define_string::<DatabaseList>(
            name,
            c"Lists the databases whose relations are counted.",
            c"A comma-separated list of names, written as in search_path, or * for all.",
            &DATABASES,
            GucContext::Postmaster,
            LIST_INPUT,
        );
    });
    define_strictly(c"count_relations.role", |name| {
        GucRegistry::define_string_guc(
            name,
            c"Sets the role that counts relations.",
            c"An empty string means the bootstrap superuser. A role that may connect suffices.",
            &ROLE,
            GucContext::Postmaster,
            GucFlags::IS_NAME,
        );
    });
    define_strictly(c"count_relations.skip_unchanged", |name| {
        GucRegistry::define_bool_guc(
            name,
            c"Counts again only when the catalog has changed.",
            c"When off, every tick runs the query.",
            &SKIP_UNCHANGED,
            GucContext::Sighup,
            GucFlags::default(),
        );
    });
    define_strictly(c"count_relations.log_counts", |name| {
        GucRegistry::define_enum_guc(
            name,
            c"Sets which counts are logged.",
            c"With \"changes\", only those that differ from the last one logged.",
            &LOG_COUNTS,
            GucContext::Sighup,
            GucFlags::default(),
        );
    });
    define_strictly(c"count_relations.census_naptime", |name| {
        GucRegistry::define_int_guc(
            name,
            c"Sets the time from one census of a database's relations to the next.",
            c"There is hardly any while nothing changes. 0 turns it off.",
            &CENSUS_NAPTIME,
            0,
            LONGEST_NAPTIME_MS,
            GucContext::Sighup,
            GucFlags::UNIT_MS,
        );
    });
    define_strictly(c"count_relations.warn_above", |name| {
        GucRegistry::define_int_guc(
            name,
            c"Warns when a database has more relations than this.",
            c"0 turns the warning off.",
            &WARN_ABOVE,
            0,
            i32::MAX,
            GucContext::Sighup,
            GucFlags::default(),
        );
    });
    define_strictly(c"count_relations.max_databases", |name| {
        GucRegistry::define_int_guc(
            name,
            c"Sets the largest number of databases whose relations can be counted.",
            c"",
            &MAX_DATABASES,
            1,
            MOST_DATABASES,
            GucContext::Postmaster,
            GucFlags::default(),
        );
    });
    define_strictly(c"count_relations.max_workers", |name| {
        GucRegistry::define_int_guc(
            name,
            c"Sets the largest number of workers that visit databases at the same time.",
            c"With \"*\" for count_relations.databases; a list has a worker for each.",
            &MAX_WORKERS,
            1,
            MOST_WORKERS,
            GucContext::Sighup,
            GucFlags::default(),
        );
    });
    reserve_prefix(c"count_relations");
}

struct DatabaseList;

impl StringRule for DatabaseList {
    fn check(value: &CStr) -> Result<(), Refusal> {
        parse_databases(value).map(|_| ())
    }
}

fn parse_databases(value: &CStr) -> Result<Databases, Refusal> {
    if value.to_bytes().trim_ascii() == b"*" {
        return Ok(Databases::All);
    }
    let Some(names) = split_identifiers(value) else {
        if has_empty_name(value.to_bytes()) {
            return Err(empty_name());
        }
        return Err(Refusal {
            detail: c"List syntax is invalid.".into(),
            hint: c"Separate database names with commas, and put those with capitals, spaces or other special characters in double quotes.".into(),
        });
    };
    let quoted_star = value.to_bytes().windows(3).any(|bytes| bytes == b"\"*\"");
    let mut databases: Vec<CString> = Vec::new();
    for name in names {
        if name.is_empty() {
            return Err(empty_name());
        }
        if name.as_c_str() == c"*" && !quoted_star {
            return Err(Refusal {
                detail: c"\"*\" cannot be combined with names.".into(),
                hint: c"Use * alone to count all databases, or list them by name.".into(),
            });
        }
        if !databases.contains(&name) {
            databases.push(name);
        }
    }
    Ok(Databases::Listed(databases))
}

fn empty_name() -> Refusal {
    Refusal {
        detail: c"A name in the list is empty.".into(),
        hint: c"Remove the comma that has no name on one side, or the quotes around nothing."
            .into(),
    }
}

/// Whether a name before, between or after the commas of a list is missing.
fn has_empty_name(list: &[u8]) -> bool {
    let mut quoted = false;
    let mut names = list.split(|byte| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    });
    names.any(|name| name.trim_ascii().is_empty())
}

/// The time from one count to the next.
pub fn naptime() -> Duration {
    Duration::from_millis(NAPTIME.get().unsigned_abs().into())
}

/// Whether a count that is known to hold is reported again without a query.
pub fn skip_unchanged() -> bool {
    SKIP_UNCHANGED.get()
}

/// Which counts are logged.
pub fn log_counts() -> LogCounts {
    LOG_COUNTS.get()
}

/// The number of relations above which there is a warning, if there is one.
pub fn warn_above() -> Option<i64> {
    Some(WARN_ABOVE.get().into()).filter(|threshold| *threshold > 0)
}

/// The databases to count.
pub fn databases() -> Databases {
    let value = DATABASES.get().unwrap_or_default();
    // The check hook lets nothing else through.
    parse_databases(&value).unwrap_or(Databases::Listed(Vec::new()))
}

/// The role to connect as; `None` for the bootstrap superuser.
pub fn role() -> Option<CString> {
    ROLE.get().filter(|role| !role.is_empty())
}

/// The minimum time from one census of a database to the next; `None` if none are taken.
pub fn census_naptime() -> Option<Duration> {
    let milliseconds = CENSUS_NAPTIME.get().unsigned_abs();
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds.into()))
}

/// The largest number of databases that can be counted.
pub fn max_databases() -> usize {
    MAX_DATABASES.get().unsigned_abs() as usize
}

/// The largest number of workers that visit databases at the same time.
pub fn max_workers() -> usize {
    MAX_WORKERS.get().unsigned_abs() as usize
}

/// Applies changes of the configuration files.
pub fn reload() {
    reload_configuration();
}
