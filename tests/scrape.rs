//! Exporters and Prometheus, as Debian packages them: started on free ports, queried over HTTP,
//! killed when dropped. `scripts/tools.sh` provides them.

use crate::cluster::{Cluster, eventually};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::{NamedTempFile, TempDir};

/// A command that runs one of the programs.
pub fn tool(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap();
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools");
    let mut command = Command::new(name);
    command.env("PATH", format!("{path}:{tools}"));
    command.stdin(Stdio::null());
    command
}

/// One of the files in monitoring/.
pub fn monitoring(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("monitoring")
        .join(file)
}

/// The command line options of all programs whose addresses we choose: a free port.
const ADDRESS: &str = "web.listen-address=127.0.0.1:0";

/// A program that answers HTTP.
pub struct Server {
    process: Child,
    address: String,
    log: NamedTempFile,
    _directory: Option<TempDir>,
}

impl Server {
    fn start(mut command: Command, directory: Option<TempDir>) -> Server {
        let log = NamedTempFile::new().unwrap();
        command.stdout(log.reopen().unwrap());
        command.stderr(log.reopen().unwrap());
        let process = command.spawn().unwrap_or_else(|error| {
            panic!("{command:?}, which scripts/tools.sh provides: {error}");
        });
        let mut server = Server {
            process,
            address: String::new(),
            log,
            _directory: directory,
        };
        server.address = eventually("a program to listen", || {
            let status = server.process.try_wait().unwrap();
            assert!(status.is_none(), "{command:?} ended:\n{}", server.log());
            listening_port(server.process.id()).map(|port| format!("127.0.0.1:{port}"))
        });
        server
    }

    /// Debian's exporter for PostgreSQL with the queries of a file, connected to the database
    /// "postgres" as `role`.
    pub fn postgres_exporter(cluster: &Cluster, role: &str, queries: &Path) -> Server {
        // Old exporters read columns of pg_stat_bgwriter that PostgreSQL 17 dropped. In newer
        // ones the collector has another name.
        let bgwriter = collectors().into_iter().filter(|name| name == "bgwriter");
        Server::postgres_exporter_without(bgwriter, &[], cluster, role, queries)
    }

    /// The same, without any metrics of its own.
    pub fn postgres_exporter_of_ours_only(cluster: &Cluster, role: &str, queries: &Path) -> Server {
        let all = collectors().into_iter();
        let options = ["--disable-default-metrics"];
        Server::postgres_exporter_without(all, &options, cluster, role, queries)
    }

    fn postgres_exporter_without(
        collectors: impl Iterator<Item = String>,
        options: &[&str],
        cluster: &Cluster,
        role: &str,
        queries: &Path,
    ) -> Server {
        cluster.expect(KILLED);
        let socket = cluster.socket().display();
        let source = format!("user={role} host={socket} dbname=postgres");
        let mut command = tool(POSTGRES_EXPORTER);
        command
            .env("DATA_SOURCE_NAME", source)
            .args(collectors.map(|name| format!("--no-collector.{name}")))
            .args(options)
            .arg(format!("--extend.query-path={}", queries.display()))
            .arg(format!("--{ADDRESS}"));
        Server::start(command, None)
    }

    /// Debian's exporter for any SQL with a configuration, connected as `role`.
    pub fn sql_exporter(cluster: &Cluster, role: &str, configuration: &Path) -> Server {
        cluster.expect(KILLED);
        let mut command = tool("prometheus-sql-exporter");
        command
            .env("PGHOST", cluster.socket())
            .env("PGUSER", role)
            .arg("-config.file")
            .arg(configuration)
            .arg(format!("-{ADDRESS}"));
        Server::start(command, None)
    }

    /// Prometheus, with a configuration and a fresh database.
    pub fn prometheus(configuration: &str) -> Server {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("prometheus.yml");
        fs::write(&file, configuration).unwrap();
        let mut command = tool("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.path().join("data").display()
            ))
            .arg(format!("--{ADDRESS}"));
        let prometheus = Server::start(command, Some(directory));
        eventually("Prometheus to be ready", || {
            let response = prometheus.get("/-/ready");
            response.starts_with("HTTP/1.0 200 OK").then_some(())
        });
        prometheus
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What the program has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log.path()).unwrap()
    }

    /// The answer to a GET, status and headers included.
    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    /// All of an exporter's metrics.
    pub fn scrape(&self) -> Metrics {
        let response = self.get("/metrics");
        assert!(response.starts_with("HTTP/1.0 200 OK"), "{response}");
        let (_, body) = response.split_once("\r\n\r\n").unwrap();
        Metrics::parse(body)
    }

    /// What Prometheus answers to a request of its HTTP API.
    pub fn api(&self, path: &str, parameters: &[(&str, &str)]) -> serde_json::Value {
        let parameters: Vec<String> = parameters
            .iter()
            .map(|(name, value)| format!("{name}={}", percent_encoded(value)))
            .collect();
        let response = self.get(&format!("/api/v1/{path}?{}", parameters.join("&")));
        let (status, body) = response.split_once("\r\n\r\n").unwrap();
        let answer: serde_json::Value = serde_json::from_str(body)
            .unwrap_or_else(|error| panic!("{path} {parameters:?}: {error}: {status}"));
        assert_eq!(answer["status"], "success", "{parameters:?}: {answer}");
        answer["data"]["result"].clone()
    }

    /// The current series of an expression. Their name is empty if Prometheus drops `__name__`.
    pub fn query(&self, expression: &str) -> Metrics {
        let result = self.api("query", &[("query", expression)]);
        let series = result.as_array().unwrap().iter().map(|series| {
            let labels = series["metric"].as_object().unwrap().iter();
            let mut labels: Labels = labels
                .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
                .collect();
            let name = labels.remove("__name__").unwrap_or_default();
            let value = series["value"][1].as_str().unwrap().parse().unwrap();
            ((name, labels), value)
        });
        Metrics(series.collect())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}---", self.address, self.log());
        }
    }
}

const POSTGRES_EXPORTER: &str = "prometheus-postgres-exporter";

/// What the server may say when an exporter is killed in the middle of a query.
const KILLED: &str = "connection to client lost";

/// The parts of the exporter for PostgreSQL that can be switched off, as its help lists them:
/// `--collector.NAME`, or `--[no-]collector.NAME`.
fn collectors() -> Vec<String> {
    let help = tool(POSTGRES_EXPORTER).arg("--help").output();
    let help =
        help.unwrap_or_else(|error| panic!("{POSTGRES_EXPORTER}, of scripts/tools.sh: {error}"));
    let help = String::from_utf8([help.stdout, help.stderr].concat()).unwrap();
    let words = help.split_whitespace();
    let names = words.filter_map(|word| {
        let option = word.strip_prefix("--")?;
        let option = option.strip_prefix("[no-]").unwrap_or(option);
        option.strip_prefix("collector.")
    });
    // Not the settings of one, such as --collector.NAME.LIMIT=10.
    let names = names.filter(|name| !name.contains(['.', '=']));
    names.map(str::to_owned).collect()
}

/// The port on which a process listens at 127.0.0.1, according to proc(5).
fn listening_port(pid: u32) -> Option<u16> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let links = links.filter_map(|link| fs::read_link(link.ok()?.path()).ok());
    let sockets: Vec<String> = links
        .filter_map(|link| {
            let inode = link.to_str()?.strip_prefix("socket:[")?;
            Some(inode.strip_suffix(']')?.to_owned())
        })
        .collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let listening = *state == "0A" && sockets.iter().any(|socket| socket == inode);
        let port = address.strip_prefix("0100007F:").filter(|_| listening)?;
        u16::from_str_radix(port, 16).ok()
    })
}

fn percent_encoded(text: &str) -> String {
    let encoded = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encoded).collect()
}

pub type Labels = BTreeMap<String, String>;

/// Values by name and labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics(pub BTreeMap<(String, Labels), f64>);

impl Metrics {
    /// Lines such as `name{label="value"} 411`.
    fn parse(text: &str) -> Metrics {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Metrics(lines.map(parse_line).collect())
    }

    /// The metrics whose names begin with `prefix`, without some labels, which the exporter
    /// adds.
    pub fn with_prefix(&self, prefix: &str, without: &[&str]) -> Metrics {
        let ours = self
            .0
            .iter()
            .filter(|((name, _), _)| name.starts_with(prefix));
        let ours = ours.map(|((name, labels), value)| {
            let mut labels = labels.clone();
            labels.retain(|label, _| !without.contains(&label.as_str()));
            ((name.clone(), labels), *value)
        });
        Metrics(ours.collect())
    }

    /// The value of the only series of that name that has these labels, among others.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels)
            .unwrap_or_else(|| panic!("no {name} {labels:?} in {self:#?}"))
    }

    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |all: &Labels| {
            let mut labels = labels.iter();
            labels.all(|(label, value)| all.get(*label).is_some_and(|found| found == value))
        };
        let mut series = self.0.iter();
        let found = series.find(|((found, all), _)| found == name && has(all));
        found.map(|(_, value)| *value)
    }
}

fn parse_line(line: &str) -> ((String, Labels), f64) {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    let mut labels = Labels::new();
    while let Some(label) = rest.strip_prefix(['{', ',']).filter(|rest| *rest != "}") {
        let (label, value) = label.split_once("=\"").unwrap();
        let mut text = String::new();
        let mut characters = value.char_indices();
        loop {
            match characters.next().unwrap() {
                (end, '"') => {
                    rest = &value[end + 1..];
                    break;
                }
                (_, '\\') => match characters.next().unwrap().1 {
                    'n' => text.push('\n'),
                    other => text.push(other),
                },
                (_, other) => text.push(other),
            }
        }
        labels.insert(label.to_owned(), text);
    }
    let value = rest.trim_start_matches('}').trim();
    ((name.to_owned(), labels), value.parse().unwrap())
}
