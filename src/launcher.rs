//! Only for `databases = '*'`: one worker per connectable database.
//!
//! The launcher looks which databases there are and which of them have a worker,
//! and starts those that are missing. It is the supervisor that the postmaster is
//! for workers of a list. Which workers there are it reads from the registry, so
//! that a launcher that was started again takes over the workers it finds. It lists the
//! databases when they, or roles, have changed.

use crate::attempts::{Attempts, RESTART_INTERVAL, pause_after};
use crate::registry::{self, Row};
use crate::report::{self, Alarm};
use crate::server::activity::Statistics;
use crate::server::database_list::{Database, databases};
use crate::server::database_lock::Watch;
use crate::server::dynamic_worker::DynamicWorker;
use crate::server::role::role_to_connect_as;
use crate::server::{invalidation, nap, registered_workers, session, signals};
use crate::settings;
use crate::worker;
use pgrx::prelude::*;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// What `pg_stat_activity.backend_type` and the postmaster's log lines show.
const LAUNCHER_TYPE: &str = "count relations launcher";

/// A new database waits for its worker no longer than this, however long naptime.
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// The name of the function where the postmaster starts it.
const LAUNCHER_MAIN: &str = "count_relations_launcher_main";

/// Registers the launcher; to be called from `_PG_init`.
pub fn register() {
    worker::builder(&format!("bgworker: {LAUNCHER_TYPE}"), LAUNCHER_TYPE)
        .set_function(LAUNCHER_MAIN)
        .set_restart_time(Some(RESTART_INTERVAL))
        .load();
}

/// Warns if the server had no room for the launcher; to be called in the postmaster when
/// all libraries are loaded.
pub fn warn_if_unregistered() {
    if registered_workers::arguments_of(LAUNCHER_MAIN).is_empty() {
        report::no_slot_for_launcher();
    }
}

/// Where the postmaster starts the launcher.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn count_relations_launcher_main(_argument: pg_sys::Datum) {
    signals::attach();
    let role_name = settings::role();
    let attempts = Attempts::of(0);
    attempts.begin(None, role_name.as_deref());
    let session = session::connect(None, role_name.as_deref(), worker::APPLICATION_NAME);
    log::info!(
        "count relations launcher started as role \"{}\", naptime {} ms",
        session.role,
        settings::naptime().as_millis()
    );
    // 0 stands for the bootstrap superuser, who can then connect even without LOGIN.
    let role = role_name.as_ref().map_or(0, |_| session.role_oid);
    let mut launcher = Launcher::new(role, &session.role);
    let mut statistics = Statistics::default();
    while !signals::terminated() {
        if signals::take_reload_request() {
            settings::reload();
        }
        invalidation::receive();
        // An interrupted DROP DATABASE is announced by some versions only.
        let changed = invalidation::take_access_change() | launcher.take_failure();
        if changed {
            if role_to_connect_as(role_name.as_deref()) != Some(role) {
                session::leave(format_args!(
                    "count relations launcher leaving, as role \"{}\" is no longer the one that it connected as, or is not permitted to log in",
                    session.role
                ));
            }
            launcher.take_on(databases(role));
        }
        launcher.look_after_databases();
        attempts.succeed();
        statistics.report(changed, Instant::now());
        nap::nap(settings::naptime().min(LONGEST_NAP));
    }
    session::leave(format_args!(
        "count relations launcher leaving due to SIGTERM"
    ));
}

struct Launch {
    worker: DynamicWorker,
    /// When the worker was first seen to have ended.
    ended: Option<Instant>,
    /// How many workers in a row, this one included, have not been seen to have counted.
    failures: i64,
}

impl Launch {
    fn is_on_its_way_or_resting(&self) -> bool {
        self.ended
            .is_none_or(|ended| ended.elapsed() < pause_after(self.failures))
    }
}

struct Launcher {
    /// The workers' role, and its oid; 0 for the bootstrap superuser.
    role_name: String,
    role: u32,
    /// The databases to count.
    databases: Vec<Database>,
    /// The last launch for each database; what became of it, the registry knows,
    /// but for the moment that a worker takes to start.
    launches: HashMap<u32, Launch>,
    /// The locks of databases that wait for a worker because somebody holds theirs.
    locks: HashMap<u32, Watch>,
    /// Whether a worker has ended without having counted.
    failed: bool,
    out_of_slots: Alarm,
    cannot_connect: Alarm,
}

impl Launcher {
    fn new(role: u32, role_name: &str) -> Self {
        Launcher {
            role_name: role_name.to_owned(),
            role,
            databases: Vec::new(),
            launches: HashMap::new(),
            locks: HashMap::new(),
            failed: false,
            out_of_slots: Alarm::default(),
            cannot_connect: Alarm::default(),
        }
    }

    /// Takes on what has become of the databases of the server.
    fn take_on(&mut self, mut databases: Vec<Database>) {
        databases.retain(|database| !database.is_template);
        let total = databases.len();
        let (databases, others): (Vec<_>, Vec<_>) = databases
            .into_iter()
            .partition(|database| database.may_connect);
        self.databases = databases;
        if self.cannot_connect.rings(others.len()) {
            report::cannot_connect(&self.role_name, &names(&others), total);
        }
    }

    /// Starts a worker for each database that has none, and ends those whose
    /// database is not to be counted any more.
    fn look_after_databases(&mut self) {
        let wanted: HashSet<u32> = self.databases.iter().map(|row| row.oid).collect();
        let rows: Vec<Row> = registry::workers().collect();
        for row in &rows {
            if !wanted.contains(&row.database) {
                registry::dismiss(row.pid);
            }
        }
        self.follow_launches(&rows, &wanted);
        let have_workers: HashSet<u32> = rows.iter().map(|row| row.database).collect();
        let is_missing = |database: &&Database| {
            !have_workers.contains(&database.oid) && !self.is_starting_or_resting(database.oid)
        };
        let mut missing: Vec<&Database> = self.databases.iter().filter(is_missing).collect();
        let locks = &mut self.locks;
        locks.retain(|oid, _| wanted.contains(oid));
        missing.retain(|database| !is_held(locks, database.oid));

        let mut uncounted = missing.as_slice();
        while let [database, others @ ..] = uncounted {
            let Some(worker) = worker::launch(database.oid, self.role, &database.name) else {
                break;
            };
            let before = self.launches.get(&database.oid);
            let launch = Launch {
                worker,
                ended: None,
                failures: before.map_or(0, |launch| launch.failures) + 1,
            };
            self.launches.insert(database.oid, launch);
            uncounted = others;
        }
        if self.out_of_slots.rings(uncounted.len()) {
            report::out_of_slots(&names(uncounted.iter().copied()), self.databases.len());
        }
    }

    /// Finds out what became of the workers that were launched.
    fn follow_launches(&mut self, rows: &[Row], wanted: &HashSet<u32>) {
        for row in rows.iter().filter(|row| row.counted_at != 0) {
            if let Some(launch) = self.launches.get_mut(&row.database) {
                launch.failures = 0;
            }
        }
        let now = Instant::now();
        for launch in self.launches.values_mut() {
            if launch.ended.is_none() && launch.worker.has_ended() {
                launch.ended = Some(now);
                self.failed |= launch.failures > 0;
            }
        }
        // Also for a database that comes and goes is there a rest between two workers.
        self.launches
            .retain(|oid, launch| wanted.contains(oid) || launch.is_on_its_way_or_resting());
    }

    /// Whether a worker has ended without having counted since the last call.
    fn take_failure(&mut self) -> bool {
        std::mem::take(&mut self.failed)
    }

    /// Whether a worker for the database is on its way, or ended so lately that it is
    /// not yet time for another.
    fn is_starting_or_resting(&self, database: u32) -> bool {
        let launch = self.launches.get(&database);
        launch.is_some_and(Launch::is_on_its_way_or_resting)
    }
}

/// Whether somebody holds the lock of a database: a worker would only wait, and fail
/// in the end if the database goes. Not for ever: a worker that waits has its turn when
/// the lock changes hands.
fn is_held(locks: &mut HashMap<u32, Watch>, database: u32) -> bool {
    let lock = locks.entry(database).or_insert_with(|| Watch::of(database));
    let held = lock.is_held() && !lock.is_held_for_long();
    if !held {
        locks.remove(&database);
    }
    held
}

fn names<'a>(databases: impl IntoIterator<Item = &'a Database>) -> Vec<Cow<'a, str>> {
    let databases = databases.into_iter();
    databases
        .map(|database| database.name.to_string_lossy())
        .collect()
}
