//! What long-lived processes use of the machine, and whether that stays constant.

use crate::Phase;
use crate::cluster::{Cluster, Usage};
use crate::pause::Checked;
use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// By how many KiB the heap and stack of a process may have grown since the warm-up. While
/// counting, the heap is not packed in quite the same way each time.
const HEAP_TOLERANCE: f64 = 128.0;

/// By how many KiB all of its private memory may have grown. That includes pages of shared
/// memory that other processes happen not to have looked at.
const PRIVATE_TOLERANCE: f64 = 1024.0;

/// By how many its open files may have grown. The server keeps those of catalogs open until it
/// is told to look again.
const FILES_TOLERANCE: f64 = 10.0;

const HEAP: &str = ": heap and stack, KiB";

/// The values of something at each pause.
struct Series {
    /// By how much it may grow; `None` if it may grow freely.
    tolerance: Option<f64>,
    warm_up: Vec<f64>,
    calm: Vec<f64>,
}

/// Everything that is watched, by name.
pub struct Figures<'a> {
    cluster: &'a Cluster,
    series: Vec<(String, Series)>,
    /// Processes that live long.
    spared: HashMap<String, i32>,
    shared_memory: i64,
    pauses: usize,
    slowest: Duration,
}

impl<'a> Figures<'a> {
    pub fn new(cluster: &'a Cluster) -> Self {
        Figures {
            cluster,
            series: Vec::new(),
            spared: HashMap::new(),
            shared_memory: shared_memory(cluster),
            pauses: 0,
            slowest: Duration::ZERO,
        }
    }

    /// Records the values at a pause.
    pub fn take(&mut self, phase: Phase, checked: Checked, problems: &mut Vec<String>) {
        self.pauses += 1;
        self.slowest = self.slowest.max(checked.counted_in);
        let shared_memory = shared_memory(self.cluster);
        if shared_memory != self.shared_memory {
            let before = self.shared_memory;
            problems.push(format!(
                "shared memory was {before} bytes and is {shared_memory}"
            ));
        }
        if phase == Phase::Stormy {
            return;
        }
        for (name, pid) in self.processes() {
            let before = self.spared.insert(name.clone(), pid).unwrap_or(pid);
            if before != pid {
                problems.push(format!("{name} ended: {}", self.last_words(before)));
            }
            let usage = Usage::of(pid);
            let mut add = |of: &str, tolerance, value| {
                self.add(phase, format!("{name}{of}"), tolerance, value);
            };
            let kilobytes = |bytes: u64| bytes as f64 / 1024.0;
            add(HEAP, Some(HEAP_TOLERANCE), kilobytes(usage.anonymous));
            let private = kilobytes(usage.private);
            add(": private memory, KiB", Some(PRIVATE_TOLERANCE), private);
            add(": files", Some(FILES_TOLERANCE), usage.files as f64);
        }
        let mut add = |of: &str, tolerance, value| {
            self.add(phase, of.to_owned(), tolerance, value);
        };
        add("shared memory, bytes", Some(0.0), shared_memory as f64);
        add("databases", None, checked.databases as f64);
        let data = self.cluster.data();
        for directory in ["base/pgsql_tmp", "pg_dynshmem"] {
            let files = files(data.join(directory));
            self.add(phase, format!("files in {directory}"), Some(0.0), files);
        }
    }

    fn add(&mut self, phase: Phase, name: String, tolerance: Option<f64>, value: f64) {
        let known = self.series.iter().position(|(known, _)| *known == name);
        let place = known.unwrap_or_else(|| {
            let new = Series {
                tolerance,
                warm_up: Vec::new(),
                calm: Vec::new(),
            };
            self.series.push((name, new));
            self.series.len() - 1
        });
        let series = &mut self.series[place].1;
        match phase {
            Phase::Calm => series.calm.push(value),
            _ => series.warm_up.push(value),
        }
    }

    /// Processes that live long.
    fn processes(&self) -> Vec<(String, i32)> {
        let sql = "SELECT backend_type, pid FROM pg_stat_activity \
                   WHERE backend_type = 'count relations launcher'";
        let mut client = self.cluster.connect("postgres");
        let rows = client.query(sql, &[]).unwrap();
        let ours = rows.iter().map(|row| (row.get(0), row.get(1)));
        let postmaster = ("postmaster".to_owned(), self.cluster.postmaster());
        [postmaster].into_iter().chain(ours).collect()
    }

    fn last_words(&self, pid: i32) -> String {
        let mut lines = self.cluster.lines();
        lines.retain(|line| line.pid == pid);
        let last: Vec<String> = lines
            .iter()
            .rev()
            .take(3)
            .map(|line| format!("{:?}: {}", line.level, line.message))
            .collect();
        last.join(", after ")
    }

    /// Prints all series, and reports those that end differently from the warm-up.
    pub fn judge(&self, problems: &mut Vec<String>) {
        println!(
            "{:50} {:>9} {:>9} {:>9} {:>9}",
            "", "start", "warm", "end", "max"
        );
        for (name, series) in &self.series {
            let (Some(warm), Some(end)) = (typical(&series.warm_up), typical(&series.calm)) else {
                problems.push(format!("not enough pauses to judge {name}"));
                continue;
            };
            let all = [&series.warm_up[..], &series.calm].concat();
            let max = all.iter().copied().fold(0.0, f64::max);
            let start = all[0];
            println!("{name:50} {start:9} {warm:9} {end:9} {max:9}");
            if series.tolerance.is_some_and(|more| end > warm + more) {
                problems.push(format!("{name} grew from {warm} to {end}"));
            }
        }
    }
}

/// The median of the last few. Invalidations make caches smaller and larger.
fn typical(values: &[f64]) -> Option<f64> {
    let mut last = values[values.len().saturating_sub(5)..].to_vec();
    last.sort_by(f64::total_cmp);
    last.get(last.len() / 2).copied()
}

fn shared_memory(cluster: &Cluster) -> i64 {
    let sql = "SELECT allocated_size FROM pg_shmem_allocations WHERE name = 'count_relations'";
    let mut client = cluster.connect("postgres");
    client.query_one(sql, &[]).unwrap().get(0)
}

fn files(directory: PathBuf) -> f64 {
    // Created when it is needed.
    fs::read_dir(directory).map_or(0.0, |entries| entries.count() as f64)
}

impl fmt::Display for Figures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Figures {
            pauses, slowest, ..
        } = self;
        write!(
            f,
            "{pauses} pauses, counts at most {:.1} s after",
            slowest.as_secs_f64()
        )?;
        for (name, series) in &self.series {
            let latest = series.calm.last().or(series.warm_up.last());
            if let (Some(name), Some(latest)) = (name.strip_suffix(HEAP), latest) {
                write!(f, ", {name} {latest} KiB")?;
            }
        }
        Ok(())
    }
}
