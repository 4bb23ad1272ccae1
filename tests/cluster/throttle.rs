//! Slowing a process down, so that what it does in a moment takes seconds.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

/// Lets a process run for moments only, by stopping it again and again, until
/// dropped. To the process nothing else is different.
pub struct Throttle {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Throttle {
    /// Stops the process for the time given, again and again.
    pub fn new(pid: i32, stop: Duration) -> Throttle {
        let done = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&done);
        let thread = thread::spawn(move || {
            let pid = Pid::from_raw(pid);
            // Signals fail once the process has ended.
            while !seen.load(Ordering::Relaxed) && kill(pid, Signal::SIGSTOP).is_ok() {
                sleep(stop);
                let _ = kill(pid, Signal::SIGCONT);
                sleep(Duration::from_micros(200));
            }
        });
        Throttle {
            done,
            thread: Some(thread),
        }
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
