//! How often to retry a database that cannot be counted.
//!
//! The postmaster restarts a worker five seconds after it exited, however often it has failed
//! before. A database or role that does not exist, or may not be used, would cost a FATAL line
//! and a process every five seconds, forever. So a worker remembers in shared memory how often
//! its predecessors have failed in a row. After two failures it first becomes a waiting room:
//! it connects to no database, watches the shared catalogs, and makes room for another attempt
//! as soon as a change there may let it succeed. It also leaves after a while in any case,
//! because more can be wrong than these catalogs show.

use crate::server::database_list::databases;
use crate::server::role::role_to_connect_as;
use crate::server::{backend_status, inval, latch, session, shmem, signals};
use crate::{registry, settings, worker};
use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// How long after a process exits the postmaster starts another.
pub const RESTART_INTERVAL: Duration = Duration::from_secs(5);

/// How long to wait after the first failure in a row, the second, and so on.
const PAUSES: [Duration; 4] = [
    RESTART_INTERVAL,
    Duration::from_secs(15),
    Duration::from_secs(30),
    // At least once a minute.
    Duration::from_secs(55),
];

/// The same for a database where nobody is waiting for the first count.
const LONGER_PAUSES: [Duration; 6] = [
    RESTART_INTERVAL,
    Duration::from_secs(15),
    Duration::from_secs(30),
    Duration::from_secs(60),
    Duration::from_secs(120),
    Duration::from_secs(300),
];

/// How long to wait after this many visits or censuses, at least one, have failed in a row.
pub fn pause_after_failures(failures: usize) -> Duration {
    LONGER_PAUSES[failures.clamp(1, LONGER_PAUSES.len()) - 1]
}

/// How long to wait after this many failures in a row.
fn pause_after(failures: i64) -> Duration {
    let last = PAUSES.len() as i64 - 1;
    PAUSES[(failures - 1).clamp(0, last) as usize]
}

/// How often to check whether an attempt may succeed: the server's messages wake nobody.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How many numbers in shared memory one worker's attempts need.
pub const NUMBERS: usize = 3;

/// What shared memory knows about the attempts of one worker that the postmaster starts.
pub struct Attempts {
    /// Attempts since the last success. Counted before they are made: a process that fails has
    /// no chance to count afterwards.
    made: &'static AtomicI64,
    /// Whether the next process should try rather than wait.
    due: &'static AtomicI64,
    /// Whether the waiting room saw no obstacle when it was left.
    seemed_possible: &'static AtomicI64,
}

impl Attempts {
    /// The attempts of the worker with this number.
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

    /// Must be called before connecting, to `database` or to none, as `role`. Returns if it is
    /// time to try; otherwise waits until it is, and ends the process.
    pub fn begin(&self, database: Option<&CStr>, role: Option<&CStr>) {
        let failures = self.made.load(Ordering::Relaxed);
        if failures > 1 && self.due.swap(0, Ordering::Relaxed) == 0 {
            // The postmaster's restart interval passes twice.
            self.wait(database, role, pause_after(failures) - 2 * RESTART_INTERVAL);
        }
        self.made.store(failures + 1, Ordering::Relaxed);
    }

    /// Must be called each time the worker has done its job.
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
        // these catalogs do not show.
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

/// Whether the shared catalogs show no obstacle to connecting.
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
