//! A command that needs a database to itself locks it before it is refused. So any role that
//! can log in can lock any database, for a moment, as often as it likes. This must not keep a
//! database from being counted.

use crate::all_databases::keep_changing;
use crate::cluster::{Background, Cluster, eventually, major_version, send};
use nix::sys::signal::Signal;
use postgres::Client;
use postgres::error::SqlState;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What each of four sessions does over and over.
const COMMANDS: [&[&str]; 4] = [
    &[
        "DROP DATABASE app",
        "ALTER DATABASE app SET TABLESPACE pg_default",
    ],
    &["ALTER DATABASE app RENAME TO stolen"],
    &["CREATE DATABASE copy TEMPLATE app"],
    // Many in one transaction.
    &["DO $$ BEGIN \
         FOR i IN 1..1000 LOOP \
           BEGIN ALTER DATABASE app RENAME TO stolen; \
           EXCEPTION WHEN insufficient_privilege THEN NULL; END; \
         END LOOP; \
         RAISE insufficient_privilege; \
       END $$"],
];

const SECONDS: &str = "SELECT pg_sleep(20)";

/// Sessions of a role that owns nothing, running their commands until dropped.
struct Mallory {
    refusals: [Arc<AtomicU64>; 4],
    #[allow(dead_code)] // held, not read
    sessions: Vec<Background>,
}

impl Mallory {
    /// Makes the role.
    fn prepare(cluster: &Cluster) {
        // CREATEDB, because otherwise copying is refused before it locks anything; quiet,
        // because otherwise the log fills with refusals.
        cluster.execute(
            "postgres",
            "CREATE ROLE mallory LOGIN CREATEDB; ALTER ROLE mallory SET log_min_messages = panic",
        );
    }

    fn at_work_on(cluster: &Cluster) -> Mallory {
        Mallory::prepare(cluster);
        let refusals: [Arc<AtomicU64>; 4] = Default::default();
        let sessions = refusals.iter().zip(COMMANDS).map(|(refusals, commands)| {
            let mut client = cluster.connect_as("mallory", "postgres");
            let refusals = Arc::clone(refusals);
            Background::start(move |done| {
                // Until told to end, or until there is no such database any more.
                let mut commands = commands.iter().cycle();
                while !done.load(Ordering::Relaxed)
                    && is_refused(&mut client, commands.next().unwrap())
                {
                    refusals.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let sessions = sessions.collect();
        Mallory { refusals, sessions }
    }

    /// Each session has had its commands refused; otherwise the story proves nothing.
    fn await_refusals(&self) {
        const ENOUGH: [u64; 4] = [10, 10, 10, 1]; // of a thousand
        eventually("Mallory to be refused", || {
            let refusals = self.refusals.iter().zip(ENOUGH);
            let mut refused = refusals.map(|(n, enough)| n.load(Ordering::Relaxed) >= enough);
            refused.all(|is_enough| is_enough).then_some(())
        });
    }
}

fn is_refused(client: &mut Client, command: &str) -> bool {
    let error = client.batch_execute(command).expect_err(command);
    error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
}

/// The number of ticks of the databases, "app" and "postgres".
fn ticks(cluster: &Cluster) -> [i64; 2] {
    let mut client = cluster.connect("postgres");
    let sql =
        "SELECT ticks FROM relation_counts WHERE datname IN ('app', 'postgres') ORDER BY datname";
    eventually("a row for each database", || {
        let rows = client.query(sql, &[]).unwrap();
        let [app, postgres] = rows.as_slice() else {
            return None;
        };
        Some([app.get(0), postgres.get(0)])
    })
}

/// The worker stays, and ticks like that of a database that is left alone.
fn stays(databases: &str) {
    let cluster = Cluster::start(&[
        &format!("count_relations.databases = '{databases}'"),
        "log_min_messages = debug1",
    ]);
    cluster.execute("postgres", "CREATE EXTENSION count_relations");
    // So that the visiting worker stays.
    let busy = keep_changing(&cluster, "app");
    let before = ticks(&cluster);
    let worker = cluster.worker("app");
    let mallory = Mallory::at_work_on(&cluster);
    cluster.execute("postgres", SECONDS);
    let after = ticks(&cluster);
    mallory.await_refusals();
    assert_eq!(cluster.worker("app"), worker);
    assert!(cluster.lines_with("making way").is_empty());
    let [app, postgres] = [after[0] - before[0], after[1] - before[1]];
    assert!(
        app >= postgres / 4 * 3,
        "{app} ticks, and elsewhere {postgres}"
    );

    // Roles that have the right are not kept from it.
    drop(busy);
    cluster.expect("does not exist");
    cluster.execute("postgres", "DROP DATABASE app");
    assert_eq!(cluster.await_line("making way").pid, worker);
}

#[test]
fn the_worker_of_a_list_stays() {
    stays("app, postgres");
}

#[test]
fn the_worker_of_all_databases_stays() {
    stays("*");
}

#[test]
fn the_launcher_sends_a_worker_again() {
    let cluster = Cluster::start(&[
        "count_relations.databases = '*'",
        "log_min_messages = debug1",
    ]);
    let _busy = keep_changing(&cluster, "app");
    cluster.next_count("app");
    let mallory = Mallory::at_work_on(&cluster);
    let started = "worker started for database \"app\"";
    let visits = cluster.lines_with(started).len();
    send(cluster.worker("app"), Signal::SIGTERM);
    cluster.await_nth_line(started, visits + 1);
    cluster.next_count("app");
    mallory.await_refusals();
}

/// Her command goes ahead, with another role's rights, but she has no right to the database:
/// the worker can't tell it from one that takes long to be refused.
#[test]
fn a_command_of_somebody_without_the_right_to_it_waits_in_vain() {
    let cluster = Cluster::start(&["count_relations.databases = 'app'"]);
    let worker = cluster.worker("app");
    cluster.next_count("app");
    Mallory::prepare(&cluster);
    let mut mallory = cluster.connect_as("mallory", "postgres");
    assert_waits_in_vain(&cluster, &mut mallory, worker);

    // The owner may, a member of the owner, and for a template any role that may create
    // databases.
    cluster.execute("postgres", "CREATE ROLE others ROLE mallory");
    for right in [
        "OWNER TO mallory",
        "OWNER TO others",
        "OWNER TO postgres; ALTER DATABASE app IS_TEMPLATE true",
    ] {
        for sql in format!("ALTER DATABASE app {right}").split("; ") {
            cluster.execute("postgres", sql);
        }
        assert_makes_way(&cluster, &mut mallory, right);
    }

    // So may whoever becomes a role that may, by SET ROLE.
    cluster.execute(
        "postgres",
        "ALTER ROLE mallory NOCREATEDB NOINHERIT; CREATE ROLE creator CREATEDB ROLE mallory; \
         CREATE ROLE owner; GRANT postgres TO mallory",
    );
    for (right, role) in [
        ("IS_TEMPLATE true", "creator"),
        ("IS_TEMPLATE false", "postgres"),
    ] {
        cluster.execute("postgres", "ALTER DATABASE app OWNER TO owner");
        cluster.execute("postgres", &format!("ALTER DATABASE app {right}"));
        mallory.batch_execute(&format!("SET ROLE {role}")).unwrap();
        assert_makes_way(&cluster, &mut mallory, role);
    }
}

/// As whoever has created the owner is: he may give himself its rights, but has not.
#[test]
fn so_does_one_of_a_member_of_the_owner_without_its_rights() {
    if major_version() < 16 {
        return; // where memberships have no such options
    }
    let cluster = Cluster::start(&["count_relations.databases = 'app'"]);
    let worker = cluster.worker("app");
    cluster.next_count("app");
    cluster.execute(
        "postgres",
        "CREATE ROLE mallory LOGIN CREATEROLE; CREATE ROLE team; CREATE ROLE owner ROLE team; \
         GRANT owner TO mallory WITH ADMIN TRUE, INHERIT FALSE, SET FALSE; \
         ALTER DATABASE app OWNER TO owner",
    );
    let mut mallory = cluster.connect_as("mallory", "postgres");
    assert_waits_in_vain(&cluster, &mut mallory, worker);

    // Unlike one of whoever can become a role that has them.
    cluster.execute("postgres", "GRANT team TO mallory WITH INHERIT FALSE");
    cluster.expect("database \"app\" does not exist");
    mallory.batch_execute("SET ROLE team").unwrap();
    mallory.batch_execute("DROP DATABASE app").unwrap();
    assert_eq!(cluster.await_line("making way").pid, worker);
}

/// The client cannot rename the database, though its command has the right to, as the worker
/// stays.
fn assert_waits_in_vain(cluster: &Cluster, client: &mut Client, worker: i32) {
    cluster.execute(
        "postgres",
        "CREATE FUNCTION rename() RETURNS void SECURITY DEFINER LANGUAGE plpgsql \
         AS $$ BEGIN ALTER DATABASE app RENAME TO stolen; END $$",
    );
    cluster.expect("database \"app\" is being accessed by other users");
    let error = client.batch_execute("SELECT rename()").unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::OBJECT_IN_USE));
    assert!(cluster.lines_with("making way").is_empty());
    assert_eq!(cluster.worker("app"), worker);
}

/// The client can copy the database, with this right, and it is counted again.
fn assert_makes_way(cluster: &Cluster, client: &mut Client, right: &str) {
    let ways = cluster.lines_with("making way").len();
    for sql in ["CREATE DATABASE copy TEMPLATE app", "DROP DATABASE copy"] {
        let result = client.batch_execute(sql);
        assert!(result.is_ok(), "{right}: {result:?}");
    }
    cluster.await_nth_line("making way", ways + 1);
    cluster.next_count("app");
}

/// Sends commands that are refused, without reading the replies, until the server has no room
/// for its output and keeps the database locked.
fn have_refused_unread(cluster: &Cluster) -> UnixStream {
    let mut stream = UnixStream::connect(cluster.socket().join(".s.PGSQL.5432")).unwrap();
    let message = |kind: &[u8], body: &[u8]| {
        let length = (body.len() as u32 + 4).to_be_bytes();
        [kind, &length, body].concat()
    };
    let startup = b"\0\x03\0\0user\0mallory\0database\0postgres\0\0";
    stream.write_all(&message(b"", startup)).unwrap();
    let commands = message(b"Q", b"DROP DATABASE app\0").repeat(1_000);
    let mut client = cluster.connect("postgres");
    let sql = "SELECT 1 FROM pg_stat_activity \
               WHERE usename = 'mallory' AND wait_event = 'ClientWrite'";
    stream.set_nonblocking(true).unwrap();
    eventually("a server that cannot answer", || {
        let _ = stream.write(&commands);
        client.query_opt(sql, &[]).unwrap()
    });
    stream
}

#[test]
fn who_does_not_read_that_he_is_refused_does_not_drive_the_worker_out() {
    let cluster = Cluster::start(&["count_relations.databases = 'app'"]);
    let worker = cluster.worker("app");
    cluster.next_count("app");
    Mallory::prepare(&cluster);
    let stream = have_refused_unread(&cluster);
    let mut client = cluster.connect("postgres");
    let sql = "SELECT 1 FROM pg_locks WHERE locktype = 'object' \
               AND mode = 'AccessExclusiveLock' AND granted";
    assert!(client.query_opt(sql, &[]).unwrap().is_some());
    for _ in 0..4 {
        cluster.next_count("app");
    }
    assert!(client.query_opt(sql, &[]).unwrap().is_some());
    drop(stream);
    assert_eq!(cluster.worker("app"), worker);
    assert!(cluster.lines_with("making way").is_empty());
}
