//! Databases change at random, all the time or all at once, while the launcher is stopped,
//! terminated or killed. Whenever they pause, every row is right; and others get the workers
//! that they need.
//!
//! A test that fails prints its seed: see `churn`.

use crate::all_databases::{
    assert_all_right, assert_at_rest, await_confirmation, await_rest, create_databases,
    keep_all_changing, our_titles, start,
};
use crate::census;
use crate::cluster::{Cluster, Stopped, Throttle, eventually, is_gone, processor_times, send};
use crate::random_ddl::{
    Session, TOLD_WHEN_IN_THE_WAY, await_replay, from_environment, is_in_the_way, overflow,
    relations,
};
use fastrand::Rng;
use nix::sys::signal::Signal;
use postgres::Client;
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
    for name in &names[..FEW] {
        census::assert_right(watched, name);
    }
    // Otherwise what has changed is visited once more within a minute.
    watched.configure(&["count_relations.census_naptime = 0"]);
    watched.reload();
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

#[test]
fn parallel_queries_and_subscriptions_get_their_workers_while_all_databases_change() {
    // Eight slots, as on any server.
    let cluster = start(&["wal_level = logical", "count_relations.log_counts = none"]);
    cluster.expect("terminating logical replication worker");
    let names = create_databases(&cluster, 12);
    let busy = keep_all_changing(&cluster, &names);
    cluster.execute(
        "app",
        "CREATE TABLE copied AS SELECT i FROM generate_series(1, 1000) i",
    );
    cluster.execute("app", "CREATE PUBLICATION p FOR TABLE copied");
    let slot = "SELECT pg_create_logical_replication_slot('s', 'pgoutput')";
    cluster.execute("app", slot);
    let mut subscriber = cluster.connect("postgres");
    let connection = format!(
        "host={} user=postgres dbname=app",
        cluster.socket().display()
    );
    subscriber
        .batch_execute("CREATE TABLE copied (i int)")
        .unwrap();
    subscriber
        .batch_execute(&format!(
            "CREATE SUBSCRIPTION s CONNECTION '{connection}' PUBLICATION p \
             WITH (create_slot = false)"
        ))
        .unwrap();
    eventually("the subscription to copy", || {
        let row = subscriber.query_one("SELECT count(*) FROM copied", &[]);
        (row.unwrap().get::<_, i64>(0) == 1000).then_some(())
    });
    // Its first worker ends when it has copied.
    let copying = "SELECT 1 FROM pg_stat_subscription HAVING count(*) = 1";
    eventually("the copying to be over", || {
        subscriber.query_opt(copying, &[]).unwrap()
    });
    subscriber
        .batch_execute(
            "SET max_parallel_workers_per_gather = 3; \
             SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; \
             SET min_parallel_table_scan_size = 0; ALTER TABLE copied SET (parallel_workers = 3)",
        )
        .unwrap();
    let sql = "EXPLAIN (ANALYZE, COSTS off, TIMING off) SELECT count(*) FROM copied";
    let mut launched = || {
        let plan = subscriber.query(sql, &[]).unwrap();
        let mut plan = plan.iter().map(|row| row.get::<_, String>(0));
        plan.find_map(|line| {
            line.trim()
                .strip_prefix("Workers Launched: ")
                .map(str::to_owned)
        })
    };
    // The slot of the worker that copied comes free a moment after it has ended.
    eventually("three workers", || (launched()? == "3").then_some(()));
    for _ in 0..20 {
        assert_eq!(launched().unwrap(), "3");
    }
    drop(busy);
    subscriber
        .batch_execute(
            "ALTER SUBSCRIPTION s DISABLE; ALTER SUBSCRIPTION s SET (slot_name = NONE); \
             DROP SUBSCRIPTION s",
        )
        .unwrap();
    assert_all_right(&cluster);
}

/// Visits cost what the postmaster's ended children and the running workers have used: no other
/// child ends meanwhile.
#[test]
fn all_visits_together_take_a_tenth_of_a_processor() {
    let cluster = start(&[
        "count_relations.naptime = '10ms'",
        "count_relations.log_counts = none",
        "count_relations.max_workers = 6",
        "max_worker_processes = 16",
        "autovacuum = off",
        "log_min_messages = warning",
    ]);
    let names = create_databases(&cluster, 12);
    let mut client = cluster.connect("postgres");
    let postmaster = cluster.postmaster();
    let busy = keep_all_changing(&cluster, &names);
    let mut used = || {
        // In this order a worker that ends in between counts for less, not twice.
        let [_, ended] = processor_times(postmaster).unwrap();
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'count relations'";
        let rows = client.query(sql, &[]).unwrap();
        let there = rows.iter().filter_map(|row| processor_times(row.get(0)));
        ended + there.map(|[own, _]| own).sum::<u64>()
    };
    let (before, since) = (used(), Instant::now());
    eventually("fifteen seconds to pass", || {
        (since.elapsed() > Duration::from_secs(15)).then_some(())
    });
    let share = (used() - before) as f64 / 100.0 / since.elapsed().as_secs_f64();
    // A second's worth may have been saved up, and each worker may finish its count.
    assert!((0.02..0.2).contains(&share), "{share} of a processor");
    drop(busy);
    assert_all_right(&cluster);
}

/// With others waiting, each visit is one count. What is committed between its snapshot and its
/// end, a long time here, the next visit must count.
#[test]
fn workers_that_leave_at_once_leave_nothing_uncounted() {
    let cluster = start(&[
        "count_relations.naptime = '10ms'",
        "count_relations.log_counts = none",
        "log_min_messages = warning",
    ]);
    let names = create_databases(&cluster, 6);
    let mut clients: Vec<Client> = names.iter().map(|name| cluster.connect(name)).collect();
    let mut view = cluster.connect("postgres");
    let workers = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'count relations'";
    let mut exists = false;
    for _ in 0..40 {
        let end = Instant::now() + Duration::from_millis(fastrand::u64(100..600));
        let mut throttles = Vec::new();
        while Instant::now() < end {
            exists = !exists;
            let sql = match exists {
                true => "CREATE TABLE t (id serial PRIMARY KEY)",
                false => "DROP TABLE t",
            };
            for client in &mut clients {
                client.batch_execute(sql).unwrap();
            }
            for row in view.query(workers, &[]).unwrap() {
                let slowness = Duration::from_millis(fastrand::u64(1..4));
                throttles.push(Throttle::new(row.get(0), slowness));
            }
        }
        drop(throttles);
        assert_all_right(&cluster);
    }
}

/// When it lists the databases, the launcher receives in the server's way, which forgets
/// what other databases' messages say.
#[test]
fn what_the_launcher_is_told_while_it_lists_the_databases_counts_too() {
    let cluster = start(&["count_relations.naptime = '1s'"]);
    let mut app = cluster.connect("app");
    let mut client = cluster.connect("postgres");
    await_rest(&cluster);
    await_confirmation(&mut client);
    // So that it is listing, and has to wait.
    client
        .batch_execute("ALTER DATABASE postgres CONNECTION LIMIT 30")
        .unwrap();
    client
        .batch_execute("BEGIN; LOCK TABLE pg_database IN ACCESS EXCLUSIVE MODE")
        .unwrap();
    let waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'pg_database'::regclass";
    eventually("the launcher to wait", || {
        client.query_opt(waiting, &[]).unwrap()
    });
    app.batch_execute("CREATE TABLE t ()").unwrap();
    client.batch_execute("COMMIT").unwrap();
    assert_all_right(&cluster);
}

#[test]
fn a_change_shows_however_it_meets_the_coming_and_going_of_workers() {
    let cluster = start(&["count_relations.naptime = '10ms'"]);
    await_rest(&cluster);
    let mut client = cluster.connect("app");
    let mut view = cluster.connect("postgres");
    let sql = "SELECT 1 FROM relation_counts WHERE datname = 'app' AND relations = $1";
    for round in 0..60 {
        let end = if round % 2 == 0 { "CREATE" } else { "DROP" };
        let what = if round % 2 == 0 { "t ()" } else { "t" };
        client
            .batch_execute(&format!("{end} TABLE {what}"))
            .unwrap();
        let truth = relations(&mut client);
        eventually("the change to be counted", || {
            view.query_opt(sql, &[&truth]).unwrap()
        });
        // So that the next change meets a worker in whatever it is doing, including the end of
        // its visit.
        if let Some(worker) = cluster.worker_now("app") {
            if round % 3 == 0 {
                send(worker, Signal::SIGTERM);
            } else if round % 10 == 1 {
                thread::sleep(Duration::from_millis(4_800 + fastrand::u64(..400)));
            }
        }
    }
    assert_all_right(&cluster);
}
