//! Whether the server is a standby (`access/transam/xlog.c`).

use pgrx::pg_sys;

/// Whether the server is in recovery: a standby, until it is promoted.
pub fn in_progress() -> bool {
    // SAFETY: reads shared memory, and has no preconditions.
    unsafe { pg_sys::RecoveryInProgress() }
}
