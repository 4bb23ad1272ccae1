//! Only for `databases = '*'`: one process that knows which databases have changed, and sends
//! workers to them.
//!
//! The launcher receives the invalidation messages of *all* databases' `pg_class` (see
//! [`crate::server::sinval`]). A database that no message is about needs no worker: its last
//! count holds, and the launcher confirms it at each tick. It confirms all such databases at
//! once, at the same cost however many there are (see [`crate::registry`]), unless a line for
//! each is asked for. A database that has changed, or was never counted, is visited by a
//! worker, which counts and stays for a while (see [`crate::worker`]). So the cost depends on
//! what changes, not on how much there is.
//!
//! # Why no change is missed
//!
//! [`crate::counter`] explains why a worker misses no change while it is there. The rule for
//! workers that come and go rests on one number in shared memory, the *epoch*.
//!
//! - The launcher adds 1 to it each time it has received messages. What it received, lost or
//!   found out since the time before, it records with the epoch that this ended: `changed_in`,
//!   one number per database.
//! - A worker reads the epoch first, and receives second. If it then counts, or finds that its
//!   last count holds, the count *covers* the epoch that it read, and is published together
//!   with that number.
//! - A count holds without a worker if it covers more than `changed_in`. Otherwise a visit is
//!   needed.
//!
//! This works because a change that the launcher has received in the epoch `e` was sent before
//! `e` ended, and to all processes ([`crate::server::sinval::receive`] ensures that). A count
//! that covers more than `e` was confirmed by a worker that received after `e` had ended. So
//! the worker had been told of the change, which was visible before, and has counted since; or
//! it connected later, when the change was visible. A count that covers no more than `e` may or
//! may not have seen the change: at worst a visit was made in vain. Case by case:
//!
//! - *Own transactions.* When the launcher lists the databases, it receives in the server's
//!   way, which forgets what other databases' messages said. Their number shows whether there
//!   were any; if so, all databases count as changed in the epoch that is under way. So the
//!   launcher lists only when `pg_database` or the roles have changed, or a visit has failed,
//!   and receives immediately before.
//! - *A launcher that falls behind*, because it was stopped, is told to forget everything: all
//!   databases count as changed.
//! - *A restarted launcher* begins with all databases changed in the epoch that it finds. No
//!   count covers more than that, because only a launcher ends epochs. What is sent before it
//!   is ready to receive comes before the end of that epoch.
//! - *A crash of the server* leaves nothing: no rows and no epoch.
//! - *A worker that died half-way* has covered what it had published by then. What it has
//!   learned and not published makes no difference.
//! - *A worker that leaves* while its database changes: the launcher also receives what the
//!   worker has not covered.
//! - *A database created by copying another* sends no message about its `pg_class`, but it is a
//!   new row of `pg_database`, and was never counted.
//! - *Renamed, or moved*: the row of `pg_database` has another version, which counts as a
//!   change. *Dropped and created again* under the same name, the database has another oid; if
//!   it was given the same one, the row has another version at least.
//! - *Rollbacks, prepared transactions, VACUUM FULL, standbys and promotion* are as in
//!   [`crate::counter`]: visible first, sent second, to all processes at once.
//!
//! # Which databases are visited, and when
//!
//! At a tick, all databases that have changed since their last count begin to wait; those that
//! were never counted do so at once. As if a worker had stayed there, none is counted again
//! before the rest that its last full count asks for is over, nor, except for a census, before
//! the naptime is. There are at most `max_workers` visits at a time, the longest waiting first,
//! while the [`crate::budget`] is not overdrawn. When others wait, a visiting worker leaves as
//! soon as it has counted, so that none starves; and it never waits long for a lock (see
//! [`session::visit`]). If there are several workers, one at a time is for databases where
//! visits have failed lately. A database whose lock is held keeps its place until the lock is
//! released, or has been held for long. A database whose visit has failed is tried less and less
//! often, until a visit succeeds. If the row of `pg_database` changes, the wait is only halved:
//! its owner can cause both at will.

use crate::attempts::{Attempts, RESTART_INTERVAL, pause_after_failures};
use crate::budget::{self, Income};
use crate::cadence::Cadence;
use crate::census::Schedule;
use crate::registry::{self, Known, Row};
use crate::report::{self, Alarm, Report};
use crate::server::backend_status::Statistics;
use crate::server::database_list::{self, all_databases};
use crate::server::database_lock::Watch;
use crate::server::dynamic_worker::DynamicWorker;
use crate::server::role::role_to_connect_as;
use crate::server::sinval::{self, Changed};
use crate::server::{clock, inval, latch, registered_workers, session, signals};
use crate::settings::{self, LogCounts};
use crate::worker;
use pgrx::prelude::*;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::CString;
use std::time::{Duration, Instant};

/// What `pg_stat_activity.backend_type` and the postmaster's log lines show.
const LAUNCHER_TYPE: &str = "count relations launcher";

/// The launcher looks at least this often: a process that falls behind in the message queue
/// costs others time.
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// How long others may occupy all worker slots before that is worth a warning.
const PATIENCE: Duration = Duration::from_secs(10);

/// A listing of the databases is followed by a pause of this many times its duration, whatever
/// happens to the databases.
const LISTING_REST_FACTOR: u32 = 20;

/// How long after databases were left without a row to look for a free one again: rows also
/// come free when workers leave.
const ROW_INTERVAL: Duration = Duration::from_secs(5);

/// How long after a visit that did not get to a census to send another for that.
const CENSUS_INTERVAL: Duration = Duration::from_secs(15);

/// How long a database that is no longer counted is remembered.
const MEMORY: Duration = Duration::from_secs(60);

/// The name of the function where the postmaster starts the launcher.
const LAUNCHER_MAIN: &str = "count_relations_launcher_main";

/// Registers the launcher. Must be called from `_PG_init`.
pub fn register() {
    worker::builder(&format!("bgworker: {LAUNCHER_TYPE}"), LAUNCHER_TYPE)
        .set_function(LAUNCHER_MAIN)
        .set_restart_time(Some(RESTART_INTERVAL))
        .load();
}

/// Warns if the server had no room for the launcher. Must be called in the postmaster after all
/// libraries are loaded.
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
        // A count that is right once everything has been received was right at this time, too.
        let confirmed_at = clock::now();
        launcher.receive();
        launcher.follow_visits();
        launcher.listing_due |= match role_name {
            // The bootstrap superuser may connect to everything, whatever the roles.
            None => inval::take_pg_database_change(),
            Some(_) => inval::take_access_change(),
        };
        // An interrupted DROP DATABASE sends a message in some versions only.
        launcher.listing_due |= launcher.has_failures();
        let listing = launcher.takes_listing(now);
        if listing {
            if role_to_connect_as(role_name.as_deref()) != Some(role) {
                session::leave(format_args!(
                    "count relations launcher leaving, as role \"{}\" is no longer the one that it connected as, or is not permitted to log in",
                    session.role
                ));
            }
            launcher.receive();
            let started = Instant::now();
            launcher.take_on(all_databases(role), now);
            launcher.not_listed_before = Instant::now() + started.elapsed() * LISTING_REST_FACTOR;
            launcher.say_failures();
        }
        attempts.succeed();
        launcher.end_epoch(now, is_due.then_some(confirmed_at));
        if is_due {
            cadence.advance(now, now);
        }
        launcher.report(is_due, reloaded);
        launcher.visit_for_census(reloaded, now);
        let mut nap = launcher.send_workers(now);
        if launcher.listing_due {
            nap = nap.min(launcher.not_listed_before.saturating_duration_since(now));
        }
        statistics.report(listing, now);
        latch::nap(nap.min(cadence.time_left(Instant::now())));
    }
    session::leave(format_args!(
        "count relations launcher leaving due to SIGTERM"
    ));
}

/// What the launcher knows about a database that is to be counted.
struct Database {
    name: CString,
    version: (u32, u32, u16),
    /// Its row in the registry; `None` if there was no room.
    row: Option<Row>,
    /// The epoch in which it last changed.
    changed_in: i64,
    /// When to visit it for a census, if it is at rest.
    census_due: Option<Instant>,
    /// Its place in the queue, if it waits.
    place: Option<u64>,
    /// The visit that is under way, if any.
    visit: Option<Visit>,
    past: Past,
    /// When it was last counted by a visit that is over.
    counted: Option<Instant>,
    /// When it may be counted again, however short the naptime.
    rests_until: Option<Instant>,
    /// The latest request for a census that the launcher has seen.
    requested: i64,
    report: Option<Report>,
}

impl Database {
    /// Takes over from the row when the database was last counted.
    fn look_back(&mut self, known: &Known, now: Instant) {
        self.counted = clock::instant(known.counted_at, now).filter(|_| known.counted_at != 0);
        self.rests_until = Some(now + known.rest_left());
    }

    /// When the next visit may come; `None` if at once.
    fn due(&self) -> Option<Instant> {
        if self.past.failures > 0 {
            return self.past.not_before;
        }
        let due = self.counted.map(|counted| counted + settings::naptime());
        due.max(self.rests_until).max(self.past.not_before)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due().is_none_or(|due| due <= now)
    }
}

/// The history of visits to a database.
#[derive(Clone, Copy, Default)]
struct Past {
    /// How many visits have failed in a row, and when the last did.
    failures: usize,
    failed_at: Option<Instant>,
    /// No visit before this.
    not_before: Option<Instant>,
}

impl Past {
    /// Records a visit that did nothing.
    fn fail(&mut self, now: Instant) {
        self.failures += 1;
        self.failed_at = Some(now);
        self.not_before = Some(now + pause_after_failures(self.failures));
    }

    /// Records the end of a visit to a database that is not to be counted, for now.
    fn end_early(&mut self, has_counted: bool, now: Instant) {
        if has_counted {
            *self = Past::default();
            self.not_before = Some(now + RESTART_INTERVAL);
        } else {
            self.fail(now);
        }
    }

    /// Makes the next visit come sooner, because something has changed.
    fn cut_short(&mut self) {
        if let Some(failed_at) = self.failed_at {
            let pause = pause_after_failures(self.failures) / 2;
            self.not_before = Some(failed_at + pause.max(RESTART_INTERVAL));
        }
    }
}

/// What is remembered for a while about a database that is no longer counted, so that one that
/// comes and goes, as its owner likes, costs no more than one that fails.
struct Departed {
    at: Instant,
    past: Past,
    /// When the log last said that it is no longer counted.
    said_at: Option<Instant>,
}

struct Visit {
    worker: DynamicWorker,
    /// The visit has succeeded once the count covers more than this.
    changed_in: i64,
    /// The database's version when the visit began.
    version: (u32, u32, u16),
}

struct Launcher {
    /// The workers' role, and its oid; 0 for the bootstrap superuser.
    role_name: String,
    role: u32,
    /// The databases to count, by oid.
    databases: HashMap<u32, Database>,
    /// Databases that were counted a while ago, by oid.
    departed: HashMap<u32, Departed>,
    /// Visits to those that are still under way.
    departing: Vec<(u32, DynamicWorker)>,
    /// Whether to list the databases again, and when at the earliest.
    listing_due: bool,
    not_listed_before: Instant,
    /// Databases for which there was no row, and when the launcher last looked for one.
    rowless: BTreeSet<u32>,
    rows_sought_at: Option<Instant>,
    /// Databases whose count does not hold by itself, or has not been found to.
    restless: BTreeSet<u32>,
    /// Those among them that a worker is in or on its way to.
    visited: BTreeSet<u32>,
    /// Databases that wait for a worker, by their place.
    queue: BTreeMap<u64, u32>,
    /// The next place.
    place: u64,
    /// Databases at rest that are to be visited for a census, by time.
    censuses: BTreeSet<(Instant, u32)>,
    /// How many requests for a census there had been at the last look.
    census_requests: i64,
    /// The locks of databases that wait for a worker because another process holds the lock.
    locks: HashMap<u32, Watch>,
    income: Income,
    /// Databases whose visit has just failed.
    failed: Vec<u32>,
    /// Whether the latest visit went to a database that fails.
    sent_to_failing: bool,
    /// Since when no slot has been free for any worker of ours.
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
            listing_due: true,
            not_listed_before: Instant::now(),
            rowless: BTreeSet::new(),
            rows_sought_at: None,
            restless: BTreeSet::new(),
            visited: BTreeSet::new(),
            queue: BTreeMap::new(),
            place: 0,
            censuses: BTreeSet::new(),
            census_requests: registry::census_requests(),
            locks: HashMap::new(),
            income: Income::new(Instant::now()),
            failed: Vec::new(),
            sent_to_failing: false,
            out_of_slots_since: None,
            out_of_slots: Alarm::default(),
            cannot_connect: Alarm::default(),
            too_many: Alarm::default(),
        }
    }

    /// Receives the messages sent so far, and notes whose `pg_class` has changed.
    fn receive(&mut self) {
        match sinval::receive() {
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

    /// Notes that a database has changed in the epoch that is under way. From now on its row
    /// says what it has been told so far, and no more.
    fn touch(&mut self, oid: u32) {
        let Some(database) = self.databases.get_mut(&oid) else {
            return;
        };
        database.changed_in = registry::epoch();
        if let Some(row) = database.row
            && self.restless.insert(oid)
        {
            row.settle();
        }
    }

    /// Determines when to visit a database for a census, but not before `earliest`.
    fn expect_census(&mut self, oid: u32, earliest: Instant) {
        let Some(database) = self.databases.get_mut(&oid) else {
            return;
        };
        if let Some(due) = database.census_due.take() {
            self.censuses.remove(&(due, oid));
        }
        let Some(row) = database.row else {
            return;
        };
        let known = row.read();
        database.requested = known.requested;
        let schedule = Schedule::new(oid, &row.history(oid), known.stale, Instant::now());
        let due = if schedule.is_asked(known.requested) {
            Some(schedule.earliest())
        } else {
            // One that changes is visited anyway.
            let naptime = settings::census_naptime().filter(|_| !self.restless.contains(&oid));
            naptime.map(|naptime| schedule.due(naptime))
        };
        database.census_due = due.map(|due| due.unwrap_or(earliest).max(earliest));
        self.censuses
            .extend(database.census_due.map(|due| (due, oid)));
    }

    /// Whether a census has been requested that the launcher has not seen yet.
    fn is_asked(&self, oid: u32) -> bool {
        self.databases.get(&oid).is_some_and(|database| {
            let row = database.row;
            row.is_some_and(|row| row.read().requested > database.requested)
        })
    }

    /// Queues databases for a visit if their census is due, or has been asked for.
    fn visit_for_census(&mut self, reloaded: bool, now: Instant) {
        let requests = registry::census_requests();
        if requests != self.census_requests || reloaded {
            for oid in self.databases.keys().copied().collect::<Vec<_>>() {
                if reloaded || self.is_asked(oid) {
                    self.expect_census(oid, now);
                }
            }
            self.census_requests = requests;
        }
        while let Some((due, oid)) = self.censuses.first().copied()
            && due <= now
        {
            self.censuses.pop_first();
            if let Some(database) = self.databases.get_mut(&oid)
                && database.census_due.take_if(|time| *time == due).is_some()
                // A worker that is there takes it.
                && !self.visited.contains(&oid)
            {
                database.counted = None;
                self.enqueue(oid);
            }
        }
    }

    /// Determines the outcome of visits that have ended.
    fn follow_visits(&mut self) {
        for oid in self.visited.iter().copied().collect::<Vec<_>>() {
            let Some(database) = self.databases.get_mut(&oid) else {
                continue;
            };
            let Some(visit) = database.visit.take_if(|visit| visit.worker.has_ended()) else {
                continue;
            };
            let Some(known) = database.row.map(|row| row.read()) else {
                continue;
            };
            if known.database != oid {
                continue;
            }
            if known.covered > visit.changed_in {
                database.past = Past::default();
                database.look_back(&known, Instant::now());
                continue;
            }
            // Perhaps it met another worker.
            if !known.left_at_ease && known.pid == 0 {
                let said = database.past.failures > 0;
                // A visit to a former version of the database says nothing about the current
                // one.
                if visit.version == database.version && !said {
                    self.failed.push(oid);
                }
                database.past.fail(Instant::now());
            }
            self.enqueue(oid);
        }
    }

    /// Whether a visit has failed and nothing has been logged about it: perhaps the database is
    /// gone.
    fn has_failures(&self) -> bool {
        !self.failed.is_empty()
    }

    fn say_failures(&mut self) {
        for oid in std::mem::take(&mut self.failed) {
            if let Some(database) = self.databases.get(&oid) {
                report::visit_failed(&database.name.to_string_lossy());
            }
        }
    }

    /// Whether it is time to list the databases, because something has changed.
    fn takes_listing(&mut self, now: Instant) -> bool {
        let takes = self.listing_due && now >= self.not_listed_before;
        self.listing_due &= !takes;
        takes
    }

    /// Adopts a new list of databases.
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
        for set in [&mut self.rowless, &mut self.restless, &mut self.visited] {
            set.retain(|oid| wanted.contains(oid));
        }
        self.queue.retain(|_, oid| wanted.contains(oid));
        for new in listed {
            match self.databases.get_mut(&new.oid) {
                Some(database) if database.version == new.version => {}
                Some(database) => {
                    database.name = new.name;
                    database.version = new.version;
                    database.past.cut_short();
                    database.report = None;
                    self.touch(new.oid);
                }
                None => {
                    let departed = self.departed.get(&new.oid);
                    let past = departed.map(|departed| departed.past);
                    let database = Database {
                        name: new.name,
                        version: new.version,
                        row: None,
                        changed_in: registry::epoch(),
                        census_due: None,
                        place: None,
                        visit: None,
                        counted: None,
                        rests_until: None,
                        requested: 0,
                        past: past.unwrap_or_default(),
                        report: None,
                    };
                    self.databases.insert(new.oid, database);
                    self.rowless.insert(new.oid);
                }
            }
        }
        self.take_rows(now);
        if self.cannot_connect.rings(others.len()) {
            let names = names(others.iter().map(|database| &database.name));
            report::cannot_connect(&self.role_name, &names, total);
        }
    }

    /// Drops databases that are not to be counted any more.
    fn part_with(&mut self, wanted: &HashSet<u32>, now: Instant) {
        self.departed
            .retain(|_, departed| now - departed.at < MEMORY);
        let gone = self.databases.extract_if(|oid, _| !wanted.contains(oid));
        for (oid, mut database) in gone {
            if let Some(visit) = database.visit {
                database
                    .past
                    .end_early(has_counted(&visit, database.row), now);
                self.departing.push((oid, visit.worker));
            }
            let departed = self.departed.entry(oid).or_insert(Departed {
                at: now,
                past: database.past,
                said_at: None,
            });
            departed.at = now;
            departed.past = database.past;
        }
    }

    /// Gives every database a row, as long as there are free ones.
    fn take_rows(&mut self, now: Instant) {
        self.rows_sought_at = Some(now);
        let rowless: Vec<u32> = self.rowless.iter().copied().collect();
        for (oid, row) in Row::find_or_take_all(&rowless) {
            self.rowless.remove(&oid);
            if let Some(database) = self.databases.get_mut(&oid) {
                // A row that an earlier launcher knew may follow the header.
                row.settle();
                database.row = Some(row);
                database.look_back(&row.read(), now);
                self.restless.insert(oid);
                self.enqueue(oid);
            }
        }
        if self.too_many.rings(self.rowless.len()) {
            let databases = &self.databases;
            let rowless = self.rowless.iter().filter_map(|oid| databases.get(oid));
            let names = names(rowless.map(|database| &database.name));
            let max_databases = settings::max_databases();
            report::too_many_databases(&names, databases.len(), max_databases);
        }
    }

    /// Ends the epoch. At a tick, confirms the databases that have needed no worker all the
    /// time. Determines which others no longer need one, and which wait for one.
    fn end_epoch(&mut self, now: Instant, confirmed_at: Option<i64>) {
        let is_due = confirmed_at.is_some();
        let is_over = |sought_at| now - sought_at >= ROW_INTERVAL;
        if !self.rowless.is_empty() && self.rows_sought_at.is_none_or(is_over) {
            self.take_rows(now);
        }
        if is_due && !settings::skip_unchanged() {
            self.touch_all();
        }
        registry::next_epoch();
        if let Some(confirmed_at) = confirmed_at {
            registry::confirm(confirmed_at);
        }
        self.departing.retain(|(_, worker)| !worker.has_ended());
        // Between ticks, only the results of visits matter.
        let looked_at = if is_due {
            &self.restless
        } else {
            &self.visited
        };
        for oid in looked_at.iter().copied().collect::<Vec<_>>() {
            self.look_at(oid, is_due);
        }
    }

    /// Determines whether a database needs a worker, unless it is known to need none. Between
    /// ticks, only one that was never counted may need one.
    fn look_at(&mut self, oid: u32, is_due: bool) {
        let Some(database) = self.databases.get_mut(&oid) else {
            return;
        };
        let Some(row) = database.row else {
            return;
        };
        let known = row.read();
        let is_visited = database.visit.is_some() || known.database == oid && known.pid != 0;
        if is_visited {
            self.visited.insert(oid);
            return;
        }
        let has_been_visited = self.visited.remove(&oid);
        if known.database != oid {
            // The row went with a worker that had been told to leave.
            database.row = None;
            self.restless.remove(&oid);
            self.dequeue(oid);
            self.rowless.insert(oid);
        } else if row.follow(database.changed_in) {
            database.past = Past::default();
            self.restless.remove(&oid);
            self.dequeue(oid);
            // If a census is due by now, the visit did not get to it.
            self.expect_census(oid, Instant::now() + CENSUS_INTERVAL);
        } else {
            if is_due || known.counted_at == 0 {
                self.enqueue(oid);
            }
            if has_been_visited {
                self.expect_census(oid, Instant::now() + CENSUS_INTERVAL);
            }
        }
    }

    /// How many workers are in databases or on their way.
    fn visits(&self) -> usize {
        let departing = self.departing.iter();
        // Those that are wanted again are in `visited`.
        let departing = departing.filter(|(oid, _)| !self.visited.contains(oid));
        self.visited.len() + departing.count()
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

    /// Reports the counts of databases that need no worker, as workers report theirs.
    fn report(&mut self, is_due: bool, reloaded: bool) {
        // If only changes are logged, there is something to say only if that was different
        // before, or if the threshold has changed.
        let all = settings::log_counts() == LogCounts::All;
        if !(is_due && all || reloaded && !all) {
            return;
        }
        for (oid, database) in &mut self.databases {
            let Some(row) = database.row.filter(|_| !self.restless.contains(oid)) else {
                continue;
            };
            let known = row.read();
            let report = database.report.get_or_insert_default();
            report.said = known.said();
            let census = || row.summary(*oid);
            if report.tick(&database.name.to_string_lossy(), known.relations, census) {
                row.remember(report.said);
            }
        }
    }

    /// Sends workers to the databases that have waited longest. Returns how long to wait before
    /// there may be something to do again, apart from events that wake the process up.
    fn send_workers(&mut self, now: Instant) -> Duration {
        self.income.pay(now);
        let mut nap = LONGEST_NAP;
        let max_workers = settings::max_workers();
        let mut free = max_workers.saturating_sub(self.visits());
        let has_failed = |oid: &&u32| {
            self.databases
                .get(*oid)
                .is_some_and(|d| d.past.failures > 0)
        };
        let mut failing = self.visited.iter().filter(has_failed).count();
        // A single worker goes to those that fail no more than every other time.
        let others_first = max_workers == 1
            && self.sent_to_failing
            && self.queue.values().any(|oid| {
                let database = self.databases.get(oid);
                database.is_some_and(|d| d.past.failures == 0 && d.is_due(now))
            });
        let mut sent = Vec::new();
        let mut waiting = None;
        let mut blocked = false;
        for (place, oid) in &self.queue {
            let Some(database) = self.databases.get_mut(oid) else {
                continue;
            };
            if let Some(end) = database.due().filter(|end| *end > now) {
                nap = nap.min(end - now);
                continue;
            }
            let Some(row) = database.row else {
                continue;
            };
            if row.read().pid != 0 {
                continue;
            }
            if is_held(&mut self.locks, *oid) {
                continue;
            }
            let has_failed = database.past.failures > 0;
            if has_failed && (others_first || failing > 0 && max_workers > 1) {
                continue;
            }
            if free == 0 || budget::is_overdrawn() {
                waiting = Some(*place);
                break;
            }
            // A database at rest is visited for a census.
            if self.restless.insert(*oid) {
                row.settle();
            }
            row.expect_worker();
            let Some(worker) = worker::launch(*oid, self.role, &database.name) else {
                waiting = Some(*place);
                blocked = true;
                break;
            };
            database.visit = Some(Visit {
                worker,
                // A count that was right before is no success.
                changed_in: database.changed_in.max(registry::epoch() - 1),
                version: database.version,
            });
            self.visited.insert(*oid);
            sent.push(*oid);
            free -= 1;
            failing += usize::from(has_failed);
            self.sent_to_failing = has_failed;
        }
        for oid in sent {
            self.dequeue(oid);
            self.locks.remove(&oid);
        }
        let databases = &self.databases;
        self.locks.retain(|oid, _| {
            let database = databases.get(oid);
            database.is_some_and(|database| database.place.is_some())
        });
        // When fewer workers are allowed than are running, some must leave.
        let too_many = self.visits() > max_workers;
        registry::set_somebody_waiting(waiting.is_some() || too_many);
        if waiting.is_some() && budget::is_overdrawn() {
            nap = nap.min(self.income.time_left());
        }
        if waiting.is_none() || self.visits() > 0 {
            self.out_of_slots_since = None;
            self.out_of_slots.rings(0);
        } else if let Some(first) = waiting.filter(|_| blocked) {
            self.warn_of_shortage(first, now);
        }
        nap
    }

    /// Warns if no slot has been free for any worker of ours for long; `first` is the first
    /// place in the queue.
    fn warn_of_shortage(&mut self, first: u64, now: Instant) {
        let since = *self.out_of_slots_since.get_or_insert(now);
        let waiting = || self.queue.range(first..).map(|(_, oid)| oid);
        if now - since >= PATIENCE && self.out_of_slots.rings(waiting().count()) {
            let names = names(waiting().map(|oid| &self.databases[oid].name));
            report::out_of_slots(&names, self.databases.len());
        }
    }
}

/// Whether the visit to the database with this row has counted anything so far.
fn has_counted(visit: &Visit, row: Option<Row>) -> bool {
    row.is_some_and(|row| row.read().covered > visit.changed_in)
}

/// Whether another process holds the lock of a database: a worker would only wait, and fail in
/// the end if the database is dropped. Not forever: a worker that waits gets its turn when the
/// lock changes hands.
fn is_held(locks: &mut HashMap<u32, Watch>, database: u32) -> bool {
    let lock = locks.entry(database).or_insert_with(|| Watch::of(database));
    lock.is_held() && !lock.is_held_for_long()
}

fn names<'a>(names: impl IntoIterator<Item = &'a CString>) -> Vec<Cow<'a, str>> {
    names
        .into_iter()
        .map(|name| name.to_string_lossy())
        .collect()
}
