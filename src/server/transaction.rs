//! Transactions and snapshots (`access/transam/xact.c`, `utils/time/snapmgr.c`).
//!
//! There is no clean-up code here, on purpose. An error inside leaves through the worker's main
//! function, and the process exit that follows aborts the transaction (`ShutdownPostgres()` in
//! `utils/init/postinit.c`); the postmaster then starts a new worker, which has nothing to
//! repair.

use super::hooks;
use pgrx::pg_sys;

/// Runs `body` in a transaction of its own and commits it.
pub fn transaction<R>(body: impl FnOnce() -> R) -> R {
    // SAFETY: as any backend does between two commands; the statement's start
    // becomes the transaction's start. Receives pending invalidation messages.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
    }
    let result = body();
    // SAFETY: the transaction was started above, and nothing in between can have
    // ended it and come back: errors do not return here.
    unsafe { pg_sys::CommitTransactionCommand() };
    result
}

/// Runs `body` with a new snapshot that sees everything committed so far, and without any
/// hooks: what a query needs. Must be called within [`transaction`].
pub fn with_snapshot<R>(body: impl FnOnce() -> R) -> R {
    hooks::clear();
    // SAFETY: GetTransactionSnapshot() needs a transaction, in which the caller is;
    // PushActiveSnapshot() makes its own copy.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
    let result = body();
    // SAFETY: pops the snapshot pushed above; SPI leaves the stack as it found it.
    unsafe { pg_sys::PopActiveSnapshot() };
    result
}
