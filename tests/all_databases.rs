//! With `databases = '*'` a launcher knows which databases have changed and sends workers to
//! them; every database that allows connections, and is not a template, has a row.

use crate::cluster::{
    Background, Cluster, FAST, Level, eventually, is_gone, major_version, processor_time, send,
    server_time, terminate,
};
use crate::random_ddl::relations;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::Client;
use std::fs;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const ALL: &[&str] = &[
    "count_relations.databases = '*'",
    FAST,
    // Visits are logged only at DEBUG1.
    "log_min_messages = debug1",
];

const LAUNCHER_STARTED: &str = "count relations launcher started";
const OUT_OF_SLOTS: &str = "out of background worker slots";
const TOO_MANY: &str = "more databases than count_relations.max_databases";

/// A server on which all databases, "app" and "postgres", have been counted.
pub fn start(configuration: &[&str]) -> Cluster {
    let cluster = Cluster::start(&[ALL, configuration].concat());
    cluster.execute("postgres", "CREATE EXTENSION count_relations");
    await_rows(&cluster, &["app", "postgres"]);
    cluster
}

/// The databases that have been counted, ordered by name.
fn rows(client: &mut Client) -> Vec<String> {
    let sql = "SELECT datname::text FROM relation_counts ORDER BY datname COLLATE \"C\"";
    let rows = client.query(sql, &[]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Waits until exactly these databases, in this order, have been counted and have a row.
fn await_rows(cluster: &Cluster, databases: &[&str]) {
    let mut client = cluster.connect("postgres");
    eventually(&format!("rows of {databases:?}"), || {
        (rows(&mut client) == databases).then_some(())
    });
}

/// Waits until no worker is in a database.
pub fn await_rest(cluster: &Cluster) {
    let mut client = cluster.connect("postgres");
    let sql = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'count relations'";
    eventually("the workers to leave", || {
        let rows = client.query(sql, &[]).unwrap();
        rows.is_empty().then_some(())
    });
}

/// Waits until a tick that began after this call has confirmed the rows of all databases.
pub fn await_confirmation(client: &mut Client) {
    let now = client.query_one("SELECT clock_timestamp()::text", &[]);
    let now: String = now.unwrap().get(0);
    let sql = format!("SELECT 1 FROM relation_counts HAVING min(counted_at) > '{now}'");
    eventually("all rows to be confirmed", || {
        client.query_opt(&sql, &[]).unwrap()
    });
}

/// Compares all rows with what a client counts, once a tick has confirmed them.
pub fn assert_all_right(cluster: &Cluster) {
    let mut client = cluster.connect("postgres");
    await_confirmation(&mut client);
    let sql = "SELECT datname::text, relations FROM relation_counts ORDER BY 1";
    for row in client.query(sql, &[]).unwrap() {
        let (database, counted): (&str, i64) = (row.get(0), row.get(1));
        let truth = relations(&mut cluster.connect(database));
        assert_eq!(counted, truth, "in {database}");
    }
}

/// Changes a database until a worker is there, which will stay for some seconds; returns its
/// pid.
fn have_visited(cluster: &Cluster, database: &str) -> i32 {
    eventually("a visit", || {
        cluster.execute(database, "CREATE TABLE visited (); DROP TABLE visited");
        let mut client = cluster.connect("postgres");
        let sql = "SELECT pid FROM relation_counts WHERE datname = $1 AND pid IS NOT NULL";
        client.query_opt(sql, &[&database]).unwrap()
    })
    .get(0)
}

fn visits(cluster: &Cluster, database: &str) -> usize {
    let started = format!("worker started for database \"{database}\"");
    cluster.lines_with(&started).len()
}

/// Waits until the launcher has looked at the databases and the new one has been counted.
/// Everything that the launcher had to do before is then done.
fn await_look(cluster: &Cluster, new_database: &str) {
    cluster.execute("postgres", &format!("CREATE DATABASE {new_database}"));
    let mut client = cluster.connect("postgres");
    eventually("a new database to be counted", || {
        let rows = rows(&mut client);
        rows.iter().any(|name| name == new_database).then_some(())
    });
}

#[test]
fn every_database_but_templates_is_counted() {
    let cluster = start(&[]);
    assert_all_right(&cluster);
    cluster.execute("app", "CREATE TABLE t (id serial PRIMARY KEY, t text)");
    assert_all_right(&cluster);
    await_rest(&cluster);
    cluster.execute("app", "DROP TABLE t");
    assert_all_right(&cluster);
}

#[test]
fn at_rest_there_is_one_process_that_is_in_no_database() {
    let cluster = start(&[]);
    assert_at_rest(&cluster);
    assert_all_right(&cluster);
}

/// What `ps` shows of our processes.
pub fn our_titles(cluster: &Cluster) -> Vec<String> {
    let mut titles = cluster.ps();
    titles.retain(|title| title.contains("count relations"));
    titles
}

/// Waits until the workers have left, and asserts that for some ticks of all databases no
/// process of ours is there but the launcher. Nothing may change meanwhile.
pub fn assert_at_rest(cluster: &Cluster) {
    await_rest(cluster);
    // They are processes a moment longer than they have rows in pg_stat_activity.
    eventually("the workers to end", || {
        (our_titles(cluster).len() == 1).then_some(())
    });
    let mut client = cluster.connect("postgres");
    let ours = "SELECT datname IS NULL FROM pg_stat_activity \
                WHERE backend_type LIKE 'count%' OR application_name = 'count_relations'";
    let sql = "SELECT min(ticks), sum(recounts)::bigint, bool_and(pid IS NULL) \
               FROM relation_counts";
    let before = client.query_one(sql, &[]).unwrap();
    eventually("ticks", || {
        let ours = client.query(ours, &[]).unwrap();
        assert_eq!(ours.len(), 1);
        assert!(ours[0].get::<_, bool>(0));
        assert_eq!(
            our_titles(cluster),
            ["postgres: bgworker: count relations launcher"]
        );
        let now = client.query_one(sql, &[]).unwrap();
        assert_eq!(now.get::<_, i64>(1), before.get::<_, i64>(1), "recounts");
        assert!(now.get::<_, bool>(2), "a row has a worker");
        (now.get::<_, i64>(0) > before.get::<_, i64>(0) + 20).then_some(())
    });
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
            &[&cluster.launcher()],
        )
        .unwrap();
    assert!(row.get::<_, bool>(0) && row.get::<_, bool>(3));
    assert_eq!(row.get::<_, String>(1), "postgres");
    assert_eq!(row.get::<_, String>(2), "count_relations");
}

#[test]
fn a_visitor_shows_who_it_is_and_comes_and_goes_without_a_line_at_log() {
    let cluster = start(&[]);
    let worker = have_visited(&cluster, "app");
    let title = "postgres: bgworker: count relations app";
    assert!(
        cluster.ps().iter().any(|line| line == title),
        "{:?}",
        cluster.ps()
    );
    assert_eq!(cluster.worker("app"), worker);
    await_rest(&cluster);
    let left = cluster.await_line("leaving, as nothing changes any more");
    assert_eq!(left.level, Level::Debug);
    cluster.await_line(&format!("(PID {worker}) exited with exit code 0"));
    for line in cluster.lines() {
        let of_visits = line.message.contains("count relations worker")
            || line.message.contains("worker \"count relations\"");
        assert!(!of_visits || line.level == Level::Debug, "{line:?}");
    }
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
    let sql = "CREATE ROLE watcher LOGIN; CREATE EXTENSION count_relations";
    cluster.execute("postgres", sql);
    cluster.stop(Signal::SIGINT);
    cluster.configure(&[
        "count_relations.databases = '*'",
        "count_relations.role = 'watcher'",
    ]);
    cluster.start_server();
    await_rows(&cluster, &["app", "postgres"]);
    for line in ["worker started for database \"app\"", LAUNCHER_STARTED] {
        let line = cluster.await_line(line);
        assert!(line.message.contains("as role \"watcher\""), "{line:?}");
    }
}

#[test]
fn a_created_database_is_counted_within_seconds_however_long_naptime() {
    let cluster = start(&["count_relations.naptime = '1h'"]);
    cluster.execute("postgres", "CREATE DATABASE created");
    let mut client = cluster.connect("postgres");
    let created = server_time(&mut client);
    let counted = cluster.await_line("relations in database \"created\"");
    let seconds = counted.time - created;
    assert!(seconds < 30.0, "{seconds} s");
}

/// Both while no worker is in the database "app", and while one is, which makes way. The
/// commands give up by themselves after five seconds, so each success means that a worker made
/// way in time.
fn idle_and_visited(story: impl Fn(&Cluster)) {
    let cluster = start(&[]);
    await_rest(&cluster);
    story(&cluster);
    let cluster = start(&[]);
    have_visited(&cluster, "app");
    // A worker may be on its way there again when it is dropped.
    cluster.expect("does not exist");
    story(&cluster);
    cluster.await_line("worker for database \"app\" making way");
}

#[test]
fn a_dropped_database_is_let_go_for_good_and_without_an_error() {
    idle_and_visited(|cluster| {
        cluster.execute("postgres", "DROP DATABASE app");
        let visits_before = visits(cluster, "app");
        await_rows(cluster, &["postgres"]);
        await_look(cluster, "another");
        assert_eq!(visits(cluster, "app"), visits_before);
    });
}

#[test]
fn the_owner_of_an_idle_database_may_use_force() {
    let cluster = start(&[]);
    let own = "CREATE ROLE owner LOGIN; ALTER DATABASE app OWNER TO owner";
    cluster.execute("postgres", own);
    await_rest(&cluster);
    cluster
        .connect_as("owner", "postgres")
        .batch_execute("DROP DATABASE app WITH (FORCE)")
        .unwrap();
    await_rows(&cluster, &["postgres"]);
}

#[test]
fn a_renamed_database_is_counted_under_its_new_name() {
    idle_and_visited(|cluster| {
        cluster.execute("postgres", "ALTER DATABASE app RENAME TO renamed");
        await_rows(cluster, &["postgres", "renamed"]);
        assert_all_right(cluster);
        cluster.next_count("renamed");
        let last = cluster.counts("app").pop().unwrap();
        let first = cluster.counts("renamed").remove(0);
        assert!(last.time < first.time, "both names at a time");
    });
}

#[test]
fn a_template_and_its_copy_are_counted() {
    idle_and_visited(|cluster| {
        cluster.execute("postgres", "CREATE DATABASE copy TEMPLATE app");
        await_rows(cluster, &["app", "copy", "postgres"]);
        assert_all_right(cluster);
    });
}

#[test]
fn a_moved_database_is_counted_again() {
    idle_and_visited(|cluster| {
        let directory = cluster.new_server_directory("tablespace");
        let sql = format!("CREATE TABLESPACE elsewhere LOCATION '{directory}'");
        cluster.execute("postgres", &sql);
        cluster.execute("postgres", "ALTER DATABASE app SET TABLESPACE elsewhere");
        assert_all_right(cluster);
    });
}

#[test]
fn a_database_that_is_dropped_and_created_again_with_the_same_oid_is_a_new_one() {
    let cluster = start(&[]);
    cluster.execute("postgres", "CREATE DATABASE again OID 30000");
    cluster.execute("again", "CREATE TABLE t ()");
    await_look(&cluster, "another");
    await_rest(&cluster);
    assert_all_right(&cluster);
    let mut client = cluster.connect("postgres");
    cluster.expect("database 30000 does not exist");
    client.batch_execute("DROP DATABASE again").unwrap();
    client
        .batch_execute("CREATE DATABASE again OID 30000")
        .unwrap();
    await_look(&cluster, "third");
    assert_all_right(&cluster);
}

/// While `off` holds for the database "app" it has no worker, and no row; after
/// `on` it has been counted again.
fn let_go(off: &str, on: &str) {
    let cluster = start(&[]);
    let worker = have_visited(&cluster, "app");
    cluster.execute("postgres", off);
    await_rows(&cluster, &["postgres"]);
    let farewell = cluster.await_line("leaving, as the database is not to be counted any more");
    assert_eq!(farewell.pid, worker);
    cluster.await_line(&format!("(PID {worker}) exited with exit code 0"));
    assert!(cluster.lines_with("administrator").is_empty());
    let said = "relations of database \"app\" are no longer counted";
    assert_eq!(cluster.await_line(said).level, Level::Log);
    cluster.execute("postgres", on);
    await_rows(&cluster, &["app", "postgres"]);
    await_rest(&cluster);
    cluster.execute("postgres", off);
    await_rows(&cluster, &["postgres"]);
    await_look(&cluster, "another");
    let lines = cluster.lines_with(said);
    assert_eq!(lines.len(), 1, "whoever owns it could fill the log");
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
    let cluster = start(&[]);
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
    await_rows(&cluster, &all);
    assert_all_right(&cluster);
    // A name with line breaks in it can't fake a line of its own.
    assert!(cluster.counts("fake").is_empty());
}

/// How often a process has gone to sleep so far.
fn naps(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

/// The launcher's is the last one.
const NO_SLOT: &[&str] = &[
    "max_worker_processes = 1",
    "max_logical_replication_workers = 0",
];

#[test]
fn with_no_slot_for_any_worker_one_warning_says_so_and_the_launcher_does_not_spin() {
    let cluster = Cluster::start(&[ALL, NO_SLOT].concat());
    cluster.expect(OUT_OF_SLOTS);
    let warning = cluster.await_line(OUT_OF_SLOTS);
    assert_eq!(
        (warning.level, warning.message.as_str()),
        (
            Level::Warning,
            "out of background worker slots: relations of 2 of 2 databases are not counted"
        )
    );
    cluster.await_line("You might need to increase max_worker_processes.");
    let launcher = cluster.launcher();
    let before = (processor_time(launcher), naps(launcher));
    cluster.execute("postgres", "SELECT pg_sleep(4)");
    let (cpu_time, naps) = (
        processor_time(launcher) - before.0,
        naps(launcher) - before.1,
    );
    assert!(cpu_time < 40, "{cpu_time} hundredths of a second of CPU");
    assert!((4..=400).contains(&naps), "woke up {naps} times in 4 s");
    assert_eq!(cluster.lines_with(OUT_OF_SLOTS).len(), 1);
}

#[test]
fn one_slot_is_enough() {
    let cluster = start(&[
        "max_worker_processes = 2",
        "max_logical_replication_workers = 0",
    ]);
    for name in ["third", "fourth"] {
        await_look(&cluster, name);
    }
    assert_all_right(&cluster);
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
    cluster.execute("postgres", "CREATE EXTENSION count_relations");
    await_rows(&cluster, &["app", "postgres"]);
}

/// Creates databases, as fast as the server does; returns their names.
pub fn create_databases(cluster: &Cluster, count: usize) -> Vec<String> {
    let mut client = cluster.connect("postgres");
    let names: Vec<String> = (1..=count).map(|i| format!("db{i:03}")).collect();
    for name in &names {
        let sql = format!("CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy");
        client.batch_execute(&sql).unwrap();
    }
    names
}

#[test]
fn databases_beyond_max_databases_are_left_out_with_a_warning_until_there_is_room() {
    let cluster = Cluster::start(&[ALL, &["count_relations.max_databases = 3"]].concat());
    cluster.expect(TOO_MANY);
    cluster.execute("postgres", "CREATE EXTENSION count_relations");
    await_rows(&cluster, &["app", "postgres"]);
    for name in ["third", "fourth"] {
        cluster.execute("postgres", &format!("CREATE DATABASE {name}"));
    }
    await_rows(&cluster, &["app", "postgres", "third"]);
    let warning = cluster.await_line(TOO_MANY);
    assert_eq!(
        (warning.level, warning.message.as_str()),
        (
            Level::Warning,
            "more databases than count_relations.max_databases (3): relations of 1 of 4 databases are not counted"
        )
    );
    cluster.await_line("Not counted: \"fourth\".");
    cluster.expect("does not exist");
    cluster.execute("postgres", "DROP DATABASE app");
    await_rows(&cluster, &["fourth", "postgres", "third"]);
    assert_all_right(&cluster);
    assert_eq!(cluster.lines_with(TOO_MANY).len(), 1);
}

#[test]
fn rows_of_a_list_are_given_up_for_databases_that_come_after() {
    let cluster = Cluster::start(&[
        "count_relations.databases = 'app, postgres'",
        "count_relations.max_databases = 2",
        FAST,
    ]);
    cluster.expect("database \"app\" does not exist");
    cluster.execute("postgres", "CREATE EXTENSION count_relations");
    for _ in 0..3 {
        await_rows(&cluster, &["app", "postgres"]);
        cluster.execute("postgres", "DROP DATABASE app");
        cluster.execute("postgres", "CREATE DATABASE app");
        await_rows(&cluster, &["postgres"]);
    }
}

#[test]
fn a_terminated_visitor_is_replaced_when_there_is_something_to_count() {
    let cluster = start(&[]);
    let worker = have_visited(&cluster, "app");
    terminate(worker);
    cluster.execute("app", "CREATE TABLE t ()");
    assert_all_right(&cluster);
}

/// Kills a process of the server's, after which it reinitializes.
fn crash(victim: fn(&Cluster, &mut Client) -> i32) {
    let cluster = start(&[]);
    let mut client = cluster.connect("postgres");
    let victim = victim(&cluster, &mut client);
    cluster.expect_crash();
    send(victim, Signal::SIGKILL);
    cluster.await_line("all server processes terminated; reinitializing");
    cluster.await_nth_line("database system is ready to accept connections", 2);
    await_rows(&cluster, &["app", "postgres"]);
    await_look(&cluster, "another");
    assert_all_right(&cluster);
    let mut client = cluster.connect("postgres");
    let since_then = "SELECT bool_and(stats_since > to_timestamp($1)) FROM relation_counts";
    let crash = cluster.await_line("all server processes terminated").time;
    let row = client.query_one(since_then, &[&crash]).unwrap();
    assert!(row.get::<_, bool>(0), "statistics start anew");
}

#[test]
fn after_a_crash_of_a_backend_all_rows_are_back() {
    crash(|_, client| {
        let row = client.query_one("SELECT pg_backend_pid()", &[]).unwrap();
        row.get(0)
    });
}

#[test]
fn after_a_crash_of_the_launcher_all_rows_are_back() {
    crash(|cluster, _| cluster.launcher());
}

#[test]
fn after_a_crash_of_a_visitor_all_rows_are_back() {
    crash(|cluster, _| have_visited(cluster, "app"));
}

#[test]
fn a_terminated_launcher_comes_back_and_what_is_known_is_kept() {
    let cluster = start(&[]);
    cluster.execute("app", "CREATE TABLE t (id serial PRIMARY KEY, t text)");
    assert_all_right(&cluster);
    cluster.execute("app", "DROP TABLE t");
    assert_all_right(&cluster);
    let mut client = cluster.connect("postgres");
    let kept = "SELECT max_relations - relations, stats_since::text FROM relation_counts \
                WHERE datname = 'app'";
    let before = client.query_one(kept, &[]).unwrap();
    assert_eq!(before.get::<_, i64>(0), 5);
    await_rest(&cluster);
    let first = cluster.launcher();
    send(first, Signal::SIGTERM);
    eventually("the launcher to end", || is_gone(first).then_some(()));
    let left = cluster.await_line(&format!("(PID {first}) exited with exit code 1"));

    // Meanwhile nothing is counted, and rows say since when.
    cluster.execute("app", "CREATE TABLE unseen ()");
    cluster.execute("postgres", "CREATE DATABASE created");
    cluster.execute("postgres", "ALTER DATABASE app RENAME TO renamed");
    let back = cluster.await_nth_line(LAUNCHER_STARTED, 2);
    assert!(back.time - left.time > 4.5, "at the postmaster's pace");
    await_rows(&cluster, &["created", "postgres", "renamed"]);
    assert_all_right(&cluster);
    let kept = kept.replace("app", "renamed");
    let after = client.query_one(&kept, &[]).unwrap();
    assert_eq!(
        after.get::<_, i64>(0),
        4,
        "the maximum, and one relation more"
    );
    assert_eq!(after.get::<_, &str>(1), before.get::<_, &str>(1));
}

#[test]
fn a_worker_that_a_new_launcher_found_is_let_go_too() {
    let cluster = start(&["count_relations.naptime = '1s'"]);
    let worker = have_visited(&cluster, "app");
    let _busy = keep_changing(&cluster, "app");
    // While there is no launcher, nobody saves processor time up.
    for _ in 0..3 {
        cluster.next_count("app");
    }
    send(cluster.launcher(), Signal::SIGTERM);
    cluster.await_nth_line(LAUNCHER_STARTED, 2);
    assert_eq!(cluster.worker("app"), worker);
    cluster.execute("postgres", "ALTER DATABASE app IS_TEMPLATE true");
    await_rows(&cluster, &["postgres"]);
}

/// Changes a database all the time.
pub fn keep_changing(cluster: &Cluster, database: &str) -> Background {
    let mut client = cluster.connect(database);
    Background::start(move |done| {
        while !done.load(Ordering::Relaxed) {
            // The server may be gone in the end.
            let _ = client.batch_execute("CREATE TABLE busy (); DROP TABLE busy");
            sleep(Duration::from_millis(20));
        }
    })
}

/// Changes each of the databases all the time.
pub fn keep_all_changing(cluster: &Cluster, databases: &[impl AsRef<str>]) -> Vec<Background> {
    let databases = databases.iter();
    databases
        .map(|name| keep_changing(cluster, name.as_ref()))
        .collect()
}

#[test]
fn of_two_workers_in_a_database_the_second_gives_way() {
    let cluster = start(&[]);
    let mut session = cluster.connect("postgres");
    let there = "SELECT pid FROM relation_counts WHERE datname = 'app' AND pid IS NOT NULL";
    let busy = keep_changing(&cluster, "app");
    // Workers sleep before they do anything: later, a stopped one may hold a lock that the whole
    // server would wait for.
    let delay = |setting: &str| {
        let changed = "parameter \"post_auth_delay\" changed";
        let changes = cluster.lines_with(changed).len();
        cluster.configure(&[&format!("post_auth_delay = {setting}")]);
        cluster.reload();
        cluster.await_nth_line(changed, changes + 1);
    };
    delay("5s");
    // A launcher does not know about a worker that its predecessor started and that has not
    // reached its row yet.
    let late = eventually("a worker on its way", || {
        // The next one starts after the reload.
        let worker: i32 = session.query_opt(there, &[]).unwrap()?.get(0);
        terminate(worker);
        let pid = next_child(&cluster, "count relations app")?;
        send(pid, Signal::SIGSTOP);
        let row = session.query_opt(there, &[]).unwrap();
        let is_late = row.is_none();
        if !is_late {
            send(pid, Signal::SIGCONT);
        }
        is_late.then_some(pid)
    });
    delay("0");
    send(cluster.launcher(), Signal::SIGTERM);
    let second: i32 =
        eventually("a second worker", || session.query_opt(there, &[]).unwrap()).get(0);
    assert_ne!(second, late);
    send(late, Signal::SIGCONT);
    eventually("the late worker to end", || is_gone(late).then_some(()));
    let last = cluster.await_line("\"app\" leaving, as the database has another one");
    assert_eq!(last.pid, late);
    assert_eq!(cluster.worker("app"), second);
    drop(busy);
    assert_all_right(&cluster);
}

/// The first child of the postmaster whose title in `ps` contains this.
fn next_child(cluster: &Cluster, title: &str) -> Option<i32> {
    let postmaster = cluster.postmaster();
    let children = format!("/proc/{postmaster}/task/{postmaster}/children");
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        for pid in fs::read_to_string(&children).unwrap().split_whitespace() {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(title) {
                return pid.parse().ok();
            }
        }
    }
    None
}

/// Terminates the worker of a database, if it has one.
fn await_rest_of(cluster: &Cluster, database: &str) {
    if let Some(worker) = cluster.worker_now(database) {
        // It may have gone by itself.
        let _ = kill(Pid::from_raw(worker), Signal::SIGTERM);
        eventually("the worker to end", || is_gone(worker).then_some(()));
    }
}

#[test]
fn a_shutdown_ends_the_launcher_and_all_workers() {
    for mode in [Signal::SIGINT, Signal::SIGTERM] {
        let cluster = start(&[]);
        let pids = [cluster.launcher(), have_visited(&cluster, "app")];
        cluster.stop(mode);
        cluster.await_line("database system is shut down");
        for pid in pids {
            assert!(is_gone(pid));
            // During a tick, the server's own words.
            let farewells = ["leaving due to SIGTERM", "due to administrator command"];
            let lines = cluster.lines();
            let mut lines = lines.iter().filter(|line| line.pid == pid);
            let is_polite = |text: &str| farewells.iter().any(|farewell| text.contains(farewell));
            assert!(lines.any(|line| is_polite(&line.message)));
        }
    }
}

#[test]
fn with_the_postmaster_the_launcher_and_all_workers_end() {
    let cluster = start(&[]);
    let pids = [cluster.launcher(), have_visited(&cluster, "app")];
    cluster.stop(Signal::SIGKILL);
    for pid in pids {
        eventually("the process to end", || is_gone(pid).then_some(()));
    }
}

#[test]
fn a_canceled_launcher_or_worker_goes_on() {
    let cluster = start(&["count_relations.max_workers = 4"]);
    let first = cluster.launcher();
    let worker = have_visited(&cluster, "app");
    // Not in the middle of a count, which would be canceled.
    await_confirmation(&mut cluster.connect("postgres"));
    for pid in [first, worker] {
        send(pid, Signal::SIGINT);
    }
    await_look(&cluster, "another");
    assert_eq!(cluster.launcher(), first);
    let at_ease = ["as nothing changes any more", "as other databases wait"];
    for line in cluster.lines_with("leaving, as") {
        let is_at_ease = at_ease.iter().any(|reason| line.message.ends_with(reason));
        assert!(is_at_ease, "{line:?}");
    }
    assert_all_right(&cluster);
}

#[test]
fn a_reload_reaches_the_launcher_and_all_workers() {
    let cluster = start(&["count_relations.naptime = '1h'"]);
    await_look(&cluster, "created");
    await_rest(&cluster);
    let launcher = cluster.launcher();
    // Each condition has to hold for all databases, between two reads half a second
    // apart: `b` before and `a` after.
    let mut client = cluster.connect("postgres");
    client
        .batch_execute("CREATE TEMP TABLE before AS SELECT * FROM relation_counts")
        .unwrap();
    let mut becomes = |what: &str, condition: &str| {
        eventually(what, || {
            client
                .batch_execute(
                    "DELETE FROM before; \
                     INSERT INTO before SELECT * FROM relation_counts; \
                     SELECT pg_sleep(0.5)",
                )
                .unwrap();
            let sql = format!(
                "SELECT count(*) = 3 AND bool_and({condition}) \
                 FROM before AS b JOIN relation_counts AS a USING (datid)"
            );
            let row = client.query_one(&sql, &[]).unwrap();
            row.get::<_, bool>(0).then_some(())
        });
    };
    let reload = |line: &str| {
        cluster.configure(&[line]);
        cluster.reload();
    };
    becomes("no ticks", "a.ticks = b.ticks AND a.recounts = b.recounts");
    let before = naps(launcher);
    reload("count_relations.naptime = '20ms'");
    becomes("ticks", "a.ticks - b.ticks > 10");
    assert!(naps(launcher) - before > 10, "the launcher naps as before");

    reload("count_relations.skip_unchanged = off");
    becomes("recounts", "a.recounts > b.recounts");
    reload("count_relations.skip_unchanged = on");
    becomes("no recounts", "a.recounts = b.recounts");

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
    cluster.execute("app", "CREATE TABLE t ()");
    assert_all_right(&cluster);
    let warnings = cluster.lines_with("more than count_relations.warn_above (1)");
    assert_eq!(warnings.len(), 3, "each once, whoever counts");

    for (line, setting) in [
        (
            "count_relations.databases = ''",
            "count_relations.databases",
        ),
        ("count_relations.role = 'nobody'", "count_relations.role"),
        (
            "count_relations.max_databases = 7",
            "count_relations.max_databases",
        ),
    ] {
        reload(line);
        cluster.await_line(&format!(
            "parameter \"{setting}\" cannot be changed without restarting the server"
        ));
    }
    await_look(&cluster, "another");
}

#[test]
fn with_max_workers_raised_more_databases_are_visited_at_a_time() {
    let cluster = start(&["count_relations.max_workers = 1"]);
    let names = create_databases(&cluster, 3);
    let busy = keep_all_changing(&cluster, &names);
    cluster.configure(&["count_relations.max_workers = 3"]);
    cluster.reload();
    eventually("three visits at a time", || {
        (cluster.workers().len() == 3).then_some(())
    });
    drop(busy);
    assert_all_right(&cluster);
}

#[test]
fn twenty_databases_that_change_all_the_time_are_counted_in_turn() {
    let cluster = start(&[]);
    let names = create_databases(&cluster, 20);
    await_rows(
        &cluster,
        &[
            &["app"],
            &names.iter().map(String::as_str).collect::<Vec<_>>()[..],
            &["postgres"],
        ]
        .concat(),
    );
    let busy = keep_all_changing(&cluster, &names);
    let mut client = cluster.connect("postgres");
    client
        .batch_execute(
            "CREATE TEMP TABLE before AS SELECT datname, recounts FROM relation_counts \
             WHERE datname LIKE 'db%'",
        )
        .unwrap();
    let sql = "SELECT min(visited), max(visited) FROM ( \
               SELECT a.recounts - b.recounts AS visited \
               FROM before AS b JOIN relation_counts AS a USING (datname)) AS s";
    let (least, most) = eventually("five turns", || {
        let row = client.query_one(sql, &[]).unwrap();
        Some((row.get::<_, i64>(0), row.get::<_, i64>(1))).filter(|(least, _)| *least >= 5)
    });
    assert!(most <= 4 * least + 10, "one {least} times, another {most}");
    drop(busy);
    assert_all_right(&cluster);
}

#[test]
fn databases_that_share_workers_are_counted_once_a_naptime() {
    const NAPTIME: f64 = 0.5;
    let cluster = start(&["count_relations.naptime = '500ms'"]);
    let names = create_databases(&cluster, 3);
    let busy = keep_all_changing(&cluster, &names);
    for name in &names {
        let counts = eventually("some turns", || {
            Some(cluster.counts(name)).filter(|counts| counts.len() > 10)
        });
        let took = counts[counts.len() - 1].time - counts[0].time;
        // The first may have come late.
        let most = took / NAPTIME + 2.0;
        assert!(counts.len() as f64 <= most, "{} in {took} s", counts.len());
    }
    drop(busy);
    assert_all_right(&cluster);
}

#[test]
fn one_that_changes_all_the_time_is_not_visited_before_naptime_is_over() {
    let cluster = start(&[
        "count_relations.naptime = '1h'",
        "count_relations.census_naptime = 0",
    ]);
    let busy = keep_changing(&cluster, "app");
    // Each takes as long as a visit without changes.
    for calm in ["one", "two", "three"] {
        await_look(&cluster, calm);
        eventually("the worker to leave", || {
            cluster.worker_now(calm).is_none().then_some(())
        });
    }
    assert_eq!(cluster.counts("app").len(), 1);
    cluster.configure(&["count_relations.naptime = '50ms'"]);
    cluster.reload();
    cluster.next_count("app");
    drop(busy);
    assert_all_right(&cluster);
}

#[test]
fn a_database_that_cannot_be_connected_to_holds_nobody_up() {
    let cluster = start(&["count_relations.max_workers = 1"]);
    cluster.execute("postgres", "CREATE DATABASE damaged");
    await_rows(&cluster, &["app", "damaged", "postgres"]);
    await_rest(&cluster);
    let mut client = cluster.connect("postgres");
    let oid = "SELECT oid FROM pg_database WHERE datname = 'damaged'";
    let oid: u32 = client.query_one(oid, &[]).unwrap().get(0);
    let version = cluster.data().join(format!("base/{oid}/PG_VERSION"));
    let away = cluster.data().join("PG_VERSION.away");
    fs::rename(&version, &away).unwrap();
    cluster.expect("is not a valid data directory");
    // Changes the row, so that the database is visited.
    let sql = "ALTER DATABASE damaged CONNECTION LIMIT 7";
    client.batch_execute(sql).unwrap();
    let failed = "could not count relations of database \"damaged\"";
    let line = cluster.await_line(failed);
    assert_eq!(line.level, Level::Log);
    for _ in 0..3 {
        cluster.execute("app", "CREATE TABLE IF NOT EXISTS t ()");
        let app = "SELECT 1 FROM relation_counts WHERE datname = 'app' \
                   AND relations = $1 AND counted_at > now() - '1 s'::interval";
        let truth = relations(&mut cluster.connect("app"));
        eventually("app to be counted", || {
            client.query_opt(app, &[&truth]).unwrap()
        });
        await_rest_of(&cluster, "app");
        cluster.execute("app", "DROP TABLE t");
    }
    cluster.await_nth_line("is not a valid data directory", 2);
    let mended = "worker started for database \"damaged\"";
    let visits = cluster.lines_with(mended).len();
    fs::rename(&away, &version).unwrap();
    // Retried early, because the row has changed.
    client
        .batch_execute("ALTER DATABASE damaged CONNECTION LIMIT 8")
        .unwrap();
    cluster.await_nth_line(mended, visits + 1);
    assert_all_right(&cluster);
    assert_eq!(cluster.lines_with(failed).len(), 1, "said once");
}

#[test]
fn databases_whose_pg_class_is_locked_hold_nobody_up() {
    // Time to lock all after a change, before that is counted.
    let cluster = start(&["count_relations.naptime = '1h'"]);
    cluster.expect("canceling statement due to lock timeout");
    let names = create_databases(&cluster, 3);
    let mut lockers: Vec<Client> = names[..2]
        .iter()
        .map(|name| cluster.connect(name))
        .collect();
    await_look(&cluster, "another");
    await_rest(&cluster);
    for locker in &mut lockers {
        locker.batch_execute("CREATE TABLE t ()").unwrap();
        let lock = "BEGIN; LOCK TABLE pg_class IN ACCESS EXCLUSIVE MODE";
        locker.batch_execute(lock).unwrap();
    }
    let mut client = cluster.connect("postgres");
    let waiting = "SELECT 1 FROM pg_locks WHERE NOT granted HAVING count(*) = 2";
    let is_right = "SELECT 1 FROM relation_counts WHERE datname = 'db003' AND relations = $1";
    let mut changed = cluster.connect("db003");
    cluster.configure(&[FAST]);
    cluster.reload();
    eventually("two workers to wait", || {
        client.query_opt(waiting, &[]).unwrap()
    });
    changed.batch_execute("CREATE TABLE t ()").unwrap();
    let truth = relations(&mut changed);
    eventually("the third to be counted", || {
        client.query_opt(is_right, &[&truth]).unwrap()
    });
    drop(lockers);
    drop(changed);
    assert_all_right(&cluster);
}

#[test]
fn a_database_with_a_lock_on_it_is_not_visited_until_that_is_gone() {
    let cluster = start(&["count_relations.naptime = '1h'"]);
    await_rest(&cluster);
    cluster.execute("app", "CREATE TABLE t ()");
    let visits_before = visits(&cluster, "app");
    let mut holder = cluster.connect("postgres");
    holder
        .batch_execute("BEGIN; ALTER DATABASE app RENAME TO held")
        .unwrap();
    cluster.configure(&[FAST]);
    cluster.reload();
    let mut client = cluster.connect("postgres");
    let ticks = "SELECT ticks FROM relation_counts WHERE datname = 'postgres'";
    let waits = "SELECT 1 FROM pg_locks WHERE NOT granted";
    let before: i64 = client.query_one(ticks, &[]).unwrap().get(0);
    eventually("ticks", || {
        assert!(
            client.query(waits, &[]).unwrap().is_empty(),
            "somebody waits"
        );
        let now: i64 = client.query_one(ticks, &[]).unwrap().get(0);
        (now > before + 20).then_some(())
    });
    holder.batch_execute("ROLLBACK").unwrap();
    assert_all_right(&cluster);
    assert_eq!(visits(&cluster, "app"), visits_before + 1);
}

#[test]
fn a_standby_follows_the_databases_of_its_primary_and_goes_on_when_promoted() {
    let primary = start(&[]);
    let standby = primary.start_standby(&[]);
    // Replay does not wait for a worker to make way: it ends the connection, or finishes before
    // a worker that is on its way arrives.
    standby.expect("terminating connection due to conflict with recovery");
    standby.expect("does not exist");
    await_rows(&standby, &["app", "postgres"]);
    primary.execute("postgres", "CREATE DATABASE created");
    await_rows(&standby, &["app", "created", "postgres"]);
    primary.execute("created", "CREATE TABLE t ()");
    primary.execute("postgres", "DROP DATABASE app");
    await_rows(&standby, &["created", "postgres"]);
    primary.execute("postgres", "ALTER DATABASE created RENAME TO renamed");
    await_rows(&standby, &["postgres", "renamed"]);
    assert_all_right(&standby);
    let first = standby.launcher();

    standby.promote();
    await_look(&standby, "another");
    await_rows(&standby, &["another", "postgres", "renamed"]);
    standby.execute("renamed", "DROP TABLE t");
    assert_all_right(&standby);
    assert_eq!(standby.launcher(), first);
}
