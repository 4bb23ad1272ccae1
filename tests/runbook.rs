//! The queries of the runbook, on a server that has the problems it describes.

use crate::cluster::{Cluster, FAST, eventually, is_gone};
use nix::sys::signal::Signal;
use postgres::SimpleQueryMessage;
use postgres::error::SqlState;
use std::fs;

/// The statements of the runbook, in order.
fn statements() -> Vec<String> {
    let text = fs::read_to_string("docs/too-many-relations.md").unwrap();
    let blocks = text.split("```sql\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap());
    let statements = blocks.flat_map(|block| block.split(";\n"));
    let statements = statements.map(str::trim).filter(|sql| !sql.is_empty());
    statements.map(str::to_owned).collect()
}

const TROUBLE: &str = "
    CREATE ROLE tenant LOGIN;
    ALTER DATABASE app OWNER TO tenant;
    CREATE SCHEMA tenant_7;
    GRANT CREATE, USAGE ON SCHEMA tenant_7 TO tenant;
    CREATE TABLE tenant_7.t (i int PRIMARY KEY, t text)";

/// What a tenant prepares for a superuser who comes to look. It raises an error as soon as it is
/// run by anybody else.
const TRAPS: &str = "
    CREATE SCHEMA evil;
    CREATE FUNCTION evil.trap() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
        IF current_user <> 'tenant' THEN RAISE 'a trap, and % is in it', current_user; END IF;
        RETURN 1;
    END $$;
    CREATE VIEW evil.pg_class AS SELECT * FROM pg_class WHERE evil.trap() = 1;
    CREATE VIEW evil.pg_inherits AS SELECT * FROM pg_inherits WHERE evil.trap() = 1;
    CREATE VIEW evil.pg_stat_activity AS SELECT * FROM pg_stat_activity WHERE evil.trap() = 1;
    CREATE FUNCTION evil.age(xid) RETURNS int LANGUAGE sql AS 'SELECT evil.trap()';
    CREATE FUNCTION evil.format(text, regclass) RETURNS text
        LANGUAGE sql AS 'SELECT evil.trap()::text';
    CREATE FUNCTION public.is_in(oid, regnamespace) RETURNS bool
        LANGUAGE sql AS 'SELECT evil.trap() = 1';
    CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = regnamespace, FUNCTION = public.is_in);
    CREATE TABLE tenant_7.p (i int) PARTITION BY RANGE ((i + evil.trap()));
    CREATE INDEX ON tenant_7.p ((i * evil.trap())) WHERE evil.trap() = 1;
    CREATE TABLE tenant_7.p_1 PARTITION OF tenant_7.p FOR VALUES FROM (0) TO (10);
    CREATE TABLE measurements (year int, value float8) PARTITION BY RANGE ((year + evil.trap()));
    CREATE TABLE measurements_2019 PARTITION OF measurements FOR VALUES FROM (2020) TO (2021);
    CREATE TABLE measurements_2020 PARTITION OF measurements FOR VALUES FROM (2021) TO (2022);
    ALTER DATABASE app SET search_path = evil, pg_catalog";

#[test]
fn every_query_runs_and_finds_what_it_is_about() {
    let cluster = Cluster::start(&[
        "count_relations.databases = 'app'",
        FAST,
        "count_relations.census_naptime = '100ms'",
        "wal_level = logical",
        "statement_timeout = '1min'",
        "max_prepared_transactions = 2",
    ]);
    cluster.execute("postgres", "CREATE EXTENSION count_relations");
    cluster.execute("app", TROUBLE);
    // One left behind by a crash, one of a session that lives on.
    let mut crashed = cluster.connect("app");
    let temporary = "CREATE TEMPORARY TABLE mine (t text)";
    crashed.batch_execute(temporary).unwrap();
    cluster.expect_crash();
    cluster.expect("terminating connection due to unexpected postmaster exit");
    let processes = crashed
        .query("SELECT pid FROM pg_stat_activity", &[])
        .unwrap();
    cluster.stop(Signal::SIGKILL);
    // While one of them is there, no other server starts.
    for process in processes {
        eventually("the process to end", || {
            is_gone(process.get(0)).then_some(())
        });
    }
    cluster.start_server();
    // Which waits for all transactions.
    cluster.execute(
        "app",
        "SELECT pg_create_logical_replication_slot('abandoned', 'pgoutput')",
    );
    let mut idle = cluster.connect("app");
    idle.batch_execute(temporary).unwrap();
    idle.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; CREATE TABLE t ()")
        .unwrap();
    cluster.execute(
        "app",
        "BEGIN; CREATE TABLE u (); PREPARE TRANSACTION 'forgotten'",
    );
    let mut tenant = cluster.connect_as("tenant", "app");
    tenant.batch_execute(TRAPS).unwrap();
    let mut client = cluster.connect("app");
    let mut client_of_ours = cluster.connect("postgres");
    eventually("a census", || {
        let sql = "SELECT 1 FROM relation_catalogs WHERE relname = 'pg_class'";
        client_of_ours.query_opt(sql, &[]).unwrap()
    });
    let statements = statements();
    assert!(statements.len() > 30, "{}", statements.len());
    for sql in &statements {
        if sql.starts_with("VACUUM FULL") {
            // As the runbook says: once no old transaction is left.
            let forgotten = client.query_opt("SELECT 1 FROM pg_prepared_xacts", &[]);
            if forgotten.unwrap().is_some() {
                idle.batch_execute("ROLLBACK").unwrap();
                let rollback = "ROLLBACK PREPARED 'forgotten'";
                client.batch_execute(rollback).unwrap();
            }
            // A count may have locked it, and this machine may be slow.
            client.batch_execute("SET lock_timeout = 0").unwrap();
        }
        if sql.contains("FROM pg_locks") {
            let lock = "BEGIN; LOCK TABLE pg_depend IN ACCESS SHARE MODE";
            idle.batch_execute(lock).unwrap();
        }
        // As the runbook says.
        if sql.starts_with("SET search_path") {
            client_of_ours.batch_execute(sql).unwrap();
        }
        let session = if sql.contains("public.relation_") {
            &mut client_of_ours
        } else if sql.contains("public.measurements") {
            &mut tenant
        } else {
            &mut client
        };
        let rows = session
            .simple_query(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let cells = rows.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).filter_map(|i| row.get(i))),
            _ => None,
        });
        let found = cells.flatten().collect::<Vec<_>>().join(" ");
        let answers = !found.is_empty() || !sql.starts_with("SELECT");
        assert!(answers, "no rows: {sql}");
        // The answer is about the trouble.
        for (part, name) in [
            ("FROM pg_inherits", "measurements"),
            ("relpersistence = 't'", "pg_temp_"),
            ("backend_xmin IS NOT NULL", "idle in transaction"),
            ("FROM pg_replication_slots", "abandoned"),
            ("FROM pg_prepared_xacts", "forgotten"),
            ("format('DROP TABLE", "DROP TABLE tenant_7.t"),
            ("FROM pg_locks", "pg_depend AccessShareLock"),
            ("d.datistemplate", "postgres"),
            ("pg_terminate_backend", " t"),
        ] {
            assert!(
                !sql.contains(part) || found.contains(name),
                "{sql}: {found}"
            );
        }
    }
    // As psql's \gexec does, which leaves nothing.
    let drops = statements
        .iter()
        .find(|sql| sql.contains("format('DROP TABLE"));
    let drops = drops.expect("what to do in portions");
    let drops: Vec<String> = (client.query(drops, &[]).unwrap().iter())
        .map(|row| row.get(0))
        .collect();
    assert_eq!(drops.len(), 3, "{drops:?}");
    for sql in &drops {
        client.batch_execute(sql).unwrap();
    }
    eventually("the tenant to be gone", || {
        let sql = "SELECT 1 FROM pg_stat_activity WHERE usename = 'tenant'";
        client.query_opt(sql, &[]).unwrap().is_none().then_some(())
    });
    drop(tenant);
    client
        .batch_execute("SELECT pg_drop_replication_slot('abandoned')")
        .unwrap();
}

#[test]
fn without_its_first_statement_tenants_would_have_the_superuser_run_their_code() {
    let cluster = Cluster::start(&[]);
    cluster.execute("app", TROUBLE);
    let mut tenant = cluster.connect_as("tenant", "app");
    tenant.batch_execute(TRAPS).unwrap();
    cluster.expect("a trap, and postgres is in it");
    cluster.expect("column \"xmin\" does not exist"); // of a view
    let statements = statements();
    let (first, others) = statements.split_first().unwrap();
    let is_in_a_trap = |client: &mut postgres::Client, sql: &str| {
        let error = client.simple_query(sql).err();
        error.is_some_and(|error| format!("{error:?}").contains("a trap, and postgres is in it"))
    };
    // With what the database's owner has set; and with the default, as he has an operator there.
    for (search_path, part, least) in [
        ("evil, pg_catalog", "FROM pg_", 5),
        ("\"$user\", public", "::regnamespace", 2),
    ] {
        let set = format!("ALTER DATABASE app SET search_path = {search_path}");
        tenant.batch_execute(&set).unwrap();
        let mut client = cluster.connect("app");
        let looks = others.iter().filter(|sql| {
            let concerns_others = ["public.", "pg_terminate_backend"];
            sql.contains(part) && !concerns_others.iter().any(|other| sql.contains(other))
        });
        let looks: Vec<&String> = looks.collect();
        let trapped = looks.iter().filter(|sql| is_in_a_trap(&mut client, sql));
        assert!(trapped.count() >= least, "{search_path}: {looks:#?}");
        client.batch_execute(first).unwrap();
        let trapped = looks.iter().filter(|sql| is_in_a_trap(&mut client, sql));
        assert_eq!(trapped.count(), 0, "{search_path}");
    }
    // A superuser who changes a tenant's tables needs more than that.
    let mut client = cluster.connect("app");
    client.batch_execute(first).unwrap();
    let detach = others.iter().find(|sql| sql.contains("DETACH"));
    assert!(is_in_a_trap(&mut client, detach.unwrap()));
}

#[test]
fn behind_vacuum_full_of_pg_class_all_sessions_wait() {
    let cluster = Cluster::start(&[]);
    cluster.execute("app", "CREATE TABLE t ()");
    let mut holder = cluster.connect("app");
    let mut client = cluster.connect("app");
    client.batch_execute("SET lock_timeout = '200ms'").unwrap();
    // What it locks while it runs.
    holder
        .batch_execute("BEGIN; LOCK TABLE pg_class IN ACCESS EXCLUSIVE MODE")
        .unwrap();
    let refused = client.batch_execute("SELECT FROM t").unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::LOCK_NOT_AVAILABLE));
    cluster.expect("canceling statement due to lock timeout");
    // And while it waits for a session that only reads.
    holder
        .batch_execute("ROLLBACK; BEGIN; LOCK TABLE pg_class IN ACCESS SHARE MODE")
        .unwrap();
    let mut full = cluster.connect("app");
    let waiting = std::thread::spawn(move || full.batch_execute("VACUUM FULL pg_class"));
    let mut look = cluster.connect("postgres");
    eventually("VACUUM FULL to wait", || {
        let sql = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 1259 \
                   AND mode = 'AccessExclusiveLock'";
        look.query_opt(sql, &[]).unwrap()
    });
    let refused = client.batch_execute("SELECT FROM t").unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::LOCK_NOT_AVAILABLE));
    holder.batch_execute("ROLLBACK").unwrap();
    waiting.join().unwrap().unwrap();
    client.batch_execute("SELECT FROM t").unwrap();
}
