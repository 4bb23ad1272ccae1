//! With `databases = '*'` a launcher sees to it that every database that can be
//! connected to, and is no template, has a worker.

use crate::cluster::{Cluster, Level, eventually, is_gone, major_version, send};
use nix::sys::signal::Signal;
use postgres::Client;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

const ALL: &[&str] = &[
    "count_relations.databases = '*'",
    "count_relations.naptime = '50ms'",
];

const LAUNCHER_STARTED: &str = "count relations launcher started";
const OUT_OF_SLOTS: &str = "out of background worker slots";

/// A server on which all databases, "app" and "postgres", have their workers.
fn start(configuration: &[&str]) -> Cluster {
    let cluster = Cluster::start(&[ALL, configuration].concat());
    await_workers(&cluster, &["app", "postgres"]);
    cluster.execute("postgres", "CREATE EXTENSION count_relations");
    cluster
}

/// Waits until these databases, in this order, have a worker each, no others have
/// one, and each worker has counted.
fn await_workers(cluster: &Cluster, databases: &[&str]) -> Vec<(String, i32)> {
    eventually(&format!("workers in {databases:?}"), || {
        let workers = cluster.workers();
        let names: Vec<&str> = workers.iter().map(|(name, _)| name.as_str()).collect();
        (names == databases && workers.iter().all(|worker| has_counted(cluster, worker)))
            .then_some(workers)
    })
}

fn has_counted(cluster: &Cluster, (database, pid): &(String, i32)) -> bool {
    let counts = cluster.counts(database);
    counts.iter().any(|count| count.pid == *pid)
}

/// As [`await_workers`], when all of them have been at work for so long that the
/// successor of one that ends is started at once, and may meet what it ended for.
fn await_settled_workers(cluster: &Cluster, databases: &[&str]) -> Vec<(String, i32)> {
    let mut client = cluster.connect("postgres");
    let sql = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'count relations' \
               HAVING min(now() - backend_start) > '5.5 s'";
    eventually("workers to be settled", || {
        client.query_opt(sql, &[]).unwrap()
    });
    await_workers(cluster, databases)
}

/// The rows of the view: the database and the worker's pid of each, ordered by
/// database.
fn rows(client: &mut Client) -> Vec<(String, i32)> {
    let sql = "SELECT datname::text, pid FROM relation_counts ORDER BY datname COLLATE \"C\"";
    let rows = client.query(sql, &[]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Waits until the view has a row for each worker, and no other.
fn await_rows(client: &mut Client, workers: &[(String, i32)]) {
    eventually("a row for each worker", || {
        (rows(client) == workers).then_some(())
    });
}

fn launcher(cluster: &Cluster) -> i32 {
    let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'count relations launcher'";
    let mut client = cluster.connect("postgres");
    eventually("a launcher", || client.query_opt(sql, &[]).unwrap()).get(0)
}

fn worker_starts(cluster: &Cluster) -> usize {
    cluster.lines_with("count relations worker started").len()
}

/// Waits until the launcher has looked at the databases: it has started a worker
/// for one that is new. Whatever it had to do before that is done.
fn await_look(cluster: &Cluster, new_database: &str) {
    cluster.execute("postgres", &format!("CREATE DATABASE {new_database}"));
    cluster.await_line(&format!("worker started for database \"{new_database}\""));
}

#[test]
fn every_database_but_templates_has_a_worker_and_a_row() {
    let cluster = start(&[]);
    let workers = await_workers(&cluster, &["app", "postgres"]);
    let mut client = cluster.connect("postgres");
    await_rows(&mut client, &workers);
    let ps = cluster.ps();
    for title in [
        "postgres: bgworker: count relations launcher",
        "postgres: bgworker: count relations app",
        "postgres: bgworker: count relations postgres",
    ] {
        assert!(ps.iter().any(|line| line.trim_end() == title), "{ps:?}");
    }
}

#[test]
fn the_launcher_introduces_itself_and_is_in_no_database() {
    let cluster = start(&[]);
    let started = cluster.await_line(LAUNCHER_STARTED);
    assert_eq!(started.level, Level::Log);
    assert_eq!(
        started.message,
        "count relations launcher started as role \"postgres\", naptime 50 ms"
    );
    let mut client = cluster.connect("postgres");
    let row = client
        .query_one(
            "SELECT datname IS NULL, usename::text, application_name, backend_xmin IS NULL \
             FROM pg_stat_activity WHERE pid = $1",
            &[&launcher(&cluster)],
        )
        .unwrap();
    assert!(row.get::<_, bool>(0) && row.get::<_, bool>(3));
    assert_eq!(row.get::<_, String>(1), "postgres");
    assert_eq!(row.get::<_, String>(2), "count_relations");
}

#[test]
fn a_list_has_no_launcher() {
    let cluster = Cluster::start(&["count_relations.databases = 'app, postgres'"]);
    cluster.await_line("relations in database \"app\"");
    assert!(
        !cluster
            .ps()
            .iter()
            .any(|line| line.contains("launcher") && line.contains("count"))
    );
}

#[test]
fn all_workers_connect_as_the_role_that_counts() {
    let cluster = Cluster::init(ALL);
    cluster.configure(&["count_relations.databases = ''"]);
    cluster.start_server();
    cluster.execute("postgres", "CREATE ROLE watcher LOGIN");
    cluster.stop(Signal::SIGINT);
    cluster.configure(&[
        "count_relations.databases = '*'",
        "count_relations.role = 'watcher'",
    ]);
    cluster.start_server();
    await_workers(&cluster, &["app", "postgres"]);
    for line in ["worker started for database \"app\"", LAUNCHER_STARTED] {
        let line = cluster.await_line(line);
        assert!(line.message.contains("as role \"watcher\""), "{line:?}");
    }
}

#[test]
fn a_created_database_is_counted_within_seconds_however_long_naptime() {
    let cluster = Cluster::start(&[
        "count_relations.databases = '*'",
        "count_relations.naptime = '1h'",
    ]);
    await_workers(&cluster, &["app", "postgres"]);
    cluster.execute("postgres", "CREATE DATABASE created");
    let mut client = cluster.connect("postgres");
    let now = client.query_one("SELECT extract(epoch FROM clock_timestamp())::float8", &[]);
    let created: f64 = now.unwrap().get(0);
    let counted = cluster.await_line("relations in database \"created\"");
    assert!(counted.time - created < 5.0, "{} s", counted.time - created);
}

// The commands below give up by themselves after five seconds, so that each
// success is a worker that made way in time.

#[test]
fn a_dropped_database_is_let_go_for_good_and_without_an_error() {
    let cluster = start(&[]);
    await_settled_workers(&cluster, &["app", "postgres"]);
    cluster.execute("postgres", "DROP DATABASE app");
    let workers = await_workers(&cluster, &["postgres"]);
    await_rows(&mut cluster.connect("postgres"), &workers);
    await_look(&cluster, "another");
    assert_eq!(cluster.lines_with("started for database \"app\"").len(), 1);
}

#[test]
fn a_renamed_database_is_counted_under_its_new_name() {
    let cluster = start(&[]);
    await_settled_workers(&cluster, &["app", "postgres"]);
    cluster.execute("postgres", "ALTER DATABASE app RENAME TO renamed");
    let workers = await_workers(&cluster, &["postgres", "renamed"]);
    await_rows(&mut cluster.connect("postgres"), &workers);
    let last = cluster.counts("app").pop().unwrap();
    let first = cluster.counts("renamed").remove(0);
    assert!(last.time < first.time, "both names at a time");
}

#[test]
fn a_template_and_its_copy_are_counted() {
    let cluster = start(&[]);
    cluster.execute("app", "CREATE TABLE t (i int)");
    await_settled_workers(&cluster, &["app", "postgres"]);
    cluster.execute("postgres", "CREATE DATABASE copy TEMPLATE app");
    let workers = await_workers(&cluster, &["app", "copy", "postgres"]);
    await_rows(&mut cluster.connect("postgres"), &workers);
    assert_eq!(cluster.next_count("copy"), cluster.next_count("app"));
}

#[test]
fn a_moved_database_is_counted_again() {
    let cluster = start(&[]);
    let directory = cluster.new_server_directory("tablespace");
    let sql = format!("CREATE TABLESPACE elsewhere LOCATION '{directory}'");
    cluster.execute("postgres", &sql);
    let before = await_settled_workers(&cluster, &["app", "postgres"]);
    cluster.execute("postgres", "ALTER DATABASE app SET TABLESPACE elsewhere");
    let after = eventually("another worker", || {
        let workers = await_workers(&cluster, &["app", "postgres"]);
        (workers[0] != before[0]).then_some(workers)
    });
    assert_eq!(after[1], before[1], "the other database is not concerned");
    await_rows(&mut cluster.connect("postgres"), &after);
}

/// While `off` holds for the database "app" it has no worker, and no row; after
/// `on` it has again.
fn let_go(off: &str, on: &str) {
    let cluster = start(&[]);
    let worker = cluster.worker("app");
    cluster.execute("postgres", off);
    let workers = await_workers(&cluster, &["postgres"]);
    let mut client = cluster.connect("postgres");
    await_rows(&mut client, &workers);
    let farewell = cluster.await_line("leaving, as the database is not to be counted any more");
    assert_eq!(farewell.pid, worker);
    cluster.await_line(&format!("(PID {worker}) exited with exit code 1"));
    assert!(cluster.lines_with("administrator").is_empty());
    cluster.execute("postgres", on);
    let workers = await_workers(&cluster, &["app", "postgres"]);
    await_rows(&mut client, &workers);
}

#[test]
fn a_database_that_allows_no_connections_is_let_go() {
    let_go(
        "ALTER DATABASE app ALLOW_CONNECTIONS false",
        "ALTER DATABASE app ALLOW_CONNECTIONS true",
    );
}

#[test]
fn a_database_that_becomes_a_template_is_let_go() {
    let_go(
        "ALTER DATABASE app IS_TEMPLATE true",
        "ALTER DATABASE app IS_TEMPLATE false",
    );
}

#[test]
fn a_database_that_an_interrupted_drop_left_behind_is_let_go() {
    // As DROP DATABASE marks it; the server refuses connections to it with FATAL.
    let_go(
        "UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'app'",
        "UPDATE pg_database SET datconnlimit = -1 WHERE datname = 'app'",
    );
}

#[test]
fn strange_names_are_counted() {
    let cluster = start(&["max_worker_processes = 30"]);
    let names = [
        "\"",
        "'",
        "*",
        "Capitals",
        "back\\slash",
        "comma, space",
        "new\nline\n\nLOG:  Currently 1 relations in database \"fake\"",
        "percent %s %n %d {} {0}",
        "quo\"te; DROP DATABASE app; --",
        "tab\tand \u{7} bell",
        "sixty-three bytes long, the longest name that the server takes.",
        // As long.
        "größe_日本_ааааааааааааааааааааааб__",
    ];
    assert_eq!(names[10].len(), 63);
    assert_eq!(names[11].len(), 63);
    let mut all = vec!["app", "postgres"];
    let mut client = cluster.connect("postgres");
    for name in names {
        let quoted = name.replace('"', "\"\"");
        let created = client.batch_execute(&format!("CREATE DATABASE \"{quoted}\""));
        if name.contains('\n') && major_version() >= 19 {
            cluster.expect("contains a newline or carriage return character");
            created.unwrap_err();
        } else {
            created.unwrap();
            all.push(name);
        }
    }
    all.sort();
    let workers = await_workers(&cluster, &all);
    await_rows(&mut cluster.connect("postgres"), &workers);
    // A name with line breaks in it can't make up a line of its own.
    assert!(cluster.counts("fake").is_empty());
}

/// Creates databases for a server that had none but "app" and "postgres".
fn create_thirty_more(cluster: &Cluster) -> Vec<String> {
    let mut client = cluster.connect("postgres");
    let mut names = vec!["app".to_owned()];
    for i in 1..=30 {
        names.push(format!("db{i:02}"));
        client
            .batch_execute(&format!("CREATE DATABASE {}", names[i]))
            .unwrap();
    }
    names.push("postgres".to_owned());
    names
}

#[test]
fn thirty_databases_have_a_worker_each_if_there_are_slots() {
    let cluster = start(&["max_worker_processes = 40"]);
    let names = create_thirty_more(&cluster);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let workers = await_workers(&cluster, &names);
    await_rows(&mut cluster.connect("postgres"), &workers);
    assert_eq!(worker_starts(&cluster), 32, "one start each");
}

#[test]
fn with_too_few_slots_one_warning_says_what_goes_uncounted() {
    let cluster = Cluster::start(&["count_relations.databases = ''"]);
    let names = create_thirty_more(&cluster);
    cluster.stop(Signal::SIGINT);
    // All but our launcher's and six workers' slots are somebody else's.
    cluster.configure(ALL);
    cluster.configure(&["max_worker_processes = 8"]);
    cluster.expect(OUT_OF_SLOTS);
    cluster.start_server();
    cluster.execute("postgres", "CREATE EXTENSION count_relations");
    let warning = cluster.await_line(OUT_OF_SLOTS);
    let counted = eventually("workers in all slots", || {
        Some(cluster.workers()).filter(|workers| workers.len() == 6)
    });
    assert_eq!(
        (warning.level, warning.message.as_str()),
        (
            Level::Warning,
            "out of background worker slots: relations of 26 of 32 databases are not counted"
        )
    );
    let detail = cluster.await_line("Not counted: ").message;
    let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let uncounted = |name: &&String| {
        !counted
            .iter()
            .any(|(counted, _)| **name == format!("\"{counted}\""))
    };
    let named = names.iter().filter(|name| detail.contains(name.as_str()));
    assert_eq!(named.clone().count(), 5, "{detail}");
    assert!(named.clone().all(|name| uncounted(&name)), "{detail}");
    assert!(detail.ends_with(" and 21 others."), "{detail}");
    cluster.await_line("You might need to increase max_worker_processes.");

    // As slots come free, others move up, and nothing more is said.
    let dropped: Vec<&String> = counted.iter().map(|(name, _)| name).collect();
    let dropped = dropped.into_iter().filter(|name| *name != "postgres");
    for name in dropped.take(3) {
        cluster.execute("postgres", &format!("DROP DATABASE {name}"));
    }
    let mut client = cluster.connect("postgres");
    eventually("others in their place", || {
        let workers = cluster.workers();
        let new = workers.iter().filter(|worker| !counted.contains(worker));
        (new.count() == 3 && rows(&mut client) == workers).then_some(())
    });
    assert_eq!(cluster.lines_with(OUT_OF_SLOTS).len(), 1);
}

/// CPU time that a process has used so far, in the hundredths of a second of proc(5).
fn cpu_time(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split(' ').collect();
    fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap()
}

/// How often a process has gone to sleep so far.
fn naps(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn out_of_slots_the_launcher_looks_once_a_naptime_and_does_not_spin() {
    let cluster = Cluster::init(&[
        "count_relations.databases = '*'",
        // The launcher, and one worker or two.
        "max_worker_processes = 3",
        "count_relations.naptime = '500ms'",
    ]);
    cluster.expect(OUT_OF_SLOTS);
    cluster.start_server();
    cluster.execute("postgres", "CREATE DATABASE third");
    cluster.await_line(OUT_OF_SLOTS);
    let launcher = launcher(&cluster);
    let before = (cpu_time(launcher), naps(launcher));
    cluster.execute("postgres", "SELECT pg_sleep(4)");
    let (cpu_time, naps) = (cpu_time(launcher) - before.0, naps(launcher) - before.1);
    assert!(cpu_time < 40, "{cpu_time} hundredths of a second of CPU");
    assert!((4..=40).contains(&naps), "woke up {naps} times in 4 s");
}

#[test]
fn a_second_shortage_is_said_again() {
    let cluster = Cluster::init(&[ALL, &["max_worker_processes = 4"]].concat());
    // The other slot is the logical replication launcher's.
    cluster.expect(OUT_OF_SLOTS);
    cluster.start_server();
    await_workers(&cluster, &["app", "postgres"]);
    cluster.execute("postgres", "CREATE DATABASE third");
    let warning = cluster.await_line(OUT_OF_SLOTS);
    assert!(
        warning.message.contains("of 1 of 3 databases"),
        "{warning:?}"
    );
    cluster.execute("postgres", "DROP DATABASE app");
    await_workers(&cluster, &["postgres", "third"]);
    assert_eq!(cluster.lines_with(OUT_OF_SLOTS).len(), 1);
    cluster.execute("postgres", "CREATE DATABASE fourth");
    cluster.await_nth_line(OUT_OF_SLOTS, 2);
    cluster.await_line("Not counted: \"fourth\".");
    // And again when it has become twice as bad, but not for each that joins.
    for name in ["fifth", "sixth", "seventh"] {
        cluster.execute("postgres", &format!("CREATE DATABASE {name}"));
    }
    cluster.await_line("Not counted: \"fourth\", \"fifth\", \"sixth\", \"seventh\".");
    for name in ["eighth", "ninth", "tenth"] {
        cluster.execute("postgres", &format!("CREATE DATABASE {name}"));
    }
    // A slot comes free, and is taken by one of those that the launcher has seen by now.
    cluster.execute("postgres", "DROP DATABASE third");
    eventually("another in its place", || {
        (cluster.workers().len() == 2).then_some(())
    });
    assert!(cluster.lines_with(OUT_OF_SLOTS).len() <= 4);
}

#[test]
fn a_list_that_is_longer_than_there_are_slots_is_a_warning_too() {
    let cluster = Cluster::init(&[
        "count_relations.databases = 'app, postgres, Template1'",
        "max_worker_processes = 2",
        "max_logical_replication_workers = 0",
    ]);
    cluster.expect(OUT_OF_SLOTS);
    cluster.start_server();
    let warning = cluster.await_line(OUT_OF_SLOTS);
    assert_eq!(
        (warning.level, warning.message.as_str()),
        (
            Level::Warning,
            "out of background worker slots: relations of 1 of 3 databases are not counted"
        )
    );
    cluster.await_line("Not counted: \"template1\".");
    await_workers(&cluster, &["app", "postgres"]);
}

// The ceiling on rows is the server's own ceiling on workers: shared memory has a
// row for each of max_worker_processes, so that no worker is ever without one, and
// running out of slots (above) is all that can be run out of.
#[test]
fn there_is_a_row_for_every_worker_that_the_server_can_have() {
    let names: Vec<String> = (1..=7).map(|i| format!("db{i:02}")).collect();
    let cluster = Cluster::start(&["count_relations.databases = ''"]);
    let mut client = cluster.connect("postgres");
    for name in &names {
        let sql = format!("CREATE DATABASE {name}");
        client.batch_execute(&sql).unwrap();
    }
    client
        .batch_execute("CREATE EXTENSION count_relations")
        .unwrap();
    cluster.stop(Signal::SIGINT);
    let list = format!("count_relations.databases = 'app, {}'", names.join(", "));
    // A list has no launcher, and this keeps the one for logical replication away,
    // so that all the slots are our workers'.
    cluster.configure(&[&list, "max_logical_replication_workers = 0"]);
    cluster.configure(&[
        "max_worker_processes = 8",
        "count_relations.naptime = '50ms'",
    ]);
    cluster.start_server();
    let all = [
        &["app"],
        names
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .as_slice(),
    ]
    .concat();
    let mut client = cluster.connect("postgres");
    let workers = await_workers(&cluster, &all);
    await_rows(&mut client, &workers);
    // And the rows can be had again.
    for (_, pid) in &workers {
        send(*pid, Signal::SIGTERM);
    }
    for (_, pid) in &workers {
        eventually("the worker to end", || is_gone(*pid).then_some(()));
    }
    let workers = await_workers(&cluster, &all);
    await_rows(&mut client, &workers);
}

#[test]
fn a_terminated_worker_is_replaced() {
    let cluster = start(&[]);
    let before = await_settled_workers(&cluster, &["app", "postgres"]);
    send(before[0].1, Signal::SIGTERM);
    let after = eventually("another worker", || {
        let workers = await_workers(&cluster, &["app", "postgres"]);
        (workers[0] != before[0]).then_some(workers)
    });
    assert_eq!(after[1], before[1]);
    await_rows(&mut cluster.connect("postgres"), &after);
    assert_eq!(worker_starts(&cluster), 3);
}

#[test]
fn a_worker_that_ended_is_started_again_after_five_seconds() {
    let cluster = start(&[]);
    // One that ends at once, and one that has lived for longer than that.
    for (nth, life) in [(1, Duration::ZERO), (2, Duration::from_secs(7))] {
        let worker = cluster.worker("app");
        sleep(life);
        send(worker, Signal::SIGTERM);
        let left = cluster.await_line(&format!("(PID {worker}) exited with exit code 1"));
        let started = cluster.await_nth_line("worker started for database \"app\"", nth + 1);
        let pause = started.time - left.time;
        assert!(pause > 4.5, "started again after {pause} s");
    }
}

/// Kills a process of the server's, after which it reinitializes.
fn crash(victim: fn(&Cluster, &mut Client) -> i32) {
    let cluster = start(&[]);
    let mut client = cluster.connect("postgres");
    let before = await_workers(&cluster, &["app", "postgres"]);
    await_rows(&mut client, &before);
    let victim = victim(&cluster, &mut client);
    cluster.expect_crash();
    send(victim, Signal::SIGKILL);
    cluster.await_line("all server processes terminated; reinitializing");
    cluster.await_nth_line("database system is ready to accept connections", 2);
    let after = await_workers(&cluster, &["app", "postgres"]);
    assert!(after.iter().all(|worker| !before.contains(worker)));
    let mut client = cluster.connect("postgres");
    await_rows(&mut client, &after);
    await_look(&cluster, "another");
    assert_eq!(worker_starts(&cluster), 2 + 3);
    let since_then = "SELECT bool_and(stats_since > to_timestamp($1)) FROM relation_counts";
    let crash = cluster.await_line("all server processes terminated").time;
    let row = client.query_one(since_then, &[&crash]).unwrap();
    assert!(row.get::<_, bool>(0), "statistics start anew");
}

#[test]
fn after_a_crash_of_a_backend_all_workers_and_rows_are_back() {
    crash(|_, client| {
        let row = client.query_one("SELECT pg_backend_pid()", &[]).unwrap();
        row.get(0)
    });
}

#[test]
fn after_a_crash_of_the_launcher_all_workers_and_rows_are_back() {
    crash(|cluster, _| launcher(cluster));
}

#[test]
fn after_a_crash_of_a_launched_worker_all_workers_and_rows_are_back() {
    crash(|cluster, _| cluster.worker("app"));
}

#[test]
fn a_terminated_launcher_comes_back_and_takes_over_the_workers_it_finds() {
    let cluster = start(&[]);
    let before = await_workers(&cluster, &["app", "postgres"]);
    let first = launcher(&cluster);
    send(first, Signal::SIGTERM);
    eventually("the launcher to end", || is_gone(first).then_some(()));
    let left = cluster.await_line(&format!("(PID {first}) exited with exit code 1"));
    assert_eq!(await_workers(&cluster, &["app", "postgres"]), before);

    // Meanwhile nobody starts workers, and workers still make way by themselves.
    cluster.execute("postgres", "CREATE DATABASE created");
    cluster.execute("postgres", "ALTER DATABASE app RENAME TO renamed");
    let back = cluster.await_nth_line(LAUNCHER_STARTED, 2);
    assert!(back.time - left.time > 4.5, "at the postmaster's pace");
    let after = await_workers(&cluster, &["created", "postgres", "renamed"]);
    assert_eq!(after[1], before[1], "the same worker");
    await_look(&cluster, "another");
    assert_eq!(worker_starts(&cluster), 2 + 3, "nobody started in vain");
    assert_eq!(cluster.workers()[2], before[1]);
}

#[test]
fn a_worker_that_a_new_launcher_found_is_let_go_too() {
    let cluster = start(&[]);
    send(launcher(&cluster), Signal::SIGTERM);
    cluster.await_nth_line(LAUNCHER_STARTED, 2);
    cluster.execute("postgres", "ALTER DATABASE app IS_TEMPLATE true");
    await_workers(&cluster, &["postgres"]);
}

#[test]
fn of_two_workers_in_a_database_the_second_gives_way() {
    let cluster = start(&["count_relations.naptime = '1s'"]);
    // A launcher does not know of a worker that its predecessor started and that
    // has not come to claim its row yet. This one waits for the look-up of its role.
    let mut session = cluster.connect("postgres");
    let before = await_settled_workers(&cluster, &["app", "postgres"]);
    session
        .batch_execute("BEGIN; LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE")
        .unwrap();
    send(before[0].1, Signal::SIGTERM);
    let waiting = "SELECT pid FROM pg_locks \
                   WHERE NOT granted AND relation = 'pg_authid'::regclass";
    let late: i32 = eventually("a worker that waits to connect", || {
        session.query_opt(waiting, &[]).unwrap()
    })
    .get(0);
    send(late, Signal::SIGSTOP);
    session.batch_execute("COMMIT").unwrap();
    send(launcher(&cluster), Signal::SIGTERM);
    let second = eventually("a second worker", || {
        let mut workers = cluster.workers();
        workers.retain(|worker| worker.1 != late);
        let is_second = |worker| !before.contains(worker) && has_counted(&cluster, worker);
        workers.iter().any(is_second).then_some(workers)
    });
    send(late, Signal::SIGCONT);
    eventually("the late worker to end", || is_gone(late).then_some(()));
    let last = cluster.await_line("leaving, as the database has another one");
    assert_eq!((last.pid, last.level), (late, Level::Log));
    assert_eq!(await_workers(&cluster, &["app", "postgres"]), second);
    await_rows(&mut cluster.connect("postgres"), &second);
}

#[test]
fn a_shutdown_ends_the_launcher_and_all_workers() {
    for mode in [Signal::SIGINT, Signal::SIGTERM] {
        let cluster = start(&[]);
        let mut pids = vec![launcher(&cluster)];
        pids.extend(cluster.workers().iter().map(|(_, pid)| pid));
        cluster.stop(mode);
        cluster.await_line("database system is shut down");
        for pid in pids {
            assert!(is_gone(pid));
            let last = cluster.lines().into_iter().rfind(|line| line.pid == pid);
            let last = last.unwrap().message;
            // Where a tick is met, the server's own words.
            let farewells = ["leaving due to SIGTERM", "due to administrator command"];
            let polite = farewells.iter().any(|farewell| last.contains(farewell));
            assert!(polite, "{last}");
        }
        assert_eq!(worker_starts(&cluster), 2);
    }
}

#[test]
fn with_the_postmaster_the_launcher_and_all_workers_end() {
    let cluster = start(&[]);
    let mut pids = vec![launcher(&cluster)];
    pids.extend(cluster.workers().iter().map(|(_, pid)| pid));
    cluster.stop(Signal::SIGKILL);
    for pid in pids {
        eventually("the process to end", || is_gone(pid).then_some(()));
    }
}

#[test]
fn a_canceled_launcher_or_worker_goes_on() {
    let cluster = start(&["count_relations.naptime = '1h'"]);
    let before = await_workers(&cluster, &["app", "postgres"]);
    let first = launcher(&cluster);
    for pid in [first, before[0].1, before[1].1] {
        send(pid, Signal::SIGINT);
    }
    await_look(&cluster, "another");
    assert_eq!(launcher(&cluster), first);
    assert_eq!(worker_starts(&cluster), 3);
}

#[test]
fn a_reload_reaches_the_launcher_and_all_workers() {
    let cluster = start(&["count_relations.naptime = '1h'"]);
    cluster.execute("postgres", "CREATE DATABASE created");
    await_workers(&cluster, &["app", "created", "postgres"]);
    let launcher = launcher(&cluster);
    // Each condition has to hold for all databases, between two reads half a second
    // apart: `b` before and `a` after.
    let mut client = cluster.connect("postgres");
    let mut becomes = |what: &str, condition: &str| {
        eventually(what, || {
            client
                .batch_execute(
                    "DROP TABLE IF EXISTS before; \
                     CREATE TEMP TABLE before AS SELECT * FROM relation_counts; \
                     SELECT pg_sleep(0.5)",
                )
                .unwrap();
            let sql = format!(
                "SELECT count(*) = 3 AND bool_and({condition}) \
                 FROM before AS b JOIN relation_counts AS a USING (datid, pid)"
            );
            let row = client.query_one(&sql, &[]).unwrap();
            row.get::<_, bool>(0).then_some(())
        });
    };
    let reload = |line: &str| {
        cluster.configure(&[line]);
        cluster.reload();
    };
    becomes("no ticks", "a.ticks = 1 AND a.recounts = 1");
    let before = naps(launcher);
    reload("count_relations.naptime = '20ms'");
    becomes("ticks", "a.ticks - b.ticks > 10");
    assert!(naps(launcher) - before > 10, "the launcher naps as before");

    reload("count_relations.skip_unchanged = off");
    becomes("recounts", "a.recounts - b.recounts > 3");

    let lines = || cluster.lines_with("Currently").len();
    reload("count_relations.log_counts = 'none'");
    eventually("silence", || {
        let before = lines();
        cluster.execute("postgres", "SELECT pg_sleep(0.5)");
        (lines() == before).then_some(())
    });

    cluster.expect("more than count_relations.warn_above (1)");
    reload("count_relations.warn_above = 1");
    for name in ["app", "created", "postgres"] {
        cluster.await_line(&format!("database \"{name}\" has "));
    }

    for (line, setting) in [
        (
            "count_relations.databases = ''",
            "count_relations.databases",
        ),
        ("count_relations.role = 'nobody'", "count_relations.role"),
    ] {
        reload(line);
        cluster.await_line(&format!(
            "parameter \"{setting}\" cannot be changed without restarting the server"
        ));
    }
    await_look(&cluster, "another");
    assert_eq!(worker_starts(&cluster), 4);
}

#[test]
fn a_standby_follows_the_databases_of_its_primary_and_goes_on_when_promoted() {
    let primary = start(&[]);
    let standby = primary.start_standby(&[]);
    // Replay does not wait for a worker to make way: it ends the connection.
    standby.expect("terminating connection due to conflict with recovery");
    await_workers(&standby, &["app", "postgres"]);
    primary.execute("postgres", "CREATE DATABASE created");
    await_settled_workers(&standby, &["app", "created", "postgres"]);
    primary.execute("postgres", "DROP DATABASE app");
    await_workers(&standby, &["created", "postgres"]);
    primary.execute("postgres", "ALTER DATABASE created RENAME TO renamed");
    let before = await_workers(&standby, &["postgres", "renamed"]);
    await_rows(&mut standby.connect("postgres"), &before);
    let first = launcher(&standby);

    standby.promote();
    await_look(&standby, "another");
    let after = await_workers(&standby, &["another", "postgres", "renamed"]);
    assert_eq!(after[1..], before[..], "the same workers");
    assert_eq!(launcher(&standby), first);
    await_rows(&mut standby.connect("postgres"), &after);
}
