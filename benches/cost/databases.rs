//! What it costs to count every database of a server with many.

use crate::cluster::{self, Cluster, eventually};
use crate::report::{Databases, Times, Visits};
use crate::{EMPTY, PLAIN, init, is_tick_of, median, processes, say, workers};
use postgres::Client;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How many databases there are, one after the other.
pub const COUNTS: [usize; 2] = [100, 1_000];

const LAUNCHER: &str = "count relations launcher";
const OURS: &str = "count relations";

/// The default, so that a second has a tick.
const NAPTIME: Duration = Duration::from_secs(1);

/// A server on which all databases are counted, with the usual number of slots, plus those of
/// the workers to compare with.
pub fn start() -> Cluster {
    let cluster = init(&[
        "count_relations.databases = '*'",
        "count_relations.log_counts = none",
        "shared_buffers = 128MB",
        "max_worker_processes = 10",
        "max_connections = 100",
    ]);
    cluster.start_server();
    cluster
}

/// Creates databases until there are this many, and waits until all have been counted and no
/// worker is there any more.
pub fn create(cluster: &Cluster, count: usize) {
    say(&format!("Creating databases, until there are {count}"));
    let mut client = cluster.connect("postgres");
    let sql = "SELECT count(*)::int FROM pg_database WHERE NOT datistemplate";
    let present: i32 = client.query_one(sql, &[]).unwrap().get(0);
    for n in present as usize + 1..=count {
        let database =
            format!("CREATE DATABASE database_{n} TEMPLATE template0 STRATEGY file_copy");
        client.batch_execute(&database).unwrap();
    }
    client.batch_execute("CHECKPOINT").unwrap();
    let mut view = view(cluster);
    let sql = "SELECT count(*)::int FROM relation_counts WHERE pid IS NULL";
    // At a tenth of a processor.
    let deadline = Instant::now() + Duration::from_secs(1_800);
    loop {
        let counted: i32 = view.query_one(sql, &[]).unwrap().get(0);
        if counted as usize == count {
            break;
        }
        assert!(Instant::now() < deadline, "{counted} are counted");
        sleep(NAPTIME);
    }
}

/// A session that has the view; see [`crate::view`].
fn view(cluster: &Cluster) -> Client {
    crate::view::connect(cluster)
}

pub fn measure(cluster: &Cluster, count: usize) -> Databases {
    // One, as empty_worker's ticks are few.
    const WINDOW: Duration = Duration::from_secs(60);
    say(&format!("{count} databases, idle"));
    let [empty, plain, launcher] =
        [EMPTY, PLAIN, LAUNCHER].map(|name| workers(cluster, name, 1)[0]);
    workers(cluster, OURS, 0);
    // After the statistics that are sent a second later.
    sleep(3 * NAPTIME);

    let ticks_of_empty = || {
        let lines = cluster.lines();
        lines.iter().filter(|line| is_tick_of(empty, line)).count()
    };
    let used = || [launcher, empty].map(processes::cpu_time);
    let (start, ticks_before, before) = (Instant::now(), ticks_of_empty(), used());
    sleep(WINDOW);
    let after = used();
    let seconds = start.elapsed().as_secs_f64();
    let ticks = (ticks_of_empty() - ticks_before) as f64;
    let [ours, of_empty] = [0, 1].map(|i| (after[i] - before[i]).as_secs_f64());
    workers(cluster, OURS, 0); // So that all their time is included.
    let cpu = ours / seconds / (of_empty / ticks);
    eprintln!("    × empty_worker {cpu:.3}");
    let [ours, plain] = [launcher, plain].map(|pid| cluster::Usage::of(pid).anonymous as f64);
    Databases {
        count,
        cpu,
        memory_to_plain: ours / plain,
    }
}

/// Must be called when all databases are idle.
pub fn measure_visits(cluster: &Cluster) -> Visits {
    Visits {
        to_session: measure_visit(cluster),
        changes: measure_changes(cluster),
        drop: measure_drop(cluster),
    }
}

/// The databases from a number on, as [`create`] names them.
fn databases(first: usize, count: usize) -> Vec<String> {
    (first..first + count)
        .map(|n| format!("database_{n}"))
        .collect()
}

/// CPU time of a visit, as a ratio to that of a session that connects, counts and leaves. Both
/// are measured on ended children of the postmaster.
fn measure_visit(cluster: &Cluster) -> f64 {
    const VISITS: usize = 50;
    say("Visits");
    let names = databases(10, VISITS);
    let used = || processes::cpu_time_of_ended_children(cluster.postmaster());
    // They stay during the measurement, so that they are not ended children.
    let mut sessions: Vec<Client> = names.iter().map(|name| cluster.connect(name)).collect();
    let mut view = view(cluster);
    let sql = "SELECT sum(recounts)::bigint FROM relation_counts";
    let recounts = |view: &mut Client| -> i64 { view.query_one(sql, &[]).unwrap().get(0) };
    let (before, recounted) = (used(), recounts(&mut view));
    for session in &mut sessions {
        session.batch_execute("CREATE TABLE visited ()").unwrap();
    }
    let mut watcher = cluster.connect("postgres");
    eventually("the visits", || {
        let present = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'count relations'";
        let nobody = watcher.query(present, &[]).unwrap().is_empty();
        (nobody && recounts(&mut view) - recounted >= VISITS as i64).then_some(())
    });
    let visits = (recounts(&mut view) - recounted) as f64;
    let visit = (used() - before).as_secs_f64() / visits;
    drop(sessions);
    sleep(NAPTIME); // Until they have ended.

    let before = used();
    for name in &names {
        let mut client = cluster.connect(name);
        client
            .query_one("SELECT count(*) FROM pg_class", &[])
            .unwrap();
    }
    sleep(NAPTIME);
    let session = (used() - before).as_secs_f64() / VISITS as f64;
    eprintln!(
        "    {:.1} ms, a session {:.1} ms",
        visit * 1e3,
        session * 1e3
    );
    visit / session
}

/// From a committed change in an idle database to its row.
fn measure_changes(cluster: &Cluster) -> Times {
    say("Changes");
    let mut view = view(cluster);
    let mut times = Times::default();
    let sql = "SELECT relations FROM relation_counts WHERE datname = $1";
    for name in &databases(100, 100) {
        let mut client = cluster.connect(name);
        let mut relations = || -> i64 { view.query_one(sql, &[&name]).unwrap().get(0) };
        let before = relations();
        // The previous change was seen just after a tick.
        sleep(NAPTIME.mul_f64(fastrand::f64()));
        client.batch_execute("CREATE TABLE changed ()").unwrap();
        let start = Instant::now();
        eventually("the change", || (relations() != before).then_some(()));
        times.push(start.elapsed().as_secs_f64());
    }
    times
}

/// How long `DROP DATABASE` of an idle database takes, as a ratio to the same without us.
fn measure_drop(cluster: &Cluster) -> f64 {
    const DROPS: usize = 20;
    say("Drops");
    let with = time_to_drop(cluster, &databases(500, DROPS));
    cluster.stop(nix::sys::signal::Signal::SIGINT);
    cluster.configure(&["count_relations.databases = ''"]);
    cluster.start_server();
    let without = time_to_drop(cluster, &databases(500 + DROPS, DROPS));
    with / without
}

fn time_to_drop(cluster: &Cluster, names: &[String]) -> f64 {
    let mut client = cluster.connect("postgres");
    let times = names.iter().map(|name| {
        let start = Instant::now();
        client
            .batch_execute(&format!("DROP DATABASE {name}"))
            .unwrap();
        start.elapsed().as_secs_f64()
    });
    median(times.collect())
}
