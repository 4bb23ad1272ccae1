//! The dashboard, as far as it can be tested without Grafana: every panel's expressions, sent
//! to a real Prometheus that watched a real server and its standby through a storm.

use crate::cluster::{Cluster, FAST, eventually};
use crate::scrape::{Server, monitoring};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;

const STORM: &str = "
    CREATE TABLE measurements (day date) PARTITION BY RANGE (day);
    CREATE TABLE measurements_2019 PARTITION OF measurements
        FOR VALUES FROM ('2019-01-01') TO ('2020-01-01');
    DO $$ BEGIN FOR i IN 1..20 LOOP EXECUTE format(
        'CREATE SCHEMA tenant_%s CREATE TABLE t (i serial PRIMARY KEY, t text)', i);
    END LOOP; END $$";

fn dashboard() -> Value {
    let text = fs::read_to_string(monitoring("grafana-dashboard.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// All panels but the headings between them.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels.filter(|panel| panel["type"] != "row").collect()
}

/// The text between `{{` and `}}`.
fn labels_of(legend: &str) -> Vec<&str> {
    let parts = legend.split("{{").skip(1);
    parts
        .map(|part| part.split("}}").next().unwrap().trim())
        .collect()
}

#[test]
fn every_panel_shows_series_with_the_labels_of_its_legend() {
    let cluster = Cluster::start(&[
        "count_relations.databases = 'postgres, app'",
        FAST,
        "count_relations.census_naptime = '100ms'",
    ]);
    cluster.execute("postgres", "CREATE EXTENSION count_relations");
    let queries = monitoring("postgres_exporter.yml");
    let standby = cluster.start_standby(&[]);
    let [primarys, standbys] =
        [&cluster, &standby].map(|server| Server::postgres_exporter(server, "postgres", &queries));
    let prometheus = Server::prometheus(&format!(
        "scrape_configs:\n  - job_name: postgres\n    scrape_interval: 1s\n    \
         static_configs:\n      - targets: ['{}', '{}']\n",
        primarys.address(),
        standbys.address()
    ));
    cluster.execute("app", STORM);
    let mut session = cluster.connect("app");
    let temporary = "CREATE TEMPORARY TABLE mine (i serial PRIMARY KEY, t text)";
    session.batch_execute(temporary).unwrap();

    let dashboard = dashboard();
    let mut missing = Vec::new();
    for panel in panels(&dashboard) {
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            // As Grafana fills them in.
            let expression = expression
                .replace("$server", ".*")
                .replace("$database", "app")
                .replace("$__rate_interval", "10s");
            assert!(!expression.contains('$'), "{expression}");
            let legend = target["legendFormat"].as_str().unwrap();
            let labels = labels_of(legend);
            assert!(labels.contains(&"instance"), "{legend}");
            // A standby has no statistics.
            let servers = if expression.contains("_rows_") { 1 } else { 2 };
            let series = eventually("series of each server", || {
                session
                    .batch_execute("CREATE TEMPORARY TABLE x (); DROP TABLE x")
                    .unwrap();
                let series = prometheus.query(&expression).0;
                let instances = series.keys().map(|(_, labels)| labels.get("instance"));
                let instances: BTreeSet<_> = instances.collect();
                assert!(!instances.contains(&None), "{expression} mixes servers");
                (instances.len() == servers).then_some(series)
            });
            for (_, found) in series.keys() {
                let lacks = labels.iter().any(|label| !found.contains_key(*label));
                if lacks {
                    missing.push(format!("{legend:?} of {expression}: {found:?}"));
                }
            }
            let distinct: BTreeSet<Vec<&String>> = series
                .keys()
                .map(|(_, found)| {
                    labels
                        .iter()
                        .filter_map(|label| found.get(*label))
                        .collect()
                })
                .collect();
            assert_eq!(
                distinct.len(),
                series.len(),
                "{legend:?} of {expression}: {series:?}"
            );
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    // What the panels must show of the storm.
    let by_persistence = "sum by (persistence) (pg_relation_counts_by_kind_relations\
                          {persistence=\"temporary\"})";
    eventually("the temporary table", || {
        let series = prometheus.query(by_persistence);
        series
            .find("", &[("persistence", "temporary")])
            .filter(|relations| *relations >= 5.0)
    });
}

#[test]
fn it_is_nobodys_in_particular() {
    let dashboard = dashboard();
    for identifier in ["id", "uid", "gnetId"] {
        assert!(dashboard.get(identifier).is_none(), "{identifier}");
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<&str> = variables
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["datasource", "server", "database"]);
    assert!(
        variables
            .iter()
            .all(|variable| variable["current"] == serde_json::json!({}))
    );
    let panels = panels(&dashboard);
    assert!(panels.len() > 10);
    let sources = panels.iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().unwrap().iter();
        targets
            .map(|target| &target["datasource"])
            .chain([&panel["datasource"]])
    });
    for source in sources {
        assert_eq!(source["uid"], "${datasource}");
    }
    // No two panels have the same number or overlap.
    let all = dashboard["panels"].as_array().unwrap();
    let place =
        |panel: &Value| ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_i64().unwrap());
    for (i, panel) in all.iter().enumerate() {
        for other in &all[i + 1..] {
            assert_ne!(panel["id"], other["id"]);
            let ([x, y, w, h], [x2, y2, w2, h2]) = (place(panel), place(other));
            assert!(
                x + w <= x2 || x2 + w2 <= x || y + h <= y2 || y2 + h2 <= y,
                "{panel} {other}"
            );
        }
    }
}
