//! What the server's statistics show of this process
//! (`utils/activity/backend_status.c`, `pgstat.c`).

use pgrx::pg_sys;
use std::ffi::CStr;
use std::ptr;

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

/// Sends what the process has counted of its own table scans and transactions to
/// `pg_stat_sys_tables` and `pg_stat_database`, unless it did so less than a
/// second ago (then a later call does). To be called outside transactions only.
pub fn report_statistics() {
    // SAFETY: asks only for being outside a transaction, which it asserts.
    unsafe { pg_sys::pgstat_report_stat(false) };
}
