//! What the server's statistics show about this process (`utils/activity/backend_status.c`,
//! `pgstat.c`).

use pgrx::pg_sys;
use std::ffi::CStr;
use std::ptr;
use std::time::{Duration, Instant};

/// Shows the process as active with `query` in `pg_stat_activity`.
pub fn running(query: &CStr) {
    // SAFETY: the string is copied into the process's own slot.
    unsafe {
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, query.as_ptr());
    }
}

/// Shows the process as idle in `pg_stat_activity`.
pub fn idle() {
    // SAFETY: no string is passed, which leaves the last query on display.
    unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, ptr::null()) };
}

/// Shows what an idle process waits for, in `pg_stat_activity.query` and, after the
/// worker's name, in `ps`.
pub fn waiting(what: &CStr) {
    running(what);
    idle();
    // SAFETY: the string is copied.
    unsafe { pg_sys::set_ps_display(what.as_ptr()) };
}

/// What the process has counted of its own table scans and transactions, not yet sent to
/// `pg_stat_sys_tables` and `pg_stat_database`.
#[derive(Default)]
pub struct Statistics {
    /// When to send what was held back.
    held_back_until: Option<Instant>,
}

impl Statistics {
    /// Must be called now and then outside transactions, and with `transaction_ended` after
    /// those whose statistics should not wait for the next. The server holds back reports made
    /// less than a second after the last one and says when to insist, as client backends do too
    /// (PostgresMain() in `tcop/postgres.c`).
    pub fn report(&mut self, transaction_ended: bool, now: Instant) {
        let overdue = self.held_back_until.is_some_and(|due| now >= due);
        if transaction_ended || overdue {
            self.send(overdue, now);
        }
    }

    fn send(&mut self, insist: bool, now: Instant) {
        // SAFETY: only requires being outside a transaction, which it asserts.
        let milliseconds = unsafe { pg_sys::pgstat_report_stat(insist) } as u64;
        self.held_back_until =
            (milliseconds > 0).then(|| now + Duration::from_millis(milliseconds));
    }
}
