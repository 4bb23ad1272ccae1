//! SIGTERM ends the worker at once, and the postmaster's death does too, whatever
//! the worker is doing.

use crate::cluster::{Cluster, Level, eventually, is_gone, send};
use crate::states::{self, BUSY, LONG_NAP, Met};
use nix::sys::signal::Signal;

const IN_A_NAP: &str = "count relations worker for database \"app\" leaving due to SIGTERM";
const IN_A_QUERY: &str =
    "terminating background worker \"count relations\" due to administrator command";

/// Terminates the worker as an administrator does. It must leave on its own, with `farewell` as
/// its only last line, while what it waits for continues; and the postmaster starts it again.
fn terminated(configuration: &[&str], meet: fn(&Cluster) -> Met, farewell: &str) {
    let cluster = states::start(configuration);
    let mut client = cluster.connect("postgres");
    let met = meet(&cluster);
    let counts = cluster.counts("app").len();
    client
        .execute("SELECT pg_terminate_backend($1)", &[&met.worker])
        .unwrap();
    eventually("the worker to end", || is_gone(met.worker).then_some(()));
    let ended = cluster.await_line(&format!("(PID {}) exited with exit code 1", met.worker));
    assert_eq!(last_words(&cluster, met.worker), [farewell]);
    assert_eq!(cluster.counts("app").len(), counts, "the count went on");
    drop(met.hold);
    let restarted = eventually("another worker", || {
        let lines = cluster.lines_with("worker started for database \"app\"");
        lines.into_iter().find(|line| line.time > ended.time)
    });
    assert!(restarted.time - ended.time > 4.5);
    eventually("counting to resume", || {
        let counts = cluster.counts("app");
        counts.into_iter().find(|count| count.pid == restarted.pid)
    });
}

/// What the worker logged other than that it started and what it counted.
fn last_words(cluster: &Cluster, worker: i32) -> Vec<String> {
    cluster
        .lines()
        .into_iter()
        .filter(|line| line.pid == worker && line.level != Level::Addition)
        .map(|line| line.message)
        .filter(|message| !message.starts_with("Currently") && !message.contains("started"))
        // During parse analysis, the message also gives the position in the query.
        .map(|message| match message.split_once(" at character ") {
            Some((message, _)) => message.to_owned(),
            None => message,
        })
        .collect()
}

#[test]
fn on_sigterm_while_napping() {
    terminated(LONG_NAP, states::napping, IN_A_NAP);
}

#[test]
fn on_sigterm_while_counting() {
    terminated(BUSY, states::counting_for_long, IN_A_QUERY);
}

#[test]
fn on_sigterm_while_waiting_for_a_lock_on_pg_class() {
    terminated(BUSY, states::waiting_for_lock, IN_A_QUERY);
}

#[test]
fn on_sigterm_while_waiting_to_connect() {
    terminated(LONG_NAP, states::connecting, IN_A_QUERY);
}

/// Shuts the server down; only the worker could be in the way, and it is not.
fn shut_down(configuration: &[&str], meet: fn(&Cluster) -> Met, mode: Signal) {
    let cluster = states::start(configuration);
    let met = meet(&cluster);
    let starts = cluster.lines_with("worker started").len();
    cluster.stop(mode);
    cluster.await_line("database system is shut down");
    assert!(is_gone(met.worker));
    assert_eq!(last_words(&cluster, met.worker).len(), 1);
    assert_eq!(cluster.lines_with("worker started").len(), starts);
}

#[test]
fn on_fast_shutdown_while_napping() {
    shut_down(LONG_NAP, states::napping, Signal::SIGINT);
}

#[test]
fn on_smart_shutdown_while_napping() {
    shut_down(LONG_NAP, states::napping, Signal::SIGTERM);
}

#[test]
fn on_fast_shutdown_while_counting() {
    shut_down(BUSY, states::counting_for_long, Signal::SIGINT);
}

#[test]
fn on_smart_shutdown_while_counting() {
    shut_down(BUSY, states::counting_for_long, Signal::SIGTERM);
}

#[test]
fn on_fast_shutdown_while_waiting_for_a_lock_on_pg_class() {
    shut_down(BUSY, states::waiting_for_lock, Signal::SIGINT);
}

#[test]
fn on_fast_shutdown_while_waiting_to_connect() {
    shut_down(LONG_NAP, states::connecting, Signal::SIGINT);
}

/// Kills the postmaster; the worker exits on its own.
fn orphaned(configuration: &[&str], meet: fn(&Cluster) -> Met) {
    let cluster = states::start(configuration);
    cluster.expect("terminating connection due to unexpected postmaster exit");
    let met = meet(&cluster);
    cluster.stop(Signal::SIGKILL);
    eventually("the worker to end", || is_gone(met.worker).then_some(()));
}

#[test]
fn with_the_postmaster_while_napping() {
    orphaned(LONG_NAP, states::napping);
}

#[test]
fn with_the_postmaster_while_counting() {
    orphaned(BUSY, states::counting_for_long);
}

#[test]
fn with_the_postmaster_while_waiting_for_a_lock_on_pg_class() {
    orphaned(BUSY, states::waiting_for_lock);
}

#[test]
fn with_the_postmaster_while_waiting_to_connect() {
    orphaned(LONG_NAP, states::connecting);
}

#[test]
fn a_worker_that_was_told_twice_leaves_once() {
    let cluster = states::start(LONG_NAP);
    let worker = states::napping(&cluster).worker;
    send(worker, Signal::SIGSTOP);
    send(worker, Signal::SIGHUP);
    send(worker, Signal::SIGTERM);
    send(worker, Signal::SIGTERM);
    send(worker, Signal::SIGCONT);
    eventually("the worker to end", || is_gone(worker).then_some(()));
    assert_eq!(last_words(&cluster, worker), [IN_A_NAP]);
}
