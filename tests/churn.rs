//! Several sessions change `pg_class` in every way there is, at random and all at
//! once. Whenever they pause, the count is right.
//!
//! A test that fails prints its seed. With `COUNT_RELATIONS_SEED` set to it, the
//! sessions run the same statements again; how they meet is not in the seed.
//! `COUNT_RELATIONS_CHURN_SECONDS` is how long it takes.

use crate::cluster::{Cluster, Stopped, Throttle, eventually, is_gone};
use fastrand::Rng;
use postgres::error::SqlState;
use postgres::types::PgLsn;
use postgres::{Client, NoTls};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// Not "postgres", so that nobody is in the way of a question about the server.
const DATABASE: &str = "app";
const ITS_WORKER: &str = "count_relations.databases = 'app'";
const FAST: &str = "count_relations.naptime = '10ms'";
const ON: &str = "count_relations.skip_unchanged = on";
const OFF: &str = "count_relations.skip_unchanged = off";

#[test]
fn the_count_is_right_whenever_the_sessions_pause() {
    let primary = start();
    churn(&primary, &[&primary]);
}

#[test]
fn so_it_is_on_a_standby() {
    let primary = start();
    let standby = start_standby(&primary, ON);
    churn(&primary, &[&standby]);
}

/// On a primary and a standby of it, because the two must see the same changes.
/// Those of a seed on two servers are not: there, the sessions meet differently.
#[test]
fn it_is_the_same_with_and_without_skipping() {
    let primary = start();
    let standby = start_standby(&primary, OFF);
    churn(&primary, &[&primary, &standby]);
}

fn start() -> Cluster {
    Cluster::start(&[
        ITS_WORKER,
        FAST,
        ON,
        "max_prepared_transactions = 10",
        // A failed test shows the end of the log.
        "log_statement = all",
    ])
}

fn start_standby(primary: &Cluster, skip_unchanged: &str) -> Cluster {
    // Replay waits for a query that waits for replay, 30 seconds by default.
    primary.start_standby(&[skip_unchanged, "max_standby_streaming_delay = '1s'"])
}

const SESSIONS: usize = 4;

/// Changes `primary`, and compares the counts of `watched`: of itself, or of
/// standbys of it.
fn churn(primary: &Cluster, watched: &[&Cluster]) {
    let seed = from_environment("COUNT_RELATIONS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let seconds = from_environment("COUNT_RELATIONS_CHURN_SECONDS").unwrap_or(15);
    println!("COUNT_RELATIONS_SEED={seed}");
    for server in [primary].iter().chain(watched) {
        for text in TOLD_WHEN_IN_THE_WAY {
            server.expect(text);
        }
    }
    let mut rng = Rng::with_seed(seed);
    let mut referee = primary.connect(DATABASE);
    let mut sessions: Vec<Session> = (1..=SESSIONS)
        .map(|number| Session::new(primary, number, rng.fork()))
        .collect();
    let mut burst = Session::new(primary, 0, rng.fork());
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut round = 0;
    while round < 3 || Instant::now() < end {
        round += 1;
        let nuisance = rng.u8(0..3);
        let slowness = Duration::from_millis(rng.u64(1..8));
        let more = rng.u8(0..5);
        let mut throttles = Vec::new();
        thread::scope(|scope| {
            for session in &mut sessions {
                scope.spawn(move || session.play());
            }
            if nuisance == 0 {
                // Makes moments in which a change could slip through longer.
                for server in watched {
                    throttles.push(Throttle::new(server.worker(DATABASE), slowness));
                }
            } else if nuisance == 1 {
                let in_a_nap = |server: &&Cluster| Stopped::in_a_nap(server, DATABASE);
                let stopped: Vec<Stopped> = watched.iter().map(in_a_nap).collect();
                burst.perform(&overflow(more));
                await_replay(primary, watched);
                drop(stopped);
            }
        });
        for session in sessions.iter_mut().chain([&mut burst]) {
            session.await_rest();
        }
        drop(throttles);
        await_replay(primary, watched);
        let relations = relations(&mut referee);
        for server in watched {
            let counted = server.next_count(DATABASE);
            assert_eq!(counted, relations, "in round {round} of seed {seed}");
        }
    }
    println!("{round} rounds");
}

fn from_environment(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().expect(variable))
}

fn relations(client: &mut Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_class";
    client.query_one(sql, &[]).unwrap().get(0)
}

/// Waits until the standbys among `servers` have replayed what is committed.
fn await_replay(primary: &Cluster, servers: &[&Cluster]) {
    let sql = "SELECT pg_current_wal_lsn()";
    let row = primary.connect("postgres").query_one(sql, &[]).unwrap();
    let written: PgLsn = row.get(0);
    for server in servers {
        let mut client = server.connect("postgres");
        let sql = "SELECT 1 WHERE NOT pg_is_in_recovery() OR pg_last_wal_replay_lsn() >= $1";
        eventually("replay", || client.query_opt(sql, &[&written]).unwrap());
    }
}

/// Announces more than the 4,096 changes (`MAXNUMMESSAGES` in sinvaladt.c) that a
/// process may be behind before it is told to throw its caches away, two for every
/// column; and makes `more` relations more than with zero.
fn overflow(more: u8) -> String {
    format!(
        "DROP SCHEMA IF EXISTS burst CASCADE
         CREATE SCHEMA burst
         DO $$ BEGIN FOR i IN 1..12 + {more} LOOP EXECUTE \
           'CREATE TABLE burst.t' || i || ' (' || \
           (SELECT string_agg('c' || c || ' int', ', ') FROM generate_series(1, 200) c) || ')'; \
         END LOOP; END $$"
    )
}

/// What only says that sessions met. Nothing else may go wrong.
const TOLD_WHEN_IN_THE_WAY: [&str; 3] = [
    "deadlock detected",
    "canceling statement due to lock timeout",
    // On a standby, where replay holds locks too.
    "canceling statement due to conflict with recovery",
];

fn is_in_the_way(error: &postgres::Error) -> bool {
    let told = [
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::LOCK_NOT_AVAILABLE,
    ];
    error.code().is_some_and(|code| told.contains(code))
}

/// A session that changes `pg_class`, now and then replaced by another.
struct Session {
    number: usize,
    rng: Rng,
    settings: postgres::Config,
    client: Client,
    backend: i32,
    /// The backends of the sessions that it replaced.
    replaced: Vec<i32>,
    has_prepared: bool,
    may_reindex: bool,
}

/// A table with these has a sequence, an index, and a TOAST table with an index.
const COLUMNS: &str = "(id serial PRIMARY KEY, t text)";

/// In place of a statement: ends the session.
const LEAVE: &str = "LEAVE";

impl Session {
    fn new(cluster: &Cluster, number: usize, rng: Rng) -> Session {
        let mut settings = postgres::Config::new();
        settings
            .host_path(cluster.socket())
            .user("postgres")
            .dbname(DATABASE)
            // Shorter than the worker's, so that it is not the one to give way.
            .options("-c deadlock_timeout=50ms -c lock_timeout=300ms");
        let (mut client, backend) = connect(&settings);
        let sql = format!("CREATE SCHEMA churn{number}; CREATE ROLE churner{number}");
        client.batch_execute(&sql).unwrap();
        // An assertion in comparetup_index_btree_tiebreak() (tuplesortvariants.c) does
        // not hold for a catalog that is reindexed while its rows are being updated.
        let assertions = client.query_one("SHOW debug_assertions", &[]).unwrap();
        let may_reindex = assertions.get::<_, &str>(0) == "off";
        Session {
            number,
            rng,
            settings,
            client,
            backend,
            replaced: Vec::new(),
            has_prepared: false,
            may_reindex,
        }
    }

    /// What happens between two pauses. What is tried does not depend on what
    /// came of it, only on the seed.
    fn play(&mut self) {
        let number = self.number;
        let end = if self.rng.bool() {
            "COMMIT"
        } else {
            "ROLLBACK"
        };
        self.perform(&format!("{end} PREPARED 'churn{number}'"));
        for _ in 0..self.rng.u8(1..5) {
            let script = self.script();
            self.perform(&script);
        }
        if self.rng.bool() {
            // To be ended after the pause.
            let table = self.table();
            self.perform(&format!(
                "BEGIN
                 DROP TABLE IF EXISTS {table}
                 CREATE TABLE {table} {COLUMNS}
                 PREPARE TRANSACTION 'churn{number}'"
            ));
        }
    }

    fn table(&mut self) -> String {
        format!("churn{}.t{}", self.number, self.rng.u8(0..4))
    }

    /// One of many ways to change `pg_class`, or not to, a statement a line.
    fn script(&mut self) -> String {
        let table = self.table();
        let other = self.table();
        let number = self.number;
        let rng = &mut self.rng;
        let create = format!("CREATE TABLE IF NOT EXISTS {table} {COLUMNS}");
        let create_other = format!("CREATE TABLE IF NOT EXISTS {other} {COLUMNS}");
        let create_temporary = "CREATE TEMPORARY TABLE IF NOT EXISTS temporary (id serial)";
        let end = if rng.bool() { "COMMIT" } else { "ROLLBACK" };
        let end_savepoint = if rng.bool() { "RELEASE" } else { "ROLLBACK TO" };
        let part = rng.u8(0..4);
        let index = ["oid", "relname_nsp", "tblspc_relfilenode"][rng.usize(0..3)];
        match rng.u8(0..21) {
            0 => create,
            1 => format!("DROP TABLE IF EXISTS {table}"),
            2 => format!(
                "BEGIN
                 {create}
                 ROLLBACK"
            ),
            3 => format!(
                "BEGIN
                 {create}
                 SAVEPOINT a
                 DROP TABLE {table}
                 {create_other}
                 {end_savepoint} a
                 {create}
                 CREATE TABLE IF NOT EXISTS churn{number}.late ()
                 {end}"
            ),
            4 => create_temporary.to_owned(),
            5 => format!(
                "{create_temporary}
                 {LEAVE}"
            ),
            6 => format!(
                "BEGIN
                 {create_temporary}
                 {create}
                 {LEAVE}"
            ),
            7 => format!(
                "{create}
                 CREATE INDEX CONCURRENTLY ON {table} (t)"
            ),
            8 => format!(
                "{create}
                 CREATE INDEX CONCURRENTLY IF NOT EXISTS i{part} ON {table} (t)
                 DROP INDEX CONCURRENTLY IF EXISTS churn{number}.i{part}"
            ),
            9 => format!(
                "CREATE TABLE IF NOT EXISTS churn{number}.whole (id int PRIMARY KEY) \
                     PARTITION BY RANGE (id)
                 DROP TABLE IF EXISTS churn{number}.part{part}
                 CREATE TABLE churn{number}.part{part} (id int NOT NULL)
                 ALTER TABLE churn{number}.whole ATTACH PARTITION churn{number}.part{part} \
                     FOR VALUES FROM ({part}) TO ({part} + 1)"
            ),
            10 => format!(
                "{create}
                 TRUNCATE {table}"
            ),
            11 => format!(
                "CREATE MATERIALIZED VIEW IF NOT EXISTS churn{number}.seen AS \
                     SELECT id, random() FROM generate_series(1, 10) id
                 CREATE UNIQUE INDEX IF NOT EXISTS seen_id ON churn{number}.seen (id)
                 REFRESH MATERIALIZED VIEW churn{number}.seen
                 REFRESH MATERIALIZED VIEW CONCURRENTLY churn{number}.seen"
            ),
            12 => format!(
                "BEGIN
                 {create}
                 DROP TABLE IF EXISTS {other}
                 PREPARE TRANSACTION 'churn{number}'
                 {end} PREPARED 'churn{number}'"
            ),
            13 => format!(
                "BEGIN
                 DROP SCHEMA churn{number} CASCADE
                 CREATE SCHEMA churn{number}
                 {end}"
            ),
            14 => format!(
                "{create}
                 ALTER TABLE {table} OWNER TO churner{number}"
            ),
            15 => format!("DROP OWNED BY churner{number} CASCADE"),
            16 => "VACUUM FULL pg_class".to_owned(),
            17 | 18 if !self.may_reindex => "VACUUM FULL pg_class".to_owned(),
            17 => format!("REINDEX INDEX pg_class_{index}_index"),
            18 => format!(
                "BEGIN
                 REINDEX TABLE pg_class
                 {create}
                 {end}"
            ),
            19 => "VACUUM (ANALYZE) pg_class, pg_attribute, pg_depend".to_owned(),
            _ => format!(
                "BEGIN
                 LOCK TABLE pg_class IN ACCESS EXCLUSIVE MODE
                 {create}
                 {end}"
            ),
        }
    }

    /// Runs a script. The rest of it is left out if other sessions are in its way.
    fn perform(&mut self, script: &str) {
        for statement in script.lines().map(str::trim) {
            let ends_prepared = statement.contains(" PREPARED ");
            if statement == LEAVE {
                self.replace();
            } else if !ends_prepared || self.has_prepared {
                match self.client.batch_execute(statement) {
                    Ok(()) if ends_prepared => self.has_prepared = false,
                    Ok(()) => self.has_prepared |= statement.starts_with("PREPARE "),
                    Err(error) if is_in_the_way(&error) => return self.replace(),
                    Err(error) => panic!("{statement}: {error:?}"),
                }
            }
            sleep(Duration::from_millis(fastrand::u64(0..10)));
        }
    }

    /// Leaves, whatever it is in the middle of, and comes back.
    fn replace(&mut self) {
        self.replaced.push(self.backend);
        (self.client, self.backend) = connect(&self.settings);
    }

    /// Waits until those who left are gone, and with them what they left open.
    fn await_rest(&mut self) {
        for backend in self.replaced.drain(..) {
            eventually("a backend to end", || is_gone(backend).then_some(()));
        }
    }
}

fn connect(settings: &postgres::Config) -> (Client, i32) {
    let try_connect = || {
        let mut client = settings.connect(NoTls)?;
        let row = client.query_one("SELECT pg_backend_pid()", &[])?;
        Ok((client, row.get(0)))
    };
    eventually("a connection", || match try_connect() {
        Err(error) if is_in_the_way(&error) => None,
        connection => Some(connection.expect("could not connect")),
    })
}

#[test]
fn what_is_committed_before_a_tick_is_counted_by_it() {
    let cluster = Cluster::start(&[ITS_WORKER, ON]);
    let mut client = cluster.connect(DATABASE);
    let ticks = || cluster.counts(DATABASE).len();
    let await_tick = |after: usize| eventually("a tick", || (ticks() > after).then_some(()));
    for sql in ["CREATE TABLE t ()", "DROP TABLE t", "CREATE TABLE t ()"] {
        let before = ticks();
        await_tick(before);
        client.batch_execute(sql).unwrap(); // A second before the next.
        await_tick(before + 1);
        let counted = cluster.counts(DATABASE)[before + 1].relations;
        assert_eq!(counted, relations(&mut client));
    }
}

#[test]
fn what_is_announced_during_a_count_is_in_it_or_in_the_next() {
    for lock in [
        "LOCK TABLE pg_class IN ACCESS EXCLUSIVE MODE",
        "REINDEX TABLE pg_class", // locks the indexes, and lets the table be read
    ] {
        let cluster = Cluster::start(&[ITS_WORKER, FAST, OFF, "enable_seqscan = off"]);
        cluster.next_count(DATABASE);
        let mut client = cluster.connect(DATABASE);
        client.batch_execute(&format!("BEGIN; {lock}")).unwrap();
        let mut other = cluster.connect("postgres");
        let sql = "SELECT 1 FROM pg_locks WHERE locktype = 'relation' AND NOT granted";
        eventually("a count to wait", || other.query_opt(sql, &[]).unwrap());
        cluster.configure(&[ON]);
        cluster.reload();
        cluster.await_line("\"count_relations.skip_unchanged\" changed to \"on\"");
        sleep(Duration::from_millis(200)); // The worker gets to know right after.
        client.batch_execute("CREATE TABLE t (); COMMIT").unwrap();
        assert_eq!(cluster.next_count(DATABASE), relations(&mut client));
    }
}

#[test]
fn announcements_that_are_missed_are_made_up_for() {
    let cluster = Cluster::start(&[ITS_WORKER, FAST, ON, "log_min_messages = debug4"]);
    cluster.next_count(DATABASE);
    let worker = cluster.worker(DATABASE);
    let stopped = Stopped::in_a_nap(&cluster, DATABASE);
    Session::new(&cluster, 0, Rng::new()).perform(&overflow(0));
    drop(stopped);
    let mut client = cluster.connect(DATABASE);
    assert_eq!(cluster.next_count(DATABASE), relations(&mut client));
    let resets = cluster.lines_with("cache state reset");
    assert!(resets.iter().any(|line| line.pid == worker));
}

#[test]
fn skipping_can_be_switched_by_reload() {
    let cluster = Cluster::start(&[ITS_WORKER, FAST, ON]);
    let mut client = cluster.connect(DATABASE);
    // Of pg_class and its indexes, by number: names would be looked up in pg_class.
    let sql = "SELECT sum(pg_stat_get_numscans(oid))::bigint \
               FROM (VALUES (1259), (2662), (2663), (3455)) AS pg_class (oid)";
    let mut scans = || -> i64 { client.query_one(sql, &[]).unwrap().get(0) };
    // Scans are reported once a second.
    let mut scans_at_rest = || {
        eventually("two seconds without scans", || {
            let before = scans();
            sleep(Duration::from_secs(2));
            (scans() == before).then_some(before)
        })
    };
    let before = scans_at_rest();
    for (value, ticks) in [(OFF, 50), (ON, 1)] {
        cluster.configure(&[value]);
        cluster.reload();
        cluster.await_line(&format!(
            "changed to \"{}\"",
            value.rsplit(' ').next().unwrap()
        ));
        let ticks = cluster.counts(DATABASE).len() + ticks;
        eventually("ticks", || {
            (cluster.counts(DATABASE).len() > ticks).then_some(())
        });
    }
    let scanned = scans_at_rest() - before;
    let log = cluster.log();
    let (_, rest) = log.split_once("changed to \"off\"").unwrap();
    let (off, _) = rest.split_once("changed to \"on\"").unwrap();
    let ticks = off.matches("Currently").count() as i64;
    // The worker hears of each change a moment after the postmaster.
    assert!(
        (scanned - ticks).abs() <= 3,
        "{scanned} scans in {ticks} ticks"
    );
}

#[test]
fn the_plan_survives_what_is_done_to_pg_class() {
    let cluster = Cluster::start(&[ITS_WORKER, FAST, OFF]);
    let worker = cluster.worker(DATABASE);
    let mut client = cluster.connect(DATABASE);
    for sql in [
        "ANALYZE pg_class",
        "VACUUM FULL pg_class",
        "REINDEX TABLE pg_class",
        "VACUUM (FREEZE, ANALYZE) pg_class",
    ] {
        client.batch_execute(sql).unwrap();
        assert_eq!(cluster.next_count(DATABASE), relations(&mut client));
        let sql = "DROP TABLE IF EXISTS s; CREATE TABLE s (id serial)";
        client.batch_execute(sql).unwrap();
        assert_eq!(cluster.next_count(DATABASE), relations(&mut client));
    }
    assert_eq!(cluster.worker(DATABASE), worker);
}
