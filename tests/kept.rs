//! In a large catalog changes are looked up, and every tick is right: each transaction is in
//! its count as a whole or not at all. On a server with assertions the worker itself compares
//! what it keeps with the table, at each of these ticks.
//!
//! `COUNT_RELATIONS_CHURN_SECONDS` is how long the sessions run.

use crate::cluster::{Background, Cluster, Stopped, Throttle, eventually};
use crate::random_ddl::{from_environment, overflow, relations};
use crate::states::{DATABASE, grow_catalog};
use postgres::Client;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

const SETTINGS: &[&str] = &[
    "count_relations.databases = 'app'",
    "count_relations.naptime = '10ms'",
    "max_prepared_transactions = 10",
    "max_locks_per_transaction = 1000",
    "autovacuum = off",
    "wal_level = logical",
];

/// A server with a large enough catalog, whose relations are already kept.
fn start(configuration: &[&str]) -> Cluster {
    let cluster = Cluster::start(&[SETTINGS, configuration].concat());
    cluster.execute(DATABASE, "CREATE EXTENSION count_relations");
    grow_catalog(&cluster, DATABASE, 50);
    await_kept(&cluster, &cluster);
    cluster
}

/// Changes `primary` until `server` counts without a query.
fn await_kept(primary: &Cluster, server: &Cluster) {
    let mut view = server.connect(DATABASE);
    eventually("a kept count", || {
        let before = recounts(&mut view);
        primary.execute(DATABASE, "CREATE TABLE warm (); DROP TABLE warm");
        server.next_count(DATABASE);
        (recounts(&mut view) == before).then_some(())
    });
}

fn recounts(view: &mut Client) -> i64 {
    let sql = "SELECT recounts FROM relation_counts WHERE datname = 'app'";
    let row = view.query_opt(sql, &[]).unwrap();
    row.map_or(0, |row| row.get(0))
}

/// A session that replaces its tables by the same number of others in each transaction.
#[derive(Clone, Copy)]
struct Replacing {
    /// Its name.
    name: &'static str,
    tables: u32,
    how: fn(drop: &str, create: &str) -> [String; 2],
    kind: &'static str,
}

const MANY_TABLES: &[Replacing] = &[
    replacing("a", 1, plainly),
    replacing("b", 1, in_savepoints),
    replacing("c", 5, plainly),
    replacing("d", 5, prepared),
    replacing("e", 30, in_savepoints),
    replacing("f", 100, plainly),
    replacing("g", 100, prepared),
    Replacing {
        kind: "TEMPORARY",
        ..replacing("h", 30, plainly)
    },
];

const FEW_TABLES: &[Replacing] = &[
    replacing("a", 1, plainly),
    replacing("b", 1, prepared),
    replacing("c", 5, plainly),
    replacing("d", 5, in_savepoints),
];

const fn replacing(
    name: &'static str,
    tables: u32,
    how: fn(&str, &str) -> [String; 2],
) -> Replacing {
    let kind = "";
    Replacing {
        name,
        tables,
        how,
        kind,
    }
}

/// How long sessions pause between transactions at most, in milliseconds per table, so that the
/// changes between two ticks are not too many to be looked up.
#[derive(Clone)]
struct Pause(Arc<AtomicU64>);

impl Pause {
    fn make(&self, tables: u32) {
        const LONGEST: Duration = Duration::from_secs(2);
        let most = self.0.load(Ordering::Relaxed);
        let pause = Duration::from_millis(fastrand::u64(0..=most)) * tables;
        sleep(pause.min(LONGEST));
    }

    fn lengthen(&self) {
        let most = self.0.load(Ordering::Relaxed);
        self.0.store((2 * most).max(1), Ordering::Relaxed);
    }
}

fn plainly(drop: &str, create: &str) -> [String; 2] {
    [format!("BEGIN; {drop} {create} COMMIT"), String::new()]
}

fn in_savepoints(drop: &str, create: &str) -> [String; 2] {
    let sql = format!(
        "BEGIN; SAVEPOINT x; {drop} RELEASE x; \
         SAVEPOINT y; {create} ROLLBACK TO y; {create} COMMIT"
    );
    [sql, String::new()]
}

fn prepared(drop: &str, create: &str) -> [String; 2] {
    let gid = create.len();
    let sql = format!("BEGIN; {create} {drop} PREPARE TRANSACTION '{drop:.40}{gid}'");
    [sql, format!("COMMIT PREPARED '{drop:.40}{gid}'")]
}

impl Replacing {
    fn create(&self, generation: u64) -> String {
        let Self { name, kind, .. } = self;
        (0..self.tables)
            .map(|table| format!("CREATE {kind} TABLE {name}{generation}_{table} ();"))
            .collect()
    }

    fn drop(&self, generation: u64) -> String {
        let name = self.name;
        (0..self.tables)
            .map(|table| format!("DROP TABLE {name}{generation}_{table};"))
            .collect()
    }

    /// Goes on until the result is dropped.
    fn start(self, mut client: Client, pause: Pause) -> Background {
        Background::start(move |stop| {
            for generation in 0.. {
                let (drop, create) = (self.drop(generation), self.create(generation + 1));
                for sql in (self.how)(&drop, &create) {
                    client.batch_execute(&sql).unwrap();
                }
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                pause.make(self.tables);
            }
        })
    }
}

/// Replaces the tables with many columns, whose messages are more than the queue holds, by the
/// same number of others, in one transaction. Returns the oid of one.
fn burst(client: &mut Client) -> u32 {
    client
        .batch_execute(&overflow(0).replace('\n', ";"))
        .unwrap();
    oid_of_burst(client)
}

fn oid_of_burst(client: &mut Client) -> u32 {
    let sql = "SELECT 'burst.t1'::regclass::oid";
    client.query_one(sql, &[]).unwrap().get(0)
}

/// Checks every tick of `watched` while sessions change `primary`, where the number of
/// relations stays the same, with a pause of so many milliseconds per table to begin with. The
/// sessions still run during `in_the_end`, whose ticks are checked too.
fn replace(
    primary: &Cluster,
    watched: &Cluster,
    replacing: &[Replacing],
    pause: u64,
    in_the_end: impl FnOnce(),
) {
    let seconds = from_environment("COUNT_RELATIONS_CHURN_SECONDS").unwrap_or(15);
    let mut backends = Vec::new();
    let connect = |replacing: &Replacing| {
        let mut client = primary.connect(DATABASE);
        let sql = "SET synchronous_commit = off";
        client.batch_execute(sql).unwrap();
        client.batch_execute(&replacing.create(0)).unwrap();
        let row = client.query_one("SELECT pg_backend_pid()", &[]).unwrap();
        backends.push(row.get::<_, i32>(0));
        client
    };
    let clients: Vec<Client> = replacing.iter().map(connect).collect();
    let mut nuisance = primary.connect(DATABASE);
    burst(&mut nuisance);
    let expected = relations(&mut nuisance);
    watched.await_count(DATABASE, expected);
    let begun = watched.counts(DATABASE).len();
    let mut view = watched.connect(DATABASE);
    let recounts_before = recounts(&mut view);
    let pause = Pause(Arc::new(AtomicU64::new(pause)));
    let sessions: Vec<Background> = replacing
        .iter()
        .zip(clients)
        .map(|(replacing, client)| replacing.start(client, pause.clone()))
        .collect();
    // If a process is stopped in the middle of a commit, others wait for its messages, and lose
    // patience if it is stopped for long.
    let throttle = || {
        for (backend, stop) in backends.iter().zip([1, 3, 1, 30, 3].into_iter().cycle()) {
            let throttle = Throttle::new(*backend, Duration::from_millis(stop));
            sleep(Duration::from_millis(100));
            drop(throttle);
            sleep(Duration::from_millis(100));
        }
    };
    let mut former = (0, 0);
    let mut ticks_that_looked_up = |view: &mut Client| {
        let ticks = (watched.counts(DATABASE).len() - begun) as i64;
        let recounts = recounts(view) - recounts_before;
        println!("{ticks} ticks, {recounts} of them counted all");
        // On a slow server, a count of all is followed by so long a rest that in the end there
        // is again too much to be looked up.
        if 2 * (recounts - former.1) > ticks - former.0 {
            pause.lengthen();
        }
        former = (ticks, recounts);
        ticks - recounts
    };
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        throttle();
        let everything = "CREATE PUBLICATION everything FOR ALL TABLES";
        nuisance.batch_execute(everything).unwrap();
        nuisance
            .batch_execute("DROP PUBLICATION everything")
            .unwrap();
        let stopped = Stopped::in_a_nap(watched, DATABASE);
        let oid = burst(&mut nuisance);
        eventually("the burst to be replayed", || {
            (oid_of_burst(&mut view) == oid).then_some(())
        });
        drop(stopped);
        ticks_that_looked_up(&mut view);
    }
    eventually("ticks that did not count all", || {
        throttle();
        (ticks_that_looked_up(&mut view) > 100).then_some(())
    });
    in_the_end();
    let counts = watched.counts(DATABASE).split_off(begun);
    let differences = counts.iter().map(|count| count.relations - expected);
    let wrong: Vec<i64> = differences.filter(|difference| *difference != 0).collect();
    assert!(wrong.is_empty(), "{wrong:?} of {} ticks", counts.len());
    drop(sessions);
}

#[test]
fn of_each_transaction_a_tick_has_all_or_nothing() {
    let primary = start(&[]);
    replace(&primary, &primary, MANY_TABLES, 20, || {});
}

#[test]
fn so_it_has_while_sessions_change_the_catalog_without_pause() {
    let primary = start(&[]);
    replace(&primary, &primary, FEW_TABLES, 0, || {});
}

#[test]
fn so_it_has_on_a_standby_and_through_its_promotion() {
    let primary = start(&[]);
    // If replay never catches up, it cancels at once any query that needs rows that vacuum
    // removed.
    let standby = primary.start_standby(&["hot_standby_feedback = on"]);
    await_kept(&primary, &standby);
    replace(&primary, &standby, MANY_TABLES, 20, || {
        standby.promote();
        // So that there are ticks after it.
        standby.next_count(DATABASE);
    });
    await_kept(&standby, &standby);
    for sql in ["CREATE TABLE promoted ()", "DROP TABLE promoted"] {
        standby.execute(DATABASE, sql);
        let relations = relations(&mut standby.connect(DATABASE));
        assert_eq!(standby.next_count(DATABASE), relations);
    }
}

#[test]
fn what_cannot_be_looked_up_is_counted() {
    let cluster = start(&[]);
    let mut client = cluster.connect(DATABASE);
    let mut view = cluster.connect(DATABASE);
    for (sql, is_counted) in [
        // About all relations.
        (
            "CREATE TABLE t (); CREATE PUBLICATION everything FOR ALL TABLES",
            true,
        ),
        ("DROP TABLE t; DROP PUBLICATION everything", true),
        // More than there is room for.
        (
            "DO $$ BEGIN FOR i IN 1..5000 LOOP \
               EXECUTE format('CREATE TABLE burst%s ()', i); END LOOP; END $$",
            true,
        ),
        ("VACUUM FULL pg_class", false),
        ("ANALYZE", false),
        (
            "CREATE TEMPORARY TABLE a (i serial PRIMARY KEY, t text)",
            false,
        ),
        ("DISCARD TEMP", false),
    ] {
        await_kept(&cluster, &cluster);
        let before = recounts(&mut view);
        client.batch_execute(sql).unwrap();
        assert_eq!(
            cluster.next_count(DATABASE),
            relations(&mut client),
            "{sql}"
        );
        let counted = recounts(&mut view) > before;
        assert!(counted || !is_counted, "{sql}");
    }
    let stopped = Stopped::in_a_nap(&cluster, DATABASE);
    for statement in overflow(0).lines() {
        client.batch_execute(statement).unwrap();
    }
    drop(stopped);
    assert_eq!(cluster.next_count(DATABASE), relations(&mut client));
}

#[test]
fn without_skipping_there_is_a_query_at_every_tick() {
    let cluster = start(&[]);
    cluster.configure(&["count_relations.skip_unchanged = off"]);
    cluster.reload();
    cluster.await_line("\"count_relations.skip_unchanged\" changed to \"off\"");
    let mut view = cluster.connect(DATABASE);
    let sql = "SELECT ticks - recounts, ticks > 10 FROM relation_counts WHERE datname = 'app'";
    let mut skipped = || {
        cluster.execute(DATABASE, "CREATE TABLE t (); DROP TABLE t");
        let row = view.query_one(sql, &[]).unwrap();
        row.get::<_, bool>(1).then(|| row.get::<_, i64>(0))
    };
    eventually("queries at all ticks", || {
        cluster.execute(DATABASE, "SELECT relation_counts_reset()");
        Some(()).filter(|()| eventually("some ticks", &mut skipped) == 0)
    });
}

#[test]
fn a_small_catalog_that_is_bloated_is_kept_too() {
    let cluster = Cluster::start(SETTINGS);
    cluster.execute(DATABASE, "CREATE EXTENSION count_relations");
    let mut old = cluster.connect(DATABASE);
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        .unwrap();
    let mut client = cluster.connect(DATABASE);
    client
        .batch_execute("SET synchronous_commit = off")
        .unwrap();
    eventually("a bloated catalog", || {
        for _ in 0..100 {
            client
                .batch_execute(
                    "CREATE TEMPORARY TABLE a (i serial PRIMARY KEY, t text); DROP TABLE a",
                )
                .unwrap();
        }
        let sql = "SELECT pg_relation_size('pg_class') > 400 * 8192";
        let row = client.query_one(sql, &[]).unwrap();
        row.get::<_, bool>(0).then_some(())
    });
    await_kept(&cluster, &cluster);
    let mut view = cluster.connect(DATABASE);
    let before = recounts(&mut view);
    const CHANGES: i64 = 10;
    for sql in [
        "CREATE TABLE t (i serial PRIMARY KEY, t text)",
        "DROP TABLE t",
    ]
    .repeat(5)
    {
        client.batch_execute(sql).unwrap();
        assert_eq!(cluster.next_count(DATABASE), relations(&mut client));
    }
    // Except for those that had to wait for the processor.
    assert!(recounts(&mut view) < before + CHANGES);
}
