//! Slows a process down, so that work of a moment takes seconds.

use super::Background;
use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
use nix::unistd::Pid;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

/// For how much of a processor's time the process runs at a time. Not for how long: on a busy
/// machine it might get no processor meanwhile, and stand still.
const MOMENT: Duration = Duration::from_micros(200);

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
            // Fails once the process has ended.
            let _ = throttle(Pid::from_raw(pid), stop, done);
        });
        Throttle { stopping }
    }
}

fn throttle(pid: Pid, stop: Duration, done: &AtomicBool) -> nix::Result<()> {
    let clock = ClockId::pid_cpu_clock_id(pid)?;
    while !done.load(Ordering::Relaxed) {
        kill(pid, Signal::SIGSTOP)?;
        sleep(stop);
        kill(pid, Signal::SIGCONT)?;
        let enough = Duration::from(clock.now()?) + MOMENT;
        while !done.load(Ordering::Relaxed) && Duration::from(clock.now()?) < enough {
            sleep(MOMENT / 2);
        }
    }
    Ok(())
}
