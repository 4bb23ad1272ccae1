//! What a census costs.

use crate::cluster::{Cluster, eventually};
use crate::report::Census;
use crate::{Load, OURS, median, processes, say, view, with_load, workers};
use postgres::Client;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The worker's limits: the default, and a census for every tick.
const NAPTIMES: [&str; 2] = ["1min", "10ms"];

/// The cost of a census, as a ratio to that of counting in a session without helpers; and the
/// share of the time that censuses take with one DDL command per tick.
pub fn measure(cluster: &Cluster, relations: u32) -> Census {
    const ROUNDS: usize = 9;
    say(&format!("A census, {relations} relations"));
    let mut view = view::connect(cluster);
    let mut client = cluster.connect("postgres");
    client
        .batch_execute("SET max_parallel_workers_per_gather = 0; SET jit = off")
        .unwrap();
    let row = client.query_one("SELECT pg_backend_pid()", &[]).unwrap();
    let session: i32 = row.get(0);
    let worker = workers(cluster, OURS, 1)[0];
    let mut censuses = Vec::new();
    let ratios = (0..ROUNDS).map(|_| {
        let before = processes::cpu_time(worker);
        take(&mut view);
        let census = (processes::cpu_time(worker) - before).as_secs_f64();
        censuses.push(census);
        let before = processes::cpu_time(session);
        client
            .batch_execute("SELECT count(*) FROM pg_class")
            .unwrap();
        census / (processes::cpu_time(session) - before).as_secs_f64()
    });
    let to_count = median(ratios.collect());
    let of_a_minute = median(censuses) / 60.0;
    let most = most_of_the_time(cluster, worker);
    eprintln!("    {to_count:.2} counts, {of_a_minute:.5} of a minute, at most {most:.4}");
    Census {
        relations,
        to_count,
        of_a_minute,
        most,
    }
}

/// Requests a census and waits for it.
fn take(view: &mut Client) {
    let taken = "SELECT max(checked_at)::text FROM relation_catalogs";
    let mut latest = || -> Option<String> { view.query_one(taken, &[]).unwrap().get(0) };
    let before = latest();
    view.batch_execute("SELECT relation_counts_census('postgres')")
        .unwrap();
    let mut latest = || -> Option<String> { view.query_one(taken, &[]).unwrap().get(0) };
    eventually("a census", || (latest() != before).then_some(()));
}

/// The share of a processor that censuses take if the naptime hardly limits them: what the
/// worker uses with them, minus what it uses without.
fn most_of_the_time(cluster: &Cluster, worker: i32) -> f64 {
    const WINDOW: Duration = Duration::from_secs(20);
    let [without, with] = ["0", NAPTIMES[1]].map(|naptime| {
        set_census_naptime(cluster, naptime);
        let mut used = 0.0;
        with_load(cluster, Load::OneDdlATick, || {
            let (start, before) = (Instant::now(), processes::cpu_time(worker));
            sleep(WINDOW);
            let after = processes::cpu_time(worker);
            used = (after - before).as_secs_f64() / start.elapsed().as_secs_f64();
        });
        used
    });
    set_census_naptime(cluster, NAPTIMES[0]);
    with - without
}

fn set_census_naptime(cluster: &Cluster, naptime: &str) {
    let line = format!("count_relations.census_naptime = '{naptime}'");
    cluster.configure(&[&line]);
    cluster.reload();
    sleep(Duration::from_secs(1));
}
