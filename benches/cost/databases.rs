//! What it costs to count every database of a server that has many.

use crate::cluster::{self, Cluster};
use crate::report::PerDatabase;
use crate::{EMPTY, OURS, PLAIN, init, is_tick_of, processes, restart_workers, say, workers};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const COUNT: usize = 100;

const LAUNCHER: &str = "count relations launcher";

/// The default, so that a second has a tick.
const NAPTIME: Duration = Duration::from_secs(1);

/// A server with so many databases, all of them being counted.
pub fn start() -> Cluster {
    say(&format!("Creating {COUNT} databases"));
    let cluster = init(&[
        "count_relations.databases = '*'",
        "shared_buffers = 128MB",
        &format!("max_worker_processes = {}", COUNT + 20),
    ]);
    cluster.start_server();
    let mut client = cluster.connect("postgres");
    // Besides "postgres" and "app".
    for n in 3..=COUNT {
        let database =
            format!("CREATE DATABASE database_{n} TEMPLATE template0 STRATEGY file_copy");
        client.batch_execute(&database).unwrap();
    }
    client.batch_execute("CHECKPOINT").unwrap();
    workers(&cluster, OURS, COUNT);
    cluster
}

pub fn measure(cluster: &Cluster) -> PerDatabase {
    // One, as empty_worker's ticks are few.
    const WINDOW: Duration = Duration::from_secs(60);
    say(&format!("{COUNT} databases, idle"));
    restart_workers(cluster, COUNT);
    let [empty, plain, launcher] =
        [EMPTY, PLAIN, LAUNCHER].map(|name| workers(cluster, name, 1)[0]);
    let mut ours = workers(cluster, OURS, COUNT);
    ours.push(launcher);
    // Beyond the first counts, and the statistics that are sent a second later.
    sleep(3 * NAPTIME);

    let total = || -> Duration { ours.iter().map(|pid| processes::cpu_time(*pid)).sum() };
    let ticks_of_empty = || {
        let lines = cluster.lines();
        lines.iter().filter(|line| is_tick_of(empty, line)).count()
    };
    let used = || {
        [
            total(),
            processes::cpu_time(empty),
            processes::cpu_time(launcher),
        ]
    };
    let (start, ticks_before, before) = (Instant::now(), ticks_of_empty(), used());
    sleep(WINDOW);
    let after = used();
    let seconds = start.elapsed().as_secs_f64();
    let ticks = (ticks_of_empty() - ticks_before) as f64;
    let [total, empty, launcher] = [0, 1, 2].map(|i| (after[i] - before[i]).as_secs_f64());
    let cpu = total / seconds / COUNT as f64 / (empty / ticks);
    eprintln!(
        "    × empty_worker {cpu:.3}, the launcher's part of it {:.4}",
        launcher / total
    );
    let memory: u64 = ours
        .iter()
        .map(|pid| cluster::Usage::of(*pid).anonymous)
        .sum();
    PerDatabase {
        databases: COUNT,
        cpu,
        memory_to_plain: memory as f64 / COUNT as f64 / cluster::Usage::of(plain).anonymous as f64,
    }
}
