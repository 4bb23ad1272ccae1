//! What the log says about the counts: every one, those that differ, or none; and about counts
//! that are too high.

use crate::cluster::{Cluster, Level, Line, await_ticks, eventually};
use crate::random_ddl::relations;
use postgres::Client;

const DATABASE: &str = "app";

/// A server that ticks often, whose ticks can be queried without the log.
fn start(configuration: &[&str]) -> (Cluster, Client) {
    let settings = [
        "count_relations.databases = 'app'",
        "count_relations.naptime = '30ms'",
    ];
    let cluster = Cluster::start(&[&settings, configuration].concat());
    let mut client = cluster.connect(DATABASE);
    client
        .batch_execute("CREATE EXTENSION count_relations")
        .unwrap();
    await_ticks(&mut client, DATABASE, 10);
    (cluster, client)
}

fn reload(cluster: &Cluster, client: &mut Client, line: &str) {
    cluster.configure(&[line]);
    cluster.reload();
    // This session, and so the worker, has read it.
    let (setting, value) = line.split_once(" = ").unwrap();
    let sql = format!("SELECT current_setting('{setting}') = {value}::text");
    eventually("the reload", || {
        client
            .query_one(&sql, &[])
            .unwrap()
            .get::<_, bool>(0)
            .then_some(())
    });
    await_ticks(client, DATABASE, 10);
}

/// What the log says after "Currently", in each of its counts so far.
fn counts(cluster: &Cluster) -> Vec<String> {
    let lines = cluster.lines_with("Currently ");
    let message = |line: Line| line.message["Currently ".len()..].to_owned();
    lines.into_iter().map(message).collect()
}

/// How a count of `relations` looks there.
fn said(relations: i64, difference: &str) -> String {
    format!("{relations} relations in database \"app\"{difference}")
}

#[test]
fn all_is_a_line_a_tick_without_a_difference() {
    let (cluster, mut client) = start(&["count_relations.log_counts = 'all'"]);
    let before = relations(&mut client);
    client.batch_execute("CREATE TABLE t ()").unwrap();
    await_ticks(&mut client, DATABASE, 10);
    let counts = counts(&cluster);
    assert!(counts.len() >= 20);
    assert!(counts.contains(&said(before, "")) && counts.contains(&said(before + 1, "")));
    assert!(counts.iter().all(|line| line.ends_with('"')), "{counts:?}");
}

#[test]
fn changes_is_a_line_a_change_with_the_difference() {
    let (cluster, mut client) = start(&["count_relations.log_counts = 'changes'"]);
    let logged = counts(&cluster).len();
    await_ticks(&mut client, DATABASE, 10);
    assert_eq!(counts(&cluster).len(), logged, "nothing has changed");
    let before = relations(&mut client);
    for sql in [
        "CREATE TABLE one ()",
        "CREATE TABLE two (i int PRIMARY KEY); CREATE VIEW three AS SELECT 1; CREATE SEQUENCE four",
        // Nothing to see between two ticks, or nothing at all.
        "BEGIN; CREATE TABLE nothing (); ROLLBACK",
        "ALTER TABLE one RENAME TO uno",
        "DROP TABLE uno, two; DROP VIEW three; DROP SEQUENCE four",
    ] {
        client.batch_execute(sql).unwrap();
        await_ticks(&mut client, DATABASE, 10);
    }
    assert_eq!(
        counts(&cluster)[logged..],
        [
            said(before + 1, " (+1)"),
            said(before + 5, " (+4)"),
            said(before, " (-5)")
        ]
    );
}

#[test]
fn none_is_no_line() {
    let (cluster, mut client) = start(&["count_relations.log_counts = 'none'"]);
    client.batch_execute("CREATE TABLE t ()").unwrap();
    await_ticks(&mut client, DATABASE, 10);
    assert!(cluster.lines_with("Currently").is_empty());
    cluster.await_line("worker started for database \"app\"");
}

#[test]
fn after_a_reload_a_difference_is_to_what_was_logged_last() {
    let (cluster, mut client) = start(&["count_relations.log_counts = 'all'"]);
    let before = relations(&mut client);

    reload(
        &cluster,
        &mut client,
        "count_relations.log_counts = 'changes'",
    );
    let logged = counts(&cluster).len();
    await_ticks(&mut client, DATABASE, 10);
    assert_eq!(
        counts(&cluster).len(),
        logged,
        "known from before the reload"
    );
    client.batch_execute("CREATE TABLE one ()").unwrap();
    await_ticks(&mut client, DATABASE, 10);
    assert_eq!(counts(&cluster)[logged..], [said(before + 1, " (+1)")]);

    reload(&cluster, &mut client, "count_relations.log_counts = 'none'");
    for name in ["two", "three"] {
        client
            .batch_execute(&format!("CREATE TABLE {name} ()"))
            .unwrap();
        await_ticks(&mut client, DATABASE, 10);
    }
    assert_eq!(counts(&cluster).len(), logged + 1);

    reload(
        &cluster,
        &mut client,
        "count_relations.log_counts = 'changes'",
    );
    assert_eq!(counts(&cluster)[logged + 1..], [said(before + 3, " (+2)")]);

    reload(&cluster, &mut client, "count_relations.log_counts = 'all'");
    let counts = counts(&cluster);
    assert!(counts.len() > logged + 10);
    assert_eq!(counts.last(), Some(&said(before + 3, "")));
}

#[test]
fn changes_begin_with_the_number_if_none_was_logged_before() {
    let (cluster, mut client) = start(&["count_relations.log_counts = 'none'"]);
    reload(
        &cluster,
        &mut client,
        "count_relations.log_counts = 'changes'",
    );
    assert_eq!(counts(&cluster), [said(relations(&mut client), "")]);
}

#[test]
fn each_database_has_a_history_of_its_own() {
    let (cluster, mut client) = start(&[
        "count_relations.databases = 'app, postgres'",
        "count_relations.log_counts = 'changes'",
    ]);
    cluster.await_line("relations in database \"postgres\"");
    let logged = cluster.counts("postgres").len();
    client
        .batch_execute("CREATE TABLE t (i int PRIMARY KEY)")
        .unwrap();
    let changed = cluster.await_line("relations in database \"app\" (+2)");
    assert_eq!(changed.level, Level::Log);
    assert_eq!(cluster.counts("postgres").len(), logged);
}

/// Lines about a threshold, and the hints that belong to them.
fn alarms(cluster: &Cluster) -> Vec<(Level, String)> {
    let is_about = |line: &Line| {
        line.message.contains("count_relations.warn_above")
            && !line.message.starts_with("parameter")
    };
    let lines = cluster.lines().into_iter().filter(is_about);
    lines.map(|line| (line.level, line.message)).collect()
}

fn risen(relations: i64, threshold: i64) -> [(Level, String); 2] {
    [
        (
            Level::Warning,
            format!("database \"app\" has {relations} relations, more than count_relations.warn_above ({threshold})"),
        ),
        (
            Level::Addition,
            "Look for runaway temporary tables, partitions or schemas, or raise count_relations.warn_above.".to_owned(),
        ),
    ]
}

fn fallen(relations: i64, threshold: i64) -> (Level, String) {
    let message = format!(
        "database \"app\" has {relations} relations, no longer more than count_relations.warn_above ({threshold})"
    );
    (Level::Log, message)
}

/// A server that must warn at two relations more than there are, and the threshold.
fn start_with_threshold() -> (Cluster, Client, i64) {
    let (cluster, mut client) = start(&[]);
    cluster.expect("more than count_relations.warn_above");
    let threshold = relations(&mut client) + 2;
    set_threshold(&cluster, &mut client, threshold);
    (cluster, client, threshold)
}

fn set_threshold(cluster: &Cluster, client: &mut Client, threshold: i64) {
    reload(
        cluster,
        client,
        &format!("count_relations.warn_above = '{threshold}'"),
    );
}

#[test]
fn a_rise_above_the_threshold_is_one_warning_and_the_fall_one_line() {
    let (cluster, mut client, threshold) = start_with_threshold();
    let mut then = |sql: &str| {
        client.batch_execute(sql).unwrap();
        await_ticks(&mut client, DATABASE, 10);
        alarms(&cluster)
    };
    let mut story = Vec::new();
    assert_eq!(
        then("CREATE TABLE one (); CREATE TABLE two ()"),
        story,
        "at the threshold"
    );
    story.extend(risen(threshold + 1, threshold));
    assert_eq!(then("CREATE TABLE three ()"), story, "above it");
    assert_eq!(then("CREATE TABLE four ()"), story, "further");
    assert_eq!(then("DROP TABLE four"), story, "back a bit");
    story.push(fallen(threshold, threshold));
    assert_eq!(then("DROP TABLE three"), story, "at the threshold again");
    assert_eq!(then("DROP TABLE two"), story, "below");
    story.extend(risen(threshold + 4, threshold));
    assert_eq!(
        then(
            "CREATE TABLE a (i int PRIMARY KEY); CREATE TABLE b (i int PRIMARY KEY); CREATE TABLE c ()"
        ),
        story,
        "above it once more"
    );
}

#[test]
fn a_threshold_that_moves_is_compared_with_at_the_next_tick() {
    let (cluster, mut client, threshold) = start_with_threshold();
    let now = threshold - 2;
    let mut story = Vec::new();
    let mut becomes = |threshold| {
        set_threshold(&cluster, &mut client, threshold);
        alarms(&cluster)
    };
    story.extend(risen(now, now - 1));
    assert_eq!(becomes(now - 1), story, "lowered below the count");
    assert_eq!(becomes(now - 2), story, "still above");
    story.push(fallen(now, now));
    assert_eq!(becomes(now), story, "raised to the count");
}

#[test]
fn switched_off_it_keeps_quiet_and_switched_on_it_begins_anew() {
    let (cluster, mut client, threshold) = start_with_threshold();
    let now = threshold - 2;
    let mut becomes = |threshold| {
        set_threshold(&cluster, &mut client, threshold);
        alarms(&cluster)
    };
    let mut story = risen(now, 1).to_vec();
    assert_eq!(becomes(1), story);
    assert_eq!(becomes(0), story, "off: neither above nor below");
    story.extend(risen(now, 1));
    assert_eq!(becomes(1), story, "on again");
}

#[test]
fn off_is_the_default() {
    let (cluster, mut client) = start(&[]);
    await_ticks(&mut client, DATABASE, 10);
    assert!(alarms(&cluster).is_empty());
}

#[test]
fn at_start_a_count_above_the_threshold_is_one_warning() {
    let cluster = Cluster::init(&[
        "count_relations.databases = 'app'",
        "count_relations.naptime = '30ms'",
        "count_relations.warn_above = 100",
    ]);
    cluster.expect("more than count_relations.warn_above");
    cluster.start_server();
    let counts = eventually("twenty counts", || {
        Some(cluster.counts(DATABASE)).filter(|counts| counts.len() > 20)
    });
    assert_eq!(alarms(&cluster), risen(counts[0].relations, 100));
}

#[test]
fn at_start_a_count_below_the_threshold_is_no_line() {
    let (cluster, mut client) = start(&["count_relations.warn_above = 1000000"]);
    await_ticks(&mut client, DATABASE, 10);
    assert!(alarms(&cluster).is_empty());
}

#[test]
fn the_warning_does_not_depend_on_what_else_is_logged() {
    let (cluster, mut client) = start(&["count_relations.log_counts = 'none'"]);
    cluster.expect("more than count_relations.warn_above");
    set_threshold(&cluster, &mut client, 100);
    let now = relations(&mut client);
    assert_eq!(alarms(&cluster), risen(now, 100));
    set_threshold(&cluster, &mut client, 1_000_000);
    assert_eq!(alarms(&cluster)[2..], [fallen(now, 1_000_000)]);
}

#[test]
fn wrong_values_are_refused_and_the_old_ones_stay() {
    let (cluster, mut client) = start(&["count_relations.log_counts = 'changes'"]);
    cluster.configure(&[
        "count_relations.log_counts = 'some'",
        "count_relations.warn_above = -1",
    ]);
    cluster.reload();
    cluster.await_line("invalid value for parameter \"count_relations.log_counts\": \"some\"");
    cluster.await_line("Available values: all, changes, none.");
    cluster
        .await_line("-1 is outside the valid range for parameter \"count_relations.warn_above\"");
    let sql = "SELECT current_setting('count_relations.log_counts') || \
               current_setting('count_relations.warn_above')";
    let shown: String = client.query_one(sql, &[]).unwrap().get(0);
    assert_eq!(shown, "changes0");
}
