//! Reloads, signals and crashes.

use crate::cluster::{Cluster, eventually, is_gone};
use crate::{Phase, is_crash};
use fastrand::Rng;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// For postgresql.conf. Settings that change are in a file of their own, which does not grow.
pub const INCLUDE: &str = "include_if_exists = 'soak.conf'";

/// Values that settings may have. `log_min_messages` is restricted: a WARNING that is not in
/// the log is not noticed.
const VALID: &[(&str, &[&str])] = &[
    (
        "count_relations.naptime",
        &["10ms", "20ms", "50ms", "50ms", "50ms", "200ms", "2s", "1h"],
    ),
    ("count_relations.skip_unchanged", &["on", "on", "off"]),
    ("count_relations.log_counts", &["all", "changes", "none"]),
    ("count_relations.max_workers", &["1", "2", "2", "5"]),
    ("count_relations.warn_above", &["0", "1", "430", "100000"]),
    (
        "log_min_messages",
        &["warning", "notice", "info", "debug1", "debug2"],
    ),
];

const INVALID: &[&str] = &[
    "count_relations.naptime = '5ms'",
    "count_relations.naptime = 'soon'",
    "count_relations.skip_unchanged = 'perhaps'",
    "count_relations.log_counts = 'some'",
    "count_relations.warn_above = -1",
    "count_relations.nap_time = 1",
    "count_relations.role = 'nobody'",
    "count_relations.databases = 'a,,b'",
    "count_relations.naptime is no line",
];

/// What happens to a server and its processes, and how often it did.
pub struct Nuisances<'a> {
    cluster: &'a Cluster,
    rng: Rng,
    reloads: usize,
    wrong_reloads: usize,
    terminations: usize,
    cancels: usize,
    floods: usize,
    resets: usize,
    crashes: usize,
}

impl<'a> Nuisances<'a> {
    pub fn new(cluster: &'a Cluster, rng: Rng) -> Self {
        cluster.expect("invalid configuration parameter name \"count_relations.nap_time\"");
        Nuisances {
            cluster,
            rng,
            reloads: 0,
            wrong_reloads: 0,
            terminations: 0,
            cancels: 0,
            floods: 0,
            resets: 0,
            crashes: 0,
        }
    }

    /// One after the other until `end`.
    pub fn play(&mut self, phase: Phase, end: Instant) {
        let crash_in = (phase == Phase::Stormy).then(|| self.rng.u8(3..12));
        let mut steps = 0;
        while Instant::now() < end {
            sleep(Duration::from_millis(self.rng.u64(50..900)));
            steps += 1;
            if crash_in == Some(steps) {
                self.crash();
            }
            match self.rng.u8(0..10) {
                0..4 => self.reload(),
                4 | 5 => self.terminate(phase),
                6 => self.cancel(phase),
                7 | 8 => self.flood(),
                _ => self.reset(),
            }
        }
    }

    /// Makes workers tick often, to keep waits short.
    pub fn rest(&mut self) {
        let lines = [
            self.valid_lines(),
            vec!["count_relations.naptime = '50ms'".to_owned()],
        ];
        self.reload_with(&lines.concat());
    }

    fn valid_lines(&mut self) -> Vec<String> {
        VALID
            .iter()
            .map(|(name, values)| {
                let value = values[self.rng.usize(0..values.len())];
                format!("{name} = '{value}'")
            })
            .collect()
    }

    fn reload(&mut self) {
        let mut lines = self.valid_lines();
        if self.rng.u8(0..6) == 0 {
            lines.push(INVALID[self.rng.usize(0..INVALID.len())].to_owned());
            self.wrong_reloads += 1;
        } else {
            self.reloads += 1;
        }
        self.reload_with(&lines);
    }

    fn reload_with(&self, lines: &[String]) {
        // So that no process reads half a file.
        let data = self.cluster.data();
        fs::write(data.join("soak.new"), lines.join("\n") + "\n").unwrap();
        fs::rename(data.join("soak.new"), data.join("soak.conf")).unwrap();
        self.cluster.reload();
    }

    /// One column of what `sql` returns; nothing if the server is not there.
    fn pids(&self, sql: &str) -> Vec<i32> {
        let Some(mut client) = self.cluster.try_connect("postgres") else {
            return Vec::new();
        };
        match client.query(sql, &[]) {
            Ok(rows) => rows.iter().map(|row| row.get(0)).collect(),
            Err(error) if is_crash(&error) => Vec::new(),
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }

    fn pick(&mut self, condition: &str) -> Option<i32> {
        let sql = format!("SELECT pid FROM pg_stat_activity WHERE {condition} ORDER BY pid");
        let pids = self.pids(&sql);
        (!pids.is_empty()).then(|| pids[self.rng.usize(0..pids.len())])
    }

    /// One of our processes that is not spared.
    fn victim(&mut self, phase: Phase) -> Option<i32> {
        if phase == Phase::Stormy {
            return self.pick("backend_type LIKE 'count relations%'");
        }
        self.pick("backend_type = 'count relations'")
    }

    fn terminate(&mut self, phase: Phase) {
        if let Some(pid) = self.victim(phase) {
            self.terminations += 1;
            if self.rng.bool() {
                signal(pid, Signal::SIGTERM);
            } else {
                self.pids(&format!("SELECT 1 WHERE pg_terminate_backend({pid})"));
            }
        }
    }

    fn cancel(&mut self, phase: Phase) {
        if let Some(pid) = self.victim(phase) {
            self.cancels += 1;
            self.pids(&format!("SELECT 1 WHERE pg_cancel_backend({pid})"));
        }
    }

    /// Signals that change nothing, to any of our processes.
    fn flood(&mut self) {
        if let Some(pid) = self.pick("backend_type LIKE 'count relations%'") {
            self.floods += 1;
            for _ in 0..100 {
                signal(pid, Signal::SIGHUP);
                signal(pid, Signal::SIGUSR1);
            }
        }
    }

    fn reset(&mut self) {
        self.resets += 1;
        self.pids("SELECT 1 FROM relation_counts_reset()");
    }

    /// Kills a session, or one of our processes, and waits for the server to be back.
    fn crash(&mut self) {
        let Some(mut witness) = self.cluster.try_connect("postgres") else {
            return;
        };
        let victims = if self.rng.bool() {
            "backend_type = 'client backend' AND datname <> 'postgres'"
        } else {
            "backend_type LIKE 'count relations%'"
        };
        let Some(pid) = self.pick(victims) else {
            return;
        };
        self.crashes += 1;
        signal(pid, Signal::SIGKILL);
        eventually("the process to end", || is_gone(pid).then_some(()));
        eventually("the server to notice", || {
            witness.batch_execute("SELECT 1").err()
        });
        eventually("the server to be back", || {
            self.cluster.try_connect("postgres")
        });
    }
}

/// Sends a signal to a process that may have ended.
fn signal(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

impl fmt::Display for Nuisances<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Nuisances {
            reloads,
            wrong_reloads,
            terminations,
            cancels,
            floods,
            resets,
            crashes,
            ..
        } = self;
        write!(
            f,
            "{reloads} reloads and {wrong_reloads} wrong ones, {terminations} terminations, \
             {cancels} cancels, {floods} floods of signals, {resets} resets, {crashes} crashes"
        )
    }
}
