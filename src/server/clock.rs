//! The server's clock (`GetCurrentTimestamp()` in `utils/adt/timestamp.c`), and the processor's.

use pgrx::pg_sys;
use std::ffi::c_long;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where the server's time begins, in Unix's.
const POSTGRES_EPOCH: Duration = {
    let days = pg_sys::POSTGRES_EPOCH_JDATE - pg_sys::UNIX_EPOCH_JDATE;
    Duration::from_secs(days as u64 * 24 * 60 * 60)
};

/// The current time as the server has it: microseconds since 2000-01-01 UTC. 1 if the clock is
/// set to before that: 0 stands for no time.
pub fn now() -> i64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH + POSTGRES_EPOCH);
    (time.unwrap_or_default().as_micros() as i64).max(1)
}

/// When it was `time` by the server's clock, on the monotonic one, which now is at `at`; now if
/// the server's has been set back since. `None` if that is before the machine was started.
pub fn instant(time: i64, at: Instant) -> Option<Instant> {
    at.checked_sub(Duration::from_micros((now() - time).max(0) as u64))
}

/// How much processor time this process has used since it started (clock(3), which counts
/// millionths of a second on every POSIX system).
pub fn processor_time() -> Duration {
    // SAFETY: clock() has no preconditions.
    unsafe extern "C" {
        safe fn clock() -> c_long;
    }
    Duration::from_micros(clock().try_into().unwrap_or_default())
}
