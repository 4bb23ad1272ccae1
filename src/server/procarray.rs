//! Have the transactions that a snapshot sees sent their invalidation messages?
//! (`storage/ipc/procarray.c`, `access/transam/xact.c`, `access/transam/twophase.c`,
//! `access/transam/xlogrecovery.c`)
//!
//! A transaction becomes visible before it sends its invalidation messages, and sends them 64
//! at a time. While it is between these steps, it still has what it gives back only afterwards:
//!
//! - *A backend's own transaction*: `ProcArrayEndTransaction()` clears `lxid` in the backend's
//!   PGPROC, `AtEOXact_Inval()` sends the messages, and only then
//!   `VirtualXactLockTableCleanup()` clears `fpLocalTransactionId`, along with the release of
//!   the other locks.
//! - *A prepared transaction*: `FinishPreparedTransaction()` takes its dummy PGPROC out of the
//!   proc array, sends the messages, and then releases the locks; every transaction has one on
//!   its own xid.
//! - *On a standby* the startup process does both while it replays the commit record. It
//!   publishes the record's end before (`replayEndRecPtr`) and after (`lastReplayedEndRecPtr`).
//!
//! A transaction that is just beginning, being prepared or rolled back looks the same for a
//! moment.

use pgrx::pg_sys;
use std::ptr::null_mut;
use std::sync::atomic::{Ordering, fence};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Much longer than a commit takes, unless its process has to wait for the processor.
const PATIENCE: Duration = Duration::from_millis(20);

const PAUSE: Duration = Duration::from_micros(100);

/// Waits until every transaction whose changes of this database the active snapshot sees has
/// sent its messages, so that [`super::inval::receive`] receives them. Returns false if
/// that takes unusually long.
pub fn await_messages() -> bool {
    let mut backends = backends();
    // SAFETY: reads shared memory under its spinlock; a null pointer asks for no timeline.
    let replaying = unsafe { pg_sys::GetCurrentReplayRecPtr(null_mut()) };
    // SAFETY: likewise.
    let is_replayed = || unsafe { pg_sys::GetXLogReplayRecPtr(null_mut()) } >= replaying;
    let end = Instant::now() + PATIENCE;
    loop {
        backends.retain(|&(process, transaction)| ending(process) == Some(transaction));
        if backends.is_empty() && is_replayed() && !prepared_ones().any(is_ending) {
            // The process that wrote what we have just read had sent its messages before.
            fence(Ordering::SeqCst);
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        sleep(PAUSE);
    }
}

type Process = *mut pg_sys::PGPROC;

/// The backends that are between the two steps, each with its transaction.
fn backends() -> Vec<(Process, u32)> {
    // SAFETY: the number and the address are set once there is shared memory.
    let (first, number) = unsafe {
        let header = pg_sys::ProcGlobal;
        ((*header).allProcs, (*header).allProcCount)
    };
    let processes = (0..number as usize).map(|index| first.wrapping_add(index));
    processes
        .filter_map(|process| Some((process, ending(process)?)))
        .collect()
}

/// The transaction of this database with which a backend is between the two steps.
fn ending(process: Process) -> Option<u32> {
    // SAFETY: the array is in shared memory permanently. Each field is read at once, and no
    // lock is needed to see those of a backend between the two steps: they were written before
    // the snapshot was taken, `lxid` under ProcArrayLock, and the last one when its transaction
    // began.
    unsafe {
        let is_here = (&raw const (*process).databaseId).read_volatile() == pg_sys::MyDatabaseId;
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let running = (&raw const (*process).lxid).read_volatile();
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        let running = (&raw const (*process).vxid.lxid).read_volatile();
        let transaction = (&raw const (*process).fpLocalTransactionId).read_volatile();
        (is_here && running == 0 && transaction != 0).then_some(transaction)
    }
}

/// The dummies of prepared transactions, including former and future ones.
fn prepared_ones() -> impl Iterator<Item = Process> {
    // SAFETY: the number and the address are set once there is shared memory.
    let (first, number) = unsafe { (pg_sys::PreparedXactProcs, pg_sys::max_prepared_xacts) };
    (0..number as usize).map(move |index| first.wrapping_add(index))
}

/// Whether a prepared transaction of this database is between the two steps: over, but with
/// locks.
fn is_ending(dummy: Process) -> bool {
    // SAFETY: as in ending(). Of a list of locks, only the address of the first is read. For a
    // transaction between the two steps, it was written when the transaction was prepared; one
    // that is just being prepared has none for a moment.
    unsafe {
        let xid = (&raw const (*dummy).xid).read_volatile();
        let is_here = (&raw const (*dummy).databaseId).read_volatile() == pg_sys::MyDatabaseId;
        let lists = &raw const (*dummy).myProcLocks;
        let has_locks = || {
            (0..(*lists).len()).any(|index| {
                let list = &raw const (*lists)[index];
                #[cfg(not(feature = "pg15"))]
                let list = &raw const (*list).head;
                let first = (&raw const (*list).next).read_volatile();
                !first.is_null() && !std::ptr::addr_eq(first, list)
            })
        };
        let is_over = || !pg_sys::XidInMVCCSnapshot(xid, pg_sys::GetActiveSnapshot());
        xid != pg_sys::InvalidTransactionId && is_here && has_locks() && is_over()
    }
}
