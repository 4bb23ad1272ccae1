//! Sessions that change `pg_class` in every way there is, at random.

use crate::cluster::{Cluster, eventually, has_assertions, is_gone};
use fastrand::Rng;
use postgres::error::SqlState;
use postgres::types::PgLsn;
use postgres::{Client, NoTls};
use std::thread::sleep;
use std::time::Duration;

/// A number from the environment, such as the seed.
pub fn from_environment(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().expect(variable))
}

/// The number of relations, as a client counts them: in the table, because an index that was
/// built during DDL can be wrong.
pub fn relations(client: &mut Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_class";
    let indexes = ["indexscan", "indexonlyscan", "bitmapscan"];
    count_without(client, &indexes, sql)
}

/// The number of rows in the index of `pg_class` whose first column is `column`.
pub fn rows_of_index(client: &mut Client, column: &str) -> i64 {
    let least = if column == "relname" { "''" } else { "0" };
    let sql = format!("SELECT count(*) FROM pg_class WHERE {column} >= {least}");
    count_without(client, &["seqscan", "bitmapscan"], &sql)
}

/// What `sql` counts if the planner avoids some kinds of scans.
fn count_without(client: &mut Client, scans: &[&str], sql: &str) -> i64 {
    let mut transaction = client.transaction().unwrap();
    for scan in scans {
        let off = format!("SET LOCAL enable_{scan} = off");
        transaction.batch_execute(&off).unwrap();
    }
    transaction.query_one(sql, &[]).unwrap().get(0)
}

/// Sends more than the 4,096 invalidation messages (`MAXNUMMESSAGES` in sinvaladt.c) that a
/// process may be behind before it is told to discard its caches, two for every column; and
/// creates `more` relations more than with zero.
pub fn overflow(more: u8) -> String {
    format!(
        "DROP SCHEMA IF EXISTS burst CASCADE
         CREATE SCHEMA burst
         DO $$ BEGIN FOR i IN 1..12 + {more} LOOP EXECUTE \
           'CREATE TABLE burst.t' || i || ' (' || \
           (SELECT string_agg('c' || c || ' int', ', ') FROM generate_series(1, 200) c) || ')'; \
         END LOOP; END $$"
    )
}

/// Waits until the standbys among `servers` have replayed what is committed.
pub fn await_replay(primary: &Cluster, servers: &[&Cluster]) {
    let sql = "SELECT pg_current_wal_lsn()";
    let row = primary.connect("postgres").query_one(sql, &[]).unwrap();
    let written: PgLsn = row.get(0);
    for server in servers {
        let mut client = server.connect("postgres");
        let sql = "SELECT 1 WHERE NOT pg_is_in_recovery() OR pg_last_wal_replay_lsn() >= $1";
        eventually("replay", || client.query_opt(sql, &[&written]).unwrap());
    }
}

/// Messages that only show that sessions interfered.
pub const TOLD_WHEN_IN_THE_WAY: [&str; 3] = [
    "deadlock detected",
    "canceling statement due to lock timeout",
    // On a standby, where replay holds locks too.
    "canceling statement due to conflict with recovery",
];

/// Whether an error only shows that sessions interfered.
pub fn is_in_the_way(error: &postgres::Error) -> bool {
    let told = [
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::LOCK_NOT_AVAILABLE,
    ];
    error.code().is_some_and(|code| told.contains(code))
}

/// A session that changes `pg_class`, now and then replaced by another.
pub struct Session {
    number: usize,
    rng: Rng,
    settings: postgres::Config,
    client: Client,
    backend: i32,
    /// The backends of the sessions that it replaced.
    replaced: Vec<i32>,
    has_prepared: bool,
    may_reindex: bool,
    is_excused: fn(&postgres::Error) -> bool,
}

/// A table with these has a sequence, an index, and a TOAST table with an index.
const COLUMNS: &str = "(id serial PRIMARY KEY, t text)";

/// In place of a statement: ends the session.
const LEAVE: &str = "LEAVE";

impl Session {
    /// A session with a `number` that no other session of the server has. Only errors that
    /// `is_excused` may occur, and make it leave and come back.
    pub fn new(
        mut settings: postgres::Config,
        number: usize,
        rng: Rng,
        is_excused: fn(&postgres::Error) -> bool,
    ) -> Session {
        // Shorter than the worker's, so that it is not the one to give way.
        settings.options("-c deadlock_timeout=50ms -c lock_timeout=300ms");
        let (mut client, backend) = connect(&settings, is_excused);
        let sql = format!("CREATE SCHEMA churn{number}; CREATE ROLE churner{number}");
        client.batch_execute(&sql).unwrap();
        // An assertion in comparetup_index_btree_tiebreak() (tuplesortvariants.c) does
        // not hold for a catalog that is reindexed while its rows are being updated.
        let may_reindex = !has_assertions(&mut client);
        Session {
            number,
            rng,
            settings,
            client,
            backend,
            replaced: Vec::new(),
            has_prepared: false,
            may_reindex,
            is_excused,
        }
    }

    /// Performs the changes between two pauses. What is tried depends only on the seed, not on
    /// the results.
    pub fn play(&mut self) {
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

    /// One of many ways to change `pg_class`, or not to, one statement per line.
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

    /// Runs a script. The rest of it is skipped if other sessions are in its way.
    pub fn perform(&mut self, script: &str) {
        for statement in script.lines().map(str::trim) {
            let ends_prepared = statement.contains(" PREPARED ");
            if statement == LEAVE {
                self.replace();
            } else if !ends_prepared || self.has_prepared {
                match self.client.batch_execute(statement) {
                    Ok(()) if ends_prepared => self.has_prepared = false,
                    Ok(()) => self.has_prepared |= statement.starts_with("PREPARE "),
                    Err(error) if (self.is_excused)(&error) => return self.replace(),
                    Err(error) => panic!("{statement}: {error:?}"),
                }
            }
            sleep(Duration::from_millis(fastrand::u64(0..10)));
        }
    }

    /// Goes on in another database, and leaves nothing prepared in this one.
    pub fn move_to(&mut self, database: &str) {
        let number = self.number;
        self.perform(&format!("ROLLBACK PREPARED 'churn{number}'"));
        self.settings.dbname(database);
        self.replace();
        let sql = format!("CREATE SCHEMA IF NOT EXISTS churn{number}");
        self.client.batch_execute(&sql).unwrap();
    }

    /// Leaves for good, whatever it is doing, and waits until nothing more comes of it.
    pub fn leave(self) {
        let Session {
            client,
            backend,
            replaced,
            ..
        } = self;
        drop(client);
        await_end(replaced.into_iter().chain([backend]));
    }

    /// Leaves, whatever it is doing, and comes back.
    fn replace(&mut self) {
        self.replaced.push(self.backend);
        eventually("a connection that lasts", || {
            (self.client, self.backend) = connect(&self.settings, self.is_excused);
            match self.forget_prepared() {
                Err(error) if (self.is_excused)(&error) => None,
                Err(error) => panic!("could not forget: {error:?}"),
                Ok(()) => Some(()),
            }
        });
    }

    /// Rolls back transactions that a server that crashed may have prepared without reporting
    /// it, or not ended.
    fn forget_prepared(&mut self) -> Result<(), postgres::Error> {
        let gid = format!("churn{}", self.number);
        let sql = "SELECT 1 FROM pg_prepared_xacts WHERE gid = $1";
        if self.client.query_opt(sql, &[&gid])?.is_some() {
            self.client
                .batch_execute(&format!("ROLLBACK PREPARED '{gid}'"))?;
        }
        self.has_prepared = false;
        Ok(())
    }

    /// Waits until the replaced sessions are gone, along with what they left open.
    pub fn await_rest(&mut self) {
        await_end(self.replaced.drain(..));
    }
}

fn await_end(backends: impl Iterator<Item = i32>) {
    for backend in backends {
        eventually("a backend to end", || is_gone(backend).then_some(()));
    }
}

fn connect(settings: &postgres::Config, is_excused: fn(&postgres::Error) -> bool) -> (Client, i32) {
    let try_connect = || {
        let mut client = settings.connect(NoTls)?;
        let row = client.query_one("SELECT pg_backend_pid()", &[])?;
        Ok((client, row.get(0)))
    };
    eventually("a connection", || match try_connect() {
        Err(error) if is_excused(&error) => None,
        connection => Some(connection.expect("could not connect")),
    })
}
