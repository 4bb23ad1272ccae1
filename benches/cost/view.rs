//! What reading the view costs: the reader, and the worker whose count is read.

use crate::cluster::Cluster;
use crate::report::{Reads, TickWithReader};
use crate::{beside, median, one_of_each, per_tick, processes, say};
use postgres::Client;
use std::thread::sleep;
use std::time::Duration;

/// Not one of those that count relations of their own database.
const DATABASE: &str = "app";

const VIEW: &str = "relation_counts";

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

/// The cost of reading relation_counts when it has so many rows. The views take turns.
pub fn measure_reads(cluster: &Cluster, databases: usize) -> Reads {
    const ROUNDS: usize = 15;
    const READS: usize = 50;
    const VIEWS: [&str; 3] = [VIEW, "pg_stat_database", "pg_stat_activity"];
    say(&format!("Reading the view, {databases} databases counted"));
    let mut client = connect(cluster);
    crate::eventually("all rows of the view", || {
        let query = format!("SELECT count(*) FROM {VIEW}");
        let rows: i64 = client.query_one(&query, &[]).unwrap().get(0);
        (rows == databases as i64).then_some(())
    });
    let row = client.query_one("SELECT pg_backend_pid()", &[]).unwrap();
    let pid: i32 = row.get(0);
    let (mut to_database, mut to_activity) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let [ours, database, activity] = VIEWS.map(|view| {
            let before = processes::cpu_time(pid);
            for _ in 0..READS {
                read(&mut client, view);
            }
            (processes::cpu_time(pid) - before).as_secs_f64()
        });
        // The first fills the caches.
        if round > 0 {
            to_database.push(ours / database);
            to_activity.push(ours / activity);
        }
    }
    let reads = Reads {
        databases,
        to_pg_stat_database: median(to_database),
        to_pg_stat_activity: median(to_activity),
    };
    eprintln!(
        "    ÷ pg_stat_database {:.3}, ÷ pg_stat_activity {:.3}",
        reads.to_pg_stat_database, reads.to_pg_stat_activity
    );
    reads
}

/// The cost of an idle tick with a session that reads the view all the time, and
/// without one, in turn.
pub fn measure_ticks(cluster: &Cluster) -> TickWithReader {
    const PAIRS: usize = 6;
    say("Ticks while a session reads the view");
    let mut client = connect(cluster);
    let pids = one_of_each(cluster);
    let to_empty = || {
        let [ours, empty, _] = per_tick(cluster, pids);
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
