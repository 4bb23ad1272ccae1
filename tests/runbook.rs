//! The queries of the runbook, on a server that has the problems it describes.

use crate::cluster::{Cluster, FAST, eventually, is_gone};
use nix::sys::signal::Signal;
use postgres::SimpleQueryMessage;
use postgres::error::SqlState;
use std::fs;

/// The statements of the runbook, in order.
fn statements() -> Vec<String> {
    let text = fs::read_to_string("docs/too-many-relations.md").unwrap();
    let blocks = text.split("```sql\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap());
    let statements = blocks.flat_map(|block| block.split(";\n"));
    let statements = statements.map(str::trim).filter(|sql| !sql.is_empty());
    statements.map(str::to_owned).collect()
}

const TROUBLE: &str = "
    CREATE ROLE tenant LOGIN;
    GRANT CREATE ON DATABASE app TO tenant;
    CREATE SCHEMA tenant_7;
    GRANT CREATE, USAGE ON SCHEMA tenant_7 TO tenant;
    CREATE TABLE tenant_7.t (i int PRIMARY KEY, t text);
    CREATE TABLE measurements (day date, value float8) PARTITION BY RANGE (day);
    CREATE TABLE measurements_2019 PARTITION OF measurements
        FOR VALUES FROM ('2019-01-01') TO ('2020-01-01');
    CREATE TABLE measurements_2020 PARTITION OF measurements
        FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')";

#[test]
fn every_query_runs_and_finds_what_it_is_about() {
    let cluster = Cluster::start(&[
        "count_relations.databases = 'app'",
        FAST,
        "count_relations.census_naptime = '100ms'",
        "wal_level = logical",
        "statement_timeout = '1min'",
        "max_prepared_transactions = 2",
    ]);
    cluster.execute("app", "CREATE EXTENSION count_relations");
    cluster.execute("app", TROUBLE);
    // One left behind by a crash, one of a session that lives on.
    let mut crashed = cluster.connect("app");
    let temporary = "CREATE TEMPORARY TABLE mine (t text)";
    crashed.batch_execute(temporary).unwrap();
    cluster.expect_crash();
    cluster.expect("terminating connection due to unexpected postmaster exit");
    let processes = crashed
        .query("SELECT pid FROM pg_stat_activity", &[])
        .unwrap();
    cluster.stop(Signal::SIGKILL);
    // While one of them is there, no other server starts.
    for process in processes {
        eventually("the process to end", || {
            is_gone(process.get(0)).then_some(())
        });
    }
    cluster.start_server();
    // Which waits for all transactions.
    cluster.execute(
        "app",
        "SELECT pg_create_logical_replication_slot('abandoned', 'pgoutput')",
    );
    let mut idle = cluster.connect("app");
    idle.batch_execute(temporary).unwrap();
    idle.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; CREATE TABLE t ()")
        .unwrap();
    cluster.execute(
        "app",
        "BEGIN; CREATE TABLE u (); PREPARE TRANSACTION 'forgotten'",
    );
    let tenant = cluster.connect_as("tenant", "app");
    let mut client = cluster.connect("app");
    eventually("a census", || {
        let sql = "SELECT 1 FROM relation_catalogs WHERE relname = 'pg_class'";
        client.query_opt(sql, &[]).unwrap()
    });
    let statements = statements();
    assert!(statements.len() > 30, "{}", statements.len());
    for sql in &statements {
        if sql.starts_with("VACUUM FULL") {
            // As the runbook says: once no old transaction is left.
            let forgotten = client.query_opt("SELECT 1 FROM pg_prepared_xacts", &[]);
            if forgotten.unwrap().is_some() {
                idle.batch_execute("ROLLBACK").unwrap();
                let rollback = "ROLLBACK PREPARED 'forgotten'";
                client.batch_execute(rollback).unwrap();
            }
            // A count may have locked it, and this machine may be slow.
            client.batch_execute("SET lock_timeout = 0").unwrap();
        }
        let rows = client
            .simple_query(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let cells = rows.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).filter_map(|i| row.get(i))),
            _ => None,
        });
        let found = cells.flatten().collect::<Vec<_>>().join(" ");
        let answers = !found.is_empty() || !sql.starts_with("SELECT");
        assert!(answers, "no rows: {sql}");
        // The answer is about the trouble.
        for (part, name) in [
            ("FROM pg_inherits", "measurements"),
            ("relpersistence = 't'", "pg_temp_"),
            ("backend_xmin IS NOT NULL", "idle in transaction"),
            ("FROM pg_replication_slots", "abandoned"),
            ("FROM pg_prepared_xacts", "forgotten"),
            ("format('DROP TABLE", "DROP TABLE tenant_7.t"),
            ("pg_terminate_backend", " t"),
        ] {
            assert!(
                !sql.contains(part) || found.contains(name),
                "{sql}: {found}"
            );
        }
    }
    eventually("the tenant to be gone", || {
        let sql = "SELECT 1 FROM pg_stat_activity WHERE usename = 'tenant'";
        client.query_opt(sql, &[]).unwrap().is_none().then_some(())
    });
    drop(tenant);
    client
        .batch_execute("SELECT pg_drop_replication_slot('abandoned')")
        .unwrap();
}

#[test]
fn behind_vacuum_full_of_pg_class_all_sessions_wait() {
    let cluster = Cluster::start(&[]);
    cluster.execute("app", "CREATE TABLE t ()");
    let mut holder = cluster.connect("app");
    let mut client = cluster.connect("app");
    client.batch_execute("SET lock_timeout = '200ms'").unwrap();
    // What it locks while it runs.
    holder
        .batch_execute("BEGIN; LOCK TABLE pg_class IN ACCESS EXCLUSIVE MODE")
        .unwrap();
    let refused = client.batch_execute("SELECT FROM t").unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::LOCK_NOT_AVAILABLE));
    cluster.expect("canceling statement due to lock timeout");
    // And while it waits for a session that only reads.
    holder
        .batch_execute("ROLLBACK; BEGIN; LOCK TABLE pg_class IN ACCESS SHARE MODE")
        .unwrap();
    let mut full = cluster.connect("app");
    let waiting = std::thread::spawn(move || full.batch_execute("VACUUM FULL pg_class"));
    let mut look = cluster.connect("postgres");
    eventually("VACUUM FULL to wait", || {
        let sql = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 1259 \
                   AND mode = 'AccessExclusiveLock'";
        look.query_opt(sql, &[]).unwrap()
    });
    let refused = client.batch_execute("SELECT FROM t").unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::LOCK_NOT_AVAILABLE));
    holder.batch_execute("ROLLBACK").unwrap();
    waiting.join().unwrap().unwrap();
    client.batch_execute("SELECT FROM t").unwrap();
}
