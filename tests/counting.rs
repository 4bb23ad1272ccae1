//! The worker counts, on a fixed cadence, and logs what it counted.

use crate::census;
use crate::cluster::{Cluster, FAST, Level, eventually, has_assertions, terminate};
use crate::random_ddl::relations;
use nix::sys::signal::Signal;

#[test]
fn a_stock_server_with_nothing_but_the_library_preloaded_counts_once_a_second() {
    let cluster = Cluster::start(&[]);
    let at_rest = relations(&mut cluster.connect("postgres"));
    let line = cluster.await_line("Currently");
    assert_eq!(line.level, Level::Log);
    assert_eq!(
        line.message,
        format!("Currently {at_rest} relations in database \"postgres\"")
    );
    let ten_seconds_later = line.time + 10.0;
    eventually("ten seconds of counts", || {
        (cluster.counts("postgres").last()?.time > ten_seconds_later).then_some(())
    });
    let counts = cluster.counts("postgres");
    let in_ten_seconds = counts
        .iter()
        .filter(|count| count.time <= ten_seconds_later)
        .count();
    // A machine that is busy may leave some out.
    assert!(
        (7..=11).contains(&in_ten_seconds),
        "{in_ten_seconds} counts in ten seconds"
    );
    assert!(counts.iter().all(|count| count.relations == at_rest));
}

#[test]
fn the_count_follows_what_is_committed() {
    let cluster = Cluster::start(&[FAST]);
    let mut client = cluster.connect("postgres");
    let before = cluster.next_count("postgres");
    assert_eq!(before, relations(&mut client));

    client.batch_execute("CREATE TABLE plain (i int)").unwrap();
    assert_eq!(cluster.next_count("postgres"), before + 1);

    let mut transaction = client.transaction().unwrap();
    transaction
        .batch_execute("CREATE TABLE rolled_back (i int PRIMARY KEY)")
        .unwrap();
    assert_eq!(cluster.next_count("postgres"), before + 1, "uncommitted");
    transaction.rollback().unwrap();
    assert_eq!(cluster.next_count("postgres"), before + 1, "rolled back");

    let mut other = cluster.connect("postgres");
    other
        .batch_execute("CREATE TEMPORARY TABLE temporary (i int)")
        .unwrap();
    assert_eq!(cluster.next_count("postgres"), before + 2);
    drop(other);
    cluster.await_count("postgres", before + 1);

    client.batch_execute("DROP TABLE plain").unwrap();
    assert_eq!(cluster.next_count("postgres"), before);
}

#[test]
fn the_cadence_does_not_drift() {
    const NAPTIME: f64 = 0.2;
    const TICKS: usize = 40;
    let cluster = Cluster::start(&["count_relations.naptime = '200ms'"]);
    let counts = eventually("40 ticks", || {
        let mut counts = cluster.counts("postgres").into_iter();
        counts.next()?; // Takes longer than all others.
        Some(counts.collect::<Vec<_>>()).filter(|counts| counts.len() > TICKS)
    });
    let elapsed: Vec<f64> = counts.iter().map(|c| c.time - counts[0].time).collect();
    let skipped = (elapsed[TICKS] / NAPTIME).round() as usize - TICKS;
    assert!(skipped <= TICKS / 2, "skipped {skipped} ticks");
    // A busy machine makes ticks late, but not most of them, and none is early. A tick
    // that is late by a millisecond each time would be 30 ms off in the end.
    let off_the_grid = |time: &f64| time - (time / NAPTIME).round() * NAPTIME;
    let usual = |times: &[f64]| {
        let mut times: Vec<f64> = times.iter().map(off_the_grid).collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let (start, end) = (usual(&elapsed[..10]), usual(&elapsed[TICKS - 10..]));
    let drift = end - start;
    assert!(drift.abs() < 0.015, "drifted by {drift} s");
}

#[test]
fn ps_and_pg_stat_activity_show_the_worker() {
    let cluster = Cluster::start(&[
        "count_relations.naptime = '1h'",
        "count_relations.census_naptime = 0",
    ]);
    cluster.await_line("Currently");
    assert!(
        cluster
            .ps()
            .contains(&"postgres: bgworker: count relations".to_owned()),
        "{:?}",
        cluster.ps()
    );
    let mut client = cluster.connect("postgres");
    let row = client
        .query_one(
            "SELECT usename::text, application_name, state, query, xact_start IS NULL, \
                    backend_xmin IS NULL \
             FROM pg_stat_activity \
             WHERE backend_type = 'count relations' AND datname = 'postgres'",
            &[],
        )
        .unwrap();
    let text = |i: usize| row.get::<_, String>(i);
    assert_eq!(
        [text(0), text(1), text(2), text(3)],
        [
            "postgres",
            "count_relations",
            "idle",
            "SELECT count(*) FROM pg_class"
        ]
    );
    assert!(row.get::<_, bool>(4) && row.get::<_, bool>(5));

    // Blocked by a lock, it is shown as active, with the query that waits.
    let mut transaction = client.transaction().unwrap();
    transaction
        .batch_execute("LOCK TABLE pg_class IN ACCESS EXCLUSIVE MODE")
        .unwrap();
    cluster.configure(&[FAST, "count_relations.skip_unchanged = off"]);
    cluster.reload();
    let mut other = cluster.connect("template1");
    eventually("the worker to be active", || {
        other
            .query_one(
                "SELECT count(*) FROM pg_stat_activity \
                 WHERE backend_type = 'count relations' AND state = 'active' \
                   AND query = 'SELECT count(*) FROM pg_class' \
                   AND wait_event_type = 'Lock' AND wait_event = 'relation'",
                &[],
            )
            .unwrap()
            .get::<_, i64>(0)
            .eq(&1)
            .then_some(())
    });
}

#[test]
fn its_scans_reach_the_table_statistics() {
    let cluster = Cluster::start(&[FAST, "count_relations.skip_unchanged = off"]);
    let mut client = cluster.connect("postgres");
    // Of pg_class and its indexes, by oid: looking them up by name would be a scan.
    let sql = "SELECT sum(pg_stat_get_numscans(oid::oid))::bigint \
               FROM (VALUES (1259), (2662), (2663), (3455)) AS pg_class (oid)";
    let mut scans = || -> i64 { client.query_one(sql, &[]).unwrap().get(0) };
    let before = scans();
    eventually("the worker's scans to be counted", || {
        (scans() > before + 50).then_some(())
    });
}

/// With assertions, caches can be made to forget everything at every opportunity; without, this
/// is a story like any other.
fn counts_with_caches_that_forget_at_once(databases: &str) {
    let are_all = databases == "*";
    let databases = format!("count_relations.databases = '{databases}'");
    let cluster = Cluster::start(&[FAST, &databases]);
    let mut client = cluster.connect("postgres");
    client
        .batch_execute("CREATE EXTENSION count_relations")
        .unwrap();
    let forget_or_not = if has_assertions(&mut client) {
        // Sessions keep theirs, for the sake of time: no setting of a role applies to us.
        let own = "ALTER ROLE postgres SET debug_discard_caches = 0";
        client.batch_execute(own).unwrap();
        cluster.configure(&["debug_discard_caches = 1"]);
        "SET debug_discard_caches = 1"
    } else {
        ""
    };
    cluster.stop(Signal::SIGINT);
    cluster.start_server();
    let mut client = cluster.connect("postgres");
    for sql in ["CREATE TABLE t (id serial PRIMARY KEY)", "DROP TABLE t"] {
        client.batch_execute(sql).unwrap();
        cluster.await_count("postgres", relations(&mut client));
    }
    // Visits rest for long after such a slow one.
    if !are_all {
        census::assert_right(&cluster, "postgres");
    }
    client.batch_execute(forget_or_not).unwrap();
    let rows: i64 = client
        .query_one(
            "SELECT least((SELECT count(*) FROM relation_counts), \
                          (SELECT count(*) FROM relation_counts_by_kind), \
                          (SELECT count(*) FROM relation_counts_by_schema), \
                          (SELECT count(*) FROM relation_catalogs))",
            &[],
        )
        .unwrap()
        .get(0);
    assert!(rows > 0);
    // Whose owner is looked up.
    cluster.execute(
        "postgres",
        "CREATE ROLE other LOGIN CREATEDB; ALTER DATABASE app OWNER TO other",
    );
    let rename = "ALTER DATABASE app RENAME TO another";
    cluster.expect("database \"app\" does not exist");
    let mut other = cluster.connect_as("other", "postgres");
    other.batch_execute(rename).unwrap();
}

#[test]
fn it_counts_with_caches_that_forget_at_once() {
    counts_with_caches_that_forget_at_once("postgres, app");
}

#[test]
fn all_databases_are_counted_with_caches_that_forget_at_once() {
    counts_with_caches_that_forget_at_once("*");
}

#[test]
fn sigterm_ends_the_worker_and_the_postmaster_starts_another() {
    let cluster = Cluster::start(&[]);
    cluster.await_line("Currently");
    let worker = cluster.worker("postgres");
    terminate(worker);
    let ended = cluster.await_line("exited with exit code 1");
    let next = cluster.await_next_line("count relations worker started");
    assert!(next.pid != worker);
    let pause = next.time - ended.time;
    assert!(pause > 4.5, "restarted after {pause} s");
    cluster.await_next_line("Currently");
}

#[test]
fn fast_shutdown_is_clean() {
    let cluster = Cluster::start(&[FAST]);
    cluster.await_line("Currently");
    cluster.stop(Signal::SIGINT);
    cluster.await_line("database system is shut down");
    assert!(cluster.lines_with("not properly shut down").is_empty());
}

#[test]
fn two_databases_have_a_worker_and_a_stream_of_lines_each() {
    let cluster = Cluster::init(&[FAST, "count_relations.databases = 'postgres, template1'"]);
    cluster.start_server();
    cluster.execute("postgres", "CREATE TABLE one_more (i int)");
    let template1 = cluster.next_count("template1");
    cluster.await_count("postgres", template1 + 1);
    assert_ne!(cluster.worker("postgres"), cluster.worker("template1"));
    let ps = cluster.ps();
    for name in ["postgres", "template1"] {
        assert!(ps.contains(&format!("postgres: bgworker: count relations {name}")));
    }
}

#[test]
fn databases_with_strange_names_are_counted() {
    let cluster = Cluster::start(&[]);
    let names = [
        "Capitals",
        "with space",
        "quo\"te",
        "comma,name",
        "größe_日本",
        "apo'strophe",
        "sixty-three bytes long, the longest name that the server takes.",
    ];
    let mut list = Vec::new();
    for name in names {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        cluster.execute("postgres", &format!("CREATE DATABASE {quoted}"));
        list.push(quoted);
    }
    list.push("Postgres".to_owned()); // folds to lower case
    cluster.stop(Signal::SIGINT);
    let list = list.join(" , ").replace('\'', "''");
    cluster.configure(&[
        "max_worker_processes = 20",
        &format!("count_relations.databases = '{list}'"),
    ]);
    cluster.start_server();
    for name in names.into_iter().chain(["postgres"]) {
        let counted = cluster.next_count(name);
        assert_eq!(counted, relations(&mut cluster.connect(name)), "{name:?}");
        let title = format!("postgres: bgworker: count relations {name}");
        assert!(cluster.ps().contains(&title), "{:?}", cluster.ps());
    }
}
