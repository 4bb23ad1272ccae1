//! What reading the view costs the reader, and the worker whose count is read.

use crate::cluster::Cluster;
use crate::report::{Reads, TickWithReader};
use crate::{NAPTIME, WINDOW, beside, median, one_of_each, per_tick, processes, say};
use postgres::Client;
use std::thread::sleep;
use std::time::Duration;

/// Not one of those that count relations of their own database.
const DATABASE: &str = "app";

const VIEW: &str = "relation_counts";

/// Our views, and what they are compared with.
const VIEWS: [&str; 6] = [
    VIEW,
    "relation_counts_by_kind",
    "relation_counts_by_schema",
    "relation_catalogs",
    "pg_stat_database",
    "pg_stat_activity",
];

/// A session that has the view. Not by CREATE EXTENSION: its files may not be
/// installed, and would load the library from `$libdir`, not the preloaded one.
pub fn connect(cluster: &Cluster) -> Client {
    let mut client = cluster.connect(DATABASE);
    let script = include_str!("../../sql/relation_counts.sql")
        .replace("@extschema@", "public")
        .replace("MODULE_PATHNAME", "count_relations");
    client
        .batch_execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        .unwrap();
    client.batch_execute(&script).unwrap();
    client
}

fn read(client: &mut Client, view: &str) -> usize {
    let rows = client.simple_query(&format!("SELECT * FROM {view}"));
    rows.unwrap().len()
}

/// The cost of reading our views when this many databases are counted. The views take turns.
pub fn measure_reads(cluster: &Cluster, databases: usize) -> Vec<Reads> {
    const ROUNDS: usize = 15;
    const READS: usize = 50;
    say(&format!("Reading the view, {databases} databases counted"));
    let mut client = connect(cluster);
    crate::eventually("all rows of the view", || {
        let query = "SELECT count(*) FROM relation_catalogs WHERE relname = 'pg_class'";
        let rows: i64 = client.query_one(query, &[]).unwrap().get(0);
        (rows == databases as i64).then_some(())
    });
    let row = client.query_one("SELECT pg_backend_pid()", &[]).unwrap();
    let pid: i32 = row.get(0);
    let rounds = (0..=ROUNDS).map(|_| {
        VIEWS.map(|view| {
            let before = processes::cpu_time(pid);
            for _ in 0..READS {
                read(&mut client, view);
            }
            (processes::cpu_time(pid) - before).as_secs_f64()
        })
    });
    // The first fills the caches.
    let rounds: Vec<_> = rounds.skip(1).collect();
    let [ours @ .., _, _] = VIEWS;
    let reads = ours.iter().enumerate().map(|(i, view)| {
        let to =
            |other: usize| median(rounds.iter().map(|times| times[i] / times[other]).collect());
        let reads = Reads {
            databases,
            view,
            to_pg_stat_database: to(VIEWS.len() - 2),
            to_pg_stat_activity: to(VIEWS.len() - 1),
        };
        eprintln!(
            "    {view} ÷ pg_stat_database {:.3}, ÷ pg_stat_activity {:.3}",
            reads.to_pg_stat_database, reads.to_pg_stat_activity
        );
        reads
    });
    reads.collect()
}

/// The cost of an idle tick with a session that reads the view all the time, and without one,
/// in turn.
pub fn measure_ticks(cluster: &Cluster) -> TickWithReader {
    const PAIRS: usize = 6;
    say("Ticks while a session reads the view");
    let mut client = connect(cluster);
    let pids = one_of_each(cluster);
    let to_empty = || {
        let [ours, empty, _] = per_tick(cluster, pids, NAPTIME, WINDOW);
        ours / empty
    };
    sleep(Duration::from_secs(1));
    let (mut alone, mut with_reader) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        alone.push(to_empty());
        with_reader.push(beside(|| _ = read(&mut client, VIEW), to_empty));
        eprintln!(
            "    × empty_worker {:.3}, with a reader {:.3}",
            alone.last().unwrap(),
            with_reader.last().unwrap()
        );
    }
    TickWithReader {
        alone: median(alone),
        with_reader: median(with_reader),
    }
}
