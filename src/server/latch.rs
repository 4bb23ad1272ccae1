//! Waiting on the process latch (`storage/ipc/latch.c`).
//!
//! Every reason to wake up sets the latch: signal handlers, other processes' requests, the
//! server's barriers. The rule that makes it reliable is the order *reset, then look*: the
//! latch is reset first and the flags are read afterwards, so that a request that arrives in
//! between sets the latch again and the next wait returns at once. In the opposite order, the
//! process would sleep through a request that arrives after the look and before the reset.

use super::signals;
use pgrx::pg_sys;
use std::ffi::c_long;
use std::ptr;
use std::time::Duration;

// Declared here and not taken from `pg_sys`, whose wrapper would prepare to catch an error;
// this raises none.
unsafe extern "C-unwind" {
    fn ResetLatch(latch: *mut pg_sys::Latch);
}

/// Sleeps until the latch is set or `timeout` (rounded up to whole milliseconds) has passed,
/// and then handles the server's requests.
///
/// Ends the process if the postmaster has died. Requests that backends send to every process,
/// including `ProcSignalBarrier`s (`DROP DATABASE` waits for those), are answered here. SIGTERM
/// is left to the caller, which can leave with a better message; see [`signals::terminated`].
pub fn nap(timeout: Duration) {
    let milliseconds =
        timeout.as_secs() * 1_000 + u64::from(timeout.subsec_nanos().div_ceil(1_000_000));
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: MyLatch belongs to this process from InitProcess() on, and events
    // and timeout are as WaitLatch() asks: a timeout that is not negative, and
    // one of the two ways to notice the postmaster's death.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            events as i32,
            milliseconds as c_long,
            wait_event_info(),
        );
        ResetLatch(pg_sys::MyLatch);
    }
    if !signals::terminated() {
        pg_sys::check_for_interrupts!();
    }
}

/// Sleeps for a millisecond. Ends the process, which may be a client's, if the postmaster has
/// died.
pub fn pause() {
    let events = pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: as above; no latch is needed where WL_LATCH_SET is not asked for.
    unsafe { pg_sys::WaitLatch(ptr::null_mut(), events as i32, 1, pg_sys::PG_WAIT_EXTENSION) };
}

/// What `pg_stat_activity.wait_event` shows during a nap: `CountRelationsNap`, or `Extension`
/// before 17, where extensions cannot define wait events.
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
fn wait_event_info() -> u32 {
    use std::sync::OnceLock;
    static WAIT_EVENT: OnceLock<u32> = OnceLock::new();
    // SAFETY: a constant C string shorter than NAMEDATALEN; the process has its PGPROC, so it
    // may take the LWLock that protects the registry of names.
    *WAIT_EVENT
        .get_or_init(|| unsafe { pg_sys::WaitEventExtensionNew(c"CountRelationsNap".as_ptr()) })
}

#[cfg(any(feature = "pg15", feature = "pg16"))]
fn wait_event_info() -> u32 {
    pg_sys::PG_WAIT_EXTENSION
}
