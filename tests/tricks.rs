//! The worker runs as a superuser in databases that belong to others. Nothing that they can set
//! makes it run their code, or stops it.

use crate::cluster::{Cluster, FAST};
use crate::states::DATABASE;
use nix::sys::signal::Signal;

/// What a malicious owner prepares: everything that the worker's query names exists once more,
/// in a schema of the owner's, and tells the canary when used.
const TRAPS: &str = "
    CREATE TABLE canary (what text);
    GRANT ALL ON canary TO PUBLIC;
    CREATE SCHEMA evil;
    GRANT USAGE ON SCHEMA evil TO PUBLIC;
    CREATE FUNCTION evil.sing(what text) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
        BEGIN INSERT INTO public.canary VALUES (what); RETURN 1; END $$;
    CREATE VIEW evil.pg_class AS SELECT evil.sing('pg_class') AS oid;
    CREATE FUNCTION evil.next(bigint) RETURNS bigint LANGUAGE sql VOLATILE
        AS $$ SELECT evil.sing('count') $$;
    CREATE AGGREGATE evil.count(*) (sfunc = evil.next, stype = bigint, initcond = '0');
    CREATE FUNCTION evil.plus(bigint, bigint) RETURNS bigint LANGUAGE sql VOLATILE
        AS $$ SELECT evil.sing('operator') $$;
    CREATE OPERATOR evil.+ (leftarg = bigint, rightarg = bigint, function = evil.plus);
";

/// Settings that its owner can attach to a database, or a role to itself.
const SETTINGS: &[&str] = &[
    "search_path = evil, pg_catalog",
    "row_security = off",
    "default_transaction_read_only = on",
    "default_transaction_isolation = 'serializable'",
    "default_transaction_deferrable = on",
    "statement_timeout = '1ms'",
    "lock_timeout = '1ms'",
    "idle_in_transaction_session_timeout = '1ms'",
    "idle_session_timeout = '1ms'",
    "role = 'mallory'",
    "session_authorization = 'mallory'",
    "local_preload_libraries = 'nonsense'",
    "application_name = 'somebody else'",
    "client_encoding = 'LATIN1'",
    "work_mem = '64kB'",
    "enable_seqscan = off",
    "plan_cache_mode = 'force_custom_plan'",
    "default_tablespace = 'pg_global'",
    "DateStyle = 'German'",
    "jit_above_cost = 0",
    // Of which whoever connects is warned.
    "default_text_search_config = 'nonsense.nonsense'",
    "max_parallel_workers_per_gather = 8",
];

/// Settings that only a superuser can attach.
const SUPERUSERS_SETTINGS: &[&str] = &["session_preload_libraries = 'nonsense'"];

fn set_up(count_relations_role: &str, databases: &str) -> Cluster {
    let cluster = Cluster::start(&["count_relations.databases = ''"]);
    cluster.execute(
        "postgres",
        "CREATE ROLE mallory LOGIN; CREATE ROLE watcher LOGIN",
    );
    cluster.execute("postgres", "ALTER DATABASE app OWNER TO mallory");
    cluster
        .connect_as("mallory", DATABASE)
        .batch_execute(TRAPS)
        .unwrap();
    let mut mallory = cluster.connect_as("mallory", "postgres");
    let mut watcher = cluster.connect_as("watcher", "postgres");
    for setting in SETTINGS {
        let database = format!("ALTER DATABASE app SET {setting}");
        mallory.batch_execute(&database).unwrap();
        let role = format!("ALTER ROLE watcher SET {setting}");
        watcher.batch_execute(&role).unwrap();
    }
    let mut superusers = SUPERUSERS_SETTINGS.to_vec();
    if crate::cluster::major_version() >= 17 {
        superusers.push("transaction_timeout = '1ms'");
    }
    for setting in superusers {
        cluster.execute("postgres", &format!("ALTER DATABASE app SET {setting}"));
    }
    for setting in SETTINGS {
        let sql = format!("ALTER ROLE postgres IN DATABASE app SET {setting}");
        cluster.execute("postgres", &sql);
    }
    cluster.stop(Signal::SIGINT);
    cluster.configure(&[
        &format!("count_relations.databases = '{databases}'"),
        FAST,
        "count_relations.skip_unchanged = off",
        &format!("count_relations.role = '{count_relations_role}'"),
    ]);
    cluster.start_server();
    cluster
}

/// Removes the traps for sessions that connect from now on.
fn disarm(cluster: &Cluster) {
    for owner in ["DATABASE app", "ROLE postgres IN DATABASE app"] {
        cluster.execute("postgres", &format!("ALTER {owner} RESET ALL"));
    }
}

/// The count is right, by the same worker throughout if it stays, and the canary is silent.
fn withstands(count_relations_role: &str, databases: &str) {
    let cluster = set_up(count_relations_role, databases);
    let before = cluster.next_count(DATABASE);
    let worker = cluster.counts(DATABASE)[0].pid;
    let role = match count_relations_role {
        "" => "postgres",
        role => role,
    };
    cluster.await_line(&format!("as role \"{role}\""));
    disarm(&cluster);
    let mut client = cluster.connect(DATABASE);
    let truth: i64 = client
        .query_one("SELECT pg_catalog.count(*) FROM pg_catalog.pg_class", &[])
        .unwrap()
        .get(0);
    assert_eq!(before, truth);

    // Waits for a lock for longer than any of the timeouts.
    client
        .batch_execute(
            "BEGIN; LOCK TABLE pg_class IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(0.2); COMMIT",
        )
        .unwrap();
    assert_eq!(cluster.next_count(DATABASE), truth);
    assert!(
        cluster
            .counts(DATABASE)
            .iter()
            .all(|count| count.pid == worker || databases == "*")
    );

    let sung: i64 = client
        .query_one("SELECT count(*) FROM canary", &[])
        .unwrap()
        .get(0);
    assert_eq!(sung, 0, "somebody else's code ran");
}

#[test]
fn as_the_bootstrap_superuser() {
    withstands("", "app");
}

#[test]
fn as_an_unprivileged_role() {
    withstands("watcher", "app");
}

#[test]
fn as_the_bootstrap_superuser_on_a_visit() {
    withstands("", "*");
}

#[test]
fn as_an_unprivileged_role_on_a_visit() {
    withstands("watcher", "*");
}

#[test]
fn the_canary_does_sing() {
    let cluster = set_up("", "app");
    disarm(&cluster);
    let mut client = cluster.connect(DATABASE);
    client
        .batch_execute("SET search_path = evil, pg_catalog; SELECT count(*) FROM pg_class")
        .unwrap();
    let sung: i64 = client
        .query_one("SELECT pg_catalog.count(*) FROM public.canary", &[])
        .unwrap()
        .get(0);
    assert!(sung >= 2);
}

#[test]
fn a_client_encoding_without_a_conversion_keeps_no_worker_out() {
    let cluster = Cluster::start(&["count_relations.databases = 'latin'"]);
    cluster.expect("database \"latin\" does not exist");
    cluster.execute("postgres", "CREATE ROLE mallory LOGIN");
    cluster.execute(
        "postgres",
        "CREATE DATABASE latin OWNER mallory ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0",
    );
    // Allowed from a database that can be converted to any encoding.
    cluster
        .connect_as("mallory", "postgres")
        .batch_execute("ALTER DATABASE latin SET client_encoding = 'WIN1251'")
        .unwrap();
    cluster.stop(Signal::SIGINT);
    cluster.start_server();
    cluster.next_count("latin");
}
