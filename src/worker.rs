//! One database's worker: its registration and the main loop.
//!
//! Whenever a worker can't go on, it says why and exits, and its supervisor (the postmaster;
//! with `databases = '*'` the launcher) starts a new one. Nothing is retried in here, and
//! nothing needs to be cleaned up.
//!
//! A worker that the postmaster started stays. One that the launcher started is on a visit,
//! because its database has changed: it does the same, but has one more reason to leave.

use crate::attempts::{Attempts, RESTART_INTERVAL};
use crate::budget;
use crate::cadence::Cadence;
use crate::census::Schedule;
use crate::counter::Counter;
use crate::registry::{self, Known, Row};
use crate::report::{self, Report};
use crate::server::backend_status::Statistics;
use crate::server::database_list::databases;
use crate::server::database_lock::Watch;
use crate::server::dynamic_worker::DynamicWorker;
use crate::server::session::{self, Session};
use crate::server::{inval, latch, library, registered_workers, signals};
use crate::settings;
use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::prelude::*;
use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::time::{Duration, Instant};

/// What `pg_stat_activity.backend_type` and the postmaster's log lines show.
const WORKER_TYPE: &str = "count relations";

/// The name of the function where the postmaster starts a worker of a list.
const WORKER_MAIN: &str = "count_relations_worker_main";

/// What `pg_stat_activity.application_name` shows.
pub const APPLICATION_NAME: &CStr = c"count_relations";

/// A count is followed by a pause of at least this many times its duration, so that a worker is
/// busy for at most a tenth of the time.
pub const REST_FACTOR: u32 = 9;

/// A visit ends when nothing has changed for this long.
const CALM: Duration = Duration::from_secs(5);

/// What all our processes have in common. They start as soon as the server has consistent data,
/// on a hot standby too, and stay through promotion.
pub fn builder(name: &str, process_type: &str) -> BackgroundWorkerBuilder {
    const LONGEST_NAME: usize = pg_sys::BGW_MAXLEN as usize - 1;
    BackgroundWorkerBuilder::new(&name[..name.floor_char_boundary(LONGEST_NAME)])
        .set_type(process_type)
        .set_library(&library::name())
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::ConsistentState)
}

/// Registers a worker for each of the databases. Must be called from `_PG_init`.
pub fn register_all(databases: &[CString]) {
    for (index, database) in databases.iter().enumerate() {
        // `ps` shows the name. Since PostgreSQL 11 the server no longer prefixes it with
        // "bgworker: ", but people look for it.
        let name = match databases {
            [_] => format!("bgworker: {WORKER_TYPE}"),
            _ => format!("bgworker: {WORKER_TYPE} {}", database.to_string_lossy()),
        };
        builder(&name, WORKER_TYPE)
            .set_function(WORKER_MAIN)
            .set_argument(Some(pg_sys::Datum::from(index)))
            .set_restart_time(Some(RESTART_INTERVAL))
            .load();
    }
}

/// Warns if the server had no room for all workers. Must be called in the postmaster after all
/// libraries are loaded, because others take slots, too.
pub fn warn_of_unregistered(databases: &[CString]) {
    let registered = registered_workers::arguments_of(WORKER_MAIN);
    let unregistered = databases
        .iter()
        .enumerate()
        .filter(|(index, _)| !registered.contains(index));
    let names: Vec<_> = unregistered
        .map(|(_, name)| name.to_string_lossy())
        .collect();
    report::out_of_slots(&names, databases.len());
}

/// Sends a worker to a database on behalf of the launcher, which is notified when the worker
/// has started and when it has exited. `None` if all worker slots are taken.
pub fn launch(database: u32, role: u32, name: &CStr) -> Option<DynamicWorker> {
    let name = name.to_string_lossy();
    const {
        assert!(
            size_of::<pg_sys::Datum>() == size_of::<u64>(),
            "count_relations packs two oids into one Datum: it needs a 64-bit server"
        );
    }
    let argument = u64::from(role) << 32 | u64::from(database);
    DynamicWorker::start(
        &builder(&format!("bgworker: {WORKER_TYPE} {name}"), WORKER_TYPE)
            .set_function("count_relations_launched_main")
            .set_argument(Some(pg_sys::Datum::from(argument)))
            .set_restart_time(None)
            .set_notify_pid(session::my_pid()),
    )
}

/// Where the postmaster starts a worker of a list: `index` is the position of its database in
/// `count_relations.databases`.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn count_relations_worker_main(index: pg_sys::Datum) {
    signals::attach();
    let settings::Databases::Listed(databases) = settings::databases() else {
        unreachable!("workers of a list are registered for a list");
    };
    let database = databases[index.value()].as_c_str();
    let role = settings::role();
    let attempts = Attempts::of(index.value());
    attempts.begin(Some(database), role.as_deref());
    let session = session::connect(Some(database), role.as_deref(), APPLICATION_NAME);
    let Err(reason) = row_of_listed(session.database_oid, &databases)
        .and_then(|row| run(&session, row, &mut Stay::ForGood(attempts)));
    session::leave(format_args!(
        "count relations worker for database \"{}\" {reason}",
        session.database
    ));
}

/// Where the postmaster starts a worker for the launcher: [`launch`] made `argument` from the
/// oids of the database and the role.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn count_relations_launched_main(argument: pg_sys::Datum) {
    signals::attach();
    budget::pay_for_visit();
    let argument = argument.value() as u64;
    let (database, role) = (argument as u32, (argument >> 32) as u32);
    let session = session::visit(database, role, APPLICATION_NAME);
    let reason = match Row::find(database) {
        Some(row) => {
            let mut visit = Stay::Visit {
                last_change: Instant::now(),
                changes: 0,
                has_counted: false,
                has_taken_census: false,
            };
            let Err(reason) = run(&session, row, &mut visit);
            registry::leave_at_ease();
            reason
        }
        None => NOT_TO_BE_COUNTED,
    };
    session::end_visit(format_args!(
        "count relations worker for database \"{}\" {reason}",
        session.database
    ));
}

const NOT_TO_BE_COUNTED: Reason = "leaving, as the database is not to be counted any more";

/// Why a worker leaves.
type Reason = &'static str;

/// How long a worker stays.
enum Stay {
    /// As long as it can: a worker that the postmaster has started.
    ForGood(Attempts),
    /// As long as its database keeps changing and no other waits: a worker that the launcher
    /// has sent.
    Visit {
        last_change: Instant,
        /// How many changes it had been told of by then.
        changes: u64,
        has_counted: bool,
        has_taken_census: bool,
    },
}

impl Stay {
    fn log_level(&self) -> log::Level {
        match self {
            Stay::ForGood(_) => log::Level::Info,
            Stay::Visit { .. } => log::Level::Debug,
        }
    }

    /// How long to rest before the first count, because a worker that was here before has
    /// counted for long.
    fn first_rest(&self, known: &Known) -> Duration {
        match self {
            Stay::ForGood(_) => known.rest_left(),
            // The launcher has waited.
            Stay::Visit { .. } => Duration::ZERO,
        }
    }

    /// Whether there is processor time for another count.
    fn affords_count(&self) -> bool {
        match self {
            Stay::ForGood(_) => true,
            // The launcher has made sure that there is enough for the first.
            Stay::Visit { has_counted, .. } => !has_counted || !budget::is_overdrawn(),
        }
    }

    /// Whether there is processor time for a census.
    fn affords_census(&self) -> bool {
        match self {
            Stay::ForGood(_) => true,
            // The first count may have used up all there was.
            Stay::Visit {
                has_counted,
                has_taken_census,
                ..
            } => *has_counted && !has_taken_census || !budget::is_overdrawn(),
        }
    }

    /// Records that a census was taken.
    fn took_census(&mut self) {
        if let Stay::Visit {
            has_taken_census, ..
        } = self
        {
            *has_taken_census = true;
            budget::settle_up();
        }
    }

    /// Records how many changes the worker has been told of so far.
    fn received(&mut self, all: u64, now: Instant) {
        if let Stay::Visit {
            last_change,
            changes,
            ..
        } = self
            && *changes != all
        {
            *changes = all;
            *last_change = now;
        }
    }

    /// Records a tick, and whether it had to count.
    fn ticked(&mut self, counted: bool, now: Instant) {
        match self {
            Stay::ForGood(attempts) => attempts.succeed(),
            Stay::Visit {
                last_change,
                has_counted,
                ..
            } => {
                *has_counted = true;
                if counted {
                    *last_change = now;
                }
                budget::settle_up();
            }
        }
    }

    /// Records that a count was put off.
    fn put_off(&mut self, now: Instant) {
        if let Stay::Visit { last_change, .. } = self {
            *last_change = now;
        }
    }

    /// Why the worker is no longer needed here, if so.
    fn is_over(&self, now: Instant) -> Option<Reason> {
        let Stay::Visit {
            last_change,
            has_counted: true,
            ..
        } = self
        else {
            return None;
        };
        if registry::is_somebody_waiting() {
            Some("leaving, as other databases wait")
        } else if now - *last_change >= CALM {
            Some("leaving, as nothing changes any more")
        } else {
            None
        }
    }
}

/// The row of a database of the list. If necessary, the rows of databases that no longer have a
/// name of the list are freed for it: there is one row for each name.
fn row_of_listed(database: u32, names: &[CString]) -> Result<Row, Reason> {
    Row::find_or_take(database)
        .or_else(|| {
            let mut listed = databases(0);
            listed.retain(|database| names.contains(&database.name));
            registry::retain(|oid| listed.iter().any(|database| database.oid == oid));
            Row::find_or_take(database)
        })
        .ok_or("leaving, as the worker of a database that had the name before is still there")
}

/// Counts until there is a reason to leave, and returns it.
fn run(session: &Session, row: Row, stay: &mut Stay) -> Result<Infallible, Reason> {
    let database = &session.database;
    log::log!(
        stay.log_level(),
        "count relations worker started for database \"{database}\" as role \"{}\", naptime {} ms",
        session.role,
        settings::naptime().as_millis()
    );
    if !row.occupy(session.database_oid) {
        return Err("leaving, as the database has another one, or needs none");
    }
    let mut counter = Counter::default();
    let known = row.read();
    let mut report = Report::new(known.said());
    let rest = stay.first_rest(&known);
    if rest > settings::naptime() {
        report::rest(database, rest, known.last_effort());
    }
    let mut cadence = Cadence::new(Instant::now() + rest, settings::naptime());
    let mut statistics = Statistics::default();
    let mut lock = Watch::of(session.database_oid);
    let oid = session.database_oid;
    let mut census = Schedule::new(oid, &row.history(oid), known.stale, Instant::now());
    census.is_visit = matches!(stay, Stay::Visit { .. });
    loop {
        if signals::terminated() {
            return Err("leaving due to SIGTERM");
        }
        if signals::take_reload_request() {
            settings::reload();
            cadence.set_naptime(settings::naptime());
        }
        let known = row.read();
        if known.dismissed {
            return Err(NOT_TO_BE_COUNTED);
        }
        if lock.is_wanted() {
            return Err("making way for a command that needs the database to itself");
        }
        let epoch = registry::epoch();
        counter.receive_messages();
        if session.is_of_another_name() {
            return Err("leaving, as the database has got another name");
        }
        let holds = counter.holds();
        if holds {
            row.cover(epoch);
        }
        let mut now = Instant::now();
        stay.received(inval::pg_class_changes(), now);
        let mut counted = false;
        if cadence.is_due(now) {
            let mut rest = Duration::ZERO;
            let is_unchanged = holds && settings::skip_unchanged();
            if is_unchanged || stay.affords_count() {
                let tally = counter.tick(settings::skip_unchanged());
                row.observe(&tally, epoch);
                counted = tally.changed || tally.counted_in.is_some();
                census.stale |= tally.changed;
                let what_there_is = || {
                    census.hurry(row, known.requested, now);
                    row.summary(oid)
                };
                if report.tick(database, tally.relations, what_there_is) {
                    row.remember(report.said);
                }
                let duration = tally.counted_in.unwrap_or_default();
                rest = duration * REST_FACTOR;
                now = Instant::now();
                stay.ticked(counted, now);
            } else {
                stay.put_off(now);
            }
            if cadence.advance(now, now + rest) > 0 {
                report::rest(database, rest, rest / REST_FACTOR);
            }
        }
        if stay.affords_census() && census.follow(row, known.requested, now) {
            stay.took_census();
            now = Instant::now();
        }
        if let Some(reason) = stay.is_over(now) {
            return Err(reason);
        }
        statistics.report(counted, now);
        latch::nap(cadence.time_left(now).min(lock.interval()));
    }
}
