//! Throwaway PostgreSQL servers to tell stories on: real ones, each with its own directory and
//! Unix socket, stopped and removed when dropped, even if a test panics.
//!
//! The server is the one that `PG_CONFIG` belongs to, with count_relations
//! installed. PostgreSQL refuses to run as root, so root runs it as `postgres`.

mod background;
mod clones;
mod library;
mod log;
mod stopped;
mod throttle;
mod usage;

pub use background::Background;
pub use clones::{FIRST_CLONE, clone_relations};
pub use library::{has_library, install_first_worker};
use log::Log;
pub use log::{Level, Line};
pub use stopped::{Stopped, is_napping};
pub use throttle::Throttle;
pub use usage::{Usage, processor_time, processor_times};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown};
use postgres::{Client, NoTls};
use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Makes workers tick often enough for a story, and seldom enough for stories beside it.
pub const FAST: &str = "count_relations.naptime = '50ms'";

/// Longer than anything that may happen takes. PostgreSQL 15's postmaster may sleep for a minute
/// when a worker exits just before the postmaster calls select(); visits to hundreds of databases,
/// and what follows a census that the machine has disturbed, take minutes on a server with
/// assertions.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// Polls `probe` until it has an answer; panics after a time that is chosen far too long.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    let deadline = begin + PATIENCE;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        // Less often after a while: there are many stories at a time.
        let in_a_while = begin.elapsed() > Duration::from_secs(1);
        sleep(Duration::from_millis(if in_a_while { 30 } else { 10 }));
    }
}

/// Waits for this many ticks of the database that begin after this call, as the view shows them
/// to `client`.
pub fn await_ticks(client: &mut Client, database: &str, ticks: i64) {
    let sql = "SELECT ticks FROM relation_counts WHERE datname = $1";
    let mut ticked =
        || -> Option<i64> { Some(client.query_opt(sql, &[&database]).unwrap()?.get(0)) };
    let before = eventually("a tick", &mut ticked);
    // The next tick may have begun before.
    eventually("ticks", || (ticked()? > before + ticks).then_some(()));
}

/// Whether the process has exited (or is only a zombie that has not been waited for).
pub fn is_gone(pid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}

/// Sends `signal` to a process of a cluster.
pub fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("could not send a signal");
}

/// Sends SIGTERM to a process of a cluster, and waits until it has ended.
pub fn terminate(pid: i32) {
    send(pid, Signal::SIGTERM);
    eventually("the process to end", || is_gone(pid).then_some(()));
}

/// Whether the server checks itself: it was built with assertions.
pub fn has_assertions(client: &mut Client) -> bool {
    let row = client.query_one("SHOW debug_assertions", &[]).unwrap();
    row.get::<_, &str>(0) == "on"
}

/// The server's time, in seconds since the epoch, as the log has it.
pub fn server_time(client: &mut Client) -> f64 {
    let sql = "SELECT extract(epoch FROM clock_timestamp())::float8";
    client.query_one(sql, &[]).unwrap().get(0)
}

/// The major version of the server under test.
pub fn major_version() -> u32 {
    let version = pg_config("--version");
    let digits = version.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit());
    digits[..end.unwrap_or(digits.len())].parse().unwrap()
}

/// The `pg_config` of this checkout's private installation. Cargo passes it on, from the
/// configuration that `scripts/common.sh` writes.
fn pg_config_program() -> String {
    std::env::var("PG_CONFIG").expect("PG_CONFIG is set by scripts/test.sh")
}

fn pg_config(option: &str) -> String {
    let program = pg_config_program();
    let output = Command::new(&program)
        .arg(option)
        .output()
        .unwrap_or_else(|error| panic!("could not run {program}: {error}"));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The library as it is installed.
pub fn installed_library() -> PathBuf {
    Path::new(&pg_config("--pkglibdir")).join("count_relations.so")
}

/// A command that runs one of the server's programs as the server's user.
fn server_program(name: &str) -> Command {
    server_user_command(Path::new(&pg_config("--bindir")).join(name))
}

/// A command that runs as the user who owns the servers' processes.
pub fn server_user_command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    if let Some(user) = postgres_user() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    // A panic's backtrace belongs in a developer's log, not in these.
    command
        .env_remove("RUST_BACKTRACE")
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/");
    command
}

fn postgres_user() -> Option<User> {
    nix::unistd::geteuid().is_root().then(|| {
        User::from_name("postgres")
            .expect("could not look up users")
            .expect("there is no user \"postgres\" to run servers as")
    })
}

/// Where `scripts/test.sh` cleans up after tests that are killed.
fn test_directory() -> Option<PathBuf> {
    std::env::var_os("COUNT_RELATIONS_TEST_DIRECTORY").map(PathBuf::from)
}

/// Reports that the machine cannot give a story what it needs. `scripts/test.sh` repeats this
/// at the end.
pub fn leave_out(story: &str, why: &str) {
    let line = format!("{story}: {why}\n");
    // Bypasses the test harness, which hides what passing tests print.
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    if let Some(directory) = test_directory() {
        let mut options = fs::OpenOptions::new();
        let path = directory.join("left_out");
        let mut file = options.create(true).append(true).open(path).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}

fn new_directory() -> TempDir {
    let directory = tempfile::Builder::new()
        .prefix("cr")
        // Short: a Unix socket's path ends at 107 bytes.
        .tempdir_in(test_directory().unwrap_or("/tmp".into()))
        .expect("could not create a temporary directory");
    give_to_server(directory.path());
    directory
}

fn give_to_server(path: &Path) {
    if let Some(user) = postgres_user() {
        chown(path, Some(user.uid), Some(user.gid)).unwrap();
    }
}

fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// An initialized data directory, with a database "app", from which clusters are copied,
/// because initdb is slow. Removed with the last cluster.
fn template() -> Arc<TempDir> {
    static TEMPLATE: Mutex<Weak<TempDir>> = Mutex::new(Weak::new());
    let mut shared = TEMPLATE.lock().unwrap_or_else(|error| error.into_inner());
    if let Some(template) = shared.upgrade() {
        return template;
    }
    let template = Arc::new(new_directory());
    let data = template.path().join("data");
    run(server_program("initdb")
        .args(["--auth=trust", "--username=postgres", "--encoding=UTF8"])
        .args(["--locale=C.UTF-8", "--no-sync", "--pgdata"])
        .arg(&data));
    let mut single_user = server_program("postgres");
    single_user
        .args(["--single", "-D"])
        .arg(&data)
        .arg("postgres");
    single_user.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut single_user = single_user.stderr(Stdio::null()).spawn().unwrap();
    let mut commands = single_user.stdin.take().unwrap();
    writeln!(commands, "CREATE DATABASE app").unwrap();
    drop(commands);
    assert!(single_user.wait().unwrap().success());
    *shared = Arc::downgrade(&template);
    template
}

/// A server. See the module's documentation.
pub struct Cluster {
    directory: TempDir,
    _template: Option<Arc<TempDir>>,
    postmaster: RefCell<Option<Child>>,
    environment: RefCell<Vec<(OsString, OsString)>>,
    expected: RefCell<Vec<String>>,
    read_log: RefCell<Log>,
}

impl Cluster {
    /// A started server with `shared_preload_libraries = 'count_relations'` and
    /// `configuration`, lines of postgresql.conf.
    pub fn start(configuration: &[&str]) -> Cluster {
        let cluster = Cluster::init(configuration);
        cluster.start_server();
        cluster
    }

    /// As [`Cluster::start`], but not started.
    pub fn init(configuration: &[&str]) -> Cluster {
        let cluster = Cluster::init_without_library(configuration);
        cluster.configure(&["shared_preload_libraries = 'count_relations'"]);
        cluster
    }

    /// As [`Cluster::init`], but count_relations is not preloaded.
    pub fn init_without_library(configuration: &[&str]) -> Cluster {
        let template = template();
        let mut cluster = Cluster::in_directory(new_directory());
        run(Command::new("cp")
            .args(["--archive", "--reflink=auto"])
            .arg(template.path().join("data"))
            .arg(cluster.data()));
        cluster._template = Some(template);
        cluster.configure(&[
            "fsync = off",
            "autovacuum = off",
            "log_line_prefix = '%n [%p] '",
            "max_connections = 40",
            "shared_buffers = 16MB",
        ]);
        cluster.configure(configuration);
        cluster
    }

    fn in_directory(directory: TempDir) -> Cluster {
        Cluster {
            directory,
            _template: None,
            postmaster: RefCell::new(None),
            environment: RefCell::default(),
            read_log: RefCell::default(),
            expected: RefCell::new(vec![
                // Sessions that are open when their server is stopped.
                "terminating connection due to administrator command".to_owned(),
                "terminating walreceiver process due to administrator command".to_owned(),
                // A worker that is stopped in the middle of a tick.
                "terminating background worker \"count relations".to_owned(),
            ]),
        }
    }

    /// A streaming standby of this server, started, with `configuration` added.
    pub fn start_standby(&self, configuration: &[&str]) -> Cluster {
        let standby = Cluster::in_directory(new_directory());
        run(server_program("pg_basebackup")
            .args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync"])
            .args(["--wal-method=stream", "--username=postgres", "--host"])
            .arg(self.socket())
            .arg("--pgdata")
            .arg(standby.data()));
        standby.configure(configuration);
        standby.start_server();
        standby
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The directory of the server's socket.
    pub fn socket(&self) -> &Path {
        self.directory.path()
    }

    /// An empty directory that the server may write to, for a tablespace.
    pub fn new_server_directory(&self, name: &str) -> String {
        let path = self.directory.path().join(name);
        fs::create_dir(&path).unwrap();
        give_to_server(&path);
        path.to_str().unwrap().to_owned()
    }

    /// Adds lines to postgresql.conf; the last one for a setting counts.
    pub fn configure(&self, lines: &[&str]) {
        let path = self.data().join("postgresql.conf");
        let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
        writeln!(file, "{}", lines.join("\n")).unwrap();
    }

    /// Makes the server start with an additional environment variable.
    pub fn set_environment(&self, name: &str, value: &OsStr) {
        let variable = (name.into(), value.to_owned());
        self.environment.borrow_mut().push(variable);
    }

    /// Starts the server and waits until it accepts connections.
    pub fn start_server(&self) {
        let ready = "database system is ready to accept";
        let starts = self.lines_with(ready).len();
        self.spawn_server();
        eventually("the server to start", || {
            self.assert_running();
            (self.lines_with(ready).len() > starts).then_some(())
        });
    }

    fn assert_running(&self) {
        let mut postmaster = self.postmaster.borrow_mut();
        let status = postmaster.as_mut().unwrap().try_wait().unwrap();
        if let Some(status) = status {
            *postmaster = None;
            drop(postmaster);
            panic!("the server did not start ({status}):\n{}", self.log());
        }
    }

    /// Starts the server, which is expected to refuse, and waits until it has exited.
    pub fn start_in_vain(&self) {
        self.spawn_server();
        let mut postmaster = self.postmaster.borrow_mut().take().unwrap();
        let status = eventually("the server to refuse to start", || {
            postmaster.try_wait().unwrap()
        });
        assert!(!status.success(), "the server started and stopped");
    }

    /// Starts the server without waiting for anything.
    pub fn spawn_server(&self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        self.spawn_server_with_log(log);
    }

    /// As [`Cluster::spawn_server`], with a log that is not ours to read.
    pub fn spawn_server_with_log(&self, log: fs::File) {
        let child = server_program("postgres")
            .arg("-D")
            .arg(self.data())
            .arg("-k")
            .arg(self.socket())
            .args(["-c", "listen_addresses="])
            .envs(self.environment.borrow().iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        *self.postmaster.borrow_mut() = Some(child);
    }

    /// The postmaster's pid.
    pub fn postmaster(&self) -> i32 {
        let postmaster = self.postmaster.borrow();
        postmaster.as_ref().expect("the server is not running").id() as i32
    }

    /// Makes every process of the server reload its configuration.
    pub fn reload(&self) {
        send(self.postmaster(), Signal::SIGHUP);
    }

    /// Stops the server; `mode` is SIGTERM for smart, SIGINT for fast, SIGQUIT for
    /// immediate shutdown, or SIGKILL for none at all.
    pub fn stop(&self, mode: Signal) {
        send(self.postmaster(), mode);
        let mut postmaster = self.postmaster.borrow_mut().take().unwrap();
        eventually("the server to stop", || postmaster.try_wait().unwrap());
    }

    /// Ends recovery of a standby and waits until it accepts writes.
    pub fn promote(&self) {
        run(server_program("pg_ctl")
            .args(["promote", "--wait", "--silent"])
            // What has been received is replayed first.
            .arg(format!("--timeout={}", PATIENCE.as_secs()))
            .arg("--pgdata")
            .arg(self.data()));
    }

    pub fn connect(&self, database: &str) -> Client {
        self.connect_as("postgres", database)
    }

    pub fn connect_as(&self, role: &str, database: &str) -> Client {
        self.try_connect_as(role, database)
            .expect("could not connect")
    }

    fn try_connect_as(&self, role: &str, database: &str) -> Result<Client, postgres::Error> {
        self.settings(database).user(role).connect(NoTls)
    }

    /// How to connect to a database, for callers that connect themselves.
    pub fn settings(&self, database: &str) -> postgres::Config {
        let mut settings = postgres::Config::new();
        settings
            .host_path(self.socket())
            .user("postgres")
            .dbname(database);
        settings
    }

    /// A connection, if the server already accepts one.
    pub fn try_connect(&self, database: &str) -> Option<Client> {
        self.try_connect_as("postgres", database).ok()
    }

    /// Runs `sql` in a session of its own.
    pub fn execute(&self, database: &str, sql: &str) {
        self.connect(database)
            .batch_execute(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// The command line of psql as a superuser on this server, for others to run.
    pub fn psql(&self) -> String {
        let (bin, socket) = (pg_config("--bindir"), self.socket().display());
        format!("{bin}/psql --no-psqlrc --quiet --host={socket} --username=postgres")
    }

    /// Runs a client program, such as psql, on this server.
    pub fn client_program(&self, name: &str, arguments: &[&str]) {
        run(server_program(name)
            .args(["--username=postgres", "--host"])
            .arg(self.socket())
            .args(arguments));
    }

    /// Runs pg_upgrade from the stopped server `old` to this one, also stopped. Returns the
    /// output of pg_upgrade and of the servers that it ran.
    pub fn upgrade_from(&self, old: &Cluster) -> String {
        let bin = pg_config("--bindir");
        let output = run(server_program("pg_upgrade")
            .args(["--retain", "--username=postgres"])
            .args(["--old-bindir", &bin, "--new-bindir", &bin])
            .arg("--old-datadir")
            .arg(old.data())
            .arg("--new-datadir")
            .arg(self.data())
            .arg("--socketdir")
            .arg(self.socket())
            .current_dir(self.socket()));
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        // In pg_upgrade_output.d/<time>/log.
        for run in fs::read_dir(self.data().join("pg_upgrade_output.d")).unwrap() {
            for log in fs::read_dir(run.unwrap().path().join("log")).unwrap() {
                said += &String::from_utf8_lossy(&fs::read(log.unwrap().path()).unwrap());
            }
        }
        said
    }

    /// What `ps` shows of the server's processes, one line each.
    pub fn ps(&self) -> Vec<String> {
        let parent = self.postmaster().to_string();
        let output = run(Command::new("ps")
            .env("LC_ALL", "C.UTF-8")
            .args(["-o", "args=", "--ppid", &parent]));
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect()
    }

    /// The pid of the worker that is connected to `database`, as soon as there is one.
    pub fn worker(&self, database: &str) -> i32 {
        let mut client = self.connect("postgres");
        eventually("a worker", || Self::worker_seen_by(&mut client, database))
    }

    /// The pid of the launcher, as soon as there is one.
    pub fn launcher(&self) -> i32 {
        let sql =
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'count relations launcher'";
        let mut client = self.connect("postgres");
        eventually("a launcher", || client.query_opt(sql, &[]).unwrap()).get(0)
    }

    /// The pid of the worker that is connected to `database`, if there is one.
    pub fn worker_now(&self, database: &str) -> Option<i32> {
        Self::worker_seen_by(&mut self.connect("postgres"), database)
    }

    /// All workers: the database and the pid of each, ordered by database.
    pub fn workers(&self) -> Vec<(String, i32)> {
        self.connect("postgres")
            .query(
                "SELECT datname::text, pid FROM pg_stat_activity \
                 WHERE backend_type = 'count relations' AND datname IS NOT NULL \
                 ORDER BY datname COLLATE \"C\"",
                &[],
            )
            .unwrap()
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect()
    }

    fn worker_seen_by(client: &mut Client, database: &str) -> Option<i32> {
        client
            .query_opt(
                "SELECT pid FROM pg_stat_activity \
                 WHERE backend_type = 'count relations' AND datname = $1",
                &[&database],
            )
            .unwrap()
            .map(|row| row.get(0))
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The lines of the log, complete ones only.
    pub fn lines(&self) -> Vec<Line> {
        self.read_log.borrow_mut().read(&self.log_file()).to_vec()
    }

    /// The lines whose message contains `text`.
    pub fn lines_with(&self, text: &str) -> Vec<Line> {
        let mut log = self.read_log.borrow_mut();
        let lines = log.read(&self.log_file()).iter();
        lines
            .filter(|line| line.message.contains(text))
            .cloned()
            .collect()
    }

    /// Waits until the log has one more line with `text` than now; returns it.
    pub fn await_next_line(&self, text: &str) -> Line {
        self.await_nth_line(text, self.lines_with(text).len() + 1)
    }

    /// Waits until the log has a line with `text`; returns the first.
    pub fn await_line(&self, text: &str) -> Line {
        self.await_nth_line(text, 1)
    }

    /// Waits until the log has `nth` lines with `text`; returns the last of them.
    pub fn await_nth_line(&self, text: &str, nth: usize) -> Line {
        eventually(&format!("{text:?} in the log"), || {
            self.lines_with(text).into_iter().nth(nth - 1)
        })
    }

    /// All counts of `database` in the log so far.
    pub fn counts(&self, database: &str) -> Vec<Count> {
        let mut log = self.read_log.borrow_mut();
        let lines = log.read(&self.log_file()).iter();
        lines
            .filter_map(|line| Count::parse(line, database))
            .collect()
    }

    /// A count of `database` that began after this call.
    pub fn next_count(&self, database: &str) -> i64 {
        // The next line may be that of a count that had begun before.
        let begun = self.counts(database).len() + 1;
        eventually(&format!("a count of {database:?}"), || {
            self.counts(database)
                .get(begun)
                .map(|count| count.relations)
        })
    }

    /// Waits until a count of `database` is `relations`.
    pub fn await_count(&self, database: &str, relations: i64) {
        eventually(&format!("{relations} relations in {database:?}"), || {
            (self.counts(database).last()?.relations == relations).then_some(())
        });
    }

    /// Declares that a line with `text` at WARNING or above is part of the story.
    pub fn expect(&self, text: &str) -> &Self {
        self.expected.borrow_mut().push(text.to_owned());
        self
    }

    /// Declares that a crash of a server process is part of the story.
    pub fn expect_crash(&self) {
        for text in [
            "terminating any other active server processes",
            "terminating connection because of crash of another server process",
            "the database system is in recovery mode",
            "the database system is not yet accepting connections",
        ] {
            self.expect(text);
        }
    }

    /// Lines of the log that no story should have.
    fn unexpected_lines(&self) -> Vec<String> {
        let expected = self.expected.borrow();
        let is_expected = |message: &str| expected.iter().any(|text| message.contains(text));
        let alarming = |line: &Line| line.level >= Level::Warning || line.message.contains("leak");
        let mut unexpected: Vec<String> = self
            .lines()
            .into_iter()
            .filter(|line| alarming(line) && !is_expected(&line.message))
            .map(|line| format!("{:?}: {}", line.level, line.message))
            .collect();
        let log = self.log();
        let traps = log.lines().filter(|line| line.starts_with("TRAP:"));
        unexpected.extend(traps.map(str::to_owned));
        unexpected
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut postmaster) = self.postmaster.borrow_mut().take() {
            let pid = Pid::from_raw(postmaster.id() as i32);
            let _ = kill(pid, Signal::SIGINT);
            let deadline = Instant::now() + Duration::from_secs(120);
            while matches!(postmaster.try_wait(), Ok(None)) && Instant::now() < deadline {
                sleep(Duration::from_millis(10));
            }
            let _ = kill(pid, Signal::SIGQUIT);
            let _ = postmaster.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- server log\n{}---", log::tail(&self.log(), 200));
            return;
        }
        let unexpected = self.unexpected_lines();
        assert!(
            unexpected.is_empty(),
            "unexpected lines in the server log:\n{}\n--- server log\n{}---",
            unexpected.join("\n"),
            log::tail(&self.log(), 200)
        );
    }
}

/// A count, as the log has it.
#[derive(Clone, Debug)]
pub struct Count {
    /// When it was logged, in seconds since the epoch.
    pub time: f64,
    pub pid: i32,
    pub relations: i64,
}

impl Count {
    fn parse(line: &Line, database: &str) -> Option<Count> {
        let rest = line.message.strip_prefix("Currently ")?;
        let (relations, rest) = rest.split_once(" relations in database \"")?;
        let rest = rest.strip_prefix(database)?;
        if line.level != Level::Log || !rest.starts_with('"') {
            return None;
        }
        Some(Count {
            time: line.time,
            pid: line.pid,
            relations: relations.parse().ok()?,
        })
    }
}
