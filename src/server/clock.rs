//! The server's clock (`utils/adt/timestamp.c`).

use pgrx::pg_sys;

/// The time now, in the server's terms: microseconds since 2000-01-01 UTC.
pub fn now() -> i64 {
    // SAFETY: reads the system's clock and nothing else.
    unsafe { pg_sys::GetCurrentTimestamp() }
}
