//! Only for `databases = '*'`: one worker per connectable database.
//!
//! The launcher looks which databases there are and which of them have a worker,
//! and starts those that are missing. It is the supervisor that the postmaster is
//! for workers of a list. Which workers there are it reads from the registry, so
//! that a launcher that was started again takes over the workers it finds.

use crate::server::activity::Statistics;
use crate::server::database_list::{Database, connectable_databases};
use crate::server::database_lock::Watch;
use crate::server::dynamic_worker::DynamicWorker;
use crate::server::{nap, session, signals};
use crate::worker::{self, RESTART_INTERVAL};
use crate::{registry, report, settings};
use pgrx::prelude::*;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// What `pg_stat_activity.backend_type` and the postmaster's log lines show.
const LAUNCHER_TYPE: &str = "count relations launcher";

/// A new database waits for its worker no longer than this, however long naptime.
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// Registers the launcher; to be called from `_PG_init`.
pub fn register() {
    worker::builder(&format!("bgworker: {LAUNCHER_TYPE}"), LAUNCHER_TYPE)
        .set_function("count_relations_launcher_main")
        .set_restart_time(Some(RESTART_INTERVAL))
        .load();
}

/// Where the postmaster starts the launcher.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn count_relations_launcher_main(_argument: pg_sys::Datum) {
    signals::attach();
    let session = session::connect(None, settings::role().as_deref(), worker::APPLICATION_NAME);
    log::info!(
        "count relations launcher started as role \"{}\", naptime {} ms",
        session.role,
        settings::naptime().as_millis()
    );
    // 0 stands for the bootstrap superuser, who can then connect even without LOGIN.
    let role = settings::role().map_or(0, |_| session.role_oid);
    let mut launcher = Launcher::new(role);
    let mut statistics = Statistics::default();
    while !signals::terminated() {
        if signals::take_reload_request() {
            settings::reload();
        }
        launcher.look_after(&connectable_databases());
        statistics.report(true, Instant::now());
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
}

struct Launcher {
    /// The oid of the workers' role; 0 for the bootstrap superuser.
    role: u32,
    /// The last launch for each database; what became of it, the registry knows,
    /// but for the moment that a worker takes to start.
    launches: HashMap<u32, Launch>,
    /// The locks of databases that wait for a worker because somebody holds theirs.
    locks: HashMap<u32, Watch>,
    /// Those of which it has been said that there are too few worker slots for them.
    named: HashSet<u32>,
}

impl Launcher {
    fn new(role: u32) -> Self {
        Launcher {
            role,
            launches: HashMap::new(),
            locks: HashMap::new(),
            named: HashSet::new(),
        }
    }

    /// Starts a worker for each database that has none, and ends those whose
    /// database is not to be counted any more.
    fn look_after(&mut self, databases: &[Database]) {
        let wanted: HashSet<u32> = databases.iter().map(|database| database.oid).collect();
        let mut counted = HashSet::new();
        for row in registry::workers() {
            if wanted.contains(&row.database) {
                counted.insert(row.database);
            } else {
                signals::terminate(row.pid);
            }
        }
        self.locks.retain(|oid, _| wanted.contains(oid));
        self.named
            .retain(|oid| wanted.contains(oid) && !counted.contains(oid));
        let now = Instant::now();
        for launch in self.launches.values_mut() {
            if launch.ended.is_none() && launch.worker.has_ended() {
                launch.ended = Some(now);
            }
        }
        self.launches
            .retain(|oid, launch| wanted.contains(oid) || launch.ended.is_none());

        let without_worker = databases
            .iter()
            .filter(|database| !counted.contains(&database.oid))
            .filter(|database| !self.is_starting_or_resting(database.oid));
        let mut missing: Vec<&Database> = without_worker.collect();
        missing.retain(|database| !self.is_held(database.oid));
        let mut uncounted = missing.as_slice();
        while let [database, others @ ..] = uncounted {
            let Some(worker) = worker::launch(database.oid, self.role, &database.name) else {
                break;
            };
            let ended = None;
            self.launches.insert(database.oid, Launch { worker, ended });
            uncounted = others;
        }
        self.warn_of_uncounted(uncounted, databases.len());
    }

    /// Whether a worker for the database is on its way, or ended so lately that it is
    /// not yet time for another: the postmaster's rule for those it restarts.
    fn is_starting_or_resting(&self, database: u32) -> bool {
        self.launches.get(&database).is_some_and(|launch| {
            launch
                .ended
                .is_none_or(|ended| ended.elapsed() < RESTART_INTERVAL)
        })
    }

    /// Whether somebody holds the lock of a database: a worker would only wait, and fail
    /// in the end if the database goes.
    fn is_held(&mut self, database: u32) -> bool {
        let new = || Watch::of(database);
        let held = self.locks.entry(database).or_insert_with(new).is_held();
        if !held {
            self.locks.remove(&database);
        }
        held
    }

    /// Names all databases that go without a worker if one of them has not been named yet.
    fn warn_of_uncounted(&mut self, uncounted: &[&Database], total: usize) {
        if uncounted
            .iter()
            .all(|database| self.named.contains(&database.oid))
        {
            return;
        }
        self.named
            .extend(uncounted.iter().map(|database| database.oid));
        let names = uncounted.iter().map(|database| database.name.as_str());
        report::out_of_slots(names, total);
    }
}
