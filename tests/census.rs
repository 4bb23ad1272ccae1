//! The census: which kinds of relations, in which schemas, how bloated the catalogs are.

use crate::all_databases::{self, await_rest};
use crate::cluster::{Background, Cluster, FAST, Level, PATIENCE, Throttle, eventually, send};
use crate::states::grow_catalog;
use nix::sys::signal::Signal;
use postgres::Client;
use postgres::error::SqlState;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const LISTED: &[&str] = &[
    "count_relations.databases = 'app, postgres'",
    FAST,
    "count_relations.census_naptime = '100ms'",
];

/// A server that counts "app" and "postgres", and a session in "postgres", where the
/// extension is.
fn start(configuration: &[&str]) -> (Cluster, Client) {
    let cluster = Cluster::start(&[LISTED, configuration].concat());
    cluster.execute("postgres", "CREATE EXTENSION count_relations");
    let view = cluster.connect("postgres");
    (cluster, view)
}

/// Asks for a census of a database, and waits for it.
fn await_census(view: &mut Client, database: &str) {
    let now = view.query_one("SELECT clock_timestamp()::text", &[]);
    let now: String = now.unwrap().get(0);
    // Another database may have had the oid, and its row go between the two.
    let sql = "SELECT 1 FROM relation_counts WHERE datname = $1";
    let ask = "SELECT relation_counts_census($1::text::name)";
    eventually("the database to be counted", || {
        view.query_opt(sql, &[&database]).unwrap()?;
        view.execute(ask, &[&database]).ok()
    });
    let sql = format!(
        "SELECT 1 FROM relation_catalogs WHERE datname = $1 AND relname = 'pg_class' \
         AND checked_at > '{now}'"
    );
    eventually("a census", || view.query_opt(&sql, &[&database]).unwrap());
}

type Kinds = Vec<(String, String, bool, i64)>;

fn kinds(client: &mut Client, sql: &str) -> Kinds {
    let rows = client.query(sql, &[]).unwrap();
    let kind = |row: &postgres::Row| (row.get(0), row.get(1), row.get(2), row.get(3));
    rows.iter().map(kind).collect()
}

/// The name, empty for none, the number of schemas, and of relations.
type Schemas = Vec<(Vec<u8>, i64, i64)>;

/// What `GROUP BY` says about the schemas of the database that `client` is in.
fn true_schemas(client: &mut Client) -> Schemas {
    let sql = "SELECT namesend(nspname), count(*) FROM pg_class AS c \
               JOIN pg_namespace AS n ON n.oid = c.relnamespace GROUP BY nspname";
    let rows = client.query(sql, &[]).unwrap();
    let mut named: Vec<(Vec<u8>, i64)> = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
    let temporary = named.extract_if(.., |(name, _)| {
        name.starts_with(b"pg_temp_") || name.starts_with(b"pg_toast_temp_")
    });
    let temporary: Vec<i64> = temporary.map(|(_, relations)| relations).collect();
    named.sort_by_key(|(name, relations)| (-relations, name.clone()));
    let rest = named.split_off(named.len().min(10));
    let mut schemas: Schemas = named.into_iter().map(|(name, n)| (name, 1, n)).collect();
    let rest: Vec<i64> = rest.into_iter().map(|(_, relations)| relations).collect();
    for (name, relations) in [(b"pg_temp".to_vec(), temporary), (Vec::new(), rest)] {
        if !relations.is_empty() {
            schemas.push((name, relations.len() as i64, relations.iter().sum()));
        }
    }
    schemas.sort();
    schemas
}

/// Requests a census, and compares it with what a client finds; nothing may change meanwhile.
pub fn assert_right(cluster: &Cluster, database: &str) {
    let mut view = cluster.connect("postgres");
    await_census(&mut view, database);
    let mut client = cluster.connect(database);
    // Names as they are in the database.
    client
        .batch_execute("SET client_encoding = 'SQL_ASCII'")
        .unwrap();
    let truth = kinds(
        &mut client,
        "SELECT relkind::text, relpersistence::text, relispartition, count(*) \
         FROM pg_class GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
    );
    let sql = format!(
        "SELECT relkind::text, relpersistence::text, relispartition, relations \
         FROM relation_counts_by_kind WHERE datname = '{database}' ORDER BY 1, 2, 3"
    );
    assert_eq!(kinds(&mut view, &sql), truth, "kinds in {database}");
    let sql = "SELECT coalesce(namesend(nspname), ''), schemas, relations \
               FROM relation_counts_by_schema WHERE datname = $1";
    let rows = view.query(sql, &[&database]).unwrap();
    let mut schemas: Schemas = rows
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    schemas.sort();
    assert_eq!(schemas, true_schemas(&mut client), "schemas in {database}");
}

/// Every kind and persistence there is.
const EVERYTHING: &str = "
    CREATE TABLE parted (i int PRIMARY KEY, t text) PARTITION BY RANGE (i);
    CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (10);
    CREATE TABLE sub PARTITION OF parted FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (i);
    CREATE UNLOGGED TABLE unlogged (i serial PRIMARY KEY, t text);
    CREATE VIEW seen AS SELECT 1 AS one;
    CREATE MATERIALIZED VIEW kept AS SELECT 1 AS one;
    CREATE SEQUENCE numbers;
    CREATE TYPE pair AS (a int, b int);
    CREATE FOREIGN DATA WRAPPER nowhere;
    CREATE SERVER there FOREIGN DATA WRAPPER nowhere;
    CREATE FOREIGN TABLE far (i int) SERVER there";

const TEMPORARY: &str = "
    CREATE TEMPORARY TABLE t (i serial PRIMARY KEY, t text);
    CREATE TEMPORARY VIEW v AS SELECT * FROM t;
    CREATE TEMPORARY TABLE parted (i int PRIMARY KEY) PARTITION BY RANGE (i);
    CREATE TEMPORARY TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (10)";

#[test]
fn it_says_of_every_kind_what_group_by_says() {
    let (cluster, mut view) = start(&[]);
    cluster.execute("app", EVERYTHING);
    let mut sessions = [cluster.connect("app"), cluster.connect("app")];
    for session in &mut sessions {
        session.batch_execute(TEMPORARY).unwrap();
    }
    assert_right(&cluster, "app");
    assert_right(&cluster, "postgres");
    let sql = "SELECT count(DISTINCT relkind), count(DISTINCT relpersistence), \
                      count(DISTINCT relispartition), count(*) \
               FROM relation_counts_by_kind WHERE datname = 'app'";
    let row = view.query_one(sql, &[]).unwrap();
    let [kinds, persistences, partitions, rows] = [0, 1, 2, 3].map(|i| row.get::<_, i64>(i));
    assert_eq!([kinds, persistences, partitions], [10, 3, 2]);
    assert!(rows > 20, "{rows}");
    // The sum is the count.
    let sql = "SELECT 1 FROM relation_counts AS c WHERE datname = 'app' AND relations = \
               (SELECT sum(relations) FROM relation_counts_by_kind AS k WHERE k.datid = c.datid)";
    view.query_one(sql, &[]).unwrap();
}

#[test]
fn of_many_schemas_it_names_the_ten_largest() {
    let (cluster, mut view) = start(&[]);
    let mut app = cluster.connect("app");
    let long = "x".repeat(63);
    let hostile = [
        "\"\"; DROP TABLE t; --",
        "new\nline",
        "%s {} \\",
        "größe_日本",
        &long,
    ];
    for (i, name) in hostile.iter().enumerate() {
        let tables = 12 - i; // ahead of the rest
        app.batch_execute(&format!("CREATE SCHEMA \"{name}\""))
            .unwrap();
        for table in 0..tables {
            let sql = format!("CREATE TABLE \"{name}\".t{table} ()");
            app.batch_execute(&sql).unwrap();
        }
    }
    // With ties all along the border between the largest and the rest.
    for i in 0..30 {
        let sql = format!("CREATE SCHEMA s{i}; CREATE TABLE s{i}.t (); CREATE TABLE s{i}.u ()");
        app.batch_execute(&sql).unwrap();
    }
    assert_right(&cluster, "app");
    let shown = "SELECT 1 FROM relation_counts_by_schema \
                 WHERE datname = 'app' AND nspname = $1::text::name AND relations = $2";
    let unquoted = |name: &str| name.replace("\"\"", "\"");
    for (name, relations) in [(hostile[0], 12), (long.as_str(), 8)] {
        view.query_one(shown, &[&unquoted(name), &(relations as i64)])
            .unwrap();
    }
    let rest = "SELECT schemas, relations FROM relation_counts_by_schema \
                WHERE datname = 'app' AND nspname IS NULL";
    let row = view.query_one(rest, &[]).unwrap();
    let (schemas, relations): (i64, i64) = (row.get(0), row.get(1));
    assert!(
        schemas >= 28 && relations == 2 * schemas,
        "{schemas}, {relations}"
    );

    app.batch_execute("DROP SCHEMA s0 CASCADE; ALTER SCHEMA s1 RENAME TO a_first")
        .unwrap();
    assert_right(&cluster, "app");
}

#[test]
fn names_are_in_the_databases_own_encoding() {
    let cluster = all_databases::start(&["count_relations.census_naptime = '100ms'"]);
    // Until it exists.
    cluster.expect("does not exist");
    cluster.expect("are not being counted");
    cluster.execute(
        "postgres",
        "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0",
    );
    let mut latin = cluster.connect("latin");
    latin
        .batch_execute("CREATE SCHEMA \"größe\"; CREATE TABLE \"größe\".t ()")
        .unwrap();
    assert_right(&cluster, "latin");
    let mut view = cluster.connect("postgres");
    // As for a database's name, no conversion makes sense of it.
    view.batch_execute("SET client_encoding = 'SQL_ASCII'")
        .unwrap();
    let sql = "SELECT 1 FROM relation_counts_by_schema \
               WHERE datname = 'latin' AND namesend(nspname) = '\\x6772f6df65'";
    view.query_one(sql, &[]).unwrap();
}

fn of_pg_class(view: &mut Client) -> [i64; 5] {
    let sql = "SELECT live_rows, dead_rows, rows_inserted, rows_deleted, total_bytes \
               FROM relation_catalogs WHERE datname = 'app' AND relname = 'pg_class'";
    let row = view.query_one(sql, &[]).unwrap();
    [0, 1, 2, 3, 4].map(|i| row.get(i))
}

#[test]
fn a_catalog_that_swells_while_the_count_is_healthy_shows() {
    let (cluster, mut view) = start(&["autovacuum = off"]);
    await_census(&mut view, "app");
    let [_, _, inserted_before, deleted_before, bytes_before] = of_pg_class(&mut view);
    let mut old = cluster.connect("app");
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        .unwrap();
    let mut app = cluster.connect("app");
    for _ in 0..300 {
        app.batch_execute(
            "CREATE TEMPORARY TABLE a (i serial PRIMARY KEY, t text); \
             CREATE TEMPORARY TABLE b (i serial PRIMARY KEY, t text); DROP TABLE a, b",
        )
        .unwrap();
    }
    drop(app);
    let mut client = cluster.connect("app");
    // Statistics arrive a moment later, and not all at once.
    let sql = "SELECT 1 FROM pg_stat_sys_tables WHERE relid = 'pg_class'::regclass \
               AND n_dead_tup > 2000 AND n_live_tup < 1000 \
               AND n_tup_ins - $1 > 2000 AND n_tup_del - $2 > 2000";
    eventually("dead rows", || {
        client
            .query_opt(sql, &[&inserted_before, &deleted_before])
            .unwrap()
    });
    await_census(&mut view, "app");
    let [live, dead, inserted, deleted, bytes] = of_pg_class(&mut view);
    assert!(dead > 2_000 && live < 1_000 && bytes > 2 * bytes_before);
    assert!(inserted - inserted_before > 2_000 && deleted - deleted_before > 2_000);
    let sql = "SELECT relname::text, total_bytes = pg_total_relation_size(('pg_catalog.' || relname)::regclass) \
               FROM unnest($1::text[], $2::bigint[]) AS c (relname, total_bytes)";
    let catalogs = "SELECT relname::text, total_bytes FROM relation_catalogs WHERE datname = 'app'";
    let catalogs = view.query(catalogs, &[]).unwrap();
    assert_eq!(catalogs.len(), 8);
    let names: Vec<String> = catalogs.iter().map(|row| row.get(0)).collect();
    let sizes: Vec<i64> = catalogs.iter().map(|row| row.get(1)).collect();
    for row in client.query(sql, &[&names, &sizes]).unwrap() {
        assert!(row.get::<_, bool>(1), "size of {}", row.get::<_, &str>(0));
    }

    old.batch_execute("COMMIT").unwrap();
    client.batch_execute("VACUUM FULL pg_class").unwrap();
    await_census(&mut view, "app");
    let [.., shrunk] = of_pg_class(&mut view);
    assert!(shrunk < bytes / 2, "{shrunk} bytes");
}

#[test]
fn a_standby_has_a_census_of_its_own_without_statistics() {
    let (primary, _view) = start(&[]);
    primary.execute("app", EVERYTHING);
    let standby = primary.start_standby(&[]);
    let mut view = standby.connect("postgres");
    await_census(&mut view, "app");
    assert_right(&standby, "app");
    let statistics = "SELECT count(*), count(live_rows), count(dead_rows), count(rows_inserted), \
                             count(rows_deleted), count(total_bytes) \
                      FROM relation_catalogs WHERE datname = 'app'";
    let counts = |view: &mut Client| {
        let row = view.query_one(statistics, &[]).unwrap();
        [0, 1, 2, 3, 4, 5].map(|i| row.get::<_, i64>(i))
    };
    assert_eq!(counts(&mut view), [8, 0, 0, 0, 0, 8]);
    standby.promote();
    standby.execute("app", "CREATE TABLE promoted ()");
    assert_right(&standby, "app");
    assert_eq!(counts(&mut view), [8; 6]);
}

#[test]
fn after_a_change_it_comes_by_itself_and_at_rest_there_is_none() {
    let (cluster, mut view) = start(&[]);
    let taken = "SELECT max(checked_at)::text, bool_or(checked_at > now() - '1s'::interval) \
                 FROM relation_catalogs WHERE datname = 'app'";
    let mut latest = || {
        let row = view.query_one(taken, &[]).unwrap();
        row.get::<_, Option<String>>(0)
    };
    let first = eventually("the first census", &mut latest);
    cluster.execute("app", "CREATE TABLE t ()");
    let second = eventually("another", || latest().filter(|time| *time != first));
    // Changes still under way at one census are in the next.
    cluster.execute("app", "SELECT pg_sleep(1)");
    let third = latest().unwrap();
    cluster.execute("app", "SELECT pg_sleep(1)");
    assert_eq!(
        latest().unwrap(),
        third,
        "nothing has changed since {second}"
    );
}

#[test]
fn switched_off_there_is_none_but_on_request() {
    let (cluster, mut view) = start(&["count_relations.census_naptime = 0"]);
    cluster.await_line("relations in database \"app\"");
    cluster.execute("app", "CREATE TABLE t ()");
    cluster.next_count("app");
    cluster.next_count("app");
    for name in [
        "relation_counts_by_kind",
        "relation_counts_by_schema",
        "relation_catalogs",
    ] {
        let rows = view.query(&format!("SELECT 1 FROM {name}"), &[]).unwrap();
        assert!(rows.is_empty(), "{name}");
    }
    assert_right(&cluster, "app");
    cluster.configure(&["count_relations.census_naptime = '50ms'"]);
    cluster.reload();
    let sql = "SELECT 1 FROM relation_counts_by_kind WHERE datname = 'postgres' LIMIT 1";
    eventually("a census", || view.query_opt(sql, &[]).unwrap());
}

#[test]
fn with_all_databases_it_comes_with_a_visit_and_what_a_visit_had_no_time_for_with_another() {
    let cluster = all_databases::start(&[
        "count_relations.census_naptime = '8s'",
        "count_relations.log_counts = none",
    ]);
    let mut view = cluster.connect("postgres");
    let all = "SELECT 1 FROM relation_catalogs WHERE relname = 'pg_class' HAVING count(*) = 2";
    eventually("the first census of both", || {
        view.query_opt(all, &[]).unwrap()
    });
    // Too soon for another.
    cluster.execute("app", "CREATE TABLE t (i int PRIMARY KEY)");
    await_rest(&cluster);
    let right = "SELECT 1 FROM relation_counts AS c WHERE datname = 'app' AND relations = \
                 (SELECT sum(relations) FROM relation_counts_by_kind AS k WHERE k.datid = c.datid)";
    eventually("a census of what there is", || {
        view.query_opt(right, &[]).unwrap()
    });
    await_rest(&cluster);
    // At rest, no further worker is sent.
    let recounts = "SELECT sum(recounts)::bigint FROM relation_counts";
    let before: i64 = view.query_one(recounts, &[]).unwrap().get(0);
    view.execute("SELECT pg_sleep(9)", &[]).unwrap();
    let after: i64 = view.query_one(recounts, &[]).unwrap().get(0);
    assert_eq!(before, after);
    // Unless one is requested.
    assert_right(&cluster, "app");
    assert_right(&cluster, "postgres");
}

#[test]
fn what_is_read_is_of_one_census_whatever_changes() {
    let (cluster, mut view) = start(&["count_relations.census_naptime = '10ms'"]);
    await_census(&mut view, "app");
    let mut app = cluster.connect("app");
    let busy = Background::start(move |done| {
        let mut number = 0;
        while !done.load(Ordering::Relaxed) {
            number += 1;
            let schema = format!("s{}", number % 20);
            app.batch_execute(&format!(
                "CREATE SCHEMA {schema}; CREATE TABLE {schema}.t (i serial PRIMARY KEY); \
                 CREATE TEMPORARY TABLE t (t text); DROP TABLE t; DROP SCHEMA {schema} CASCADE"
            ))
            .unwrap();
        }
    });
    let sql = "SELECT sum(relations)::bigint, min(counted_at)::text, max(counted_at)::text \
               FROM relation_counts_by_";
    let mut sums = BTreeMap::new();
    let begun = Instant::now();
    let mut rounds = 0;
    // A census that is disturbed for a moment rests for long.
    while rounds < 3_000 || sums.len() <= 5 {
        rounds += 1;
        assert!(begun.elapsed() < PATIENCE, "{} censuses", sums.len());
        for part in ["kind", "schema"] {
            let sql = format!("{sql}{part} WHERE datname = 'app'");
            let row = view.query_one(&sql, &[]).unwrap();
            let (sum, first, last): (i64, String, String) = (row.get(0), row.get(1), row.get(2));
            assert_eq!(first, last, "rows of two");
            assert_eq!(
                *sums.entry(first).or_insert(sum),
                sum,
                "one census, two sums"
            );
        }
    }
    for _ in 0..300 {
        let sql = "SELECT count(*), min(checked_at) = max(checked_at) FROM relation_catalogs \
                   WHERE datname = 'app'";
        let row = view.query_one(sql, &[]).unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, bool>(1)), (8, true));
    }
    drop(busy);
    assert_right(&cluster, "app");
}

#[test]
fn a_catalog_that_somebody_has_locked_puts_it_off_and_no_tick() {
    let (cluster, mut view) = start(&[]);
    await_census(&mut view, "app");
    let mut locker = cluster.connect("app");
    locker
        .batch_execute(
            "BEGIN; CREATE TABLE t (); LOCK TABLE pg_statistic, pg_depend, pg_operator \
                                       IN ACCESS EXCLUSIVE MODE",
        )
        .unwrap();
    // One that has nothing in its caches.
    send(cluster.worker("app"), Signal::SIGTERM);
    cluster.await_nth_line("worker started for database \"app\"", 2);
    cluster.next_count("app");
    assert_put_off(&cluster, &mut view, locker);

    // Even of the one that the count needs, as soon as something changes.
    cluster.next_count("app");
    let mut locker = cluster.connect("app");
    locker
        .batch_execute("BEGIN; LOCK TABLE pg_class IN ACCESS EXCLUSIVE MODE")
        .unwrap();
    assert_put_off(&cluster, &mut view, locker);
}

/// Asserts that a census that is asked for waits for the locks of `locker`, and no tick does.
fn assert_put_off(cluster: &Cluster, view: &mut Client, mut locker: Client) {
    let worker = cluster.worker("app");
    let asked = "SELECT relation_counts_census('app'), clock_timestamp()::text";
    let asked: String = view.query_one(asked, &[]).unwrap().get(1);
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    for _ in 0..40 {
        cluster.next_count("app");
        assert_eq!(view.query_one(waiting, &[]).unwrap().get::<_, i64>(0), 0);
    }
    let sql = format!(
        "SELECT 1 FROM relation_counts_by_kind WHERE datname = 'app' AND counted_at > '{asked}' LIMIT 1"
    );
    assert!(view.query_opt(&sql, &[]).unwrap().is_none());
    locker.batch_execute("COMMIT").unwrap();
    eventually("the census", || view.query_opt(&sql, &[]).unwrap());
    assert_eq!(cluster.worker("app"), worker);
}

#[test]
fn one_that_is_canceled_costs_a_restart_of_the_worker_and_is_made_up_for() {
    let (cluster, mut view) = start(&["count_relations.census_naptime = '1h'"]);
    cluster.expect("canceling statement due to user request");
    // Enough to find a throttled census under way at the first try.
    grow_catalog(&cluster, "app", 20);
    await_census(&mut view, "app");
    let worker = cluster.worker("app");
    let slow = Throttle::new(worker, Duration::from_millis(30));
    let ask = "SELECT relation_counts_census('app'), clock_timestamp()::text";
    let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity \
                  WHERE pid = $1 AND state = 'active' AND query = 'census of relations'";
    let asked = eventually("a census to be canceled", || {
        let asked: String = view.query_one(ask, &[]).unwrap().get(1);
        view.query_opt(cancel, &[&worker]).unwrap();
        let lines = cluster.lines_with("canceling statement due to user request");
        lines.iter().any(|line| line.pid == worker).then_some(asked)
    });
    drop(slow);
    cluster.await_nth_line("worker started for database \"app\"", 2);
    cluster.next_count("app");
    let sql = format!(
        "SELECT 1 FROM relation_counts_by_kind WHERE datname = 'app' AND counted_at > '{asked}' LIMIT 1"
    );
    eventually("the census", || view.query_opt(&sql, &[]).unwrap());
}

#[test]
fn the_warning_says_what_and_where() {
    for databases in ["app", "*"] {
        let cluster = Cluster::init(&[
            &format!("count_relations.databases = '{databases}'"),
            FAST,
            // None except for the warning.
            "count_relations.census_naptime = '1h'",
            "count_relations.log_counts = none",
            "count_relations.warn_above = 1000",
        ]);
        cluster.expect("more than count_relations.warn_above");
        cluster.start_server();
        cluster.execute(
            "app",
            "CREATE SCHEMA tenant_7; CREATE SCHEMA audit; CREATE SCHEMA \"say \"\"no\"\"\"; \
             CREATE TABLE \"say \"\"no\"\"\".t ()",
        );
        let mut client = cluster.connect("app");
        client
            .batch_execute(
                "BEGIN; DO $$ BEGIN \
                   FOR i IN 1..400 LOOP \
                     EXECUTE format('CREATE TABLE tenant_7.t%s (i int PRIMARY KEY, t text)', i); \
                   END LOOP; \
                   FOR i IN 1..7 LOOP \
                     EXECUTE format('CREATE VIEW audit.v%s AS SELECT 1', i); \
                     EXECUTE format('CREATE TEMPORARY TABLE t%s ()', i); \
                   END LOOP; END $$; COMMIT",
            )
            .unwrap();
        let detail = detail(&cluster).expect("a DETAIL");
        let mut sum = |condition: &str| -> i64 {
            let sql = format!("SELECT count(*) FROM pg_class WHERE {condition}");
            client.query_one(&sql, &[]).unwrap().get(0)
        };
        assert_eq!(
            detail,
            format!(
                "Tables {}, indexes {}, TOAST tables {}, others {}; 7 of them temporary. \
                 Schemas with the most: \"tenant_7\" (800), \"audit\" (7), \"say \"\"no\"\"\" (1).",
                sum("relkind IN ('r', 'p')"),
                sum("relkind IN ('i', 'I')"),
                sum("relkind = 't'"),
                sum("relkind NOT IN ('r', 'p', 'i', 'I', 't')")
            )
        );
    }
}

/// The warning's DETAIL, if it has one; its HINT follows.
fn detail(cluster: &Cluster) -> Option<String> {
    let lines = eventually("all of the warning", || {
        let mut lines = cluster.lines();
        let first = lines.iter().position(|line| {
            line.level == Level::Warning && line.message.contains("count_relations.warn_above")
        })?;
        let lines = lines.split_off(first + 1);
        let end = lines
            .iter()
            .position(|line| line.message.starts_with("Look for runaway"))?;
        Some(lines[..end].to_vec())
    });
    lines.into_iter().map(|line| line.message).next()
}

#[test]
fn without_a_census_the_warning_has_no_detail() {
    let (cluster, _view) = start(&[
        "count_relations.census_naptime = 0",
        "count_relations.log_counts = none",
    ]);
    cluster.expect("more than count_relations.warn_above");
    cluster.configure(&["count_relations.warn_above = 10"]);
    cluster.reload();
    assert_eq!(detail(&cluster), None);
}

#[test]
fn pg_monitor_reads_it_and_superusers_ask_for_it() {
    let (cluster, mut view) = start(&[]);
    await_census(&mut view, "app");
    view.batch_execute(
        "CREATE ROLE plain LOGIN; CREATE ROLE monitor LOGIN; GRANT pg_monitor TO monitor",
    )
    .unwrap();
    let reads = [
        "relation_counts_by_kind",
        "relation_counts_by_schema",
        "relation_catalogs",
    ];
    for name in reads {
        for from in [name.to_owned(), format!("{name}()")] {
            let sql = format!("SELECT * FROM {from}");
            for (role, may) in [("monitor", true), ("plain", false)] {
                let result = cluster.connect_as(role, "postgres").batch_execute(&sql);
                assert_eq!(result.is_ok(), may, "{sql} by {role}");
            }
        }
    }
    for role in ["monitor", "plain"] {
        let mut client = cluster.connect_as(role, "postgres");
        let error = client
            .batch_execute("SELECT relation_counts_census()")
            .unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    }
    cluster.expect("are not being counted");
    cluster.expect("permission denied for");
    cluster.execute("postgres", "CREATE DATABASE uncounted");
    let error = view
        .batch_execute("SELECT relation_counts_census('uncounted')")
        .unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(
        error.message(),
        "relations of database \"uncounted\" are not being counted"
    );
    view.batch_execute("SELECT relation_counts_census()")
        .unwrap();
}

#[test]
fn a_dropped_databases_census_goes_and_a_new_ones_is_its_own() {
    let cluster = all_databases::start(&["count_relations.census_naptime = '50ms'"]);
    cluster.expect("are not being counted");
    let mut view = cluster.connect("postgres");
    view.batch_execute("CREATE DATABASE again OID 30000")
        .unwrap();
    cluster.execute("again", "CREATE SCHEMA mine; CREATE TABLE mine.t ()");
    assert_right(&cluster, "again");
    await_rest(&cluster);
    cluster.expect("database 30000 does not exist");
    view.batch_execute("DROP DATABASE again").unwrap();
    let sql = "SELECT 1 FROM relation_counts_by_schema WHERE nspname = 'mine'";
    assert!(view.query_opt(sql, &[]).unwrap().is_none());
    view.batch_execute("CREATE DATABASE again OID 30000")
        .unwrap();
    assert_right(&cluster, "again");
    assert!(view.query_opt(sql, &[]).unwrap().is_none());
}
