//! The view `relation_counts`: the latest count of every database, from any of them.

use crate::cluster::{Cluster, FAST, await_ticks, eventually, is_gone, terminate};
use nix::sys::signal::Signal;
use postgres::Client;
use postgres::error::SqlState;
use postgres::types::FromSql;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::spawn;

const DATABASES: &str = "count_relations.databases = 'app, postgres'";
/// A server that counts "app" and "postgres", and a session in "postgres", where
/// the extension is.
fn start(configuration: &[&str]) -> (Cluster, Client) {
    let cluster = Cluster::start(&[&[DATABASES, FAST], configuration].concat());
    let mut client = cluster.connect("postgres");
    client
        .batch_execute("CREATE EXTENSION count_relations")
        .unwrap();
    await_row(&mut client, "app", "true");
    await_row(&mut client, "postgres", "true");
    (cluster, client)
}

/// The value of an expression over a database's row.
fn of<T: for<'a> FromSql<'a>>(client: &mut Client, database: &str, expression: &str) -> T {
    let sql = format!("SELECT {expression} FROM relation_counts WHERE datname = $1");
    client.query_one(&sql, &[&database]).unwrap().get(0)
}

/// Waits until the database has a row for which the condition is true.
fn await_row(client: &mut Client, database: &str, condition: &str) {
    let sql = format!("SELECT 1 FROM relation_counts WHERE datname = $1 AND {condition}");
    eventually(&format!("a row of {database} with {condition}"), || {
        client.query_opt(&sql, &[&database]).unwrap()
    });
}

/// The SQLSTATE and the message of an expected error.
fn refusal(client: &mut Client, sql: &str) -> (SqlState, String) {
    let error = client.batch_execute(sql).expect_err(sql);
    let error = error.as_db_error().expect("the server's error");
    (error.code().clone(), error.message().to_owned())
}

#[test]
fn a_row_holds_the_truth() {
    let (cluster, mut client) = start(&[]);
    let mut app = cluster.connect("app");
    for sql in ["CREATE TABLE t (i int PRIMARY KEY)", "DROP TABLE t"] {
        app.batch_execute(sql).unwrap();
        await_ticks(&mut client, "app", 1);
        let row = app.query_one("SELECT count(*) FROM pg_class", &[]).unwrap();
        let truth: i64 = row.get(0);
        assert_eq!(of::<i64>(&mut client, "app", "relations"), truth);
    }
    let oid: u32 = of(&mut client, "app", "datid");
    let row = client.query_one("SELECT oid FROM pg_database WHERE datname = 'app'", &[]);
    assert_eq!(oid, row.unwrap().get::<_, u32>(0));
    assert_eq!(of::<i32>(&mut client, "app", "pid"), cluster.worker("app"));
    let row = client.query_one("SELECT count(*) FROM relation_counts", &[]);
    assert_eq!(row.unwrap().get::<_, i64>(0), 2, "a row a database");
}

#[test]
fn times_say_when_it_was_confirmed_and_when_it_changed() {
    let (cluster, mut client) = start(&[]);
    await_ticks(&mut client, "app", 1);
    for column in ["counted_at", "changed_at", "stats_since", "max_at"] {
        let recent = format!("{column} BETWEEN pg_postmaster_start_time() AND clock_timestamp()");
        assert!(of::<bool>(&mut client, "app", &recent), "{column}");
    }
    client
        .batch_execute("CREATE TEMP TABLE before AS SELECT * FROM relation_counts")
        .unwrap();
    let since = |column: &str| {
        format!("(SELECT b.{column} FROM before AS b WHERE b.datname = relation_counts.datname)")
    };
    // Confirmed again, but not changed.
    await_ticks(&mut client, "app", 1);
    let (counted, changed) = (since("counted_at"), since("changed_at"));
    let confirmed = format!("counted_at > {counted} AND changed_at = {changed}");
    assert!(of::<bool>(&mut client, "app", &confirmed));

    let now = "SELECT clock_timestamp()::text";
    let now: String = client.query_one(now, &[]).unwrap().get(0);
    cluster.execute("app", "CREATE TABLE t ()");
    await_row(&mut client, "app", &format!("changed_at > {changed}"));
    await_ticks(&mut client, "app", 1);
    let right = format!("changed_at > '{now}' AND max_at = changed_at AND counted_at > changed_at");
    assert!(of::<bool>(&mut client, "app", &right));
    cluster.execute("app", "DROP TABLE t");
    await_row(&mut client, "app", "changed_at > max_at");
}

#[test]
fn ticks_and_recounts_tell_whether_the_catalog_changed() {
    let (cluster, mut client) = start(&[]);
    await_ticks(&mut client, "app", 1);
    let recounts: i64 = of(&mut client, "app", "recounts");
    let ticks: i64 = of(&mut client, "app", "ticks");
    await_row(&mut client, "app", &format!("ticks > {ticks} + 5"));
    assert_eq!(of::<i64>(&mut client, "app", "recounts"), recounts);
    cluster.execute("app", "CREATE TABLE t ()");
    await_row(&mut client, "app", &format!("recounts > {recounts}"));
    assert!(of::<bool>(
        &mut client,
        "app",
        "last_count_ms BETWEEN 0.001 AND 60000"
    ));
}

#[test]
fn it_reads_the_same_from_every_database() {
    let (cluster, mut client) = start(&["count_relations.naptime = '1h'"]);
    cluster.execute("app", "CREATE EXTENSION count_relations");
    let sql = "SELECT string_agg(r::text, ' ' ORDER BY datid) FROM relation_counts AS r";
    let here: String = client.query_one(sql, &[]).unwrap().get(0);
    let there: String = cluster.connect("app").query_one(sql, &[]).unwrap().get(0);
    assert_eq!(here, there);
}

/// What outlives the worker.
const KEPT: &str = "ROW(relations, changed_at, min_relations, max_relations, max_at, \
                    recounts, last_count_ms, stats_since)::text";

#[test]
fn a_row_outlives_its_worker() {
    let (cluster, mut client) = start(&[]);
    cluster.execute("app", "CREATE TABLE t ()");
    await_row(&mut client, "app", "max_relations > min_relations");
    await_ticks(&mut client, "app", 1);
    let before: String = of(&mut client, "app", KEPT);
    let ticks: i64 = of(&mut client, "app", "ticks");
    let worker: i32 = of(&mut client, "app", "pid");
    terminate(worker);
    assert!(of::<bool>(&mut client, "app", "pid IS NULL"));
    assert_eq!(of::<String>(&mut client, "app", KEPT), before);
    await_row(&mut client, "app", &format!("pid <> {worker}"));
    await_ticks(&mut client, "app", 1);
    assert!(of::<bool>(&mut client, "app", &format!("ticks > {ticks}")));
    let [before, after] = [before, of(&mut client, "app", "stats_since::text")];
    assert!(before.contains(&after), "{before}, {after}");
    assert!(of::<bool>(
        &mut client,
        "app",
        "max_relations > min_relations"
    ));
}

#[test]
fn a_row_outlives_a_worker_that_an_error_ended() {
    let (cluster, mut client) = start(&["count_relations.skip_unchanged = off"]);
    cluster.expect("canceling statement due to user request");
    let worker: i32 = of(&mut client, "app", "pid");
    let mut app = cluster.connect("app");
    app.batch_execute("BEGIN; LOCK TABLE pg_class IN ACCESS EXCLUSIVE MODE")
        .unwrap();
    let waiting = "SELECT pg_cancel_backend(pid) FROM pg_locks WHERE NOT granted AND pid = $1";
    eventually("the worker to wait for the lock", || {
        client.query_opt(waiting, &[&worker]).unwrap()
    });
    eventually("the worker to end", || is_gone(worker).then_some(()));
    assert!(of::<bool>(&mut client, "app", "pid IS NULL"));
}

#[test]
fn before_the_first_count_there_is_no_row() {
    let databases = "count_relations.databases = 'app, postgres, late'";
    let (cluster, mut client) = start(&[databases]);
    cluster.expect("database \"late\" does not exist");
    client.batch_execute("CREATE DATABASE early").unwrap();
    let mut late = cluster.connect("early");
    late.batch_execute("BEGIN; LOCK TABLE pg_class IN ACCESS EXCLUSIVE MODE")
        .unwrap();
    // The effect of ALTER DATABASE, which refuses while a session is in it.
    client
        .batch_execute("UPDATE pg_database SET datname = 'late' WHERE datname = 'early'")
        .unwrap();
    let sql = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'pg_class'::regclass";
    eventually("a worker to wait for the lock", || {
        client.query_opt(sql, &[]).unwrap()
    });
    let sql = "SELECT 1 FROM relation_counts WHERE datname = 'late'";
    assert!(client.query_opt(sql, &[]).unwrap().is_none());
    late.batch_execute("COMMIT").unwrap();
    await_row(&mut client, "late", "ticks > 0");
}

#[test]
fn a_database_that_has_lost_the_name_on_the_list_has_no_row() {
    let (cluster, mut client) = start(&[]);
    cluster.expect("database \"app\" does not exist");
    client
        .batch_execute("ALTER DATABASE app RENAME TO other")
        .unwrap();
    let sql = "SELECT datname::text FROM relation_counts";
    let rows = client.query(sql, &[]).unwrap();
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(names, ["postgres"]);
    client
        .batch_execute("ALTER DATABASE other RENAME TO app")
        .unwrap();
    await_row(&mut client, "app", "pid IS NOT NULL");
}

/// Makes the database "app" look different for a tick. Returns the row's relations, minimum and
/// maximum before and after.
fn storm(prepare: &str, begin: &str, end: &str) -> [[i64; 3]; 2] {
    let (cluster, mut client) = start(&["count_relations.naptime = '1s'"]);
    let mut app = cluster.connect("app");
    app.batch_execute(prepare).unwrap();
    await_ticks(&mut client, "app", 1);
    client
        .execute("SELECT relation_counts_reset('app')", &[])
        .unwrap();
    let mut read = || {
        let sql = "SELECT relations, min_relations, max_relations FROM relation_counts \
                   WHERE datname = 'app'";
        let row = client.query_one(sql, &[]).unwrap();
        [0, 1, 2].map(|i| row.get(i))
    };
    let before = read();
    app.batch_execute(begin).unwrap();
    let calm = before[0];
    eventually("a tick in the storm", || (read()[0] != calm).then_some(()));
    app.batch_execute(end).unwrap();
    let after = eventually("the calm after the storm", || {
        Some(read()).filter(|[relations, ..]| *relations == calm)
    });
    [before, after]
}

#[test]
fn a_storm_of_temporary_tables_shows_in_the_maximum() {
    let [before, after] = storm(
        // So that the schema of temporary tables, and its TOAST schema, exist.
        "CREATE TEMP TABLE t (); DROP TABLE t",
        "DO $$ BEGIN FOR i IN 1..300 LOOP EXECUTE 'CREATE TEMP TABLE t' || i || ' ()'; \
         END LOOP; END $$",
        "DISCARD TEMP",
    );
    let calm = before[0];
    assert_eq!(before, [calm, calm, calm]);
    assert_eq!(after, [calm, calm, calm + 300]);
}

#[test]
fn a_moment_without_its_tables_shows_in_the_minimum() {
    let create = "CREATE TABLE a (i int PRIMARY KEY); CREATE TABLE b (i int PRIMARY KEY)";
    let [before, after] = storm(create, "DROP TABLE a, b", create);
    let calm = before[0];
    assert_eq!(before, [calm, calm, calm]);
    assert_eq!(after, [calm, calm - 4, calm]);
}

#[test]
fn reset_restarts_the_statistics_of_one_database() {
    let (cluster, mut client) = start(&[]);
    let mut app = cluster.connect("app");
    app.batch_execute("CREATE TABLE t ()").unwrap();
    await_row(&mut client, "app", "max_relations > min_relations");
    app.batch_execute("DROP TABLE t").unwrap();
    await_row(
        &mut client,
        "app",
        "relations = min_relations AND ticks > 100",
    );
    let other: String = of(&mut client, "postgres", "stats_since::text");
    let relations: i64 = of(&mut client, "app", "relations");
    let changed: String = of(&mut client, "app", "changed_at::text");

    client
        .execute("SELECT relation_counts_reset('app')", &[])
        .unwrap();
    let columns = "ARRAY[relations, min_relations, max_relations]";
    assert_eq!(of::<Vec<i64>>(&mut client, "app", columns), [relations; 3]);
    await_ticks(&mut client, "app", 1);
    assert!(of::<bool>(
        &mut client,
        "app",
        "ticks < 100 AND recounts = 0"
    ));
    assert!(of::<bool>(&mut client, "app", "counted_at > stats_since"));
    assert_eq!(
        of::<String>(&mut client, "app", "changed_at::text"),
        changed
    );
    assert!(of::<bool>(
        &mut client,
        "app",
        &format!("stats_since > '{other}'")
    ));
    assert_eq!(
        of::<String>(&mut client, "postgres", "stats_since::text"),
        other
    );
}

#[test]
fn reset_without_a_name_restarts_the_statistics_of_all() {
    for call in ["relation_counts_reset()", "relation_counts_reset(NULL)"] {
        let (_cluster, mut client) = start(&[]);
        for database in ["app", "postgres"] {
            await_row(&mut client, database, "ticks > 100");
        }
        let now = "SELECT clock_timestamp()::text";
        let now: String = client.query_one(now, &[]).unwrap().get(0);
        client.batch_execute(&format!("SELECT {call}")).unwrap();
        for database in ["app", "postgres"] {
            let anew = format!("stats_since > '{now}' AND ticks < 100");
            assert!(of::<bool>(&mut client, database, &anew), "{database}");
        }
    }
}

#[test]
fn reset_of_a_database_that_does_not_exist_is_an_error() {
    let (cluster, mut client) = start(&[]);
    cluster.expect("database \"missing\" does not exist");
    assert_eq!(
        refusal(&mut client, "SELECT relation_counts_reset('missing')"),
        (
            SqlState::UNDEFINED_DATABASE,
            "database \"missing\" does not exist".to_owned()
        )
    );
}

#[test]
fn reset_of_a_database_that_is_not_counted_is_an_error() {
    let (cluster, mut client) = start(&[]);
    cluster.expect("are not being counted");
    assert_eq!(
        refusal(&mut client, "SELECT relation_counts_reset('template1')"),
        (
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            "relations of database \"template1\" are not being counted".to_owned()
        )
    );
}

#[test]
fn where_nothing_is_counted_the_view_is_empty_and_a_reset_of_all_is_no_error() {
    let cluster = Cluster::start(&["count_relations.databases = ''"]);
    let mut client = cluster.connect("postgres");
    client
        .batch_execute("CREATE EXTENSION count_relations; SELECT relation_counts_reset()")
        .unwrap();
    let rows = client.query("SELECT 1 FROM relation_counts", &[]).unwrap();
    assert!(rows.is_empty());
}

const READ: &str = "SELECT relation_counts.* FROM relation_counts";
const CALL: &str = "SELECT * FROM relation_counts()";
const RESET_ONE: &str = "SELECT relation_counts_reset('app')";
const RESET_ALL: &str = "SELECT relation_counts_reset()";

/// Which of the statements `role` may run.
fn allowed<'a>(cluster: &Cluster, role: &str) -> Vec<&'a str> {
    cluster.expect("permission denied for");
    let mut client = cluster.connect_as(role, "postgres");
    let mut allowed = Vec::new();
    for sql in [READ, CALL, RESET_ONE, RESET_ALL] {
        match client.batch_execute(sql) {
            Ok(()) => allowed.push(sql),
            Err(error) => assert_eq!(
                error.code(),
                Some(&SqlState::INSUFFICIENT_PRIVILEGE),
                "{sql}"
            ),
        }
    }
    allowed
}

#[test]
fn pg_monitor_reads_superusers_do_everything_others_need_a_grant() {
    let (cluster, mut client) = start(&[]);
    client
        .batch_execute(
            "CREATE ROLE plain LOGIN; \
             CREATE ROLE monitor LOGIN; GRANT pg_monitor TO monitor; \
             CREATE ROLE boss LOGIN SUPERUSER; \
             CREATE ROLE owner LOGIN; ALTER DATABASE postgres OWNER TO owner",
        )
        .unwrap();
    let nothing: [&str; 0] = [];
    assert_eq!(allowed(&cluster, "plain"), nothing);
    assert_eq!(allowed(&cluster, "owner"), nothing);
    assert_eq!(allowed(&cluster, "monitor"), [READ, CALL]);
    assert_eq!(
        allowed(&cluster, "boss"),
        [READ, CALL, RESET_ONE, RESET_ALL]
    );

    client
        .batch_execute("GRANT EXECUTE ON FUNCTION relation_counts_reset(name) TO plain")
        .unwrap();
    assert_eq!(allowed(&cluster, "plain"), [RESET_ONE, RESET_ALL]);
    // As with the server's own views of this kind, the view is run by its reader.
    client
        .batch_execute(
            "GRANT EXECUTE ON FUNCTION relation_counts() TO plain; \
             GRANT SELECT ON relation_counts TO plain",
        )
        .unwrap();
    assert_eq!(
        allowed(&cluster, "plain"),
        [READ, CALL, RESET_ONE, RESET_ALL]
    );
    client
        .batch_execute(
            "REVOKE ALL ON relation_counts FROM pg_monitor; \
             REVOKE ALL ON FUNCTION relation_counts() FROM pg_monitor",
        )
        .unwrap();
    assert_eq!(allowed(&cluster, "monitor"), nothing);
}

#[test]
fn only_a_superuser_creates_the_extension() {
    let cluster = Cluster::start(&[]);
    cluster.execute(
        "postgres",
        "CREATE ROLE owner LOGIN; ALTER DATABASE app OWNER TO owner",
    );
    cluster.expect("permission denied to create extension");
    let mut client = cluster.connect_as("owner", "app");
    let (code, _) = refusal(&mut client, "CREATE EXTENSION count_relations");
    assert_eq!(code, SqlState::INSUFFICIENT_PRIVILEGE);
}

#[test]
fn where_the_library_is_not_preloaded_it_says_so() {
    let cluster = Cluster::init_without_library(&[]);
    cluster.expect("count_relations must be loaded via shared_preload_libraries");
    // By _PG_init(), in every session that loads the library.
    cluster.expect("count_relations was not loaded via shared_preload_libraries");
    cluster.start_server();
    let mut client = cluster.connect("postgres");
    client
        .batch_execute("CREATE EXTENSION count_relations")
        .unwrap();
    for sql in [READ, CALL, RESET_ONE, RESET_ALL] {
        let error = client.batch_execute(sql).expect_err(sql);
        let error = error.as_db_error().unwrap();
        assert_eq!(error.severity(), "ERROR");
        assert_eq!(error.code(), &SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
        assert_eq!(
            error.message(),
            "count_relations must be loaded via shared_preload_libraries"
        );
        assert_eq!(
            error.hint(),
            Some(
                "Add \"count_relations\" to shared_preload_libraries in postgresql.conf \
                 and restart the server."
            )
        );
    }
    // The session is unharmed.
    client
        .batch_execute("SELECT 1; DROP EXTENSION count_relations")
        .unwrap();
}

/// Reads the view 10,000 times as fast as the server can, and raises an error for an impossible
/// row, or if there is not exactly one row for each worker.
///
/// With `skip_unchanged` off, every tick recounts, so that `ticks` and `recounts`
/// differ only in a row that is half from before a tick and half from after it.
const HAMMER: &str = "DO $$
    DECLARE
        workers CONSTANT numeric NOT NULL := (
            SELECT sum((datid::bigint << 32) + pid) FROM pg_stat_activity
            WHERE backend_type = 'count relations');
        seen numeric;
        wrong text;
    BEGIN
        FOR i IN 1..10000 LOOP
            SELECT sum((datid::bigint << 32) + pid),
                   string_agg(r::text, '; ') FILTER (WHERE NOT (
                       relations BETWEEN min_relations AND max_relations
                       AND counted_at >= changed_at AND counted_at >= max_at
                       AND ticks = recounts AND last_count_ms > 0
                       AND (stats_since <= counted_at OR RESETS)))
            INTO seen, wrong FROM relation_counts AS r;
            IF wrong IS NOT NULL OR seen IS DISTINCT FROM workers THEN
                RAISE EXCEPTION 'read %: % instead of %, wrong rows: %', i, seen, workers, wrong;
            END IF;
        END LOOP;
    END $$";

const RESETS: &str = "DO $$
    BEGIN
        FOR i IN 1..100000 LOOP PERFORM relation_counts_reset(); END LOOP;
    END $$";

/// Runs all these statements at the same time, while twenty workers tick every ten
/// milliseconds, two of them with something new to count each time; and repeats this until
/// there have been enough ticks.
fn hammer(statements: &[String], wanted: i64) {
    let names: Vec<String> = (1..=18).map(|i| format!("db{i}")).collect();
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
    cluster.configure(&[
        &format!(
            "count_relations.databases = 'app, postgres, {}'",
            names.join(", ")
        ),
        "count_relations.naptime = '10ms'",
        "count_relations.skip_unchanged = off",
        "count_relations.log_counts = 'none'",
        "max_worker_processes = 25",
    ]);
    cluster.start_server();
    let mut client = cluster.connect("postgres");
    let mut sum = |expression: &str| -> i64 {
        let sql = format!("SELECT coalesce(sum({expression}), 0)::bigint FROM relation_counts");
        client.query_one(&sql, &[]).unwrap().get(0)
    };
    eventually("twenty rows", || (sum("1") == 20).then_some(()));
    let before = sum("ticks");
    let enough = Arc::new(AtomicBool::new(false));
    let run = |sql: &String| {
        let (mut client, sql) = (cluster.connect("postgres"), sql.clone());
        let enough = Arc::clone(&enough);
        spawn(move || {
            loop {
                client.batch_execute(&sql).map_err(|e| format!("{e:?}"))?;
                if enough.load(Ordering::Relaxed) {
                    return Ok::<(), String>(());
                }
            }
        })
    };
    let running: Vec<_> = statements.iter().map(run).collect();
    let mut churners = [cluster.connect("app"), cluster.connect("db1")];
    while !running.iter().all(|thread| thread.is_finished()) {
        for sql in ["CREATE TEMP TABLE t (i int PRIMARY KEY)", "DROP TABLE t"] {
            for churner in &mut churners {
                churner.batch_execute(sql).unwrap();
            }
        }
        enough.store(sum("ticks") - before >= wanted, Ordering::Relaxed);
    }
    for thread in running {
        thread.join().unwrap().unwrap();
    }
}

#[test]
fn under_load_every_row_that_is_read_is_consistent() {
    let read = HAMMER.replace("RESETS", "false");
    hammer(&[read.clone(), read], 1000);
}

#[test]
fn under_load_a_reset_is_whole_too() {
    // A reset may have read the clock a moment after the tick that it lets pass.
    let read = HAMMER.replace("RESETS", "true");
    hammer(&[read, RESETS.to_owned()], i64::MIN);
}

/// Reads the rows again and again: their values never go back, nor are they ahead of time.
const LOOK_BACK: &str = "DO $$
    DECLARE
        wrong text;
    BEGIN
        CREATE TEMP TABLE IF NOT EXISTS earlier AS SELECT * FROM relation_counts;
        FOR i IN 1..300 LOOP
            SELECT string_agg(e::text || ' and then ' || l::text, '; ') INTO wrong
            FROM earlier AS e JOIN relation_counts() AS l USING (datid)
            WHERE l.counted_at < e.counted_at OR l.counted_at > clock_timestamp()
                OR l.counted_at < l.changed_at OR l.ticks < e.ticks OR l.recounts < e.recounts
                OR l.ticks < l.recounts;
            IF wrong IS NOT NULL THEN
                RAISE EXCEPTION '%', wrong;
            END IF;
            DELETE FROM earlier;
            INSERT INTO earlier SELECT * FROM relation_counts;
        END LOOP;
    END $$";

#[test]
fn what_rows_tell_never_goes_back_whoever_confirms_them() {
    let cluster = Cluster::start(&[
        "count_relations.databases = '*'",
        "count_relations.naptime = '10ms'",
        "count_relations.log_counts = 'none'",
    ]);
    let mut client = cluster.connect("postgres");
    client
        .batch_execute("CREATE EXTENSION count_relations")
        .unwrap();
    for i in 1..=6 {
        let sql = format!("CREATE DATABASE db{i}");
        client.batch_execute(&sql).unwrap();
    }
    let sql = "SELECT count(*) FROM relation_counts";
    eventually("eight rows", || {
        let row = client.query_one(sql, &[]).unwrap();
        (row.get::<_, i64>(0) == 8).then_some(())
    });
    let mut reader = cluster.connect("postgres");
    let reader = spawn(move || {
        for _ in 0..20 {
            reader
                .batch_execute(LOOK_BACK)
                .map_err(|e| format!("{e:?}"))?;
        }
        Ok::<(), String>(())
    });
    let mut churners: Vec<Client> = (1..=6)
        .map(|i| cluster.connect(&format!("db{i}")))
        .collect();
    while !reader.is_finished() {
        // One after the other, so that each is visited in turn.
        let churner = &mut churners[fastrand::usize(..6)];
        let sql = "CREATE TABLE t (i int PRIMARY KEY); DROP TABLE t; SELECT pg_sleep(0.1)";
        churner.batch_execute(sql).unwrap();
    }
    reader.join().unwrap().unwrap();
}

#[test]
fn a_standby_has_rows_and_resets_of_its_own() {
    let (primary, mut client) = start(&[]);
    let since: String = of(&mut client, "app", "stats_since::text");
    let standby = primary.start_standby(&[]);
    let mut there = standby.connect("postgres");
    await_row(&mut there, "app", &format!("stats_since > '{since}'"));
    assert_eq!(of::<i32>(&mut there, "app", "pid"), standby.worker("app"));
    primary.execute("app", "CREATE TABLE t ()");
    let relations: i64 = of(&mut there, "app", "min_relations");
    await_row(&mut there, "app", &format!("relations = {relations} + 1"));
    there
        .batch_execute("SELECT relation_counts_reset('app')")
        .unwrap();
    await_row(&mut there, "app", "min_relations = max_relations");
    // The standby may have been the first of the two to count the new table.
    await_row(&mut client, "app", "min_relations < max_relations");
}

#[test]
fn dump_and_restore_keep_the_extension_and_its_grants() {
    let (cluster, mut client) = start(&[]);
    client
        .batch_execute(
            "CREATE ROLE plain LOGIN; \
             GRANT EXECUTE ON FUNCTION relation_counts_reset TO plain; \
             GRANT SELECT ON relation_catalogs TO plain; \
             REVOKE SELECT ON relation_counts FROM pg_monitor",
        )
        .unwrap();
    client
        .batch_execute("CREATE DATABASE restored TEMPLATE template0")
        .unwrap();
    let dump = format!("{}/dump", cluster.new_server_directory("backup"));
    cluster.client_program("pg_dump", &["--file", &dump, "postgres"]);
    let psql = [
        "--no-psqlrc",
        "--set=ON_ERROR_STOP=1",
        "--dbname=restored",
        "--file",
    ];
    cluster.client_program("psql", &[&psql[..], &[&dump]].concat());

    let mut restored = cluster.connect("restored");
    await_row(&mut restored, "app", "ticks > 0");
    let grants = "SELECT (SELECT string_agg(relacl::text, ' ' ORDER BY relname) FROM pg_class \
                          WHERE relname LIKE 'relation\\_c%') \
                  || (SELECT string_agg(proacl::text, ' ' ORDER BY proname) FROM pg_proc \
                      WHERE proname LIKE 'relation\\_c%') \
                  || (SELECT extversion FROM pg_extension WHERE extname = 'count_relations')";
    let grants = |client: &mut Client| -> String { client.query_one(grants, &[]).unwrap().get(0) };
    let (here, there) = (grants(&mut client), grants(&mut restored));
    assert_eq!(here, there);
    assert!(
        here.contains("plain=X") && here.contains("plain=r"),
        "{here}"
    );
}

#[test]
fn a_server_with_the_library_preloaded_can_be_upgraded() {
    let (old, client) = start(&[]);
    drop(client);
    old.execute("app", "CREATE EXTENSION count_relations; CREATE TABLE t ()");
    old.stop(Signal::SIGINT);
    let new = Cluster::start(&[DATABASES, FAST]);
    new.worker("app"); // While it connects, the server would complain.
    new.expect("database \"app\" does not exist");
    new.execute("postgres", "DROP DATABASE app");
    new.stop(Signal::SIGINT);
    let logged = (old.log(), new.log());

    let output = new.upgrade_from(&old);
    // Nothing is counted on the servers that pg_upgrade runs.
    assert!(output.contains("database system is ready to accept connections"));
    assert!(!output.contains("count relations"), "{output}");
    assert_eq!((old.log(), new.log()), logged);

    new.start_server();
    let mut client = new.connect("app");
    await_row(&mut client, "app", "ticks > 0");
    await_row(&mut client, "postgres", "ticks > 0");
    client.batch_execute("SELECT 1 FROM t").unwrap();
    client
        .batch_execute("DROP EXTENSION count_relations")
        .unwrap();
}

#[test]
fn an_update_of_the_extension_finds_it_up_to_date() {
    let (_cluster, mut client) = start(&[]);
    // 1.0 is the first version with anything in SQL.
    client
        .batch_execute(
            "ALTER EXTENSION count_relations UPDATE; \
             ALTER EXTENSION count_relations UPDATE TO '1.0'",
        )
        .unwrap();
    await_ticks(&mut client, "app", 1);
    let sql = "SELECT installed_version = default_version FROM pg_available_extensions \
               WHERE name = 'count_relations'";
    assert!(client.query_one(sql, &[]).unwrap().get::<_, bool>(0));
}

#[test]
fn dropped_and_created_again_the_extension_has_missed_nothing() {
    let (_cluster, mut client) = start(&[]);
    let since: String = of(&mut client, "app", "stats_since::text");
    client
        .batch_execute(
            "DROP EXTENSION count_relations; CREATE SCHEMA monitoring; \
             CREATE EXTENSION count_relations SCHEMA monitoring",
        )
        .unwrap();
    // Whatever the search path, because the view qualifies the names that it uses.
    client.batch_execute("SET search_path = ''").unwrap();
    let sql = "SELECT stats_since::text, monitoring.relation_counts_reset(datname) IS NULL \
               FROM monitoring.relation_counts WHERE datname = 'app'";
    let row = client.query_one(sql, &[]).unwrap();
    assert_eq!(row.get::<_, String>(0), since);
}
