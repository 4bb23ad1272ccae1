//! Several sessions change `pg_class` in every way there is, at random and all at
//! once. Whenever they pause, the count is right.
//!
//! A test that fails prints its seed. With `COUNT_RELATIONS_SEED` set to it, the sessions run
//! the same statements again; how they interleave is not in the seed.
//! `COUNT_RELATIONS_CHURN_SECONDS` is how long it takes.

use crate::cluster::{Cluster, Stopped, Throttle, eventually};
use crate::diagnosis::diagnose;
use crate::random_ddl::{
    Session, TOLD_WHEN_IN_THE_WAY, await_replay, from_environment, is_in_the_way, overflow,
    relations,
};
use crate::states::grow_catalog;
use fastrand::Rng;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// Not "postgres", so that queries about the server are not held up.
const DATABASE: &str = "app";
const ITS_WORKER: &str = "count_relations.databases = 'app'";
/// Ticks meet as many changes as they can.
const VERY_FAST: &str = "count_relations.naptime = '10ms'";
const ON: &str = "count_relations.skip_unchanged = on";
const OFF: &str = "count_relations.skip_unchanged = off";

#[test]
fn the_count_is_right_whenever_the_sessions_pause() {
    let primary = start();
    churn(&primary, &[&primary]);
}

#[test]
fn so_it_is_on_a_standby() {
    let primary = start();
    let standby = start_standby(&primary, ON);
    churn(&primary, &[&standby]);
}

/// Where changes are looked up.
#[test]
fn so_it_is_in_a_large_catalog() {
    let primary = start();
    grow_catalog(&primary, DATABASE, 20);
    let standby = start_standby(&primary, ON);
    churn(&primary, &[&primary, &standby]);
}

/// On a primary and its standby, because the two must see the same changes. On two separate
/// servers, the same seed would not make the same changes, because the sessions interleave
/// differently.
#[test]
fn it_is_the_same_with_and_without_skipping() {
    let primary = start();
    let standby = start_standby(&primary, OFF);
    churn(&primary, &[&primary, &standby]);
}

fn start() -> Cluster {
    Cluster::start(&[
        ITS_WORKER,
        VERY_FAST,
        ON,
        "max_prepared_transactions = 10",
        // A failed test shows the end of the log.
        "log_statement = all",
    ])
}

fn start_standby(primary: &Cluster, skip_unchanged: &str) -> Cluster {
    // Replay waits for a query that waits for replay, 30 seconds by default.
    primary.start_standby(&[skip_unchanged, "max_standby_streaming_delay = '1s'"])
}

const SESSIONS: usize = 4;

/// Changes `primary`, and compares the counts of `watched`: of itself, or of
/// standbys of it.
fn churn(primary: &Cluster, watched: &[&Cluster]) {
    let seed = from_environment("COUNT_RELATIONS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let seconds = from_environment("COUNT_RELATIONS_CHURN_SECONDS").unwrap_or(15);
    println!("COUNT_RELATIONS_SEED={seed}");
    for server in [primary].iter().chain(watched) {
        for text in TOLD_WHEN_IN_THE_WAY {
            server.expect(text);
        }
        server.expect("extension \"amcheck\" is not available");
    }
    let mut rng = Rng::with_seed(seed);
    let mut referee = primary.connect(DATABASE);
    // For a diagnosis, where the server has it.
    let _ = referee.batch_execute("CREATE EXTENSION amcheck");
    let mut sessions: Vec<Session> = (1..=SESSIONS)
        .map(|number| session(primary, number, rng.fork()))
        .collect();
    let mut burst = session(primary, 0, rng.fork());
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut round = 0;
    while round < 3 || Instant::now() < end {
        round += 1;
        let nuisance = rng.u8(0..3);
        let slowness = Duration::from_millis(rng.u64(1..8));
        let more = rng.u8(0..5);
        let mut throttles = Vec::new();
        thread::scope(|scope| {
            for session in &mut sessions {
                scope.spawn(move || session.play());
            }
            if nuisance == 0 {
                // Lengthens the moments in which a change could slip through.
                for server in watched {
                    throttles.push(Throttle::new(server.worker(DATABASE), slowness));
                }
            } else if nuisance == 1 {
                let in_a_nap = |server: &&Cluster| Stopped::in_a_nap(server, DATABASE);
                let stopped: Vec<Stopped> = watched.iter().map(in_a_nap).collect();
                burst.perform(&overflow(more));
                await_replay(primary, watched);
                drop(stopped);
            }
        });
        for session in sessions.iter_mut().chain([&mut burst]) {
            session.await_rest();
        }
        drop(throttles);
        await_replay(primary, watched);
        let relations = relations(&mut referee);
        for server in watched {
            let counted = server.next_count(DATABASE);
            if counted != relations {
                let what = format!("{counted} for {relations}, in round {round} of seed {seed}");
                panic!("{what}\n{}", diagnose(seed, DATABASE, server, primary));
            }
        }
    }
    println!("{round} rounds");
}

fn session(cluster: &Cluster, number: usize, rng: Rng) -> Session {
    Session::new(cluster.settings(DATABASE), number, rng, is_in_the_way)
}

#[test]
fn what_is_committed_before_a_tick_is_counted_by_it() {
    let cluster = Cluster::start(&[ITS_WORKER, ON]);
    let mut client = cluster.connect(DATABASE);
    let ticks = || cluster.counts(DATABASE).len();
    let await_tick = |after: usize| eventually("a tick", || (ticks() > after).then_some(()));
    for sql in ["CREATE TABLE t ()", "DROP TABLE t", "CREATE TABLE t ()"] {
        let before = ticks();
        await_tick(before);
        client.batch_execute(sql).unwrap(); // A second before the next.
        await_tick(before + 1);
        let counted = cluster.counts(DATABASE)[before + 1].relations;
        assert_eq!(counted, relations(&mut client));
    }
}

#[test]
fn what_changes_during_a_count_is_in_it_or_in_the_next() {
    for lock in [
        "LOCK TABLE pg_class IN ACCESS EXCLUSIVE MODE",
        "REINDEX TABLE pg_class", // locks the indexes, and lets the table be read
    ] {
        let cluster = Cluster::start(&[ITS_WORKER, VERY_FAST, OFF, "enable_seqscan = off"]);
        cluster.next_count(DATABASE);
        let mut client = cluster.connect(DATABASE);
        client.batch_execute(&format!("BEGIN; {lock}")).unwrap();
        let mut other = cluster.connect("postgres");
        let sql = "SELECT 1 FROM pg_locks WHERE locktype = 'relation' AND NOT granted";
        eventually("a count to wait", || other.query_opt(sql, &[]).unwrap());
        cluster.configure(&[ON]);
        cluster.reload();
        cluster.await_line("\"count_relations.skip_unchanged\" changed to \"on\"");
        sleep(Duration::from_millis(200)); // The worker is told right after.
        client.batch_execute("CREATE TABLE t (); COMMIT").unwrap();
        assert_eq!(cluster.next_count(DATABASE), relations(&mut client));
    }
}

#[test]
fn messages_that_are_missed_are_made_up_for() {
    let cluster = Cluster::start(&[ITS_WORKER, VERY_FAST, ON, "log_min_messages = debug4"]);
    cluster.next_count(DATABASE);
    let worker = cluster.worker(DATABASE);
    let stopped = Stopped::in_a_nap(&cluster, DATABASE);
    session(&cluster, 0, Rng::new()).perform(&overflow(0));
    drop(stopped);
    let mut client = cluster.connect(DATABASE);
    assert_eq!(cluster.next_count(DATABASE), relations(&mut client));
    let resets = cluster.lines_with("cache state reset");
    assert!(resets.iter().any(|line| line.pid == worker));
}

#[test]
fn skipping_can_be_switched_by_reload() {
    let cluster = Cluster::start(&[ITS_WORKER, VERY_FAST, ON]);
    let mut client = cluster.connect(DATABASE);
    // Of pg_class and its indexes, by number: names would be looked up in pg_class.
    let sql = "SELECT sum(pg_stat_get_numscans(oid))::bigint \
               FROM (VALUES (1259), (2662), (2663), (3455)) AS pg_class (oid)";
    let mut scans = || -> i64 { client.query_one(sql, &[]).unwrap().get(0) };
    // Scans are reported once a second, and the last ones after ten.
    let mut scans_at_rest = || {
        eventually("eleven seconds without scans", || {
            let before = scans();
            sleep(Duration::from_secs(11));
            (scans() == before).then_some(before)
        })
    };
    let before = scans_at_rest();
    for (value, ticks) in [(OFF, 50), (ON, 1)] {
        cluster.configure(&[value]);
        cluster.reload();
        cluster.await_line(&format!(
            "changed to \"{}\"",
            value.rsplit(' ').next().unwrap()
        ));
        let ticks = cluster.counts(DATABASE).len() + ticks;
        eventually("ticks", || {
            (cluster.counts(DATABASE).len() > ticks).then_some(())
        });
    }
    let scanned = scans_at_rest() - before;
    let log = cluster.log();
    let (_, rest) = log.split_once("changed to \"off\"").unwrap();
    let (off, _) = rest.split_once("changed to \"on\"").unwrap();
    let ticks = off.matches("Currently").count() as i64;
    // The worker learns of each change a moment after the postmaster.
    assert!(
        (scanned - ticks).abs() <= 3 + ticks / 4,
        "{scanned} scans in {ticks} ticks"
    );
}

#[test]
fn the_plan_survives_what_is_done_to_pg_class() {
    let cluster = Cluster::start(&[ITS_WORKER, VERY_FAST, OFF]);
    let worker = cluster.worker(DATABASE);
    let mut client = cluster.connect(DATABASE);
    for sql in [
        "ANALYZE pg_class",
        "VACUUM FULL pg_class",
        "REINDEX TABLE pg_class",
        "VACUUM (FREEZE, ANALYZE) pg_class",
    ] {
        client.batch_execute(sql).unwrap();
        assert_eq!(cluster.next_count(DATABASE), relations(&mut client));
        let sql = "DROP TABLE IF EXISTS s; CREATE TABLE s (id serial)";
        client.batch_execute(sql).unwrap();
        assert_eq!(cluster.next_count(DATABASE), relations(&mut client));
    }
    assert_eq!(cluster.worker(DATABASE), worker);
}
