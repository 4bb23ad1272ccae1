//! What can't be counted is retried less and less often, causes few log lines, and is counted
//! soon after that becomes possible.

use crate::cluster::{
    Cluster, FAST, Level, Line, eventually, has_library, is_gone, is_napping, leave_out, send,
    server_time, terminate,
};
use crate::random_ddl::relations;
use crate::{all_databases, states};
use nix::sys::signal::Signal;
use postgres::Client;
use std::fs;
use std::path::PathBuf;

/// Messages of the waiting room.
const DEBUG: &str = "log_min_messages = 'debug1'";
const WAITED: &str = "trying again after having waited long enough";
const MAY: &str = "early, as nothing stands in the way of connecting any more";

/// The worker that waits, for the database or role in `description`.
fn await_waiting_room(client: &mut Client, description: &str) -> i32 {
    let sql = "SELECT pid FROM pg_stat_activity \
               WHERE backend_type LIKE 'count relations%' AND datname IS NULL \
                 AND state = 'idle' AND query = $1";
    let what = format!("a process {description}");
    eventually(&what, || client.query_opt(sql, &[&description]).unwrap()).get(0)
}

/// The time from each line to the next.
fn gaps(lines: &[Line]) -> Vec<f64> {
    lines
        .windows(2)
        .map(|pair| pair[1].time - pair[0].time)
        .collect()
}

/// The waiting room was left because of a change, and not just before its time was up.
fn assert_early(cluster: &Cluster) {
    let line = cluster.await_line(MAY);
    let (_, rest) = line.message.split_once("trying again, ").unwrap();
    let (early, _) = rest.split_once(" ms").unwrap();
    assert!(early.parse::<u64>().unwrap() > 0, "{}", line.message);
}

fn assert_less_and_less_often(failures: &[Line]) {
    let gaps = gaps(failures);
    let least = [5.0, 15.0, 30.0, 55.0, 55.0];
    for (gap, least) in gaps.iter().zip(least) {
        assert!(*gap > least - 0.5, "{gaps:?}");
    }
}

#[test]
fn a_missing_database_is_tried_less_and_less_often_and_counted_when_it_appears() {
    let failure = "database \"missing\" does not exist";
    let cluster = Cluster::init(&["count_relations.databases = 'missing'", FAST, DEBUG]);
    cluster.expect(failure);
    cluster.start_server();
    for nth in 1..=5 {
        let line = cluster.await_nth_line(failure, nth);
        assert_eq!(line.level, Level::Fatal);
    }
    let failures = cluster.lines_with(failure);
    assert_less_and_less_often(&failures);

    // Two lines for each failure, and one for the room.
    let ours = |line: &Line| line.level != Level::Debug && line.message.contains("count relations");
    let lines = cluster.lines().into_iter().filter(ours).count();
    assert!(lines <= 5 + 3, "{lines} lines beside those of the failures");

    let mut client = cluster.connect("postgres");
    let description = "waiting to connect to database \"missing\"";
    await_waiting_room(&mut client, description);
    let title = format!("postgres: bgworker: count relations {description}");
    assert!(cluster.ps().contains(&title), "{:?}", cluster.ps());
    let waited = cluster.lines_with(WAITED).len();
    client.batch_execute("CREATE DATABASE other").unwrap();
    client.batch_execute("CREATE DATABASE missing").unwrap();
    assert_early(&cluster);
    cluster.await_line("relations in database \"missing\"");
    assert_eq!(cluster.lines_with(WAITED).len(), waited);
    assert_eq!(cluster.lines_with(failure).len(), failures.len());

    // Everything is forgotten: the next failure is the first one.
    client.batch_execute("DROP DATABASE missing").unwrap();
    cluster.await_nth_line(failure, failures.len() + 2);
    assert_eq!(cluster.lines_with(WAITED).len(), waited);
}

#[test]
fn a_role_that_may_not_connect_is_tried_again_when_it_may() {
    let cluster = Cluster::init(&["count_relations.role = 'watcher'", FAST, DEBUG]);
    let failure = "role \"watcher\" does not exist";
    cluster.expect(failure);
    cluster.start_server();
    // From now on, waiting is slow.
    cluster.await_nth_line(failure, 3);
    let mut client = cluster.connect("postgres");
    let mut waits = |sql: &str| {
        let description = "waiting to connect to database \"postgres\" as role \"watcher\"";
        let waiting = await_waiting_room(&mut client, description);
        client.batch_execute(sql).unwrap();
        waiting
    };
    let first = waits("CREATE ROLE watcher");
    assert_eq!(waits("ALTER DATABASE app SET work_mem = '1MB'"), first);
    waits("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; ALTER ROLE watcher LOGIN");
    waits("CREATE ROLE watchers; GRANT CONNECT ON DATABASE postgres TO watchers");
    waits("GRANT watchers TO watcher");
    assert_early(&cluster);
    cluster.await_line("as role \"watcher\"");
    cluster.await_line("Currently");
    assert_eq!(cluster.lines_with(failure).len(), 3);
}

/// Moves away a file of the database that is needed to connect, and ends the worker. Returns
/// where the file was, and where it is.
fn damage(cluster: &Cluster, database: &str) -> (PathBuf, PathBuf) {
    let mut client = cluster.connect("postgres");
    let sql = "SELECT 'base/' || oid || '/PG_VERSION' FROM pg_database WHERE datname = $1";
    let path: String = client.query_one(sql, &[&database]).unwrap().get(0);
    let path = cluster.data().join(path);
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).unwrap();
    if let Some(worker) = cluster.worker_now(database) {
        terminate(worker);
    }
    (path, aside)
}

#[test]
fn a_damaged_database_is_tried_less_and_less_often_and_counted_when_it_is_repaired() {
    let failure = "is not a valid data directory";
    let cluster = states::start(&["count_relations.databases = 'app'", FAST]);
    cluster.expect(failure);
    let (path, aside) = damage(&cluster, "app");
    cluster.await_nth_line(failure, 4);
    // The second room is entered in vain: all looks well.
    let least = [5.0, 10.0, 30.0];
    let gaps = gaps(&cluster.lines_with(failure));
    for (gap, least) in gaps.iter().zip(least) {
        assert!(*gap > least - 0.5, "{gaps:?}");
    }
    fs::rename(&aside, &path).unwrap();
    cluster.await_nth_line("worker started for database \"app\"", 2);
}

#[test]
fn who_waits_leaves_at_once_and_is_not_in_the_way() {
    let failure = "database \"missing\" does not exist";
    let cluster = Cluster::init(&["count_relations.databases = 'missing'"]);
    cluster.expect(failure);
    cluster.start_server();
    // From now on, waiting is slow.
    cluster.await_nth_line(failure, 3);
    let mut client = cluster.connect("postgres");
    let description = "waiting to connect to database \"missing\"";
    let first = await_waiting_room(&mut client, description);
    client.batch_execute("DROP DATABASE app").unwrap();
    send(first, Signal::SIGTERM);
    eventually("the process to end", || is_gone(first).then_some(()));
    let last = cluster.await_line("leaving due to SIGTERM");
    assert_eq!(last.pid, first);
    cluster.await_line(&format!("(PID {first}) exited with exit code 1"));
    assert_eq!(cluster.lines_with(failure).len(), 3);

    let second = await_waiting_room(&mut client, description);
    cluster.expect("terminating connection due to unexpected postmaster exit");
    cluster.stop(Signal::SIGKILL);
    eventually("the process to end", || is_gone(second).then_some(()));
}

const WATCHER: &[&str] = &[
    "count_relations.databases = '*'",
    "count_relations.role = 'watcher'",
    FAST,
    "log_min_messages = debug1",
];

/// A server with the databases that `sql` makes, on which "watcher" counts them all.
fn start_watcher(sql: &[String]) -> Cluster {
    let cluster = Cluster::start(&["count_relations.databases = ''"]);
    let mut client = cluster.connect("postgres");
    client.batch_execute("CREATE ROLE watcher LOGIN").unwrap();
    for sql in sql {
        client.batch_execute(sql).unwrap();
    }
    drop(client);
    cluster.stop(Signal::SIGINT);
    cluster.configure(WATCHER);
    cluster.configure(&["max_worker_processes = 40"]);
    cluster
}

#[test]
fn databases_that_the_role_may_not_connect_to_are_one_warning_until_it_may() {
    let names = (1..=30).map(|i| format!("db{i:02}"));
    let sql: Vec<String> = names
        .flat_map(|name| {
            [
                format!("CREATE DATABASE {name}"),
                format!("REVOKE CONNECT ON DATABASE {name} FROM PUBLIC"),
            ]
        })
        .collect();
    let cluster = start_watcher(&sql);
    let refused = "role \"watcher\" lacks the CONNECT privilege: \
                   relations of 30 of 32 databases are not counted";
    cluster.expect(refused);
    cluster.start_server();
    let warning = cluster.await_line(refused);
    assert_eq!(warning.level, Level::Warning);
    cluster
        .await_line("Not counted: \"db01\", \"db02\", \"db03\", \"db04\", \"db05\" and 25 others.");
    cluster.await_line(
        "Use GRANT CONNECT ON DATABASE to let it connect to those that are to be counted.",
    );
    cluster.await_line("relations in database \"app\"");

    let mut client = cluster.connect("postgres");
    client
        .batch_execute("GRANT CONNECT ON DATABASE db03 TO watcher")
        .unwrap();
    cluster.await_line("relations in database \"db03\"");
    client
        .batch_execute("CREATE ROLE watchers; GRANT CONNECT ON DATABASE db04 TO watchers")
        .unwrap();
    client.batch_execute("GRANT watchers TO watcher").unwrap();
    cluster.await_line("relations in database \"db04\"");
    client
        .batch_execute(
            "ALTER DATABASE db05 OWNER TO watcher; REVOKE CONNECT ON DATABASE db01 FROM postgres",
        )
        .unwrap();
    client
        .batch_execute("GRANT CONNECT ON DATABASE db05 TO watcher")
        .unwrap();
    cluster.await_line("relations in database \"db05\"");
    // No visit has failed meanwhile: the log would have an unexpected line.
    assert_eq!(cluster.lines_with("lacks the CONNECT privilege").len(), 1);
}

#[test]
fn a_privilege_that_comes_and_goes_fills_no_log() {
    let cluster = start_watcher(&[
        "CREATE DATABASE shut".to_owned(),
        "REVOKE CONNECT ON DATABASE shut FROM PUBLIC".to_owned(),
    ]);
    let refused = "lacks the CONNECT privilege";
    cluster.expect(refused);
    cluster.start_server();
    let first = cluster.await_line(refused);
    for nth in 1..=4 {
        for (sql, line) in [
            (
                "GRANT CONNECT ON DATABASE shut TO",
                "worker started for database \"shut\"",
            ),
            (
                "REVOKE CONNECT ON DATABASE shut FROM",
                "not to be counted any more",
            ),
        ] {
            cluster.execute("postgres", &format!("{sql} watcher"));
            let line = cluster.await_nth_line(line, nth);
            if line.message.contains("started") {
                // Otherwise the launcher might get ahead of it.
                let mut client = cluster.connect("postgres");
                eventually("a nap", || is_napping(&mut client, line.pid).then_some(()));
            }
        }
    }
    let starts = cluster.lines_with("worker started for database \"shut\"");
    let gaps = gaps(&starts);
    assert!(gaps.iter().all(|gap| *gap > 4.5), "{gaps:?}");
    let minutes = (starts.last().unwrap().time - first.time) / 60.0;
    assert!(cluster.lines_with(refused).len() as f64 <= 1.0 + minutes);
}

#[test]
fn a_list_of_privileges_too_long_for_its_row_is_no_obstacle() {
    let grants = "DO $$ BEGIN FOR i IN 1..3000 LOOP \
                    EXECUTE format('CREATE ROLE r%s', md5(i::text)); \
                  END LOOP; END $$";
    let list = "DO $$ DECLARE roles text; BEGIN \
                  SELECT string_agg(rolname, ', ' ORDER BY md5(rolname)) INTO roles \
                  FROM pg_roles WHERE rolname ~ '^r[0-9a-f]{32}$'; \
                  EXECUTE 'GRANT CONNECT ON DATABASE app TO ' || roles; END $$";
    let cluster = start_watcher(&[grants.to_owned(), list.to_owned()]);
    cluster.start_server();
    let mut client = cluster.connect("postgres");
    let sql = "SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE relname = 'pg_database'";
    let outside: i64 = client.query_one(sql, &[]).unwrap().get(0);
    assert!(outside > 0, "it is not too long");
    cluster.await_line("relations in database \"app\"");
    cluster.await_line("relations in database \"postgres\"");
}

#[test]
fn a_role_that_is_dropped_and_created_again_counts_again() {
    let cluster = start_watcher(&[]);
    cluster.expect("role \"watcher\" does not exist");
    // If a visit begins just then.
    cluster.expect("role with OID").expect("invalid role OID");
    cluster.start_server();
    for name in ["app", "postgres"] {
        cluster.await_line(&format!("relations in database \"{name}\""));
    }
    let mut client = cluster.connect("postgres");
    all_databases::await_rest(&cluster);
    client.batch_execute("DROP ROLE watcher").unwrap();
    cluster.await_line("count relations launcher leaving, as role \"watcher\" is no longer");
    await_waiting_room(&mut client, "waiting to connect as role \"watcher\"");
    client.batch_execute("CREATE ROLE watcher LOGIN").unwrap();
    client.batch_execute("CREATE DATABASE created").unwrap();
    let started = cluster.await_line("worker started for database \"created\"");
    assert!(started.message.contains("as role \"watcher\""));

    all_databases::await_rest(&cluster);
    // At once, so that the launcher never finds it missing.
    let failures = cluster.lines_with("role \"watcher\" does not exist").len();
    client
        .batch_execute("BEGIN; DROP ROLE watcher; CREATE ROLE watcher LOGIN; COMMIT")
        .unwrap();
    client.batch_execute("CREATE DATABASE another").unwrap();
    cluster.await_line("worker started for database \"another\"");
    let later = cluster.lines_with("role \"watcher\" does not exist").len();
    assert_eq!(later, failures);
}

#[test]
fn a_damaged_database_among_all_is_tried_less_and_less_often() {
    let failure = "is not a valid data directory";
    let cluster = Cluster::start(&["count_relations.databases = '*'", FAST]);
    cluster.expect(failure);
    cluster.next_count("app");
    let (path, aside) = damage(&cluster, "app");
    let mut client = cluster.connect("postgres");
    // Counts as a change of it.
    let alter = "ALTER DATABASE app CONNECTION LIMIT 7";
    client.batch_execute(alter).unwrap();
    cluster.await_nth_line(failure, 4);
    assert_less_and_less_often(&cluster.lines_with(failure));
    let said = cluster.lines_with("could not count relations of database \"app\"");
    assert_eq!(said.len(), 1);
    fs::rename(&aside, &path).unwrap();
    let counted = cluster.counts("app").len();
    client
        .batch_execute("ALTER DATABASE app CONNECTION LIMIT 8")
        .unwrap();
    eventually("it to be counted again", || {
        (cluster.counts("app").len() > counted).then_some(())
    });
}

#[test]
fn damaged_databases_do_not_hold_up_others_that_share_a_single_worker_with_them() {
    const DAMAGED: usize = 30;
    let failure = "is not a valid data directory";
    let cluster = Cluster::start(&[
        "count_relations.databases = '*'",
        "count_relations.max_workers = 1",
        "count_relations.census_naptime = 0",
    ]);
    cluster.expect(failure);
    let names = all_databases::create_databases(&cluster, DAMAGED);
    for name in &names {
        cluster.await_line(&format!("relations in database \"{name}\""));
    }
    all_databases::await_rest(&cluster);
    for name in &names {
        damage(&cluster, name);
    }
    // Counts as a change of each of them, after which a visit comes sooner.
    let mut client = cluster.connect("postgres");
    let alter = names
        .iter()
        .map(|name| format!("ALTER DATABASE {name} CONNECTION LIMIT 7"));
    let alter = alter.collect::<Vec<_>>().join(";");
    client.batch_execute(&alter).unwrap();
    cluster.await_nth_line(failure, 2 * DAMAGED);
    // Of the pause after the second failure, half is left out.
    client.batch_execute("SELECT pg_sleep(8)").unwrap();
    client.batch_execute(&alter).unwrap();
    let mut app = cluster.connect("app");
    app.batch_execute("CREATE TABLE t ()").unwrap();
    let changed = server_time(&mut client);
    let relations = relations(&mut app);
    let counted = eventually("the change to be counted", || {
        let counts = cluster.counts("app").into_iter();
        counts.rev().find(|count| count.relations == relations)
    });
    let failures = cluster.lines_with(failure);
    let between = failures.iter().map(|line| line.time);
    let between = between
        .filter(|time| (changed..counted.time).contains(time))
        .count();
    assert!(between < 8, "{between} of {DAMAGED} came first");
}

const NO_ROOM: &str = "out of background worker slots";

#[test]
fn a_launcher_that_finds_no_room_is_a_warning() {
    let cluster = Cluster::init(&[
        "count_relations.databases = '*'",
        // Taken by the launcher for logical replication.
        "max_worker_processes = 1",
    ]);
    cluster.expect(NO_ROOM);
    cluster.start_server();
    let warning = cluster.await_line(NO_ROOM);
    assert_eq!(
        (warning.level, warning.message.as_str()),
        (
            Level::Warning,
            "out of background worker slots: relations of no database are counted"
        )
    );
    cluster.await_line("You might need to increase max_worker_processes.");
}

#[test]
fn a_list_that_finds_no_room_beside_others_is_a_warning() {
    if !has_library("pg_prewarm") {
        let why = "this PostgreSQL has no pg_prewarm to take a worker slot";
        leave_out("failing::a_list_that_finds_no_room_beside_others", why);
        return;
    }
    for libraries in ["pg_prewarm, count_relations", "count_relations, pg_prewarm"] {
        let cluster = Cluster::init(&[
            "count_relations.databases = 'app, postgres'",
            "max_worker_processes = 3",
        ]);
        cluster.configure(&[&format!("shared_preload_libraries = '{libraries}'")]);
        let ours_are_first = libraries.starts_with("count");
        cluster.expect(NO_ROOM);
        cluster.start_server();
        cluster.await_line("relations in database \"app\"");
        if ours_are_first {
            cluster.await_line("relations in database \"postgres\"");
            assert!(cluster.lines_with(NO_ROOM).is_empty());
        } else {
            cluster.await_line("relations of 1 of 2 databases are not counted");
            cluster.await_line("Not counted: \"postgres\".");
            cluster.await_line("You might need to increase max_worker_processes.");
        }
    }
}
