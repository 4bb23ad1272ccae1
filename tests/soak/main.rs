//! A soak test, run by hand: one server with `databases = '*'`, on which everything that
//! happens to servers happens at random. At every pause the counts are right, and long-lived
//! processes have no more memory and open files at the end than after a while.
//!
//! `make soak MINUTES=n` runs it. With `COUNT_RELATIONS_SEED` set to what it printed, it does
//! the same again; how the sessions interleave is not in the seed.

#[allow(dead_code, unused_imports)] // The stories need more of it.
#[path = "../cluster/mod.rs"]
mod cluster;
mod databases;
mod figures;
mod nuisances;
mod pause;
#[allow(dead_code)] // The same.
#[path = "../random_ddl.rs"]
mod random_ddl;

use cluster::Cluster;
use databases::Databases;
use fastrand::Rng;
use figures::Figures;
use nuisances::Nuisances;
use postgres::error::SqlState;
use random_ddl::{Session, TOLD_WHEN_IN_THE_WAY, from_environment, is_in_the_way, overflow};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

/// The databases that stay, once for each session in it. Others come and go.
const SESSIONS: &[&str] = &["app", "app", "first", "postgres", "second"];

/// The database whose queue of messages overflows.
const BURST: &str = "app";

/// Mostly, this many databases come and go.
const GUESTS: usize = 5;
const GUESTS_WHEN_MANY: usize = 20;

/// After this many problems there is no point in going on.
const ENOUGH: usize = 10;

fn main() -> ExitCode {
    let seed = from_environment("COUNT_RELATIONS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let minutes = from_environment("COUNT_RELATIONS_SOAK_MINUTES").unwrap_or(30);
    println!("COUNT_RELATIONS_SEED={seed}, {minutes} min");
    let cluster = start();
    let problems = soak(&cluster, Rng::with_seed(seed), minutes);
    for problem in &problems {
        println!("PROBLEM: {problem}");
    }
    println!("{} problems", problems.len());
    drop(cluster); // Panics if the log has an unexpected line.
    ExitCode::from(u8::from(!problems.is_empty()))
}

fn soak(cluster: &Cluster, mut rng: Rng, minutes: u64) -> Vec<String> {
    let mut sessions: Vec<Session> = SESSIONS
        .iter()
        .enumerate()
        .map(|(i, name)| session(cluster, name, i + 1, rng.fork()))
        .collect();
    let mut burst = session(cluster, BURST, 0, rng.fork());
    let mut databases = Databases::new(cluster.settings("postgres"), rng.fork());
    let mut nuisances = Nuisances::new(cluster, rng.fork());
    let plan = Plan::new(Duration::from_secs(60 * minutes));
    let mut figures = Figures::new(cluster);
    let mut problems = Vec::new();
    let played = AtomicU64::new(0);
    let mut told = 0;
    while !plan.is_over() && problems.len() < ENOUGH {
        let phase = plan.phase();
        let end = Instant::now() + Duration::from_millis(rng.u64(6_000..12_000));
        let guests = match rng.u8(0..5) {
            0 => GUESTS_WHEN_MANY,
            _ => GUESTS,
        };
        let bursts = rng.u8(0..4) == 0;
        let more = rng.u8(0..5);
        let done = AtomicBool::new(false);
        scope(|scope| {
            let _done = SetWhenDropped(&done);
            for session in &mut sessions {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        session.play();
                        played.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            if bursts {
                scope.spawn(|| burst.perform(&overflow(more)));
            }
            scope.spawn(|| databases.play(guests, &done));
            nuisances.play(phase, end);
        });
        for session in sessions.iter_mut().chain([&mut burst]) {
            session.await_rest();
        }
        nuisances.rest();
        let checked = pause::check(cluster, &mut problems);
        figures.take(phase, checked, &mut problems);
        if plan.minutes() > told || plan.is_over() {
            told = plan.minutes();
            let played = played.load(Ordering::Relaxed);
            println!("{told} min: {figures}; {played} × DDL; {databases}; {nuisances}");
        }
    }
    databases.expect_traces(cluster);
    figures.judge(&mut problems);
    problems
}

fn start() -> Cluster {
    let cluster = Cluster::init(&[
        "count_relations.databases = '*'",
        "max_prepared_transactions = 10",
        nuisances::INCLUDE,
    ]);
    for text in TOLD_WHEN_IN_THE_WAY {
        cluster.expect(text);
    }
    cluster.expect_crash();
    for text in [
        "the database system is starting up",
        "more than count_relations.warn_above",
        "canceling statement due to user request",
        // A worker whose database was dropped while it was starting.
        "does not exist",
        // One that had just ended.
        "is not a PostgreSQL server process",
        "is not a PostgreSQL backend process",
        // A crash after a DROP DATABASE, which recovery does once more.
        "could not open directory \"base/",
        "some useless files may be left behind in old database directory",
    ] {
        cluster.expect(text);
    }
    cluster.start_server();
    cluster.execute("postgres", "CREATE EXTENSION count_relations");
    for name in ["first", "second"] {
        cluster.execute("postgres", &format!("CREATE DATABASE {name}"));
    }
    cluster
}

fn session(cluster: &Cluster, database: &str, number: usize, rng: Rng) -> Session {
    let is_excused = |error: &_| is_in_the_way(error) || is_crash(error);
    Session::new(cluster.settings(database), number, rng, is_excused)
}

/// Whether an error only shows that the server has crashed, or is not back yet.
fn is_crash(error: &postgres::Error) -> bool {
    match error.code() {
        Some(code) => [SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW].contains(code),
        None => true, // The connection is gone.
    }
}

struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What happens, and when.
#[derive(Clone, Copy)]
struct Plan {
    start: Instant,
    duration: Duration,
}

/// What may happen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No process is spared, and the server crashes: the first and the last tenth.
    Stormy,
    /// Some processes are spared and measured: a fifth of the time, after which their figures
    /// must be flat.
    WarmUp,
    /// The rest of the time in between.
    Calm,
}

impl Plan {
    fn new(duration: Duration) -> Plan {
        let start = Instant::now();
        Plan { start, duration }
    }

    fn phase(self) -> Phase {
        match self.start.elapsed().div_duration_f64(self.duration) {
            done if !(0.1..0.9).contains(&done) => Phase::Stormy,
            done if done < 0.3 => Phase::WarmUp,
            _ => Phase::Calm,
        }
    }

    fn is_over(self) -> bool {
        self.start.elapsed() >= self.duration
    }

    fn minutes(self) -> u64 {
        self.start.elapsed().as_secs() / 60
    }
}
