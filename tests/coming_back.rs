//! Whatever ends a worker, counting goes on.

use crate::cluster::{Cluster, Level, eventually, is_gone, send};
use crate::states::{self, BUSY, DATABASE, Hold};
use nix::sys::signal::Signal;
use std::thread::sleep;
use std::time::Duration;

/// The errors that the worker logged, one line each.
fn errors(cluster: &Cluster, worker: i32) -> Vec<String> {
    cluster
        .lines()
        .into_iter()
        .filter(|line| line.pid == worker && line.level >= Level::Warning)
        .map(|line| line.message)
        .collect()
}

#[test]
fn a_canceled_query_costs_a_restart_of_the_worker_and_one_line() {
    let cluster = states::start(BUSY);
    cluster.expect("canceling statement due to user request");
    let met = states::waiting_for_lock(&cluster);
    let mut client = cluster.connect("postgres");
    client
        .execute("SELECT pg_cancel_backend($1)", &[&met.worker])
        .unwrap();
    eventually("the worker to end", || is_gone(met.worker).then_some(()));
    assert_eq!(
        errors(&cluster, met.worker),
        ["canceling statement due to user request"]
    );
    drop(met.hold);
    states::assert_only_replaced(&cluster, met.worker);
}

#[test]
fn an_idle_worker_has_nothing_to_cancel() {
    let cluster = states::start(&[
        "count_relations.databases = 'app'",
        "count_relations.naptime = '10ms'",
        // A census could be canceled, too.
        "count_relations.census_naptime = 0",
    ]);
    let worker = cluster.worker(DATABASE);
    let ticks = || cluster.counts(DATABASE).len();
    let end = ticks() + 200;
    // Requests hit it in its naps, and in all places of a tick without a count.
    while ticks() < end {
        for _ in 0..500 {
            send(worker, Signal::SIGINT);
            sleep(Duration::from_micros(fastrand::u64(..200)));
        }
    }
    let mut client = cluster.connect(DATABASE);
    client.batch_execute("CREATE TABLE t ()").unwrap();
    cluster.next_count(DATABASE);
    assert_eq!(cluster.worker(DATABASE), worker);
    assert!(errors(&cluster, worker).is_empty());
}

/// Kills `victim`, after which the server reinitializes, and expects counting to go on as
/// before.
fn crash(cluster: &Cluster, victim: i32) {
    cluster.expect_crash();
    let worker = cluster.worker(DATABASE);
    send(victim, Signal::SIGKILL);
    cluster.await_line("all server processes terminated; reinitializing");
    eventually("the old worker to end", || is_gone(worker).then_some(()));
    let started = cluster.await_nth_line("worker started for database \"app\"", 2);
    assert_ne!(started.pid, worker);
    cluster.next_count(DATABASE);
}

#[test]
fn a_crash_of_a_backend_restarts_it_with_the_server() {
    let cluster = states::start(BUSY);
    let mut client = cluster.connect("postgres");
    let backend: i32 = client
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    crash(&cluster, backend);
}

#[test]
fn killed_itself_it_is_back_after_recovery() {
    let cluster = states::start(BUSY);
    let worker = cluster.worker(DATABASE);
    crash(&cluster, worker);
}

#[test]
fn a_long_wait_for_a_lock_is_no_error() {
    let cluster = states::start(BUSY);
    let met = states::waiting_for_lock(&cluster);
    cluster.execute("postgres", "SELECT pg_sleep(2)");
    let Hold::Session(mut session) = met.hold else {
        unreachable!()
    };
    session.batch_execute("COMMIT").unwrap();
    cluster.next_count(DATABASE);
    assert_eq!(cluster.worker(DATABASE), met.worker);
}
