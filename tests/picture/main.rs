//! Draws `docs/storm.svg`: a real server through a storm of temporary tables and an explosion of
//! schemas, as Prometheus saw it. `make picture` runs it.

#[allow(dead_code, unused_imports)] // The stories need more of it.
#[path = "../cluster/mod.rs"]
mod cluster;
mod drawing;
#[allow(dead_code)] // as above
#[path = "../scrape.rs"]
mod scrape;

use cluster::{Background, Cluster};
use drawing::{Drawing, Line, Panel};
use postgres::Client;
use scrape::{Server, monitoring};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

/// What happens when, in seconds from the start.
const STORM: u64 = 10;
const STORM_ENDS: u64 = 40;
const TENANTS: u64 = 50;
const TENANTS_END: u64 = 75;
const SNAPSHOT_ENDS: u64 = 85;
const END: u64 = 110;

fn main() {
    let cluster = Cluster::start(&[
        "count_relations.databases = 'app, tenants'",
        "count_relations.census_naptime = '1s'",
        "autovacuum = on",
        "autovacuum_naptime = '1s'",
        "shared_buffers = 128MB",
    ]);
    cluster.expect("database \"tenants\" does not exist"); // until it does
    cluster.execute("postgres", "CREATE DATABASE tenants");
    cluster.execute("postgres", "CREATE EXTENSION count_relations");
    let queries = monitoring("postgres_exporter.yml");
    let exporter = Server::postgres_exporter(&cluster, "postgres", &queries);
    let prometheus = Server::prometheus(&format!(
        "scrape_configs:\n  - job_name: postgres\n    scrape_interval: 1s\n    \
         static_configs:\n      - targets: ['{}']\n",
        exporter.address()
    ));
    cluster::eventually("both databases to be counted", || {
        let relations = prometheus.query("pg_relation_counts_relations");
        let rows = prometheus.query("pg_relation_catalog_rows_dead{catalog=\"pg_class\"}");
        (relations.0.len() == 2 && rows.0.len() == 2).then_some(())
    });

    let begin = (Instant::now(), SystemTime::now());
    let until = |second| {
        let wait = Duration::from_secs(second).saturating_sub(begin.0.elapsed());
        sleep(wait);
    };
    let mut snapshot = cluster.connect("app");
    let hold = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1";
    snapshot.batch_execute(hold).unwrap();
    until(STORM);
    let storm: Vec<Background> = (0..3)
        .map(|_| start_storm(cluster.connect("app")))
        .collect();
    until(STORM_ENDS);
    drop(storm);
    let calm = begin.0.elapsed().as_secs_f64();
    until(TENANTS);
    let explosion = start_explosion(cluster.connect("tenants"));
    until(TENANTS_END);
    drop(explosion);
    until(SNAPSHOT_ENDS);
    snapshot.batch_execute("COMMIT").unwrap();
    until(END);

    let since = begin.1.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let series = |expression: &str| -> Vec<(f64, f64)> {
        let (start, end) = (since.as_secs_f64(), since.as_secs_f64() + END as f64);
        let (start, end) = (start.to_string(), end.to_string());
        let parameters = [
            ("query", expression),
            ("start", &start),
            ("end", &end),
            ("step", "1"),
        ];
        let result = prometheus.api("query_range", &parameters);
        let values = result[0]["values"].as_array().unwrap().iter();
        let time = |value: &serde_json::Value| value[0].as_f64().unwrap() - since.as_secs_f64();
        let number = |value: &serde_json::Value| value[1].as_str().unwrap().parse().unwrap();
        values.map(|value| (time(value), number(value))).collect()
    };
    let lines = |expression: fn(&str) -> String| {
        ["app", "tenants"].map(|database| Line {
            name: database,
            points: series(&expression(database)),
        })
    };
    let drawing = Drawing {
        seconds: END as f64,
        panels: vec![
            Panel {
                title: "Relations",
                lines: lines(|datname| {
                    format!("pg_relation_counts_relations{{datname=\"{datname}\"}}")
                }),
                notes: vec![
                    (STORM as f64, "a storm of temporary tables"),
                    (TENANTS as f64, "a schema for each tenant"),
                ],
            },
            Panel {
                title: "Dead rows in the catalogs",
                lines: lines(|datname| {
                    format!("sum(pg_relation_catalog_rows_dead{{datname=\"{datname}\"}})")
                }),
                notes: vec![
                    (calm, "the count is healthy again"),
                    (SNAPSHOT_ENDS as f64, "an old snapshot ends"),
                ],
            },
        ],
    };
    std::fs::write("docs/storm.svg", drawing.svg()).unwrap();
}

/// A session that creates temporary tables and drops them again.
fn start_storm(mut client: Client) -> Background {
    Background::start(move |done: &AtomicBool| {
        let mut random = fastrand::Rng::new();
        while !done.load(Ordering::Relaxed) {
            let tables = random.u32(20..120);
            let sql = format!(
                "DO $$ BEGIN FOR i IN 1..{tables} LOOP EXECUTE format( \
                     'CREATE TEMPORARY TABLE t%s (i serial PRIMARY KEY, t text)', i); END LOOP; END $$"
            );
            client.batch_execute(&sql).unwrap();
            sleep(Duration::from_millis(random.u64(500..2000)));
            client.batch_execute("DISCARD TEMP").unwrap();
            sleep(Duration::from_millis(random.u64(100..1000)));
        }
    })
}

/// A session that creates a schema with ten tables, again and again.
fn start_explosion(mut client: Client) -> Background {
    Background::start(move |done: &AtomicBool| {
        for tenant in 1.. {
            if done.load(Ordering::Relaxed) {
                break;
            }
            let sql = format!(
                "DO $$ BEGIN CREATE SCHEMA tenant_{tenant}; FOR i IN 1..10 LOOP EXECUTE format( \
                     'CREATE TABLE tenant_{tenant}.t%s (i serial PRIMARY KEY, t text)', i); \
                 END LOOP; END $$"
            );
            client.batch_execute(&sql).unwrap();
            sleep(Duration::from_millis(500));
        }
    })
}
