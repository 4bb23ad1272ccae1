//! With `databases = '*'`, databases change at random while the launcher is stopped, terminated or
//! killed. Whenever they pause, every row is right.
//!
//! A test that fails prints its seed: see `churn`. These stories take longest, and are among the
//! first in the alphabet, so that none runs alone in the end.

use crate::all_databases::{
    assert_all_right, assert_at_rest, create_databases, keep_all_changing, our_titles, start,
};
use crate::census;
use crate::cluster::{Cluster, Stopped, eventually, is_gone, send};
use crate::random_ddl::{
    Session, TOLD_WHEN_IN_THE_WAY, await_replay, from_environment, is_in_the_way, overflow,
};
use fastrand::Rng;
use nix::sys::signal::Signal;
use postgres::error::SqlState;
use std::thread;
use std::time::{Duration, Instant};

const CONFIGURATION: &[&str] = &[
    "count_relations.naptime = '20ms'",
    "count_relations.log_counts = none",
    "max_prepared_transactions = 20",
    "max_connections = 60",
];

/// How many databases are churned, besides "app" and "postgres": so few that each has a session
/// all the time, or so many that there are two hundred.
const FEW: usize = 8;
const MANY: usize = 198;

/// How many sessions there are at most. If there are more databases, the sessions move to others
/// in each round.
const SESSIONS: usize = 12;

/// Changes databases of `primary`, and compares all rows of `watched`, itself or its standby,
/// while its launcher is stopped, terminated or killed. In the end, all are at rest.
fn churn(primary: &Cluster, watched: &Cluster, databases: usize, may_crash: bool) {
    let seed = from_environment("COUNT_RELATIONS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let seconds = from_environment("COUNT_RELATIONS_CHURN_SECONDS").unwrap_or(20);
    println!("COUNT_RELATIONS_SEED={seed}");
    for server in [primary, watched] {
        for text in TOLD_WHEN_IN_THE_WAY {
            server.expect(text);
        }
        server.expect_crash();
    }
    let mut rng = Rng::with_seed(seed);
    let mut names = create_databases(primary, databases);
    // To replay this, a standby waits for all processes, the launcher that is stopped below too.
    await_replay(primary, &[watched]);
    let mut sessions: Vec<Session> = names
        .iter()
        .take(SESSIONS)
        .enumerate()
        .map(|(number, name)| session(primary, name, number, rng.fork()))
        .collect();
    let mut burst = session(primary, "app", SESSIONS, rng.fork());
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut round = 0;
    let mut nuisances = Vec::new();
    while round < 5 || Instant::now() < end {
        round += 1;
        if databases > sessions.len() {
            rng.shuffle(&mut names);
            for (session, name) in sessions.iter_mut().zip(&names) {
                session.move_to(name);
            }
        }
        // Some are left alone for rounds.
        rng.shuffle(&mut sessions);
        let (playing, _) = sessions.split_at_mut(rng.usize(1..=databases.min(SESSIONS)));
        thread::scope(|scope| {
            for session in playing {
                scope.spawn(|| session.play());
            }
        });
        if nuisances.is_empty() {
            nuisances.extend(0..if may_crash { 5 } else { 4 });
            rng.shuffle(&mut nuisances);
        }
        match nuisances.pop() {
            Some(0) => {
                let stopped = Stopped::launcher_in_a_nap(watched);
                sessions[0].play();
                burst.perform(&overflow(rng.u8(0..5)));
                sessions[1].play();
                await_replay(primary, &[watched]);
                drop(stopped);
            }
            Some(1) => {
                let launcher = watched.launcher();
                send(launcher, Signal::SIGTERM);
                eventually("the launcher to end", || is_gone(launcher).then_some(()));
                sessions[0].play();
            }
            Some(2) => {
                let sql = "SELECT pid FROM pg_stat_activity \
                           WHERE backend_type = 'count relations' LIMIT 1";
                if let Some(row) = watched.connect("postgres").query_opt(sql, &[]).unwrap() {
                    // It may have gone by itself.
                    let pid = nix::unistd::Pid::from_raw(row.get(0));
                    let _ = nix::sys::signal::kill(pid, Signal::SIGTERM);
                }
            }
            Some(4) => {
                let crashes = watched.lines_with("reinitializing").len();
                send(watched.launcher(), Signal::SIGKILL);
                watched.await_nth_line("reinitializing", crashes + 1);
                eventually("the server to be back", || watched.try_connect("postgres"));
            }
            _ => {}
        }
        for session in sessions.iter_mut().chain([&mut burst]) {
            session.await_rest();
        }
        await_replay(primary, &[watched]);
        await_all_rows(watched, databases);
        // The launcher, and max_workers.
        let ours = our_titles(watched);
        assert!(ours.len() <= 3, "{ours:?}");
        println!("round {round}");
        assert_all_right(watched);
    }
    println!("{round} rounds");
    for session in sessions.into_iter().chain([burst]) {
        session.leave();
    }
    await_replay(primary, &[watched]);
    assert_all_right(watched);
    // Otherwise what has changed is visited once more within a minute.
    watched.configure(&["count_relations.census_naptime = 0"]);
    watched.reload();
    for name in &names[..FEW] {
        census::assert_right(watched, name);
    }
    assert_at_rest(watched);
}

/// After a crash there are none for a moment.
fn await_all_rows(cluster: &Cluster, databases: usize) {
    let mut client = cluster.connect("postgres");
    let sql = "SELECT 1 FROM relation_counts HAVING count(*) = $1";
    eventually("all rows", || {
        client.query_opt(sql, &[&(databases as i64 + 2)]).unwrap()
    });
}

fn session(cluster: &Cluster, database: &str, number: usize, rng: Rng) -> Session {
    let is_excused = |error: &postgres::Error| is_in_the_way(error) || is_crash(error);
    Session::new(cluster.settings(database), number, rng, is_excused)
}

fn is_crash(error: &postgres::Error) -> bool {
    match error.code() {
        Some(code) => [SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW].contains(code),
        None => true, // The connection is gone.
    }
}

#[test]
fn whatever_happens_to_the_launcher_all_rows_are_right_in_the_end() {
    let cluster = start(CONFIGURATION);
    churn(&cluster, &cluster, FEW, true);
}

#[test]
fn so_they_are_with_two_hundred_databases() {
    let cluster = start(CONFIGURATION);
    churn(&cluster, &cluster, MANY, true);
}

#[test]
fn so_they_are_on_a_standby_and_through_its_promotion() {
    churn_standby(FEW);
}

#[test]
fn so_they_are_with_two_hundred_databases_on_a_standby() {
    churn_standby(MANY);
}

fn churn_standby(databases: usize) {
    let primary = start(CONFIGURATION);
    let standby = primary.start_standby(&["max_standby_streaming_delay = '1s'"]);
    standby.expect("terminating connection due to conflict with recovery");
    churn(&primary, &standby, databases, false);
    let busy = keep_all_changing(&primary, &["app", "db001"]);
    standby.promote();
    standby.execute("db002", "CREATE TABLE promoted ()");
    assert_all_right(&standby);
    standby.execute("db003", "CREATE TABLE promoted ()");
    assert_all_right(&standby);
    assert_at_rest(&standby);
    drop(busy);
}
