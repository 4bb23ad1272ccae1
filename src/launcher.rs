//! Only for `databases = '*'`: one process that knows which databases have changed, and
//! sends workers to those.
//!
//! The launcher receives what is announced of *all* databases' `pg_class` (see
//! [`crate::server::listening`]). A database of which nothing has been announced needs no
//! worker: its last count holds, and the launcher confirms it at each tick, all of them at
//! once, at the same cost however many there are (see [`crate::registry`]). One that has
//! changed, or was never counted, is visited by a worker, which counts and stays for a
//! while (see [`crate::worker`]). So what we cost depends on what changes, and not on how
//! much there is.
//!
//! # Why no change is missed
//!
//! That a worker misses none while it is there is what [`crate::counter`] is about. The
//! rule for who comes and goes rests on one number in shared memory, the *epoch*.
//!
//! - The launcher adds 1 to it each time that it has received. What it received, lost or
//!   found out since the time before, it keeps with the epoch that ended by that:
//!   `changed_in`, a number a database.
//! - A worker reads the epoch first, and receives second. If it counts then, or finds that
//!   its last count holds, the count *covers* the epoch that it read, and is published
//!   together with that number.
//! - A count holds without a worker if it covers more than `changed_in`. Otherwise there is
//!   a visit to be made.
//!
//! For a change that the launcher has received in the epoch `e` was sent before `e` ended,
//! and to everybody ([`crate::server::listening::receive`] sees to that). A count that
//! covers more than `e` was confirmed by a worker that received after `e` had ended. So the
//! worker had been told of the change, which was visible before, and has counted since; or
//! it connected later, when it was visible. A count that covers no more than `e` may have
//! seen the change or not: at worst a visit was made in vain. Case by case:
//!
//! - *Own transactions.* When the launcher lists the databases, it receives in the server's
//!   way, which forgets what other databases' messages said. That any were among them shows
//!   in their number, and all databases count as changed in the epoch that is under way. So
//!   it lists only when `pg_database` or the roles have changed, or a visit has failed, and
//!   receives immediately before.
//! - *A launcher that falls behind*, because it was stopped, is told to forget everything:
//!   all have changed.
//! - *A launcher that was started again* begins with all databases changed in the epoch that
//!   it finds. No count covers more than that: only a launcher ends epochs. What is sent
//!   before it is there to receive comes before the end of that epoch.
//! - *A crash of the server* leaves nothing: no rows and no epoch.
//! - *A worker that died half-way* has covered what it had published by then. What it has
//!   learned and not published makes no difference.
//! - *A worker that leaves* while its database changes: what it has not covered, the
//!   launcher receives as well.
//! - *A database created by copying another*, which announces nothing of its `pg_class`, is
//!   a new row of `pg_database`, and was never counted.
//! - *Renamed, or moved*: the row of `pg_database` is another version, which counts as a
//!   change. *Dropped and created again* under the same name, it has another oid; if
//!   somebody has given it the same one, it is another version at least.
//! - *Rollbacks, prepared transactions, VACUUM FULL, standbys and promotion* are as in
//!   [`crate::counter`]: visible first, announced second, to all processes at once.
//!
//! # Who is visited, and when
//!
//! At a tick, all that have changed since their last count begin to wait; those that were
//! never counted at once. There are at most `max_workers` visits at a time, the longest
//! waiting first, while the [`crate::budget`] is not overdrawn. When others wait, a visiting
//! worker leaves as soon as it has counted, so that none starves. A database whose lock
//! somebody holds keeps its place until that is gone, or takes long. A visit that waits for a lock for long
//! is ended when others wait. One that has failed is tried less and less often, until one
//! succeeds or the row of `pg_database` changes.

use crate::attempts::{Attempts, RESTART_INTERVAL};
use crate::budget::{self, Income};
use crate::cadence::Cadence;
use crate::census::Schedule;
use crate::registry::{self, Entry};
use crate::report::{self, Alarm, Report};
use crate::server::activity::Statistics;
use crate::server::database_list::{self, all_databases};
use crate::server::database_lock::Watch;
use crate::server::dynamic_worker::DynamicWorker;
use crate::server::listening::{self, Changed};
use crate::server::role::role_to_connect_as;
use crate::server::{clock, invalidation, nap, registered_workers, session, signals};
use crate::settings::{self, LogCounts};
use crate::worker;
use pgrx::prelude::*;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::CString;
use std::time::{Duration, Instant};

/// What `pg_stat_activity.backend_type` and the postmaster's log lines show.
const LAUNCHER_TYPE: &str = "count relations launcher";

/// The launcher looks at least this often: who falls behind in the queue of messages costs
/// others time.
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// How long all slots for workers may be somebody else's before that is worth a warning.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a visit may wait for a lock while others wait for it to end.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How long after the first failure in a row, the second, and so on to visit again.
const PAUSES: [Duration; 6] = [
    RESTART_INTERVAL,
    Duration::from_secs(15),
    Duration::from_secs(30),
    Duration::from_secs(60),
    Duration::from_secs(120),
    Duration::from_secs(300),
];

/// How long a database that is not counted any more is remembered.
const MEMORY: Duration = Duration::from_secs(60);

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
    let mut cadence = Cadence::new(Instant::now(), settings::naptime());
    while !signals::terminated() {
        let reloaded = signals::take_reload_request();
        if reloaded {
            settings::reload();
            cadence.set_naptime(settings::naptime());
        }
        let now = Instant::now();
        let is_due = cadence.is_due(now);
        // What is right when everything has been received was right before.
        let confirmed_at = clock::now();
        launcher.receive();
        launcher.follow_visits();
        let access_changed = match role_name {
            // Who may connect to everything, whatever the roles.
            None => invalidation::take_pg_database_change(),
            Some(_) => invalidation::take_access_change(),
        };
        // An interrupted DROP DATABASE is announced by some versions only.
        let listing = access_changed || launcher.has_failures();
        if listing {
            if role_to_connect_as(role_name.as_deref()) != Some(role) {
                session::leave(format_args!(
                    "count relations launcher leaving, as role \"{}\" is no longer the one that it connected as, or is not permitted to log in",
                    session.role
                ));
            }
            launcher.receive();
            launcher.take_on(all_databases(role), now);
        }
        attempts.succeed();
        launcher.say_failures();
        launcher.end_epoch(is_due.then_some(confirmed_at));
        if is_due {
            cadence.advance(now, now);
        }
        launcher.report(is_due, reloaded);
        launcher.visit_for_census(reloaded, now);
        let nap = launcher.send_workers(now);
        statistics.report(listing, now);
        nap::nap(nap.min(cadence.time_left(Instant::now())));
    }
    session::leave(format_args!(
        "count relations launcher leaving due to SIGTERM"
    ));
}

/// What the launcher knows of a database that is to be counted.
struct Database {
    name: CString,
    version: (u32, u32, u16),
    /// Its row in the registry; `None` if there was no room.
    entry: Option<Entry>,
    /// The epoch in which it last changed.
    changed_in: i64,
    /// When it is to be visited for a census, if it is at rest.
    census_due: Option<Instant>,
    /// Its place among those that wait, if it does.
    place: Option<u64>,
    /// The visit that is under way.
    visit: Option<Visit>,
    /// How many visits have failed in a row.
    failures: usize,
    /// When the latest visit began.
    visited_at: Option<Instant>,
    /// No visit before this.
    not_before: Option<Instant>,
    report: Option<Report>,
}

/// What is remembered for a while of a database that is not counted any more, so that one
/// that comes and goes, as its owner likes, costs no more than one that fails.
struct Departed {
    at: Instant,
    visited_at: Option<Instant>,
    /// When it was last said that it is not counted any more.
    said_at: Option<Instant>,
}

struct Visit {
    worker: DynamicWorker,
    /// Since when it has been seen to wait for a lock, if it does.
    waits_since: Option<Instant>,
    /// What the database's `changed_in` was when it began, and its version.
    changed_in: i64,
    version: (u32, u32, u16),
}

struct Launcher {
    /// The workers' role, and its oid; 0 for the bootstrap superuser.
    role_name: String,
    role: u32,
    /// The databases to count, by oid.
    databases: HashMap<u32, Database>,
    /// Those that were counted a while ago, by oid.
    departed: HashMap<u32, Departed>,
    /// Visits to those that are still under way.
    departing: Vec<DynamicWorker>,
    /// Those whose count does not hold by itself, or has not been found to.
    restless: BTreeSet<u32>,
    /// Those that wait for a worker, by their place.
    queue: BTreeMap<u64, u32>,
    /// The next place.
    place: u64,
    /// Those at rest that are to be visited for a census, by when.
    censuses: BTreeSet<(Instant, u32)>,
    /// How often somebody had asked for a census when that was last looked at.
    census_requests: i64,
    /// The locks of databases that wait for a worker because somebody holds theirs.
    locks: HashMap<u32, Watch>,
    income: Income,
    /// How many workers are in databases, or on their way.
    visits: usize,
    /// Those whose visit has failed just now.
    failed: Vec<u32>,
    /// Since when there has been no slot for any worker of ours.
    out_of_slots_since: Option<Instant>,
    out_of_slots: Alarm,
    cannot_connect: Alarm,
    too_many: Alarm,
}

impl Launcher {
    fn new(role: u32, role_name: &str) -> Self {
        Launcher {
            role_name: role_name.to_owned(),
            role,
            databases: HashMap::new(),
            departed: HashMap::new(),
            departing: Vec::new(),
            restless: BTreeSet::new(),
            queue: BTreeMap::new(),
            place: 0,
            censuses: BTreeSet::new(),
            census_requests: registry::census_requests(),
            locks: HashMap::new(),
            income: Income::new(Instant::now()),
            visits: 0,
            failed: Vec::new(),
            out_of_slots_since: None,
            out_of_slots: Alarm::default(),
            cannot_connect: Alarm::default(),
            too_many: Alarm::default(),
        }
    }

    /// Receives what has been announced by now, and notes whose `pg_class` has changed.
    fn receive(&mut self) {
        match listening::receive() {
            Changed::All => self.touch_all(),
            Changed::These(databases) => {
                for oid in databases {
                    self.touch(oid);
                }
            }
        }
    }

    fn touch_all(&mut self) {
        for oid in self.databases.keys().copied().collect::<Vec<_>>() {
            self.touch(oid);
        }
    }

    /// Notes that a database has changed in the epoch that is under way. Its row says from
    /// now on what it has been told until then, and no more.
    fn touch(&mut self, oid: u32) {
        let Some(database) = self.databases.get_mut(&oid) else {
            return;
        };
        database.changed_in = registry::epoch();
        if self.restless.insert(oid)
            && let Some(entry) = database.entry
        {
            entry.settle();
        }
    }

    /// Finds out when a database that is at rest is to be visited for a census.
    fn expect_census(&mut self, oid: u32) {
        let Some(database) = self.databases.get_mut(&oid) else {
            return;
        };
        if let Some(due) = database.census_due.take() {
            self.censuses.remove(&(due, oid));
        }
        let Some(entry) = database.entry else {
            return;
        };
        let now = Instant::now();
        let row = entry.read();
        let due = settings::census_naptime().map(|naptime| {
            let schedule = Schedule::after(entry.census(oid).as_ref(), row.stale, now);
            // The latest visit has not come to it.
            schedule.due(naptime).unwrap_or(now).max(now + naptime)
        });
        database.census_due = if row.census_wanted { Some(now) } else { due };
        self.censuses
            .extend(database.census_due.map(|due| (due, oid)));
    }

    /// Has databases at rest be visited whose census is due, or is asked for.
    fn visit_for_census(&mut self, reloaded: bool, now: Instant) {
        let requests = registry::census_requests();
        if requests != self.census_requests || reloaded {
            self.census_requests = requests;
            for oid in self.databases.keys().copied().collect::<Vec<_>>() {
                if !self.restless.contains(&oid) {
                    self.expect_census(oid);
                }
            }
        }
        while let Some((due, oid)) = self.censuses.first().copied()
            && due <= now
        {
            self.censuses.pop_first();
            if let Some(database) = self.databases.get_mut(&oid)
                && database.census_due.take_if(|time| *time == due).is_some()
            {
                self.enqueue(oid);
            }
        }
    }

    /// Finds out what became of visits that have ended.
    fn follow_visits(&mut self) {
        for oid in self.restless.iter().copied().collect::<Vec<_>>() {
            let Some(database) = self.databases.get_mut(&oid) else {
                continue;
            };
            let Some(visit) = database.visit.take_if(|visit| visit.worker.has_ended()) else {
                continue;
            };
            let Some(row) = database.entry.map(|entry| entry.read()) else {
                continue;
            };
            if row.database == oid && row.covered > visit.changed_in {
                database.failures = 0;
                continue;
            }
            // One that met what has been changed since says nothing about what is now.
            if !row.left_at_ease && visit.version == database.version {
                let pause = PAUSES[database.failures.min(PAUSES.len() - 1)];
                database.failures += 1;
                database.not_before = Some(Instant::now() + pause);
                self.failed.push(oid);
            }
            self.enqueue(oid);
        }
    }

    /// Whether a visit has failed that nothing has been said about.
    fn has_failures(&self) -> bool {
        !self.failed.is_empty()
    }

    fn say_failures(&mut self) {
        for oid in std::mem::take(&mut self.failed) {
            if let Some(database) = self.databases.get(&oid)
                && database.failures == 1
            {
                report::visit_failed(&database.name.to_string_lossy());
            }
        }
    }

    /// Takes on what has become of the databases of the server.
    fn take_on(&mut self, listed: Vec<database_list::Database>, now: Instant) {
        let (listed, left_out): (Vec<_>, Vec<_>) = listed
            .into_iter()
            .partition(|database| database.allows_connections && !database.is_template);
        let total = listed.len();
        let (listed, others): (Vec<_>, Vec<_>) = listed
            .into_iter()
            .partition(|database| database.may_connect);
        let wanted: HashSet<u32> = listed.iter().map(|database| database.oid).collect();
        registry::retain(|oid| wanted.contains(&oid));
        self.part_with(&wanted, now);
        for database in left_out {
            if let Some(departed) = self.departed.get_mut(&database.oid)
                && departed.at == now
                && departed
                    .said_at
                    .is_none_or(|said_at| now - said_at >= MEMORY)
            {
                departed.said_at = Some(now);
                report::left_out(&database.name.to_string_lossy());
            }
        }
        self.restless.retain(|oid| wanted.contains(oid));
        self.queue.retain(|_, oid| wanted.contains(oid));
        for new in listed {
            match self.databases.get_mut(&new.oid) {
                Some(database) if database.version == new.version => {}
                Some(database) => {
                    database.name = new.name;
                    database.version = new.version;
                    if database.failures > 0 {
                        database.failures = 0;
                        database.not_before = next_visit(database.visited_at);
                    }
                    database.report = None;
                    self.touch(new.oid);
                }
                None => {
                    let departed = self.departed.get(&new.oid);
                    let visited_at = departed.and_then(|departed| departed.visited_at);
                    let database = Database {
                        name: new.name,
                        version: new.version,
                        entry: None,
                        changed_in: registry::epoch(),
                        census_due: None,
                        place: None,
                        visit: None,
                        failures: 0,
                        visited_at,
                        not_before: next_visit(visited_at),
                        report: None,
                    };
                    self.databases.insert(new.oid, database);
                    self.restless.insert(new.oid);
                }
            }
        }
        self.take_rows();
        if self.cannot_connect.rings(others.len()) {
            let names = names(others.iter().map(|database| &database.name));
            report::cannot_connect(&self.role_name, &names, total);
        }
    }

    /// Parts with databases that are not to be counted any more.
    fn part_with(&mut self, wanted: &HashSet<u32>, now: Instant) {
        self.departed
            .retain(|_, departed| now - departed.at < MEMORY);
        let gone = self.databases.extract_if(|oid, _| !wanted.contains(oid));
        for (oid, database) in gone {
            self.departing
                .extend(database.visit.map(|visit| visit.worker));
            let departed = self.departed.entry(oid).or_insert(Departed {
                at: now,
                visited_at: None,
                said_at: None,
            });
            departed.at = now;
            departed.visited_at = database.visited_at;
        }
    }

    /// Sees to it that all databases have a row, as long as there are some.
    fn take_rows(&mut self) {
        let mut without = Vec::new();
        for oid in &self.restless {
            let Some(database) = self.databases.get_mut(oid) else {
                continue;
            };
            if database.entry.is_none() {
                database.entry = Entry::find_or_take(*oid);
                match database.entry {
                    // One that an earlier launcher knew may follow the header.
                    Some(entry) => entry.settle(),
                    None => without.push(database.name.clone()),
                }
            }
        }
        if self.too_many.rings(without.len()) {
            let max_databases = settings::max_databases();
            report::too_many_databases(&names(&without), self.databases.len(), max_databases);
        }
    }

    /// Ends the epoch, confirms at a tick those that have needed no worker all the time,
    /// and finds out which others need none any more, and which wait for one.
    fn end_epoch(&mut self, confirmed_at: Option<i64>) {
        let is_due = confirmed_at.is_some();
        if is_due {
            self.take_rows();
            if !settings::skip_unchanged() {
                self.touch_all();
            }
        }
        registry::next_epoch();
        if let Some(confirmed_at) = confirmed_at {
            registry::confirm(confirmed_at);
        }
        self.departing.retain(|worker| !worker.has_ended());
        self.visits = self.departing.len();
        for oid in self.restless.iter().copied().collect::<Vec<_>>() {
            let Some(database) = self.databases.get_mut(&oid) else {
                continue;
            };
            let Some(entry) = database.entry else {
                continue;
            };
            let row = entry.read();
            if row.database != oid {
                // It went with a worker that had been told to leave.
                database.entry = None;
            } else if row.pid != 0 || database.visit.is_some() {
                self.visits += 1;
            } else if entry.follow(database.changed_in) {
                database.failures = 0;
                self.restless.remove(&oid);
                self.dequeue(oid);
                self.expect_census(oid);
            } else if is_due || row.counted_at == 0 {
                self.enqueue(oid);
            }
        }
    }

    fn enqueue(&mut self, oid: u32) {
        let Some(database) = self.databases.get_mut(&oid) else {
            return;
        };
        if database.place.is_none() {
            database.place = Some(self.place);
            self.queue.insert(self.place, oid);
            self.place += 1;
        }
    }

    fn dequeue(&mut self, oid: u32) {
        let database = self.databases.get_mut(&oid);
        if let Some(place) = database.and_then(|database| database.place.take()) {
            self.queue.remove(&place);
        }
    }

    /// Reports the counts of databases that need no worker, as the workers do theirs.
    fn report(&mut self, is_due: bool, reloaded: bool) {
        // If nothing but changes is asked for, there is something to say only if that was
        // not so before, or there is another threshold.
        let all = settings::log_counts() == LogCounts::All;
        if !(is_due && all || reloaded && !all) {
            return;
        }
        for (oid, database) in &mut self.databases {
            let Some(entry) = database.entry.filter(|_| !self.restless.contains(oid)) else {
                continue;
            };
            let row = entry.read();
            let report = database.report.get_or_insert_default();
            report.said = row.said;
            let census = || entry.census(*oid);
            if report.count(&database.name.to_string_lossy(), row.relations, census) {
                entry.remember(report.said);
            }
        }
    }

    /// Sends workers to those databases that have waited longest. Returns how long to wait
    /// before there may be something to do again, but for what wakes the process up.
    fn send_workers(&mut self, now: Instant) -> Duration {
        self.income.pay(now);
        let mut nap = LONGEST_NAP;
        let mut free = settings::max_workers().saturating_sub(self.visits);
        let mut blocked = false;
        let mut waiting = Vec::new();
        let databases = &mut self.databases;
        let locks = &mut self.locks;
        let restless = &mut self.restless;
        self.queue.retain(|_, oid| {
            let Some(database) = databases.get_mut(oid) else {
                return false;
            };
            let Some(entry) = database.entry else {
                return true;
            };
            let pause = database
                .not_before
                .map(|end| end.saturating_duration_since(now));
            if let Some(pause) = pause.filter(|pause| !pause.is_zero()) {
                nap = nap.min(pause);
                return true;
            }
            let may_go = free > 0 && !blocked && !budget::is_overdrawn();
            if (may_go || locks.contains_key(oid)) && is_held(locks, *oid) {
                return true;
            }
            if may_go {
                // One that is at rest is visited for a census.
                if restless.insert(*oid) {
                    entry.settle();
                }
                entry.expect_worker();
                if let Some(worker) = worker::launch(*oid, self.role, &database.name) {
                    let changed_in = database.changed_in;
                    database.visit = Some(Visit {
                        worker,
                        waits_since: None,
                        changed_in,
                        version: database.version,
                    });
                    database.place = None;
                    database.visited_at = Some(now);
                    free -= 1;
                    self.visits += 1;
                    return false;
                }
                blocked = true;
            }
            waiting.push(*oid);
            true
        });
        locks.retain(|oid, _| {
            databases
                .get(oid)
                .is_some_and(|database| database.place.is_some())
        });
        registry::set_waiting(waiting.len());
        if !waiting.is_empty() && budget::is_overdrawn() {
            nap = nap.min(self.income.time_left());
        }
        self.warn_of_shortage(blocked, &waiting, now);
        if !waiting.is_empty() && free == 0 {
            self.call_back(now);
        }
        nap
    }

    /// Ends visits that wait for a lock, perhaps on `pg_class`, while others wait for them.
    fn call_back(&mut self, now: Instant) {
        for oid in &self.restless {
            let database = self.databases.get_mut(oid);
            let Some(visit) = database.and_then(|database| database.visit.as_mut()) else {
                continue;
            };
            if !visit.worker.waits_for_lock() {
                visit.waits_since = None;
            } else if now - *visit.waits_since.get_or_insert(now) >= LONGEST_WAIT {
                visit.worker.terminate();
            }
        }
    }

    /// Warns if there has been no slot for any worker of ours for long.
    fn warn_of_shortage(&mut self, blocked: bool, waiting: &[u32], now: Instant) {
        if !blocked || self.visits > 0 {
            if self.visits > 0 || waiting.is_empty() {
                self.out_of_slots_since = None;
                self.out_of_slots.rings(0);
            }
            return;
        }
        let since = *self.out_of_slots_since.get_or_insert(now);
        if now - since >= PATIENCE && self.out_of_slots.rings(waiting.len()) {
            let waiting = waiting.iter().map(|oid| &self.databases[oid].name);
            report::out_of_slots(&names(waiting), self.databases.len());
        }
    }
}

/// When to visit a database at the earliest that was visited then, and about which
/// somebody has changed something since.
fn next_visit(visited_at: Option<Instant>) -> Option<Instant> {
    visited_at.map(|visited_at| visited_at + PAUSES[0])
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

fn names<'a>(names: impl IntoIterator<Item = &'a CString>) -> Vec<Cow<'a, str>> {
    names
        .into_iter()
        .map(|name| name.to_string_lossy())
        .collect()
}
