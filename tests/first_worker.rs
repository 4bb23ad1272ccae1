//! The worker that docs/write-your-own-worker.md begins with does what that says: it counts,
//! and it does harm. A story about the latter fails when pgrx has become better; the
//! tutorial, and perhaps a file of `src/server/`, is then to be made shorter.

use crate::cluster::{Cluster, eventually, install_first_worker, is_gone};
use crate::random_ddl::relations;
use nix::sys::signal::Signal;
use postgres::Client;

/// A server that counts the relations of the database "app", which belongs to mallory, as
/// `prepare` has left it.
fn start_after(prepare: impl FnOnce(&Cluster), configuration: &[&str]) -> Cluster {
    install_first_worker();
    let cluster = Cluster::init_without_library(&["first_worker.database = 'app'"]);
    cluster.start_server();
    cluster.execute(
        "postgres",
        "CREATE ROLE mallory LOGIN; ALTER DATABASE app OWNER TO mallory",
    );
    prepare(&cluster);
    cluster.stop(Signal::SIGINT);
    cluster.configure(&["shared_preload_libraries = 'first_worker'"]);
    cluster.configure(configuration);
    cluster.start_server();
    cluster
}

fn start(configuration: &[&str]) -> Cluster {
    start_after(|_| {}, configuration)
}

fn worker(client: &mut Client) -> Option<i32> {
    let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'first worker'";
    client.query_opt(sql, &[]).unwrap().map(|row| row.get(0))
}

#[test]
fn it_counts_once_a_second() {
    let cluster = start(&[]);
    let counted = cluster.next_count("app");
    let mut client = cluster.connect("app");
    assert_eq!(counted, relations(&mut client));
    let counts = cluster.counts("app");
    assert!(counts[1].time - counts[0].time >= 1.0);
    assert!(
        cluster
            .ps()
            .contains(&"postgres: bgworker: first worker".to_owned())
    );
    client
        .batch_execute("CREATE EXTENSION first_worker")
        .unwrap();
}

#[test]
fn behind_a_lock_it_ignores_sigterm_and_holds_a_snapshot() {
    let cluster = start(&["first_worker.naptime = '50ms'"]);
    cluster.next_count("app");
    let mut locker = cluster.connect("app");
    locker
        .batch_execute("BEGIN; LOCK TABLE pg_class IN ACCESS EXCLUSIVE MODE")
        .unwrap();
    let mut client = cluster.connect("postgres");
    let pid: i32 = eventually("the worker to wait", || {
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'first worker' \
                   AND wait_event_type = 'Lock' AND backend_xmin IS NOT NULL";
        client.query_opt(sql, &[]).unwrap().map(|row| row.get(0))
    });
    cluster.expect("did not terminate within 1000 milliseconds");
    let terminated: bool = client
        .query_one("SELECT pg_terminate_backend($1, 1000)", &[&pid])
        .unwrap()
        .get(0);
    assert!(!terminated);
    assert_eq!(worker(&mut client), Some(pid));
    locker.batch_execute("COMMIT").unwrap();
    cluster.await_line("first worker stopped");
    eventually("the worker to end", || is_gone(pid).then_some(()));
}

#[test]
fn terminated_it_does_not_come_back() {
    let cluster = start(&["log_min_messages = debug1"]);
    cluster.next_count("app");
    let mut client = cluster.connect("postgres");
    let pid = worker(&mut client).unwrap();
    client
        .execute("SELECT pg_terminate_backend($1)", &[&pid])
        .unwrap();
    cluster.await_line("unregistering background worker \"bgworker: first worker\"");
    assert_eq!(worker(&mut client), None);
}

#[test]
fn its_database_cannot_be_dropped() {
    let cluster = start(&[]);
    cluster.next_count("app");
    cluster.expect("database \"app\" is being accessed by other users");
    let error = cluster
        .connect("postgres")
        .batch_execute("DROP DATABASE app")
        .unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(
        error.detail(),
        Some("There is 1 other session using the database.")
    );
}

#[test]
fn it_runs_what_the_owner_of_its_database_likes() {
    let prepare = |cluster: &Cluster| {
        cluster
            .connect_as("mallory", "app")
            .batch_execute(
                "CREATE SCHEMA evil;
                 CREATE FUNCTION evil.relations() RETURNS SETOF int LANGUAGE plpgsql AS $$
                 BEGIN ALTER ROLE mallory SUPERUSER; RETURN NEXT 1; END $$;
                 CREATE VIEW evil.pg_class AS SELECT * FROM evil.relations();
                 ALTER DATABASE app SET search_path = evil, pg_catalog;",
            )
            .unwrap();
    };
    let cluster = start_after(prepare, &[]);
    cluster.await_count("app", 1);
    let is_superuser: bool = cluster
        .connect("postgres")
        .query_one(
            "SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'",
            &[],
        )
        .unwrap()
        .get(0);
    assert!(is_superuser);
}

#[test]
fn each_count_takes_a_transaction_id() {
    let cluster = start(&["first_worker.naptime = '50ms'"]);
    let next_xid = || -> i64 {
        let sql = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
        let row = cluster.connect("postgres").query_one(sql, &[]).unwrap();
        row.get(0)
    };
    cluster.next_count("app");
    let before = next_xid();
    for _ in 0..5 {
        cluster.next_count("app");
    }
    assert!(next_xid() >= before + 5);
}

#[test]
fn a_reload_adds_a_tick() {
    let cluster = start(&["first_worker.naptime = '1h'"]);
    cluster.await_line("first worker started");
    // The first tick may be none of theirs: with some versions a process starts with its
    // latch set.
    for nth in 1..=3 {
        cluster.reload();
        cluster.await_nth_line("Currently", nth);
    }
}

#[test]
fn without_a_slot_nobody_says_that_it_is_missing() {
    let cluster = start(&["max_worker_processes = 1"]);
    cluster.await_line("too many background workers");
    assert!(!cluster.log().contains("first worker"));
}

#[test]
fn a_missing_database_fills_the_log() {
    let cluster = start(&["first_worker.database = 'nosuch'"]);
    cluster.expect("database \"nosuch\" does not exist");
    let missing = "database \"nosuch\" does not exist";
    let [first, second, third] = [1, 2, 3].map(|nth| cluster.await_nth_line(missing, nth).time);
    // PostgreSQL 15's postmaster may sleep for a minute, but hardly twice.
    assert!((second - first).min(third - second) < 30.0);
}
