//! A worker lives for months, so a tick must leave no memory behind.
//!
//! `COUNT_RELATIONS_MEMORY_SECONDS` is how long a story takes.

use crate::cluster::{Background, Cluster, Usage, eventually};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const DATABASE: &str = "postgres";

#[test]
fn counting_again_and_again_takes_no_more_memory_than_counting_for_a_while() {
    let cluster = start();
    let ddl = Ddl::start(&cluster);
    // While counting, the heap is not packed in quite the same way each time, and the caches do
    // not contain the same entries. Less than the smallest piece of memory per count.
    assert_flat(&cluster, 64 * 1024, 24 * 1024);
    let changes = ddl.changes.load(Ordering::Relaxed);
    println!("{changes} changes");
    assert!(changes > 500, "only {changes} changes");
}

#[test]
fn nor_do_ticks_without_a_count() {
    // Less than the smallest piece of heap, and a pointer, per tick.
    assert_flat(&start(), 16 * 1024, 4 * 1024);
}

fn start() -> Cluster {
    Cluster::start(&["count_relations.naptime = '10ms'"])
}

fn assert_flat(cluster: &Cluster, heap_slack: u64, context_slack: u64) {
    let seconds = std::env::var("COUNT_RELATIONS_MEMORY_SECONDS");
    let seconds = seconds.map_or(20, |value| value.parse().unwrap());
    let worker = cluster.worker(DATABASE);
    await_counts(cluster, 500); // Until its caches are filled.
    let first = cluster.counts(DATABASE).len();
    let before = Memory::of(cluster, worker);
    let mut ticks = 0;
    let end = Instant::now() + Duration::from_secs(seconds);
    while ticks < 1_000 || Instant::now() < end {
        await_counts(cluster, 100);
        ticks = cluster.counts(DATABASE).len() - first;
    }
    let after = Memory::of(cluster, worker);
    println!("before: {before:?}\nafter {ticks} ticks: {after:?}");
    assert_eq!(cluster.worker(DATABASE), worker);
    assert!(after.anonymous <= before.anonymous + heap_slack);
    assert!(after.in_contexts <= before.in_contexts + context_slack);
}

fn await_counts(cluster: &Cluster, ticks: usize) {
    let ticks = cluster.counts(DATABASE).len() + ticks;
    eventually("ticks", || {
        (cluster.counts(DATABASE).len() > ticks).then_some(())
    });
}

/// Memory that only this process uses, in bytes.
#[derive(Debug)]
struct Memory {
    /// As in [`Usage`].
    anonymous: u64,
    /// Memory in use in the server's memory contexts.
    in_contexts: u64,
}

impl Memory {
    /// The minimum of several moments. Invalidations make caches smaller and larger.
    fn of(cluster: &Cluster, worker: i32) -> Memory {
        let moments = [(); 10].map(|()| {
            await_counts(cluster, 5);
            let anonymous = Usage::of(worker).anonymous;
            let in_contexts = bytes_in_contexts(cluster, worker);
            (anonymous, in_contexts)
        });
        let anonymous = moments.iter().map(|moment| moment.0).min().unwrap();
        let in_contexts = moments.iter().map(|moment| moment.1).min().unwrap();
        Memory {
            anonymous,
            in_contexts,
        }
    }
}

fn bytes_in_contexts(cluster: &Cluster, worker: i32) -> u64 {
    let total = "Grand total: ";
    let nth = cluster.lines_with(total).len() + 1;
    let sql = format!("SELECT pg_log_backend_memory_contexts({worker})");
    cluster.execute("template1", &sql);
    let line = cluster.await_nth_line(total, nth).message;
    let (_, used) = line.rsplit_once("; ").unwrap();
    used.split(' ').next().unwrap().parse().unwrap()
}

/// A session that changes `pg_class` all the time, until dropped.
struct Ddl {
    changes: Arc<AtomicUsize>,
    #[allow(dead_code)] // held, not read
    changing: Background,
}

impl Ddl {
    fn start(cluster: &Cluster) -> Ddl {
        let changes = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&changes);
        let mut client = cluster.connect(DATABASE);
        let changing = Background::start(move |done| {
            let statements = [&["CREATE TABLE t (id serial PRIMARY KEY)", "DROP TABLE t"]; 100];
            // Otherwise dead rows would make each count slower than the one before. These also
            // make the worker re-plan its query.
            let maintenance = [&[
                "VACUUM (ANALYZE) pg_class, pg_attribute, pg_depend",
                "VACUUM FULL pg_class",
            ]];
            let round = maintenance.iter().chain(&statements).copied().flatten();
            for statement in round.cycle() {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                client.batch_execute(statement).unwrap();
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ddl { changes, changing }
    }
}
