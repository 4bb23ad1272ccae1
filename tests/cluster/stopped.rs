//! Keeping a worker from doing anything, so that it misses what the server tells it.

use super::{Cluster, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::Client;
use std::fs;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Keeps a process stopped until dropped, even if a test panics.
pub struct Stopped(Pid);

impl Stopped {
    /// Stops the worker of `database` in the middle of a nap. Anywhere else it may
    /// hold a lock that the whole server would wait for.
    pub fn in_a_nap(cluster: &Cluster, database: &str) -> Stopped {
        Stopped::process_in_a_nap(cluster, || cluster.worker(database))
    }

    /// Stops the launcher in the middle of a nap.
    pub fn launcher_in_a_nap(cluster: &Cluster) -> Stopped {
        Stopped::process_in_a_nap(cluster, || cluster.launcher())
    }

    fn process_in_a_nap(cluster: &Cluster, pid: impl Fn() -> i32) -> Stopped {
        eventually("a nap to stop the process in", || {
            let mut client = cluster.connect("postgres");
            let worker = pid();
            let stopped = Stopped::now(worker);
            // The query may have to wait for that very lock, so it is sent in a thread; when in
            // doubt, the worker is continued.
            let (answer, napping) = mpsc::channel();
            thread::spawn(move || answer.send(is_napping(&mut client, worker)));
            let napping = napping.recv_timeout(Duration::from_secs(1));
            napping.unwrap_or(false).then_some(stopped)
        })
    }

    fn now(pid: i32) -> Stopped {
        let stopped = Stopped(Pid::from_raw(pid));
        // Fails if the process has just ended, which is_napping() notices too.
        let _ = kill(stopped.0, Signal::SIGSTOP);
        eventually("the worker to stop", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = stat.rsplit(')').next()?.trim_start().chars().next();
            matches!(state, None | Some('T' | 'Z' | 'X')).then_some(())
        });
        stopped
    }
}

/// Whether the worker, or the launcher, naps between ticks.
pub fn is_napping(client: &mut Client, worker: i32) -> bool {
    let sql = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Extension'";
    matches!(client.query_opt(sql, &[&worker]), Ok(Some(_)))
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}
