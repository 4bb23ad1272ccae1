//! How often to try to count what can't be counted.
//!
//! The postmaster starts a worker again five seconds after it exited, however often it has
//! failed before. A database or a role that does not exist, or may not be used, would
//! cost a FATAL line and a process every five seconds, for ever. So a worker remembers in
//! shared memory how often its predecessors have failed in a row, and after two of them
//! it is a waiting room first: it is connected to no database, looks at the
//! catalogs that all databases share, and makes room for another attempt as soon as that
//! may succeed, because of what somebody has changed, or else after a while, as there is
//! more that can be wrong than these catalogs tell.

use crate::server::database_list::databases;
use crate::server::role::role_to_connect_as;
use crate::server::{backend_status, inval, latch, session, shmem, signals};
use crate::{registry, settings, worker};
use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// How long after the exit of a process the postmaster starts another.
pub const RESTART_INTERVAL: Duration = Duration::from_secs(5);

/// How long after the first failure in a row, the second, and so on to try again.
const PAUSES: [Duration; 4] = [
    RESTART_INTERVAL,
    Duration::from_secs(15),
    Duration::from_secs(30),
    // At least once a minute.
    Duration::from_secs(55),
];

/// The same where nobody waits for it as for the first count.
const LONGER_PAUSES: [Duration; 6] = [
    RESTART_INTERVAL,
    Duration::from_secs(15),
    Duration::from_secs(30),
    Duration::from_secs(60),
    Duration::from_secs(120),
    Duration::from_secs(300),
];

/// How long to wait after so many failures in a row, one at least, of visits or censuses.
pub fn pause_after_failures(failures: usize) -> Duration {
    LONGER_PAUSES[failures.clamp(1, LONGER_PAUSES.len()) - 1]
}

/// How long to wait after that many failures in a row.
fn pause_after(failures: i64) -> Duration {
    let last = PAUSES.len() as i64 - 1;
    PAUSES[(failures - 1).clamp(0, last) as usize]
}

/// How often to look whether an attempt may succeed by now: what the server's messages tell
/// wakes nobody.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How many numbers in shared memory the attempts of one worker need.
pub const NUMBERS: usize = 3;

/// What shared memory knows of the attempts of one worker that the postmaster starts.
pub struct Attempts {
    /// Those since the last success. Counted before they are made: whoever fails has no
    /// occasion any more.
    made: &'static AtomicI64,
    /// Whether the next process is to try, and not to wait.
    due: &'static AtomicI64,
    /// Whether the waiting room found nothing that was wrong when it was left.
    seemed_possible: &'static AtomicI64,
}

impl Attempts {
    /// Those of the worker with that number.
    pub fn of(worker: usize) -> Attempts {
        let numbers = shmem::numbers().expect("a worker runs where it is preloaded");
        let numbers = &numbers[registry::NUMBERS..];
        let [made, due, seemed_possible] = &numbers.as_chunks::<NUMBERS>().0[worker];
        Attempts {
            made,
            due,
            seemed_possible,
        }
    }

    /// To be called before connecting, to `database` or to none, as `role`: returns if it
    /// is time to try; otherwise waits until it is, and ends the process.
    pub fn begin(&self, database: Option<&CStr>, role: Option<&CStr>) {
        let failures = self.made.load(Ordering::Relaxed);
        if failures > 1 && self.due.swap(0, Ordering::Relaxed) == 0 {
            // The postmaster takes its time twice.
            self.wait(database, role, pause_after(failures) - 2 * RESTART_INTERVAL);
        }
        self.made.store(failures + 1, Ordering::Relaxed);
    }

    /// To be called when the worker has done what it is for, as often as it does.
    pub fn succeed(&self) {
        if self.made.load(Ordering::Relaxed) == 0 {
            return;
        }
        for number in [self.made, self.due, self.seemed_possible] {
            number.store(0, Ordering::Relaxed);
        }
    }

    fn wait(&self, database: Option<&CStr>, role: Option<&CStr>, pause: Duration) -> ! {
        let end = Instant::now() + pause;
        session::connect(None, None, worker::APPLICATION_NAME);
        backend_status::waiting(&description(database, role));
        // Only a change from impossible to possible is a reason to leave early: what seemed
        // possible to the last process that waited here has failed since, for a reason that
        // does not show.
        let mut possible = self.seemed_possible.load(Ordering::Relaxed) != 0;
        loop {
            if signals::terminated() {
                session::leave(format_args!(
                    "count relations process that waits to connect leaving due to SIGTERM"
                ));
            }
            if signals::take_reload_request() {
                settings::reload();
            }
            let left = end.saturating_duration_since(Instant::now());
            inval::receive();
            if inval::take_access_change() {
                let before = possible;
                possible = is_possible(database, role);
                if possible && !before {
                    log::debug!(
                        "trying again, {} ms early, as nothing stands in the way of connecting any more",
                        left.as_millis()
                    );
                    break;
                }
            }
            if left.is_zero() {
                log::debug!("trying again after having waited long enough");
                break;
            }
            latch::nap(left.min(LOOK_INTERVAL));
        }
        self.seemed_possible
            .store(possible.into(), Ordering::Relaxed);
        self.due.store(1, Ordering::Relaxed);
        session::exit()
    }
}

/// Whether the shared catalogs have nothing against connecting.
fn is_possible(database: Option<&CStr>, role: Option<&CStr>) -> bool {
    let Some(role) = role_to_connect_as(role) else {
        return false;
    };
    database.is_none_or(|name| {
        databases(role)
            .iter()
            .any(|database| database.may_connect && database.name.as_c_str() == name)
    })
}

fn description(database: Option<&CStr>, role: Option<&CStr>) -> CString {
    let mut text = b"waiting to connect".to_vec();
    for (what, name) in [(" to database", database), (" as role", role)] {
        if let Some(name) = name {
            text.extend([what.as_bytes(), b" \"", name.to_bytes(), b"\""].concat());
        }
    }
    CString::new(text).expect("made of C strings")
}
