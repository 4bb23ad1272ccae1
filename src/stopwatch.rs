//! What a process has begun and not finished, for when it exits in the middle of it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Measures one piece of work at a time; to be used as a `static`.
pub struct Stopwatch(Mutex<Option<Instant>>);

impl Stopwatch {
    /// One that does not run.
    pub const fn new() -> Stopwatch {
        Stopwatch(Mutex::new(None))
    }

    /// The work begins. If it fails, the stopwatch keeps running, and the process is to exit.
    pub fn start(&self) {
        *self.0.lock().expect("nothing panics with it") = Some(Instant::now());
    }

    /// The work is done. Returns how long it took.
    pub fn stop(&self) -> Duration {
        let started = self.0.lock().expect("nothing panics with it").take();
        started.map_or(Duration::ZERO, |started| started.elapsed())
    }

    /// For how long the work has been under way, if it is.
    pub fn running(&self) -> Option<Duration> {
        let started = *self.0.lock().expect("nothing panics with it");
        started.map(|started| started.elapsed())
    }
}
