//! How much of a processor all visits together may use: a tenth, however many databases
//! keep changing.
//!
//! There is one account, in shared memory. The launcher pays in a tenth of the time that
//! passes, up to a second's worth of processor time. Each visiting worker takes out what it has
//! used, including its start and its end. While the account is overdrawn, no visit begins and
//! no visitor counts again: counts come later, and `counted_at` says so.

use crate::registry;
use crate::server::clock;
use crate::server::ipc::call_at_exit;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// Visits get one part in this many of a processor.
const PARTS: u32 = 10;

/// The most that can be saved up, in microseconds.
const LARGEST_BALANCE: i64 = 1_000_000;

/// What this process has taken out so far, in microseconds.
static TAKEN: AtomicI64 = AtomicI64::new(0);

/// The balance of the account, in microseconds; negative if it is overdrawn.
fn balance() -> &'static AtomicI64 {
    registry::header().balance
}

/// Whether visits have used more than they were given, so that none may begin or count again.
pub fn is_overdrawn() -> bool {
    balance().load(Ordering::Relaxed) < 0
}

/// Takes out what this process has used since the last call. Must be called by a visiting
/// worker.
pub fn settle_up() {
    let used = clock::processor_time().as_micros() as i64;
    let taken = TAKEN.swap(used, Ordering::Relaxed);
    balance().fetch_sub(used - taken, Ordering::Relaxed);
}

/// Makes this process, a visitor, pay for all it uses, however it exits. Must be called first.
pub fn pay_for_visit() {
    settle_up();
    // A process cannot see what the system does after it has exited. Taking it down costs about
    // as much as setting it up did.
    let beginning = TAKEN.load(Ordering::Relaxed);
    balance().fetch_sub(beginning, Ordering::Relaxed);
    call_at_exit(settle_up);
}

/// The launcher's side of the account.
pub struct Income {
    paid_until: Instant,
}

impl Income {
    /// Starts paying in at `now`.
    pub fn new(now: Instant) -> Income {
        Income { paid_until: now }
    }

    /// Pays in for the time up to `now`.
    pub fn pay(&mut self, now: Instant) {
        let income = (now - self.paid_until) / PARTS;
        self.paid_until = now;
        let before = balance().fetch_add(income.as_micros() as i64, Ordering::Relaxed);
        let surplus = before + income.as_micros() as i64 - LARGEST_BALANCE;
        if surplus > 0 {
            balance().fetch_sub(surplus, Ordering::Relaxed);
        }
    }

    /// How long until the account is no longer overdrawn, if nobody takes anything out.
    pub fn time_left(&self) -> Duration {
        let overdrawn = (-balance().load(Ordering::Relaxed)).max(0);
        Duration::from_micros(overdrawn as u64) * PARTS
    }
}
