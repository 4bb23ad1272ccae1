//! Settings take effect as a DBA expects, and wrong ones are refused clearly.

use crate::cluster::{Cluster, FAST, Level, eventually};
use nix::sys::signal::Signal;

#[test]
fn a_reload_changes_naptime_without_adding_a_tick() {
    let cluster = Cluster::start(&["count_relations.naptime = '1h'"]);
    cluster.await_line("Currently");
    // Changes nothing that concerns us: no tick.
    cluster.configure(&["log_min_messages = 'debug1'"]);
    cluster.reload();
    cluster.await_line("parameter \"log_min_messages\" changed");
    // Reaches the worker, which at debug1 logs what the server's transactions do.
    cluster.configure(&["count_relations.naptime = '200ms'"]);
    assert_eq!(cluster.counts("postgres").len(), 1);
    cluster.reload();
    let counts = eventually("a second of counts", || {
        let counts = cluster.counts("postgres");
        (counts.len() > 6).then_some(counts)
    });
    // A late tick does not shift later ones, so two may be close to each other.
    let [first, .., last] = &counts[1..] else {
        unreachable!("there are more than two");
    };
    let ticks = counts.len() - 2;
    let time = last.time - first.time;
    assert!(time > 0.2 * (ticks as f64 - 1.0), "{counts:?}");
}

#[test]
fn a_wrong_value_on_reload_keeps_the_old_one() {
    let cluster = Cluster::start(&[FAST]);
    cluster.await_line("Currently");
    cluster.configure(&["count_relations.naptime = '5ms'"]);
    cluster.reload();
    cluster.await_line(
        "5 ms is outside the valid range for parameter \"count_relations.naptime\" (10 ",
    );
    cluster.await_line("contains errors; unaffected changes were applied");
    let mut client = cluster.connect("postgres");
    let shown: String = client
        .query_one("SHOW count_relations.naptime", &[])
        .unwrap()
        .get(0);
    assert_eq!(shown, "50ms");
    let worker = cluster.worker("postgres");
    cluster.next_count("postgres");
    assert_eq!(cluster.worker("postgres"), worker);
}

#[test]
fn a_list_of_databases_is_not_changed_by_a_reload() {
    let cluster = Cluster::start(&[FAST]);
    cluster.configure(&["count_relations.databases = 'template1'"]);
    cluster.reload();
    cluster.await_line(
        "parameter \"count_relations.databases\" cannot be changed without restarting the server",
    );
    cluster.next_count("postgres");
}

/// Starts a server with a line that must keep it from starting, and returns its last message.
fn refusal(configuration: &str) -> Vec<String> {
    let cluster = Cluster::init(&[configuration]);
    cluster.start_in_vain();
    cluster.expect("count_relations");
    let lines = cluster.lines();
    let alarms: Vec<_> = lines
        .iter()
        .filter(|line| line.level >= Level::Warning)
        .collect();
    assert_eq!(alarms.len(), 1, "one clear message: {alarms:?}");
    assert_eq!(alarms[0].level, Level::Fatal);
    lines
        .iter()
        .filter(|line| line.level >= Level::Warning || line.level == Level::Addition)
        .map(|line| line.message.clone())
        .collect()
}

#[test]
fn a_naptime_out_of_range_stops_a_starting_server() {
    let message = refusal("count_relations.naptime = 5");
    assert_eq!(message.len(), 1);
    assert!(
        message[0].starts_with(
            "5 ms is outside the valid range for parameter \"count_relations.naptime\" (10 "
        ),
        "{message:?}"
    );
    let message = refusal("count_relations.naptime = '25h'");
    assert!(message[0].starts_with("90000000 ms is outside the valid range"));
}

#[test]
fn a_naptime_that_is_no_time_stops_a_starting_server() {
    let message = refusal("count_relations.naptime = 'soon'");
    assert_eq!(
        message[0],
        "invalid value for parameter \"count_relations.naptime\": \"soon\""
    );
}

#[test]
fn a_list_with_bad_syntax_stops_a_starting_server() {
    for list in ["\"a", "a b"] {
        let message = refusal(&format!("count_relations.databases = '{list}'"));
        assert_eq!(
            message[0],
            format!("invalid value for parameter \"count_relations.databases\": \"{list}\"")
        );
        assert_eq!(message[1], "List syntax is invalid.");
        assert!(message[2].starts_with("Separate database names with commas"));
    }
}

#[test]
fn an_empty_name_in_a_list_stops_a_starting_server() {
    for list in ["postgres,", "a,,b", ",", "\"a,b\",", "a, \"\""] {
        let message = refusal(&format!("count_relations.databases = '{list}'"));
        assert_eq!(
            message[1..],
            [
                "A name in the list is empty.",
                "Remove the comma that has no name on one side, or the quotes around nothing."
            ]
        );
    }
}

#[test]
fn several_values_given_to_alter_system_are_a_list() {
    let cluster = Cluster::start(&["count_relations.databases = ''"]);
    cluster.expect("invalid value for parameter \"count_relations.databases\"");
    let mut client = cluster.connect("postgres");
    let mut set = |values: &str| {
        client.batch_execute(&format!(
            "ALTER SYSTEM SET count_relations.databases = {values}"
        ))
    };
    let refusal = set("'app', 'My Database'").unwrap_err();
    let hint = refusal.as_db_error().unwrap().hint().unwrap();
    assert!(hint.contains("in double quotes"), "{hint}");
    set("'app', '\"My Database\"', \"postgres\"").unwrap();
    client
        .batch_execute("CREATE DATABASE \"My Database\"")
        .unwrap();
    drop(client);
    cluster.stop(Signal::SIGINT);
    cluster.start_server();
    for name in ["app", "My Database", "postgres"] {
        cluster.await_line(&format!("relations in database \"{name}\""));
    }
}

#[test]
fn an_unknown_setting_is_reported_by_the_server() {
    let cluster = Cluster::init(&["count_relations.nap_time = 1"]);
    cluster.expect("invalid configuration parameter name \"count_relations.nap_time\"");
    cluster.start_server();
    cluster.await_line("invalid configuration parameter name \"count_relations.nap_time\"");
    cluster.await_line("Currently");
}

#[test]
fn a_missing_database_is_counted_when_it_appears() {
    let cluster = Cluster::init(&["count_relations.databases = 'missing'"]);
    cluster.expect("database \"missing\" does not exist");
    cluster.start_server();
    let first = cluster.await_line("database \"missing\" does not exist");
    let second = cluster.await_next_line("database \"missing\" does not exist");
    assert_eq!((first.level, second.level), (Level::Fatal, Level::Fatal));
    assert!(second.time - first.time > 4.5, "once per restart attempt");
    cluster.execute("postgres", "CREATE DATABASE missing");
    cluster.await_line("relations in database \"missing\"");
}

#[test]
fn a_missing_role_counts_when_it_appears() {
    let cluster = Cluster::init(&["count_relations.role = 'watcher'"]);
    cluster.expect("role \"watcher\" does not exist");
    cluster.start_server();
    cluster.await_line("role \"watcher\" does not exist");
    cluster.execute("postgres", "CREATE ROLE watcher LOGIN");
    let started = cluster.await_line("count relations worker started");
    assert!(started.message.contains("as role \"watcher\""));
    cluster.await_line("Currently");
}

#[test]
fn an_empty_list_starts_no_worker() {
    let cluster = Cluster::start(&["count_relations.databases = ''"]);
    assert!(!cluster.ps().iter().any(|line| line.contains("bgworker")));
    assert!(cluster.lines_with("count relations").is_empty());
}

#[test]
fn a_database_listed_twice_is_counted_once() {
    let cluster = Cluster::start(&[
        "count_relations.databases = 'postgres, POSTGRES, \"postgres\"'",
        FAST,
    ]);
    cluster.next_count("postgres");
    let workers = |line: &&String| line.starts_with("postgres: bgworker: count relations");
    assert_eq!(cluster.ps().iter().filter(workers).count(), 1);
    let first = cluster.counts("postgres")[0].pid;
    assert!(
        cluster
            .counts("postgres")
            .iter()
            .all(|count| count.pid == first)
    );
}
