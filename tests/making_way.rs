//! A command that needs a database to itself gets it, whatever the worker is doing.
//!
//! The commands give up by themselves after five seconds, so each success here means that a
//! worker made way in time.

use crate::cluster::{Cluster, eventually};
use crate::states::{self, BUSY, Hold, LONG_NAP, Met, SHORT_NAP};
use postgres::error::SqlState;
use std::thread::{sleep, spawn};
use std::time::Duration;

const MAKING_WAY: &str = "worker for database \"app\" making way";

/// Runs `command` while the worker is in the state that `meet` brings about, and checks that
/// the worker made way for it. What holds the worker is released after a while.
fn make_way(cluster: &Cluster, meet: fn(&Cluster) -> Met, command: &str) {
    let met = meet(cluster);
    let ways_made = cluster.lines_with(MAKING_WAY).len();
    let mut client = cluster.connect("postgres");
    let sql = command.to_owned();
    let running = spawn(move || client.batch_execute(&sql));
    if let Hold::Session(session) = met.hold {
        // Until then the command waits for this session, not for the worker.
        sleep(Duration::from_millis(300));
        drop(session);
    }
    let result = running.join().unwrap();
    assert!(result.is_ok(), "{command}: {result:?}");
    let lines = cluster.lines_with(MAKING_WAY);
    assert_eq!(lines.len(), ways_made + 1, "one line for {command}");
    assert_eq!(lines.last().unwrap().pid, met.worker);
}

fn await_counting(cluster: &Cluster) {
    let started = cluster.lines_with("worker started").len();
    let counted = cluster.counts("app").len();
    eventually("counting to resume", || {
        (cluster.worker_now("app").is_some() && cluster.counts("app").len() > counted).then_some(())
    });
    assert!(cluster.lines_with("worker started").len() <= started + 1);
}

/// All commands that need a database to itself, one after the other.
fn make_way_for_all(configuration: &[&str], meet: fn(&Cluster) -> Met) {
    let cluster = states::start(configuration);
    make_way_for_all_on(&cluster, meet, meet);
}

fn make_way_for_all_on(cluster: &Cluster, meet: fn(&Cluster) -> Met, again: fn(&Cluster) -> Met) {
    cluster.expect("database \"app\" does not exist");
    make_way(cluster, meet, "CREATE DATABASE copied TEMPLATE app");
    await_counting(cluster);

    let directory = cluster.new_server_directory("tablespace");
    cluster.execute(
        "postgres",
        &format!("CREATE TABLESPACE elsewhere LOCATION '{directory}'"),
    );
    make_way(
        cluster,
        again,
        "ALTER DATABASE app SET TABLESPACE elsewhere",
    );
    await_counting(cluster);

    make_way(cluster, again, "ALTER DATABASE app RENAME TO renamed");
    // A list contains names; the database that has the name is counted.
    cluster.await_next_line("database \"app\" does not exist");
    cluster.execute("postgres", "ALTER DATABASE renamed RENAME TO app");
    await_counting(cluster);

    make_way(cluster, again, "DROP DATABASE app");
    cluster.await_next_line("database \"app\" does not exist");
    cluster.execute("postgres", "CREATE DATABASE app");
    await_counting(cluster);
}

#[test]
fn while_napping_for_a_second() {
    make_way_for_all(SHORT_NAP, states::napping);
}

#[test]
fn while_napping_for_an_hour() {
    make_way_for_all(LONG_NAP, states::napping);
}

#[test]
fn while_counting() {
    let cluster = states::start(BUSY);
    make_way_for_all_on(&cluster, states::counting, states::counting_again);
}

#[test]
fn while_waiting_for_a_lock_on_pg_class() {
    make_way_for_all(BUSY, states::waiting_for_lock);
}

/// PostgreSQL 19 forgets workers that it may end itself (`BGWORKER_INTERRUPTIBLE`), here too.
#[test]
fn for_a_command_that_fails_in_the_end_and_comes_back() {
    let cluster = states::start(SHORT_NAP);
    let worker = cluster.worker("app");
    let in_the_way = cluster.connect("app");
    cluster.expect("database \"app\" is being accessed by other users");
    let rename = "ALTER DATABASE app RENAME TO renamed";
    let refusal = cluster.connect("postgres").batch_execute(rename);
    let code = refusal.unwrap_err().code().cloned();
    assert_eq!(code, Some(SqlState::OBJECT_IN_USE));
    assert_eq!(cluster.await_line(MAKING_WAY).pid, worker);
    drop(in_the_way);
    await_counting(&cluster);
}

#[test]
fn a_database_of_another_name_does_not_concern_the_worker() {
    let cluster = states::start(SHORT_NAP);
    let worker = cluster.worker("app");
    cluster.execute("postgres", "CREATE DATABASE other TEMPLATE template1");
    cluster.execute("postgres", "ALTER DATABASE other RENAME TO another");
    cluster.execute("postgres", "DROP DATABASE another");
    cluster.next_count("app");
    assert_eq!(cluster.worker("app"), worker);
}

/// The server lets an owner end other sessions of a database only if all of them are the
/// owner's; the worker cannot leave before that is checked.
#[test]
fn for_the_owner_of_a_database_unless_he_uses_force_without_the_right_to() {
    let cluster = states::start(SHORT_NAP);
    cluster.expect("database \"app\" does not exist");
    let own = "CREATE ROLE owner LOGIN; ALTER DATABASE app OWNER TO owner";
    cluster.execute("postgres", own);
    let mut owner = cluster.connect_as("owner", "postgres");
    let refusal = owner.batch_execute("DROP DATABASE app WITH (FORCE)");
    let code = refusal.unwrap_err().code().cloned();
    assert_eq!(code, Some(SqlState::INSUFFICIENT_PRIVILEGE));
    cluster
        .expect("to terminate process")
        .expect("process is being terminated");
    owner.batch_execute("DROP DATABASE app").unwrap();

    cluster.execute("postgres", "CREATE DATABASE app OWNER owner");
    await_counting(&cluster);
    cluster.execute("postgres", "GRANT pg_signal_backend TO owner");
    owner
        .batch_execute("DROP DATABASE app WITH (FORCE)")
        .unwrap();
}
