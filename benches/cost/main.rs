//! What counting costs, compared with two workers written in C that run in the same server at
//! the same time: `empty_worker`, which only wakes, writes a line and sleeps again, and
//! `plain_worker`, which runs the query at every tick.
//! `make bench` runs this, and writes the results to benches/RESULTS.md. `BENCH_ONLY` runs a
//! part of it, `costs`, `scans`, `census`, `view`, `databases` or `times`, and only prints the
//! results.

mod census;
#[allow(dead_code, unused_imports)] // The stories need more of it.
#[path = "../../tests/cluster/mod.rs"]
mod cluster;
mod databases;
mod processes;
mod report;
mod scan;
mod view;

use cluster::{Cluster, FIRST_CLONE, Line, clone_relations, eventually, is_gone, send};
use nix::sys::signal::Signal;
use postgres::Client;
use report::{Cost, Report, Times};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

/// Of all three workers.
const NAPTIME: Duration = Duration::from_millis(100);

/// The first is about what a new database has.
const CATALOG_SIZES: &[u32] = &[400, 10_000, 100_000];
const LARGE_CATALOG_SIZE: u32 = 1_000_000;

/// Of a worker that exited, ours and the others.
const RESTART_INTERVAL: Duration = Duration::from_secs(5);

/// A cost is the median over this many pairs of time windows.
const WINDOW: Duration = Duration::from_secs(2);
const PAIRS: usize = 3;
/// For the costs closest to their limits.
const PAIRS_WHEN_CLOSE: usize = 15;

fn main() {
    let parts = Parts::from_environment();
    let large = std::env::var("BENCH_LARGE").is_ok_and(|value| value == "1");
    let mut sizes = CATALOG_SIZES.to_vec();
    sizes.extend(large.then_some(LARGE_CATALOG_SIZE));

    let cluster = init(&[]);
    let mut report = Report {
        naptime: NAPTIME,
        ..Report::default()
    };
    if parts.include("times") {
        report.first_counts = measure_first_counts(&cluster);
    }
    cluster.start_server();
    (report.server, report.date) = server_version_and_date(&cluster);
    if parts.include("view") {
        set_naptime(&cluster, NAPTIME);
        report.reads.extend(view::measure_reads(&cluster, 1));
        report.tick_with_reader = Some(view::measure_ticks(&cluster));
    }
    if ["costs", "scans", "census"]
        .iter()
        .any(|part| parts.include(part))
    {
        for relations in sizes {
            grow_catalog(&cluster, relations);
            if parts.include("costs") {
                measure_costs(&cluster, relations, &mut report);
            }
            if parts.include("scans") {
                report.scans.push(scan::measure(&cluster, relations));
            }
            if parts.include("census") {
                report.censuses.push(census::measure(&cluster, relations));
            }
        }
    }
    if parts.include("costs") {
        report.in_transaction = Some(measure_in_transaction(&cluster));
    }
    drop(cluster);
    if parts.include("costs") {
        let cluster = init(&[]);
        cluster.start_server();
        report.idle_at_default = Some(measure_idle_at_default(&cluster));
        measure_bloated(&cluster, &mut report);
    }
    if parts.include("databases") || parts.include("view") {
        let cluster = databases::start();
        for count in databases::COUNTS {
            databases::create(&cluster, count);
            if parts.include("databases") {
                report.databases.push(databases::measure(&cluster, count));
            }
            if parts.include("view") {
                report.reads.extend(view::measure_reads(&cluster, count));
            }
        }
        if parts.include("databases") {
            report.visits = Some(databases::measure_visits(&cluster));
        }
    }
    if parts.include("times") {
        report.departures = measure_departures();
    }
    report.publish(parts.is_all());
}

/// What to run: all, or the part that `BENCH_ONLY` names.
struct Parts(Option<String>);

impl Parts {
    fn from_environment() -> Parts {
        let only = std::env::var("BENCH_ONLY").ok();
        if let Some(only) = &only {
            let known = ["costs", "scans", "census", "view", "databases", "times"];
            assert!(
                known.contains(&only.as_str()),
                "BENCH_ONLY is one of {known:?}"
            );
        }
        Parts(only)
    }

    fn include(&self, part: &str) -> bool {
        self.0.as_ref().is_none_or(|only| only == part)
    }

    fn is_all(&self) -> bool {
        self.0.is_none()
    }
}

fn say(what: &str) {
    eprintln!("--- {what}");
}

// --- The server and its workers ---

const OURS: &str = "count relations";
const EMPTY: &str = "empty_worker";
const PLAIN: &str = "plain_worker";

/// A server, not started, with all three libraries from the directory that
/// scripts/bench.sh has built them into.
fn init(configuration: &[&str]) -> Cluster {
    let libraries = std::env::var("BENCH_LIBRARIES").expect("scripts/bench.sh runs this");
    let cluster = Cluster::init_without_library(&[
        &format!("dynamic_library_path = '{libraries}:$libdir'"),
        "shared_preload_libraries = 'count_relations, empty_worker, plain_worker'",
        "shared_buffers = 1GB",
        "max_wal_size = 4GB",
        "max_worker_processes = 60",
    ]);
    cluster.configure(configuration);
    cluster.expect("terminating background worker");
    cluster
}

fn server_version_and_date(cluster: &Cluster) -> (String, String) {
    let row = cluster
        .connect("postgres")
        .query_one(
            "SELECT current_setting('server_version'), current_date::text",
            &[],
        )
        .unwrap();
    (row.get(0), row.get(1))
}

/// The pids of the workers of a type, as soon as there are as many.
fn workers(cluster: &Cluster, backend_type: &str, count: usize) -> Vec<i32> {
    let mut client = cluster.connect("postgres");
    let query = "SELECT pid FROM pg_stat_activity WHERE backend_type = $1";
    eventually("the workers", || {
        let rows = client.query(query, &[&backend_type]).unwrap();
        (rows.len() == count).then(|| rows.iter().map(|row| row.get(0)).collect())
    })
}

/// The pids that [`per_tick`] asks for: of our worker, empty_worker and plain_worker.
fn one_of_each(cluster: &Cluster) -> [i32; 3] {
    [OURS, EMPTY, PLAIN].map(|name| workers(cluster, name, 1)[0])
}

/// Ends the workers and waits until the postmaster, or the launcher, has started
/// `ours` and plain_worker and empty_worker again.
///
/// The first process that connects to a database after the server has started builds the
/// descriptors of the catalogs' catalogs and writes them to a file for all others
/// (`load_relcache_init_file()` in utils/cache/relcache.c), which takes some 170 kB more than
/// reading them. If workers start together, it may be any of them; if they are restarted, it is
/// none.
fn restart_workers(cluster: &Cluster, ours: usize) {
    let kinds = [(OURS, ours), (EMPTY, 1), (PLAIN, 1)];
    let former: Vec<i32> = kinds
        .iter()
        .flat_map(|(name, count)| workers(cluster, name, *count))
        .collect();
    for pid in &former {
        send(*pid, Signal::SIGTERM);
    }
    eventually("the workers to leave", || {
        former.iter().all(|pid| is_gone(*pid)).then_some(())
    });
    sleep(RESTART_INTERVAL);
    for (name, count) in kinds {
        workers(cluster, name, count);
    }
}

/// All three workers begin the line of a tick with the same word.
fn is_tick_of(pid: i32, line: &Line) -> bool {
    line.pid == pid && line.message.starts_with("Currently")
}

fn set_naptime(cluster: &Cluster, naptime: Duration) {
    for library in ["count_relations", "empty_worker", "plain_worker"] {
        cluster.configure(&[&format!("{library}.naptime = {}", naptime.as_millis())]);
    }
    cluster.reload();
}

/// Gives the catalog as many rows as in a database with this many relations.
fn grow_catalog(cluster: &Cluster, relations: u32) {
    say(&format!("Growing the catalog to {relations} relations"));
    set_naptime(cluster, Duration::from_secs(3_600));
    let mut client = cluster.connect("postgres");
    let present: i64 = client
        .query_one("SELECT count(*) FROM pg_class", &[])
        .unwrap()
        .get(0);
    let clones = FIRST_CLONE + present as u32..FIRST_CLONE + relations;
    clone_relations(&mut client, clones);
    client.batch_execute("VACUUM ANALYZE pg_class").unwrap();
    client.batch_execute("CHECKPOINT").unwrap();
    set_naptime(cluster, NAPTIME);
}

/// Leaves this many dead rows in the catalog, which cannot be removed while the returned
/// session lives: clones that came and went after its snapshot.
fn bloat_catalog(cluster: &Cluster, dead_rows: u32) -> Client {
    const AT_A_TIME: u32 = 1_000;
    say(&format!("Leaving {dead_rows} dead rows in the catalog"));
    set_naptime(cluster, Duration::from_secs(3_600));
    let mut old = cluster.connect("postgres");
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        .unwrap();
    let mut client = cluster.connect("postgres");
    for first in (FIRST_CLONE..FIRST_CLONE + dead_rows).step_by(AT_A_TIME as usize) {
        clone_relations(&mut client, first..first + AT_A_TIME);
        let delete = format!("DELETE FROM pg_class WHERE oid >= {first}");
        client.batch_execute(&delete).unwrap();
    }
    client.batch_execute("CHECKPOINT").unwrap();
    set_naptime(cluster, NAPTIME);
    old
}

// --- What a tick costs ---

#[derive(Clone, Copy, PartialEq)]
enum Load {
    Idle,
    OneDdlASecond,
    /// Corresponds to `OneDdlASecond` at the default naptime of a second.
    OneDdlATick,
    TemporaryTables,
}

impl Load {
    fn name(self) -> &'static str {
        match self {
            Load::Idle => "idle",
            Load::OneDdlASecond => "one DDL a second",
            Load::OneDdlATick => "one DDL a tick",
            Load::TemporaryTables => "100 temporary tables a tick",
        }
    }

    fn period(self) -> Option<Duration> {
        match self {
            Load::Idle => None,
            Load::OneDdlASecond => Some(Duration::from_secs(1)),
            Load::OneDdlATick | Load::TemporaryTables => Some(NAPTIME),
        }
    }

    /// The statements to run in turn, one per period.
    fn statements(self) -> [String; 2] {
        match self {
            Load::TemporaryTables => {
                let renewed = |n| format!("CREATE TEMPORARY TABLE load{n} (); DROP TABLE load{n};");
                let statements: String = (1..=100).map(renewed).collect();
                [statements.clone(), statements]
            }
            _ => ["CREATE TABLE load ()".into(), "DROP TABLE load".into()],
        }
    }
}

fn measure_costs(cluster: &Cluster, relations: u32, report: &mut Report) {
    restart_workers(cluster, 1);
    for (load, skip_unchanged) in [
        (Load::Idle, true),
        (Load::OneDdlASecond, true),
        (Load::OneDdlATick, true),
        (Load::TemporaryTables, true),
        (Load::Idle, false),
        (Load::OneDdlASecond, false),
    ] {
        let cost = measure_cost(cluster, relations, load, skip_unchanged);
        report.costs.push(cost);
    }
}

/// The same in a catalog with few relations and many dead rows.
fn measure_bloated(cluster: &Cluster, report: &mut Report) {
    const DEAD_ROWS: u32 = 500_000;
    let _old = bloat_catalog(cluster, DEAD_ROWS);
    restart_workers(cluster, 1);
    for (load, skip_unchanged) in [
        (Load::Idle, true),
        (Load::OneDdlATick, true),
        (Load::Idle, false),
    ] {
        let mut cost = measure_cost(cluster, CATALOG_SIZES[0], load, skip_unchanged);
        cost.dead_rows = DEAD_ROWS;
        report.costs.push(cost);
    }
}

/// What an idle tick at the default naptime costs, as a ratio to one of empty_worker's.
fn measure_idle_at_default(cluster: &Cluster) -> f64 {
    const DEFAULT: Duration = Duration::from_secs(1);
    const WINDOW: Duration = Duration::from_secs(15);
    say("Idle at the default naptime");
    set_naptime(cluster, DEFAULT);
    let pids = one_of_each(cluster);
    let ratios = (0..PAIRS).map(|_| {
        let [ours, empty, _] = per_tick(cluster, pids, DEFAULT, WINDOW);
        eprintln!("    × empty_worker {:.3}", ours / empty);
        ours / empty
    });
    let ratio = median(ratios.collect());
    set_naptime(cluster, NAPTIME);
    ratio
}

fn measure_cost(cluster: &Cluster, relations: u32, load: Load, skip_unchanged: bool) -> Cost {
    let skip = if skip_unchanged { "on" } else { "off" };
    say(&format!(
        "{relations} relations, {}, skip_unchanged {skip}",
        load.name()
    ));
    cluster.configure(&[&format!("count_relations.skip_unchanged = {skip}")]);
    cluster.reload();
    let pids = one_of_each(cluster);
    let pairs = match load {
        Load::Idle | Load::OneDdlATick if skip_unchanged => PAIRS_WHEN_CLOSE,
        _ => PAIRS,
    };
    let (mut to_empty, mut to_plain) = (Vec::new(), Vec::new());
    with_load(cluster, load, || {
        sleep(Duration::from_secs(1));
        for _ in 0..pairs {
            let [ours, empty, plain] = per_tick(cluster, pids, NAPTIME, WINDOW);
            eprintln!(
                "    × empty_worker {:.3}, × plain_worker {:.4}",
                ours / empty,
                ours / plain
            );
            to_empty.push(ours / empty);
            to_plain.push(ours / plain);
        }
    });
    let [ours, _, plain] = pids.map(|pid| cluster::Usage::of(pid).anonymous as f64);
    Cost {
        relations,
        dead_rows: 0,
        load,
        skip_unchanged,
        to_empty: median(to_empty),
        to_plain: median(to_plain),
        memory_to_plain: ours / plain,
    }
}

/// What a tick of empty_worker with a transaction around it costs, as a ratio to one
/// without.
fn measure_in_transaction(cluster: &Cluster) -> f64 {
    say("A transaction");
    let pids = one_of_each(cluster);
    let ratios = (0..PAIRS).map(|_| {
        let [without, with] = ["off", "on"].map(|value| {
            cluster.configure(&[&format!("empty_worker.in_transaction = {value}")]);
            cluster.reload();
            let [_, empty, _] = per_tick(cluster, pids, NAPTIME, WINDOW);
            empty
        });
        with / without
    });
    median(ratios.collect())
}

/// What a tick of each of the workers costs, in seconds: of our worker, empty_worker and
/// plain_worker.
///
/// In a pair of windows, half of the time is in one order and half in the other. A worker finds
/// in the processor's caches the code that it shares with the previous worker, and those that
/// come after plain_worker find little.
fn per_tick(cluster: &Cluster, workers: [i32; 3], naptime: Duration, window: Duration) -> [f64; 3] {
    let [ours, empty, plain] = workers;
    let mut costs = [0.0; 3];
    for others in [[empty, plain], [plain, empty]] {
        stagger(ours, others, naptime);
        let before = Usage::of(cluster, workers);
        sleep(window);
        let after = Usage::of(cluster, workers);
        for (sum, cost) in costs.iter_mut().zip(after.per_tick_since(&before)) {
            *sum += cost / 2.0;
        }
    }
    costs
}

/// Spreads the ticks evenly, in this order. A worker that wakes alone finds the processor's
/// caches cold, as it would in a server of its own; of those that wake together, only the first
/// does.
fn stagger(ours: i32, others: [i32; 2], naptime: Duration) {
    let before = processes::cpu_time(ours);
    eventually("a tick", || {
        (processes::cpu_time(ours) > before).then_some(())
    });
    send(ours, Signal::SIGHUP); // Changes nothing, but takes the same memory.
    for other in others {
        sleep(naptime / 3);
        // Wakes it, and its next naptime starts then.
        send(other, Signal::SIGHUP);
    }
    sleep(naptime / 6);
}

/// What our worker, empty_worker and plain_worker have used so far.
struct Usage {
    cpu: [Duration; 3],
    ticks: [usize; 3],
}

impl Usage {
    fn of(cluster: &Cluster, pids: [i32; 3]) -> Usage {
        let mut cpu = pids.map(processes::cpu_time);
        // plain_worker's parallel helpers are children of the postmaster, and no others end
        // meanwhile.
        cpu[2] += processes::cpu_time_of_ended_children(cluster.postmaster());
        let lines = cluster.lines();
        let ticks = pids.map(|pid| lines.iter().filter(|line| is_tick_of(pid, line)).count());
        Usage { cpu, ticks }
    }

    fn per_tick_since(&self, before: &Usage) -> [f64; 3] {
        [0, 1, 2].map(|i| {
            let cpu = self.cpu[i] - before.cpu[i];
            cpu.as_secs_f64() / (self.ticks[i] - before.ticks[i]) as f64
        })
    }
}

/// Runs `measure` while a session creates and drops tables.
fn with_load(cluster: &Cluster, load: Load, measure: impl FnOnce()) {
    let Some(period) = load.period() else {
        return measure();
    };
    let mut client = cluster.connect("postgres");
    let statements = load.statements();
    let mut due = Instant::now();
    let create_and_drop = || {
        for ddl in &statements {
            client.batch_execute(ddl).unwrap();
            due += period;
            sleep(due.saturating_duration_since(Instant::now()));
        }
    };
    beside(create_and_drop, measure);
}

/// Runs `measure` and, until it is done, `step` again and again.
fn beside<R>(mut step: impl FnMut() + Send, measure: impl FnOnce() -> R) -> R {
    let done = AtomicBool::new(false);
    scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                step();
            }
        });
        let result = measure();
        done.store(true, Ordering::Relaxed);
        result
    })
}

// --- Coming and going ---

/// From when the server says that it is ready to the first count of our worker, and of
/// plain_worker, in a new database.
fn measure_first_counts(cluster: &Cluster) -> [Times; 2] {
    const STARTS: usize = 20;
    say("First counts");
    let mut times = [Times::default(), Times::default()];
    for start in 0..STARTS {
        // They start in the order of registration or the reverse, one by one.
        let libraries = [
            "count_relations, plain_worker",
            "plain_worker, count_relations",
        ];
        cluster.configure(&[&format!(
            "shared_preload_libraries = 'empty_worker, {}'",
            libraries[start % 2]
        )]);
        cluster.start_server();
        let ready = cluster.lines_with("database system is ready to accept");
        let ready = ready.last().unwrap().time;
        for (times, name) in times.iter_mut().zip([OURS, PLAIN]) {
            let pid = workers(cluster, name, 1)[0];
            let first = eventually("the first count", || {
                let lines = cluster.lines();
                lines.into_iter().find(|line| is_tick_of(pid, line))
            });
            times.push(first.time - ready);
        }
        cluster.stop(Signal::SIGINT);
    }
    times
}

/// From SIGTERM until our worker, and plain_worker, has exited.
fn measure_departures() -> [Times; 2] {
    const WORKERS: usize = 20;
    const ROUNDS: usize = 5;
    say("Departures");
    let databases: Vec<String> = (1..=WORKERS).map(|n| format!("database_{n}")).collect();
    let cluster = init(&[
        &format!("count_relations.databases = '{}'", databases.join(", ")),
        &format!("plain_worker.workers = {WORKERS}"),
    ]);
    // Until the databases exist.
    cluster.expect("does not exist");
    cluster.start_server();
    for database in &databases {
        cluster.execute("postgres", &format!("CREATE DATABASE {database}"));
    }
    let mut times = [Times::default(), Times::default()];
    for _ in 0..ROUNDS {
        let [ours, plain] = [OURS, PLAIN].map(|name| workers(&cluster, name, WORKERS));
        sleep(Duration::from_millis(500));
        for (ours, plain) in ours.into_iter().zip(plain) {
            times[0].push(time_to_leave(ours));
            times[1].push(time_to_leave(plain));
        }
    }
    times
}

fn time_to_leave(pid: i32) -> f64 {
    let start = Instant::now();
    send(pid, Signal::SIGTERM);
    while !is_gone(pid) {
        sleep(Duration::from_micros(50));
    }
    start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}
