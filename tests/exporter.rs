//! Prometheus sees what the view shows, through its stock exporter for PostgreSQL.

use crate::cluster::{Cluster, eventually};
use postgres::Client;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use tempfile::NamedTempFile;

/// Columns of the query in `monitoring/postgres_exporter.yml`, each a metric.
const COLUMNS: [&str; 4] = [
    "relations",
    "min_relations",
    "max_relations",
    "unchanged_seconds",
];

/// What is known of a database, in the order of `COLUMNS`.
type Values = [f64; COLUMNS.len()];

fn exporter() -> Command {
    let path = std::env::var("PATH").unwrap();
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools");
    let mut command = Command::new("prometheus-postgres-exporter");
    command.env("PATH", format!("{path}:{tools}"));
    command.stdin(Stdio::null());
    command
}

/// A running exporter, killed when dropped.
struct Exporter {
    process: Child,
    address: String,
}

impl Exporter {
    /// Starts Debian's exporter with our queries, connected to `cluster` as `role`.
    fn start(cluster: &Cluster, role: &str) -> Exporter {
        let project = env!("CARGO_MANIFEST_DIR");
        let socket = cluster.socket().display();
        let log = NamedTempFile::new().unwrap();
        let help = exporter().arg("--help").output();
        let help = help.expect("no prometheus-postgres-exporter, which scripts/tools.sh provides");
        let help = String::from_utf8([help.stdout, help.stderr].concat()).unwrap();
        let mut command = exporter();
        // Those of old read columns of pg_stat_bgwriter that PostgreSQL 17 dropped. The
        // collector of those that know better has another name.
        if help.contains("collector.bgwriter") {
            command.arg("--no-collector.bgwriter");
        }
        let process = command
            .env(
                "DATA_SOURCE_NAME",
                format!("user={role} host={socket} dbname=postgres"),
            )
            .arg(format!(
                "--extend.query-path={project}/monitoring/postgres_exporter.yml"
            ))
            .arg("--web.listen-address=127.0.0.1:0")
            .stderr(log.reopen().unwrap())
            .spawn()
            .unwrap();
        let mut exporter = Exporter {
            process,
            address: String::new(),
        };
        exporter.address = eventually("the exporter to listen", || {
            let log = std::fs::read_to_string(log.path()).unwrap();
            let status = exporter.process.try_wait().unwrap();
            assert!(status.is_none(), "the exporter ended:\n{log}");
            // Of a line of key=value pairs, the last.
            let line = log.lines().find(|line| line.contains("Listening on"))?;
            Some(line.split_once("address=")?.1.trim().to_owned())
        });
        exporter
    }

    fn scrape(&self) -> Metrics {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.0 200 OK"), "{response}");
        Metrics(response)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What an exporter answered: lines such as `name{label="value"} 411`.
struct Metrics(String);

impl Metrics {
    fn value(&self, series: &str) -> f64 {
        let line = self.0.lines().find(|line| line.starts_with(series));
        let line = line.unwrap_or_else(|| panic!("no {series} in {}", self.0));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    fn of_database(&self, name: &str) -> Values {
        let series = |column| format!("pg_relation_counts_{column}{{datname=\"{name}\",");
        COLUMNS.map(|column| self.value(&series(column)))
    }
}

/// The view's row of `database`, as soon as it has been counted.
fn view(client: &mut Client, database: &str) -> Option<Values> {
    let sql = "SELECT relations::float8, min_relations::float8, max_relations::float8, \
                      extract(epoch FROM clock_timestamp() - changed_at)::float8 \
               FROM relation_counts WHERE datname = $1";
    let row = client.query_opt(sql, &[&database]).unwrap()?;
    Some([0, 1, 2, 3].map(|i| row.get(i)))
}

#[test]
fn the_prometheus_exporter_shows_a_member_of_pg_monitor_what_the_view_shows() {
    let cluster = Cluster::start(&[
        "count_relations.naptime = '50ms'",
        "count_relations.databases = 'postgres, app'",
    ]);
    cluster.execute("postgres", "CREATE EXTENSION count_relations");
    cluster.execute("postgres", "CREATE ROLE watcher LOGIN IN ROLE pg_monitor");
    let mut client = cluster.connect_as("watcher", "postgres");
    let mut await_relations = |database: &str, relations: f64| {
        eventually(&format!("{relations} relations in {database}"), || {
            (view(&mut client, database)?[0] == relations).then_some(())
        });
    };

    // Make the smallest, the largest and the current number three different ones.
    let [at_first, with_view] = ["app", "postgres"].map(|database| {
        let sql = "SELECT count(*)::float8 FROM pg_class";
        let row = cluster.connect(database).query_one(sql, &[]).unwrap();
        row.get::<_, f64>(0)
    });
    await_relations("app", at_first);
    for table in ["a", "b", "c"] {
        cluster.execute("app", &format!("CREATE TABLE {table} ()"));
    }
    await_relations("app", at_first + 3.0);
    cluster.execute("app", "DROP TABLE b, c");
    await_relations("app", at_first + 1.0);
    await_relations("postgres", with_view);

    let exporter = Exporter::start(&cluster, "watcher");
    for database in ["postgres", "app"] {
        let before = view(&mut client, database).unwrap();
        let metrics = exporter.scrape();
        let after = view(&mut client, database).unwrap();

        assert_eq!(metrics.value("pg_up"), 1.0);
        assert_eq!(metrics.value("pg_exporter_last_scrape_error"), 0.0);
        let exported = metrics.of_database(database);
        assert_eq!(exported[..3], before[..3], "{database}");
        assert_eq!(exported[..3], after[..3], "{database}");
        assert!(
            (before[3]..=after[3]).contains(&exported[3]),
            "{database} unchanged for {} s, not between {} and {} s",
            exported[3],
            before[3],
            after[3]
        );
    }
    let expected = [at_first + 1.0, at_first, at_first + 3.0];
    assert_eq!(exporter.scrape().of_database("app")[..3], expected);
}
