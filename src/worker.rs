//! One database's worker: its registration and the main loop.
//!
//! Whenever a worker can't go on, it says why and exits, and its supervisor (the
//! postmaster; with `databases = '*'` the launcher) starts a new one. Nothing is
//! retried in here, and nothing needs to be cleaned up.

use crate::attempts::{Attempts, RESTART_INTERVAL};
use crate::cadence::Cadence;
use crate::counter::Counter;
use crate::registry::Entry;
use crate::report::{self, Report};
use crate::server::activity::Statistics;
use crate::server::database_lock::Watch;
use crate::server::dynamic_worker::DynamicWorker;
use crate::server::session::{self, Session};
use crate::server::{library, nap, registered_workers, signals};
use crate::settings;
use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::prelude::*;
use std::ffi::{CStr, CString};
use std::time::Instant;

/// What `pg_stat_activity.backend_type` and the postmaster's log lines show.
const WORKER_TYPE: &str = "count relations";

/// The name of the function where the postmaster starts a worker of a list.
const WORKER_MAIN: &str = "count_relations_worker_main";

/// What `pg_stat_activity.application_name` shows.
pub const APPLICATION_NAME: &CStr = c"count_relations";

/// A count is followed by a pause of at least this many times its duration, so
/// that a worker is busy for a tenth of the time at most.
const REST_FACTOR: u32 = 9;

/// What all our processes have in common. They start as soon as the server has
/// consistent data, on a hot standby too, and stay through promotion.
pub fn builder(name: &str, process_type: &str) -> BackgroundWorkerBuilder {
    const LONGEST_NAME: usize = pg_sys::BGW_MAXLEN as usize - 1;
    BackgroundWorkerBuilder::new(&name[..name.floor_char_boundary(LONGEST_NAME)])
        .set_type(process_type)
        .set_library(&library::name())
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::ConsistentState)
}

/// Registers a worker for each of the databases; to be called from `_PG_init`.
pub fn register_all(databases: &[CString]) {
    for (index, database) in databases.iter().enumerate() {
        // `ps` shows the name. It has not started with "bgworker: " by itself
        // since PostgreSQL 11, but people look for it.
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

/// Warns if the server had no room for all of the workers; to be called in the postmaster
/// when all libraries are loaded, as others take slots, too.
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

/// Starts a worker for a database, on the launcher's behalf, which is told when it
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

/// Where the postmaster starts a worker of a list: `index` is its database's place
/// in `count_relations.databases`.
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
    work(session, Some(attempts));
}

/// Where the postmaster starts a worker for the launcher: `argument` is what
/// [`launch`] made of the database's and the role's oid.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn count_relations_launched_main(argument: pg_sys::Datum) {
    signals::attach();
    let argument = argument.value() as u64;
    let (database, role) = (argument as u32, (argument >> 32) as u32);
    let session = session::connect_by_oid(database, role, APPLICATION_NAME);
    // The launcher sees in the registry who has counted.
    work(session, None);
}

fn work(session: Session, attempts: Option<Attempts>) -> ! {
    let reason = run(&session, attempts);
    session::leave(format_args!(
        "count relations worker for database \"{}\" {reason}",
        session.database
    ));
}

/// Counts until there is a reason to leave, and returns it.
fn run(session: &Session, attempts: Option<Attempts>) -> &'static str {
    let database = &session.database;
    log::info!(
        "count relations worker started for database \"{database}\" as role \"{}\", naptime {} ms",
        session.role,
        settings::naptime().as_millis()
    );
    let Some(entry) = Entry::claim(session.database_oid) else {
        return "leaving, as the database has another one";
    };
    let mut counter = Counter::default();
    let mut report = Report::new(database);
    let mut cadence = Cadence::new(Instant::now(), settings::naptime());
    let mut statistics = Statistics::default();
    let mut lock = Watch::of(session.database_oid);
    loop {
        if signals::terminated() {
            return "leaving due to SIGTERM";
        }
        if signals::take_reload_request() {
            settings::reload();
            cadence.set_naptime(settings::naptime());
        }
        if entry.is_dismissed() {
            return "leaving, as the database is not to be counted any more";
        }
        if lock.is_wanted() {
            return "making way for a command that needs the database to itself";
        }
        counter.receive_announcements();
        if session.is_of_another_name() {
            return "leaving, as the database has got another name";
        }
        let mut now = Instant::now();
        let mut counted = false;
        if cadence.is_due(now) {
            let tally = counter.tick(settings::skip_unchanged());
            entry.observe(&tally);
            if let Some(attempts) = &attempts {
                attempts.succeed();
            }
            report.count(tally.relations);
            counted = tally.counted_in.is_some();
            let duration = tally.counted_in.unwrap_or_default();
            let rest = duration * REST_FACTOR;
            now = Instant::now();
            if cadence.advance(now, now + rest) > 0 {
                report.rest(rest, duration);
            }
        }
        statistics.report(counted, now);
        nap::nap(cadence.time_left(now).min(lock.interval()));
    }
}
