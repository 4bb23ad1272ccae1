//! The clock is set, by hand or because it was wrong.
//!
//! libfaketime does this here: preloaded into the server, it changes the time of day, and
//! leaves the monotonic clock alone.

use crate::cluster::{Cluster, Count, eventually, is_gone, send};
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

const DATABASE: &str = "postgres";
const NAPTIME: Duration = Duration::from_millis(100);
const HOUR: f64 = 3_600.0;

#[test]
fn a_clock_that_is_set_changes_no_cadence() {
    let naptime = format!("count_relations.naptime = {}", NAPTIME.as_millis());
    let cluster = Cluster::init(&[&naptime]);
    let clock = Clock::of(&cluster);
    cluster.start_server();
    // PostgreSQL 15 starts its first workers in the middle of a system call that libfaketime
    // leaves alone, so they are not affected. Workers that it restarts are.
    let first = cluster.worker(DATABASE);
    send(first, Signal::SIGTERM);
    eventually("the worker to leave", || is_gone(first).then_some(()));
    let worker = cluster.worker(DATABASE);
    let counts = || -> Vec<Count> {
        let mut counts = cluster.counts(DATABASE);
        counts.retain(|count| count.pid == worker);
        counts
    };
    let await_counts = |number: usize| {
        eventually("counts", || (counts().len() >= number).then_some(()));
    };
    await_counts(3);
    for hours in [1.0, -1.0] {
        let start = Instant::now();
        let before = counts().len();
        clock.set(hours * HOUR);
        eventually("a count at another time of day", || {
            (counts().last()?.hours_ahead() == hours).then_some(())
        });
        await_counts(before + 20);
        let ticks = counts().len() - before;
        let due = start.elapsed().div_duration_f64(NAPTIME);
        assert!(
            ticks as f64 <= due + 2.0,
            "{ticks} ticks where {due} were due"
        );
    }
    assert_eq!(cluster.worker(DATABASE), worker);
}

impl Count {
    /// How far the server's clock was ahead of ours, to an hour.
    fn hours_ahead(&self) -> f64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        ((self.time - now.unwrap().as_secs_f64()) / HOUR).round()
    }
}

/// The clock of a server, which can be set.
struct Clock(PathBuf);

impl Clock {
    /// Must be called before the server is started.
    fn of(cluster: &Cluster) -> Clock {
        // Where the server's user can read it.
        let library = cluster.socket().join("libfaketime.so.1");
        let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools");
        fs::copy(format!("{tools}/libfaketime.so.1"), &library)
            .expect("no libfaketime, which scripts/tools.sh provides");
        let clock = Clock(cluster.socket().join("clock"));
        clock.set(0.0);
        let yes = OsStr::new("1");
        for (name, value) in [
            ("LD_PRELOAD", library.as_os_str()),
            ("FAKETIME_TIMESTAMP_FILE", clock.0.as_os_str()),
            ("FAKETIME_NO_CACHE", yes),
            ("FAKETIME_DONT_FAKE_MONOTONIC", yes),
        ] {
            cluster.set_environment(name, value);
        }
        clock
    }

    /// Sets it to this many seconds ahead of ours.
    fn set(&self, seconds: f64) {
        // So that no process reads half a file.
        let new = self.0.with_extension("new");
        fs::write(&new, format!("{seconds:+}")).unwrap();
        fs::rename(&new, &self.0).unwrap();
    }
}
