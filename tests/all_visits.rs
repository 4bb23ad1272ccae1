//! Databases change all the time or all at once, and workers come and go: every row is right in
//! the end, and others get the workers that they need.

use crate::all_databases::{
    assert_all_right, await_confirmation, await_rest, create_databases, keep_all_changing, start,
};
use crate::cluster::{Throttle, eventually, processor_times, send};
use crate::random_ddl::relations;
use nix::sys::signal::Signal;
use postgres::Client;
use std::thread;
use std::time::{Duration, Instant};

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
