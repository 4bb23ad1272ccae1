//! The worker logs who it is, what it will do, and why it leaves.

use crate::cluster::{Cluster, FAST, Level, eventually, terminate};

#[test]
fn one_line_at_start_and_one_at_the_end() {
    let cluster = Cluster::start(&[
        "count_relations.naptime = '1h'",
        "count_relations.census_naptime = 0",
    ]);
    cluster.await_line("Currently");
    let worker = cluster.worker("postgres");
    terminate(worker);
    let lines: Vec<_> = cluster
        .lines()
        .into_iter()
        .filter(|line| line.pid == worker)
        .collect();
    assert!(lines.iter().all(|line| line.level == Level::Log));
    let messages: Vec<_> = lines.iter().map(|line| line.message.as_str()).collect();
    assert_eq!(
        [messages[0], messages[2]],
        [
            "count relations worker started for database \"postgres\" as role \"postgres\", \
             naptime 3600000 ms",
            "count relations worker for database \"postgres\" leaving due to SIGTERM",
        ]
    );
    assert_eq!(messages.len(), 3);
}

#[test]
fn its_nap_has_a_name() {
    let cluster = Cluster::start(&["count_relations.naptime = '1h'"]);
    cluster.await_line("Currently");
    let name = match crate::cluster::major_version() {
        15 | 16 => "Extension",
        _ => "CountRelationsNap",
    };
    let mut client = cluster.connect("postgres");
    eventually("the worker to nap", || {
        client
            .query_opt(
                "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'count relations' \
                 AND state = 'idle' AND wait_event_type = 'Extension' AND wait_event = $1",
                &[&name],
            )
            .unwrap()
    });
}

#[test]
fn its_lines_follow_log_min_messages() {
    let cluster = Cluster::start(&[FAST, "log_min_messages = 'log'"]);
    cluster.next_count("postgres");
    // In the server's log, LOG ranks below FATAL.
    cluster.configure(&["log_min_messages = 'fatal'"]);
    cluster.reload();
    let silent = eventually("the worker to fall silent", || {
        let before = cluster.counts("postgres").len();
        cluster.execute("postgres", "SELECT pg_sleep(0.5)");
        (cluster.counts("postgres").len() == before).then_some(before)
    });
    cluster.configure(&["log_min_messages = 'warning'"]);
    cluster.reload();
    eventually("the worker to be heard again", || {
        (cluster.counts("postgres").len() > silent).then_some(())
    });
}
