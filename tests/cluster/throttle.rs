//! Slows a process down, so that work of a moment takes seconds.

use super::Background;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

/// Lets a process run only for moments, by stopping it again and again, until dropped. Nothing
/// else is different for the process.
pub struct Throttle {
    #[allow(dead_code)] // held, not read
    stopping: Background,
}

impl Throttle {
    /// Stops the process for the time given, again and again.
    pub fn new(pid: i32, stop: Duration) -> Throttle {
        let stopping = Background::start(move |done| {
            let pid = Pid::from_raw(pid);
            // Signals fail once the process has ended.
            while !done.load(Ordering::Relaxed) && kill(pid, Signal::SIGSTOP).is_ok() {
                sleep(stop);
                let _ = kill(pid, Signal::SIGCONT);
                sleep(Duration::from_micros(200));
            }
        });
        Throttle { stopping }
    }
}
