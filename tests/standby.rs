//! The worker follows the server's role: it counts on a hot standby, and through
//! promotion.

use crate::all_databases::await_rest;
use crate::cluster::{Cluster, FAST, Level, Throttle, eventually};
use crate::random_ddl::relations;
use crate::states::{self, BUSY, DATABASE};
use std::time::Duration;

#[test]
fn a_standby_counts_what_is_replayed_and_keeps_counting_when_promoted() {
    let primary = Cluster::start(&[FAST]);
    let standby = primary.start_standby(&[]);
    let before = standby.next_count("postgres");
    assert_eq!(before, primary.next_count("postgres"));

    primary.execute("postgres", "CREATE TABLE t (i int PRIMARY KEY)");
    standby.await_count("postgres", before + 2);
    primary.execute("postgres", "DROP TABLE t");
    standby.await_count("postgres", before);

    let worker = standby.worker("postgres");
    standby.promote();
    standby.execute("postgres", "CREATE TABLE t (i int)");
    standby.await_count("postgres", before + 1);
    assert_eq!(standby.worker("postgres"), worker);
    assert_eq!(standby.lines_with("worker started").len(), 1);
}

#[test]
fn a_query_canceled_by_a_recovery_conflict_costs_a_restart_of_the_worker() {
    let primary = states::start(BUSY);
    states::grow_catalog(&primary, DATABASE, 100);
    let standby = primary.start_standby(&["max_standby_streaming_delay = 0"]);
    standby.expect("canceling statement due to conflict with recovery");
    standby.await_line("relations in database \"app\"");
    let worker = standby.worker(DATABASE);
    let throttle = Throttle::new(worker, Duration::from_millis(100));
    let conflict = "canceling statement due to conflict with recovery";
    let mut client = primary.connect(DATABASE);
    eventually("a recovery conflict", || {
        // In transactions of their own: a row that only its own transaction has seen causes no
        // conflict.
        for sql in ["CREATE TABLE t ()", "DROP TABLE t", "VACUUM pg_class"] {
            client.batch_execute(sql).unwrap();
        }
        standby.lines_with(conflict).pop()
    });
    drop(throttle);
    let next = standby.await_nth_line("worker started for database \"app\"", 2);
    assert_ne!(next.pid, worker);
    standby.next_count(DATABASE);
    let lines = standby.lines();
    let errors = lines.iter().filter(|line| line.level >= Level::Warning);
    assert_eq!(errors.count(), 1);
}

#[test]
fn a_database_dropped_on_the_primary_is_let_go_on_the_standby() {
    let primary = states::start(states::LONG_NAP);
    let standby = primary.start_standby(&[]);
    standby.await_line("relations in database \"app\"");
    primary.expect("database \"app\" does not exist");
    standby
        .expect("database \"app\" does not exist")
        .expect("terminating connection due to conflict with recovery");
    primary.execute("postgres", "DROP DATABASE app");
    standby.await_line("database \"app\" does not exist");
    primary.execute("postgres", "CREATE DATABASE app");
    standby.await_nth_line("relations in database \"app\"", 2);
}

#[test]
fn a_rename_that_is_replayed_is_noticed() {
    let primary = states::start(BUSY);
    let standby = primary.start_standby(&["count_relations.naptime = '1h'"]);
    standby.await_line("relations in database \"app\"");
    let worker = standby.worker(DATABASE);
    for server in [&primary, &standby] {
        server.expect("database \"app\" does not exist");
    }
    primary.execute("postgres", "ALTER DATABASE app RENAME TO old");
    let left = standby.await_line("database \"app\" leaving, as the database has got another name");
    assert_eq!(left.pid, worker);
    standby.await_line("database \"app\" does not exist");
    // The database that has the name is counted.
    primary.execute("postgres", "CREATE DATABASE app");
    primary.execute(DATABASE, "CREATE TABLE t ()");
    standby.await_nth_line("worker started for database \"app\"", 2);
    // It may have counted before the table was there.
    standby.configure(&[FAST]);
    standby.reload();
    let relations = relations(&mut standby.connect(DATABASE));
    standby.await_count(DATABASE, relations);
}

#[test]
fn a_replayed_rename_is_noticed_among_names_that_look_the_same() {
    let primary = Cluster::start(&["count_relations.databases = ''"]);
    primary.execute(
        "postgres",
        "CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'",
    );
    // No letters in UTF-8, which the log is in.
    let mut client = primary.connect("ascii");
    let mut rename = |from: &str, to: &str| {
        let sql = format!("ALTER DATABASE {from} RENAME TO {to}");
        let sql = format!("DO $$ BEGIN EXECUTE E'{sql}'; END $$");
        client.batch_execute(&sql).unwrap();
    };
    let standby = primary.start_standby(&[
        "count_relations.databases = '*'",
        FAST,
        "count_relations.max_workers = 4",
        "log_min_messages = debug1",
    ]);
    // Nobody waits from now on, so that a visit lasts for some seconds.
    for database in ["app", "ascii", "postgres"] {
        standby.await_line(&format!("relations in database \"{database}\""));
    }
    await_rest(&standby);
    primary.execute(DATABASE, "CREATE TABLE t ()");
    standby.worker(DATABASE);
    rename("app", "caf\\xE8");
    standby.await_line("worker started for database \"caf\u{FFFD}\"");
    rename("caf\\xE8", "caf\\xE9");
    standby.await_line("database \"caf\u{FFFD}\" leaving, as the database has got another name");
    standby.await_nth_line("worker started for database \"caf\u{FFFD}\"", 2);
}
