//! Settings attached to a role or a database do not affect what our processes log or report:
//! the server's own settings apply, and keep applying.

use crate::cluster::{Cluster, FAST, eventually};
use crate::states::DATABASE;
use nix::sys::signal::Signal;

/// What settings can be attached to.
const OWNERS: &[&str] = &[
    "ROLE postgres",
    "DATABASE app",
    "ROLE ALL",
    "ROLE postgres IN DATABASE app",
];

/// Settings that would silence us, or change our words.
const SETTINGS: &[&str] = &[
    "log_min_messages = 'panic'",
    "log_error_verbosity = 'verbose'",
    "track_activities = off",
];

/// What `pg_stat_activity` shows of the worker: its state and its query.
fn activity(cluster: &Cluster) -> Option<(String, String)> {
    cluster
        .connect("postgres")
        .query_opt(
            "SELECT state, query FROM pg_stat_activity \
             WHERE backend_type = 'count relations' AND datname = $1 AND state IS NOT NULL",
            &[&DATABASE],
        )
        .unwrap()
        .map(|row| (row.get(0), row.get(1)))
}

fn await_activity(cluster: &Cluster, state: &str, query: &str) {
    eventually(&format!("the worker to be {state}"), || {
        // An idle tick reports nothing.
        cluster.execute(DATABASE, "CREATE TABLE something (); DROP TABLE something");
        (activity(cluster)? == (state.to_owned(), query.to_owned())).then_some(())
    });
}

/// The worker's ticks, as the view shows them.
fn ticks(cluster: &Cluster) -> i64 {
    cluster
        .connect("postgres")
        .query_one(
            "SELECT ticks FROM relation_counts WHERE datname = $1",
            &[&DATABASE],
        )
        .unwrap()
        .get(0)
}

/// Waits for a dozen ticks that leave nothing in the log.
fn await_silence(cluster: &Cluster) {
    eventually("ticks without a line", || {
        let (before, lines) = (ticks(cluster), cluster.counts(DATABASE).len());
        eventually("a dozen ticks", || {
            (ticks(cluster) > before + 12).then_some(())
        });
        (cluster.counts(DATABASE).len() == lines).then_some(())
    });
}

/// Counts and warnings are logged, and the worker is seen.
fn is_heard_and_seen(cluster: &Cluster) {
    cluster.next_count(DATABASE);
    let warning = format!("database \"{DATABASE}\" has ");
    eventually("a warning of the worker's", || {
        let start = cluster.lines_with("starting PostgreSQL").pop()?.time;
        let warning = cluster.lines_with(&warning).pop()?;
        (warning.time >= start).then_some(())
    });
    await_activity(cluster, "idle", "SELECT count(*) FROM pg_class");
}

fn the_servers_own_settings_hold(databases: &str) {
    let cluster = Cluster::start(&[
        &format!("count_relations.databases = '{databases}'"),
        FAST,
        "count_relations.warn_above = 1",
    ]);
    cluster.expect("more than count_relations.warn_above (1)");
    cluster.execute("postgres", "CREATE EXTENSION count_relations");
    for owner in OWNERS {
        for setting in SETTINGS {
            let sql = format!("ALTER {owner} SET {setting}");
            cluster.execute("postgres", &sql);
        }
        cluster.stop(Signal::SIGINT);
        cluster.start_server();
        is_heard_and_seen(&cluster);

        // Changes of the file take effect from the reload on, in both directions.
        cluster.configure(&["log_min_messages = 'fatal'", "track_activities = off"]);
        cluster.reload();
        await_silence(&cluster);
        await_activity(&cluster, "disabled", "");
        cluster.configure(&["log_min_messages = 'warning'", "track_activities = on"]);
        cluster.reload();
        is_heard_and_seen(&cluster);

        let sql = format!("ALTER {owner} RESET ALL");
        cluster.execute("postgres", &sql);
    }
}

#[test]
fn in_a_list_the_servers_own_settings_hold() {
    the_servers_own_settings_hold("app");
}

#[test]
fn in_all_databases_the_servers_own_settings_hold() {
    the_servers_own_settings_hold("*");
}
