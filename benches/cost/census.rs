//! What a census costs.

use crate::cluster::{Cluster, eventually};
use crate::report::{Census, TickWithCensus};
use crate::{
    Load, NAPTIME, OURS, PAIRS, WINDOW, median, one_of_each, per_tick, processes, say, view,
    with_load, workers,
};
use postgres::Client;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The worker's limits: the default, a census for every tick, and none at all.
const DEFAULT: &str = "1min";
const EVERY_TICK: &str = "10ms";
const NONE: &str = "0";

/// A census is followed by a rest of 199 times its duration, here a little more, as it may take
/// longer than its CPU time.
const REST_FACTOR: f64 = 220.0;

/// The cost of a census, as a ratio to that of counting in a session without helpers; and the
/// share of the time that censuses take with one DDL command per tick.
pub fn measure(cluster: &Cluster, relations: u32) -> Census {
    say(&format!("A census, {relations} relations"));
    // With a million relations the rest takes half a minute.
    let rounds = if relations < 1_000_000 { 9 } else { 5 };
    let mut view = view::connect(cluster);
    let mut client = cluster.connect("postgres");
    client
        .batch_execute("SET max_parallel_workers_per_gather = 0; SET jit = off")
        .unwrap();
    let row = client.query_one("SELECT pg_backend_pid()", &[]).unwrap();
    let session: i32 = row.get(0);
    let worker = workers(cluster, OURS, 1)[0];
    let mut censuses = vec![take(&mut view, worker)];
    let ratios = (0..rounds).map(|_| {
        // Before the measurement, so that only the census's own tick is in it.
        let last = *censuses.last().unwrap();
        sleep(Duration::from_secs_f64(last * REST_FACTOR));
        let census = take(&mut view, worker);
        censuses.push(census);
        let before = processes::cpu_time(session);
        client
            .batch_execute("SELECT count(*) FROM pg_class")
            .unwrap();
        census / (processes::cpu_time(session) - before).as_secs_f64()
    });
    let to_count = median(ratios.collect());
    // The first may have had to wait.
    let census = median(censuses.split_off(1));
    let of_a_minute = census / 60.0;
    let most = census / interval(cluster, &mut view);
    eprintln!("    {to_count:.2} counts, {of_a_minute:.5} of a minute, at most {most:.4}");
    Census {
        relations,
        to_count,
        of_a_minute,
        most,
        tick: measure_tick(cluster),
    }
}

/// Requests a census and waits for it; returns the CPU time that the worker has used meanwhile.
fn take(view: &mut Client, worker: i32) -> f64 {
    let latest = latest(view);
    let before = processes::cpu_time(worker);
    view.batch_execute("SELECT relation_counts_census('postgres')")
        .unwrap();
    await_other(view, latest);
    (processes::cpu_time(worker) - before).as_secs_f64()
}

/// When the latest census was taken, in seconds since the epoch.
fn latest(view: &mut Client) -> Option<f64> {
    let taken = "SELECT extract(epoch FROM max(checked_at))::float8 FROM relation_catalogs";
    view.query_one(taken, &[]).unwrap().get(0)
}

/// Waits until the latest census is another one; returns when it was taken.
fn await_other(view: &mut Client, census: Option<f64>) -> f64 {
    eventually("a census", || {
        latest(view).filter(|time| Some(*time) != census)
    })
}

/// From one census to the next with one DDL command per tick, in seconds, if the naptime hardly
/// limits them.
fn interval(cluster: &Cluster, view: &mut Client) -> f64 {
    const LEAST: usize = 3;
    const WINDOW: Duration = Duration::from_secs(10);
    set_census_naptime(cluster, EVERY_TICK);
    let mut intervals = Vec::new();
    with_load(cluster, Load::OneDdlATick, || {
        let first = latest(view);
        let mut census = await_other(view, first);
        let start = Instant::now();
        while intervals.len() < LEAST || start.elapsed() < WINDOW {
            let next = await_other(view, Some(census));
            intervals.push(next - census);
            census = next;
        }
    });
    set_census_naptime(cluster, DEFAULT);
    median(intervals)
}

/// What a tick costs with censuses now and then, and without any.
fn measure_tick(cluster: &Cluster) -> TickWithCensus {
    let pids = one_of_each(cluster);
    let mut costs = [Vec::new(), Vec::new()];
    with_load(cluster, Load::OneDdlATick, || {
        for _ in 0..PAIRS {
            for (costs, naptime) in costs.iter_mut().zip([DEFAULT, NONE]) {
                set_census_naptime(cluster, naptime);
                let [ours, empty, _] = per_tick(cluster, pids, NAPTIME, WINDOW);
                costs.push(ours / empty);
            }
        }
    });
    set_census_naptime(cluster, DEFAULT);
    let [with_census, without] = costs.map(median);
    eprintln!("    × empty_worker {with_census:.3}, without a census {without:.3}");
    TickWithCensus {
        with_census,
        without,
    }
}

fn set_census_naptime(cluster: &Cluster, naptime: &str) {
    let line = format!("count_relations.census_naptime = '{naptime}'");
    cluster.configure(&[&line]);
    cluster.reload();
    sleep(Duration::from_secs(1));
}
