//! The worker takes no more of the server than its count needs.

use crate::cluster::{Cluster, FAST, Line, eventually, terminate};
use crate::states::{self, BUSY, DATABASE};
use std::fs;

#[test]
fn no_parallel_workers_and_no_jit_whatever_the_settings() {
    // Renamed in PostgreSQL 16.
    let forced = match crate::cluster::major_version() {
        15 => "force_parallel_mode = on",
        _ => "debug_parallel_query = on",
    };
    let cluster = states::start(
        &[
            BUSY,
            &[
                forced,
                "min_parallel_table_scan_size = 0",
                "min_parallel_index_scan_size = 0",
                "parallel_setup_cost = 0",
                "parallel_tuple_cost = 0",
                "max_parallel_workers_per_gather = 4",
                "jit = on",
                "jit_above_cost = 0",
                "log_min_messages = debug1",
            ],
        ]
        .concat(),
    );
    states::grow_catalog(&cluster, DATABASE, 100);
    let worker = cluster.worker(DATABASE);
    for _ in 0..5 {
        assert!(cluster.next_count(DATABASE) > 100_000);
    }
    // Every start of a parallel worker is logged, with its leader's pid.
    let helpers = format!("parallel worker for PID {worker}");
    assert!(cluster.lines_with(&helpers).is_empty());
    let libraries = fs::read_to_string(format!("/proc/{worker}/maps")).unwrap();
    assert!(!libraries.contains("llvmjit"), "{libraries}");

    // The same query in a client does get helpers, so the settings are right.
    let mut client = cluster.connect(DATABASE);
    client
        .batch_execute("SELECT count(*) FROM pg_class")
        .unwrap();
    cluster.await_line("parallel worker for PID");
}

#[test]
fn nothing_is_held_between_ticks() {
    let cluster = states::start(&[
        "count_relations.databases = 'app'",
        "count_relations.naptime = '1h'",
        "count_relations.census_naptime = 0",
    ]);
    let worker = cluster.worker(DATABASE);
    let mut client = cluster.connect(DATABASE);
    let held: i64 = client
        .query_one(
            "SELECT (SELECT count(*) FROM pg_locks WHERE pid = $1) + \
                    (SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND \
                     (xact_start IS NOT NULL OR backend_xmin IS NOT NULL \
                      OR backend_xid IS NOT NULL OR state <> 'idle'))",
            &[&worker],
        )
        .unwrap()
        .get(0);
    assert_eq!(held, 0);

    client
        .batch_execute(
            "CREATE TABLE churned AS SELECT generate_series(1, 10000) i; DELETE FROM churned",
        )
        .unwrap();
    client.batch_execute("VACUUM churned").unwrap();
    let size: i64 = client
        .query_one("SELECT pg_relation_size('churned')", &[])
        .unwrap()
        .get(0);
    assert_eq!(size, 0, "vacuum removed every dead row");
}

/// The number that follows `text` in a message.
fn milliseconds(message: &str, text: &str) -> f64 {
    let (_, rest) = message.split_once(text).unwrap();
    rest.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_slow_count_is_followed_by_nine_times_its_duration_of_rest() {
    assert_rest(&[], |_| {});
}

#[test]
fn so_it_is_with_all_databases_if_the_worker_leaves() {
    assert_rest(&["count_relations.databases = '*'"], terminate);
}

#[test]
fn so_it_is_for_a_list_if_the_worker_is_terminated() {
    assert_rest(&[], terminate);
}

#[test]
fn so_it_is_if_that_happens_in_the_middle_of_a_count() {
    let cluster = states::start(&[BUSY, &["log_min_messages = debug1"]].concat());
    let met = states::counting_for_long(&cluster);
    let mut client = cluster.connect("postgres");
    // Nine times as long is more than the postmaster takes to restart a worker.
    let sql = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND state = 'active' \
               AND clock_timestamp() - query_start > '1 s'";
    eventually("a count to take long", || {
        client.query_opt(sql, &[&met.worker]).unwrap()
    });
    let rests = cluster.lines_with(RESTS).len();
    terminate(met.worker);
    let line = cluster.await_nth_line(RESTS, rests + 1);
    assert_ne!(line.pid, met.worker);
    let counts = cluster.counts(DATABASE).into_iter();
    let its_own = counts.filter(|count| count.pid == line.pid).count();
    assert_eq!(its_own, 0, "it rests after a count of its own");
    assert_rested(&cluster, &line);
}

const RESTS: &str = "worker for database \"app\" rests for ";

/// Asserts that nobody counts for a while after a slow count, whatever has become of its worker.
fn assert_rest(configuration: &[&str], meanwhile: fn(i32)) {
    let settings = [BUSY, &["log_min_messages = debug1"], configuration];
    let cluster = states::start(&settings.concat());
    let met = states::counting_for_a_while(&cluster);
    let line = cluster.await_next_line(RESTS);
    drop(met.hold);
    meanwhile(line.pid);
    let count = milliseconds(&line.message, "took ");
    let rest = assert_rested(&cluster, &line);
    assert!(rest > 0.0 && rest >= 9.0 * count, "{}", line.message);
}

/// Asserts that nobody counts for about as long as the line says, and returns that, in
/// milliseconds.
fn assert_rested(cluster: &Cluster, line: &Line) -> f64 {
    let rest = milliseconds(&line.message, "rests for ");
    let next = eventually("the next count", || {
        let counts = cluster.counts(DATABASE);
        counts.into_iter().find(|count| count.time > line.time)
    });
    // The line is written a little after the count.
    let pause = (next.time - line.time) * 1000.0;
    assert!(pause >= rest / 9.0 * 8.0, "{pause} ms instead of {rest} ms");
    rest
}

#[test]
fn a_wait_for_a_lock_holds_no_snapshot_and_is_not_followed_by_a_rest() {
    for lock in [
        "LOCK TABLE pg_class IN ACCESS EXCLUSIVE MODE",
        "REINDEX TABLE pg_class", // locks the indexes, and lets the table be read
    ] {
        let settings = ["log_min_messages = debug1", "enable_seqscan = off"];
        let cluster = states::start(&[BUSY, &settings].concat());
        let mut holder = cluster.connect(DATABASE);
        holder.batch_execute(&format!("BEGIN; {lock}")).unwrap();
        let mut client = cluster.connect("postgres");
        let sql = "SELECT backend_xmin IS NULL FROM pg_stat_activity \
                   WHERE pid = $1 AND wait_event_type = 'Lock' \
                     AND clock_timestamp() - query_start > '2 s'";
        let worker = cluster.worker(DATABASE);
        let waiting = eventually("two seconds of waiting", || {
            client.query_opt(sql, &[&worker]).unwrap()
        });
        assert!(waiting.get::<_, bool>(0), "{lock}");
        holder.batch_execute("COMMIT").unwrap();
        cluster.next_count(DATABASE);
        let rests = cluster.lines_with("rests for");
        let waited = |message: &str| milliseconds(message, "took ") >= 2_000.0;
        assert!(!rests.iter().any(|line| waited(&line.message)), "{rests:?}");
    }
}

#[test]
fn no_index_of_pg_class_is_unknown() {
    let cluster = Cluster::start(&[]);
    let sql = "SELECT array_agg(indexrelid ORDER BY indexrelid) FROM pg_index \
               WHERE indrelid = 'pg_class'::regclass";
    let row = cluster.connect(DATABASE).query_one(sql, &[]).unwrap();
    // Those that src/server/relation_lock.rs locks.
    assert_eq!(row.get::<_, Vec<u32>>(0), [2662, 2663, 3455]);
}

#[test]
fn an_unprivileged_role_suffices() {
    let cluster = Cluster::start(&[]);
    cluster.execute(
        "postgres",
        "CREATE ROLE watcher LOGIN; \
         REVOKE ALL ON DATABASE app FROM PUBLIC; \
         GRANT CONNECT ON DATABASE app TO watcher",
    );
    cluster.stop(nix::sys::signal::Signal::SIGINT);
    cluster.configure(&[
        "count_relations.databases = 'app'",
        "count_relations.role = 'watcher'",
        FAST,
    ]);
    cluster.start_server();
    let before = cluster.next_count(DATABASE);
    cluster.execute(DATABASE, "CREATE TABLE t (i int)");
    assert_eq!(cluster.next_count(DATABASE), before + 1);
    cluster.await_line("as role \"watcher\"");
}
