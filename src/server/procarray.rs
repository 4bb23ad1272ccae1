//! Have the transactions that a snapshot sees sent their invalidation messages? (`storage/ipc/procarray.c`,
//! `access/transam/xact.c`, `access/transam/twophase.c`, `access/transam/xlogrecovery.c`)
//!
//! A transaction becomes visible before it sends its invalidation messages, and sends them
//! 64 at a time. One that is in between is known by what it gives back only afterwards:
//!
//! - *A backend's own transaction*: `ProcArrayEndTransaction()` takes `lxid` out of the
//!   backend's PGPROC, `AtEOXact_Inval()` sends the messages, and only then, with the other
//!   locks, `VirtualXactLockTableCleanup()` takes `fpLocalTransactionId` out.
//! - *A prepared transaction*: `FinishPreparedTransaction()` takes its dummy PGPROC out of the
//!   proc array, sends the messages, and then releases the locks, of which every transaction
//!   has one on its own xid.
//! - *On a standby* the startup process does both while it replays the commit record, whose end
//!   it publishes before (`replayEndRecPtr`) and after (`lastReplayedEndRecPtr`).
//!
//! A transaction that is just beginning or rolling back looks the same for a moment.

use pgrx::pg_sys;
use std::ptr::null_mut;
use std::sync::atomic::{Ordering, fence};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Much longer than a commit needs, unless its process has to wait for the processor.
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
        backends.retain(|&(process, transaction)| to_be_cleaned_up(process) == transaction);
        if backends.is_empty() && is_replayed() && !prepared_ones().any(is_in_between) {
            // Whoever wrote what has just been read had sent its messages before.
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

/// The backends that are in between, each with its transaction.
fn backends() -> Vec<(Process, u32)> {
    // SAFETY: the array is in shared memory, for good. Each field is read at once, and no lock
    // is needed to see those of a backend that is in between: it wrote them before the snapshot
    // was taken, `lxid` under ProcArrayLock, and the last when its transaction began.
    let in_between = |process: Process| unsafe {
        let is_here = (&raw const (*process).databaseId).read_volatile() == pg_sys::MyDatabaseId;
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let running = (&raw const (*process).lxid).read_volatile();
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        let running = (&raw const (*process).vxid.lxid).read_volatile();
        let transaction = to_be_cleaned_up(process);
        (is_here && running == 0 && transaction != 0).then_some((process, transaction))
    };
    // SAFETY: the number and the address are set once there is shared memory.
    let (first, number) = unsafe {
        (
            (*pg_sys::ProcGlobal).allProcs,
            (*pg_sys::ProcGlobal).allProcCount,
        )
    };
    let processes = (0..number as usize).map(|index| first.wrapping_add(index));
    processes.filter_map(in_between).collect()
}

fn to_be_cleaned_up(process: Process) -> u32 {
    // SAFETY: as in backends().
    unsafe { (&raw const (*process).fpLocalTransactionId).read_volatile() }
}

/// The dummies of prepared transactions, of former and future ones too.
fn prepared_ones() -> impl Iterator<Item = Process> {
    // SAFETY: the number and the address are set once there is shared memory.
    let (first, number) = unsafe { (pg_sys::PreparedXactProcs, pg_sys::max_prepared_xacts) };
    (0..number as usize).map(move |index| first.wrapping_add(index))
}

/// Whether a prepared transaction is in between: over, and with locks.
fn is_in_between(dummy: Process) -> bool {
    // SAFETY: as in backends(). Of a list of locks only the address of its first is read. That
    // of one that is in between was written when it was prepared; one that is just being
    // prepared has none for a moment.
    unsafe {
        let xid = (&raw const (*dummy).xid).read_volatile();
        let lists = &(*dummy).myProcLocks;
        let has_locks = lists.iter().any(|list| {
            #[cfg(not(feature = "pg15"))]
            let list = &list.head;
            let first = (&raw const list.next).read_volatile();
            !first.is_null() && !std::ptr::addr_eq(first, list)
        });
        let is_over = || !pg_sys::XidInMVCCSnapshot(xid, pg_sys::GetActiveSnapshot());
        xid != pg_sys::InvalidTransactionId && has_locks && is_over()
    }
}
