//! SIGHUP, SIGTERM and SIGINT.
//!
//! A signal handler runs between two arbitrary instructions of the process, so
//! it may do almost nothing: no allocation, no lock, no `ereport`. PostgreSQL's
//! handlers set flags and set the process latch, and the main loop acts on the
//! flags when it is safe to. Both handlers here end in the server's own:
//!
//! - SIGHUP: `SignalHandlerForConfigReload` (`postmaster/interrupt.c`).
//! - SIGTERM: `die` (`tcop/postgres.c`), the one that client backends use. Its flags make the
//!   next `CHECK_FOR_INTERRUPTS()` end the process, which gets a worker out of a long query or
//!   out of waiting for a lock. A handler that only sets a flag of the worker's own can't:
//!   nothing reads that flag until the query is over.
//!
//! SIGINT, `pg_cancel_backend()`, has the handler that the server gives every worker that may
//! connect to a database (`StartBackgroundWorker()` in `postmaster/bgworker.c`, from 17 on
//! `BackgroundWorkerMain()`). It is meant for a query, but `CHECK_FOR_INTERRUPTS()` does not
//! know whether one is running, and is called in many places without a query too: at the end of
//! every log message, for example.

use pgrx::pg_sys;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};

static TERMINATED: AtomicBool = AtomicBool::new(false);

#[cfg(any(feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18"))]
mod handlers {
    use super::*;

    // Declared here and not taken from `pg_sys`, whose wrappers catch errors with sigsetjmp,
    // which has no place in a signal handler.
    unsafe extern "C-unwind" {
        fn die(signal: c_int);
        pub fn SignalHandlerForConfigReload(signal: c_int);
    }

    pub unsafe extern "C-unwind" fn on_sigterm(signal: c_int) {
        TERMINATED.store(true, Ordering::Relaxed);
        // SAFETY: `die` is written to be a signal handler. Whoever is interrupted
        // finds errno as it was: `die` itself restores it on 15 and 16, and from 17
        // on wrapper_handler() (port/pqsignal.c), which calls every handler that
        // pqsignal() installs. A store to an atomic does not touch errno.
        unsafe { die(signal) }
    }
}

/// From 19 on a handler is also told who sent the signal, and `die` remembers it for its
/// message.
#[cfg(not(any(feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18")))]
mod handlers {
    use super::*;
    use pg_sys::pg_signal_info;

    // As above.
    unsafe extern "C-unwind" {
        fn die(signal: c_int, info: *const pg_signal_info);
        pub fn SignalHandlerForConfigReload(signal: c_int, info: *const pg_signal_info);
    }

    pub unsafe extern "C-unwind" fn on_sigterm(signal: c_int, info: *const pg_signal_info) {
        TERMINATED.store(true, Ordering::Relaxed);
        // SAFETY: as on 17 and 18; what wrapper_handler() passed is passed on.
        unsafe { die(signal, info) }
    }
}

/// Installs the handlers and unblocks signals. Must be called first in a worker's main function
/// (`postmaster/bgworker.c` starts it with all signals blocked).
pub fn attach() {
    #[cfg(any(feature = "pg15", feature = "pg16", feature = "pg17"))]
    use pg_sys::pqsignal;
    #[cfg(not(any(feature = "pg15", feature = "pg16", feature = "pg17")))]
    use pg_sys::pqsignal_be as pqsignal;

    // SAFETY: both handlers have the signature that pqsignal() asks for, are async-signal-safe
    // as said above, and live as long as the process. Signals are still blocked here, and
    // unblocked only once both handlers are installed.
    unsafe {
        pqsignal(
            pg_sys::SIGHUP as c_int,
            Some(handlers::SignalHandlerForConfigReload),
        );
        pqsignal(pg_sys::SIGTERM as c_int, Some(handlers::on_sigterm));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// Whether SIGTERM has arrived: an administrator or a shutdown wants the process to leave.
/// Stays true.
pub fn terminated() -> bool {
    TERMINATED.load(Ordering::Relaxed)
}

/// Whether SIGHUP has arrived since the last call.
pub fn take_reload_request() -> bool {
    let flag = &raw mut pg_sys::ConfigReloadPending;
    // SAFETY: a `volatile sig_atomic_t` of the server's (interrupt.h), shared only with the
    // handler of this same thread. A signal between the read and the write is not lost: the
    // reload that follows reads the files it was sent for.
    unsafe {
        let pending = flag.read_volatile() != 0;
        if pending {
            flag.write_volatile(0);
        }
        pending
    }
}

/// From here on, cancel requests only affect what runs in [`cancelable`].
pub fn hold_cancel_requests() {
    // SAFETY: HOLD_CANCEL_INTERRUPTS() of miscadmin.h.
    unsafe { pg_sys::QueryCancelHoldoffCount += 1 };
}

/// Runs `body`; a cancel request that arrives meanwhile ends it with an ERROR. Must be called
/// after [`hold_cancel_requests`].
pub fn cancelable<R>(body: impl FnOnce() -> R) -> R {
    // SAFETY: a `volatile sig_atomic_t` that its handler only ever sets, and
    // RESUME_CANCEL_INTERRUPTS() of miscadmin.h. Requests that came before had nothing
    // to cancel; an idle client backend drops them too (PostgresMain() in
    // tcop/postgres.c).
    unsafe {
        (&raw mut pg_sys::QueryCancelPending).write_volatile(0);
        pg_sys::QueryCancelHoldoffCount -= 1;
    }
    let result = body();
    hold_cancel_requests();
    result
}
