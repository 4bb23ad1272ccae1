//! The states in which a worker can be found. Several promises hold in all of them.

use crate::cluster::{
    Cluster, FAST, FIRST_CLONE, Throttle, clone_relations, eventually, is_napping,
};
use postgres::Client;
use std::time::Duration;

/// The database that the worker counts in these stories.
pub const DATABASE: &str = "app";

/// A worker in a known state, and what keeps it there.
pub struct Met {
    pub worker: i32,
    pub hold: Hold,
}

/// What keeps a worker in its state.
#[allow(dead_code)] // held, not read
pub enum Hold {
    Nothing,
    /// Stops and continues it all the time.
    Throttle(Throttle),
    /// A session with a transaction that holds a lock.
    Session(Box<Client>),
}

/// Settings for [`napping`] for an hour.
pub const LONG_NAP: &[&str] = &[
    "count_relations.databases = 'app'",
    "count_relations.naptime = '1h'",
];

/// Settings for [`napping`] between ticks of a second.
pub const SHORT_NAP: &[&str] = &["count_relations.databases = 'app'"];

/// Settings for the other states: the query runs at every tick, and ticks often.
pub const BUSY: &[&str] = &[
    "count_relations.databases = 'app'",
    FAST,
    "count_relations.skip_unchanged = off",
    // It would come between a count and what follows it.
    "count_relations.census_naptime = 0",
];

/// A server whose worker has counted the database.
pub fn start(configuration: &[&str]) -> Cluster {
    let cluster = Cluster::start(configuration);
    cluster.await_line("relations in database \"app\"");
    cluster
}

pub fn napping(cluster: &Cluster) -> Met {
    let worker = cluster.worker(DATABASE);
    let mut client = cluster.connect("postgres");
    eventually("the worker to nap", || {
        is_napping(&mut client, worker).then_some(())
    });
    let hold = Hold::Nothing;
    Met { worker, hold }
}

/// In the middle of counting a catalog of 100,000 relations, which takes some tenths of a second.
pub fn counting(cluster: &Cluster) -> Met {
    grow_catalog(cluster, DATABASE, 100);
    counting_again(cluster)
}

/// As [`counting`]. Nine times as long is more than the postmaster takes to restart a worker.
pub fn counting_for_a_while(cluster: &Cluster) -> Met {
    grow_catalog(cluster, DATABASE, 100);
    slowed_down(cluster, Duration::from_millis(50))
}

/// As [`counting`], which takes many seconds.
pub fn counting_for_long(cluster: &Cluster) -> Met {
    grow_catalog(cluster, DATABASE, 100);
    slowed_down(cluster, Duration::from_millis(150))
}

/// As [`counting`], where the catalog has been grown before.
pub fn counting_again(cluster: &Cluster) -> Met {
    slowed_down(cluster, Duration::from_millis(10))
}

fn slowed_down(cluster: &Cluster, stop: Duration) -> Met {
    let worker = cluster.worker(DATABASE);
    let hold = Hold::Throttle(Throttle::new(worker, stop));
    let mut client = cluster.connect("postgres");
    // Not a count that is about to end; one may be stopped while it waits for a page to be read.
    let sql = "SELECT 1 FROM pg_stat_activity \
               WHERE pid = $1 AND state = 'active' AND query LIKE 'SELECT count%' \
                 AND wait_event_type IS DISTINCT FROM 'Lock' \
                 AND clock_timestamp() - query_start BETWEEN '0.05 s' AND make_interval(secs => $2)";
    let young = f64::min(30.0 * stop.as_secs_f64(), 1.0);
    eventually("the worker to be counting", || {
        client.query_opt(sql, &[&worker, &young]).unwrap()
    });
    Met { worker, hold }
}

/// Waiting for a lock on `pg_class` that a third session holds.
pub fn waiting_for_lock(cluster: &Cluster) -> Met {
    let worker = cluster.worker(DATABASE);
    let mut session = cluster.connect(DATABASE);
    session
        .batch_execute("BEGIN; LOCK TABLE pg_class IN ACCESS EXCLUSIVE MODE")
        .unwrap();
    await_waiter(cluster, "relation");
    let hold = Hold::Session(Box::new(session));
    Met { worker, hold }
}

/// Waiting to connect to a database that a transaction is about to rename.
pub fn connecting(cluster: &Cluster) -> Met {
    let mut session = cluster.connect("postgres");
    session
        .batch_execute("BEGIN; ALTER DATABASE app RENAME TO renamed")
        .unwrap();
    let worker = await_waiter(cluster, "object");
    let hold = Hold::Session(Box::new(session));
    Met { worker, hold }
}

/// Waits until a worker of ours waits for a lock of the kind, and returns its pid.
fn await_waiter(cluster: &Cluster, locktype: &str) -> i32 {
    let mut client = cluster.connect("postgres");
    let sql = "SELECT pid FROM pg_locks WHERE NOT granted AND locktype = $1";
    eventually("the worker to wait for a lock", || {
        client.query_opt(sql, &[&locktype]).unwrap()
    })
    .get(0)
}

/// Gives the catalog some thousands of relations more.
pub fn grow_catalog(cluster: &Cluster, database: &str, thousands: u32) {
    let clones = FIRST_CLONE..FIRST_CLONE + thousands * 1_000;
    clone_relations(&mut cluster.connect(database), clones);
}

/// Asserts that another worker counts in place of `former`, and no other process has ended.
pub fn assert_only_replaced(cluster: &Cluster, former: i32) {
    assert_ne!(cluster.worker(DATABASE), former);
    cluster.next_count(DATABASE);
    let crashes = cluster.lines_with("terminating any other active");
    assert!(crashes.is_empty());
}
