//! Has what a snapshot sees been announced? (`storage/ipc/procarray.c`,
//! `access/transam/xact.c`, `access/transam/twophase.c`, `access/transam/xlogrecovery.c`)
//!
//! A transaction becomes visible before it sends its invalidation messages, and sends them
//! 64 at a time. Whoever puts together from messages what a snapshot sees has to wait for
//! the transactions in between. They are known by what they give back only afterwards:
//!
//! - *A backend's own transaction*: `ProcArrayEndTransaction()` takes `lxid` out of the
//!   backend's PGPROC, the messages are sent (`AtEOXact_Inval()`), and only then, with the
//!   other locks, `VirtualXactLockTableCleanup()` takes `fpLocalTransactionId` out. It stays
//!   until then also if somebody else waits for the virtual transaction.
//! - *A prepared transaction*: `FinishPreparedTransaction()` takes its dummy PGPROC out of the
//!   proc array, sends the messages, and then releases the locks, of which every transaction
//!   has one on its own xid.
//! - *On a standby* the startup process does both while it replays the commit record: the end
//!   of the record becomes known before (`replayEndRecPtr`) and after (`lastReplayedEndRecPtr`).
//!
//! A transaction that has just begun or is being rolled back looks the same for a moment, and
//! is waited for needlessly.

use pgrx::pg_sys;
use std::ptr::null_mut;
use std::sync::atomic::{Ordering, fence};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Much longer than a commit needs, unless its process has to wait for the processor.
const PATIENCE: Duration = Duration::from_millis(20);

const PAUSE: Duration = Duration::from_micros(100);

/// Waits until every transaction whose changes of this database the active snapshot sees has
/// sent its messages, which [`super::invalidation::receive`] then receives. Returns false if
/// that takes unusually long.
pub fn await_messages() -> bool {
    let mut pending = backends();
    let replayed = Replay::now();
    let started = Instant::now();
    loop {
        pending
            .retain(|&(process, transaction)| transaction_to_be_cleaned_up(process) == transaction);
        if pending.is_empty() && replayed.is_complete() && !is_prepared_one_pending() {
            // What was sent before the fields above were written can be read after them.
            fence(Ordering::SeqCst);
            return true;
        }
        if started.elapsed() > PATIENCE {
            return false;
        }
        sleep(PAUSE);
    }
}

/// The backends that are in between, each with its transaction.
fn backends() -> Vec<(*mut pg_sys::PGPROC, u32)> {
    // SAFETY: both are set once shared memory is there, and never again.
    let (first, number, database) = unsafe {
        let header = pg_sys::ProcGlobal;
        (
            (*header).allProcs,
            (*header).allProcCount,
            pg_sys::MyDatabaseId,
        )
    };
    let in_between = |index| {
        // SAFETY: the array is in shared memory for good. Each field is read at once, and
        // no lock is needed to see those of a backend that is in between: it wrote them
        // before the snapshot was taken, under ProcArrayLock but for the last, which it wrote
        // when its transaction began.
        unsafe {
            let process = first.add(index);
            let is_here = (&raw const (*process).databaseId).read_volatile() == database;
            if !is_here || local_transaction(process).read_volatile() != 0 {
                return None;
            }
            let transaction = transaction_to_be_cleaned_up(process);
            (transaction != 0).then_some((process, transaction))
        }
    };
    (0..number as usize).filter_map(in_between).collect()
}

fn transaction_to_be_cleaned_up(process: *mut pg_sys::PGPROC) -> u32 {
    // SAFETY: in shared memory for good, and read at once.
    unsafe { (&raw const (*process).fpLocalTransactionId).read_volatile() }
}

unsafe fn local_transaction(process: *mut pg_sys::PGPROC) -> *const u32 {
    // SAFETY: only an address is taken, in what the caller says is a PGPROC.
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    unsafe {
        &raw const (*process).lxid
    }
    // SAFETY: likewise.
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    unsafe {
        &raw const (*process).vxid.lxid
    }
}

/// Whether a prepared transaction is in between.
fn is_prepared_one_pending() -> bool {
    // SAFETY: the number and the array of dummies are set once shared memory is there. Each
    // field is read at once. One that is in between has written its xid long ago, and its
    // locks are listed until they are released. One that is being made has no list for a
    // moment, and is not in between.
    unsafe {
        (0..pg_sys::max_prepared_xacts as usize).any(|index| {
            let dummy = pg_sys::PreparedXactProcs.add(index);
            let xid = (&raw const (*dummy).xid).read_volatile();
            xid != pg_sys::InvalidTransactionId
                && has_locks(dummy)
                && !pg_sys::XidInMVCCSnapshot(xid, pg_sys::GetActiveSnapshot())
        })
    }
}

unsafe fn has_locks(process: *mut pg_sys::PGPROC) -> bool {
    // SAFETY: the caller says that it is a PGPROC. Of each list only the address that is
    // first in it is read, at once, and compared with that of an empty list.
    unsafe {
        let lists = &raw const (*process).myProcLocks;
        (0..(*lists).len()).any(|index| {
            let list = (&raw const (*lists)[index]).cast_mut();
            #[cfg(feature = "pg15")]
            let (first, none) = ((&raw const (*list).next).read_volatile(), list);
            #[cfg(not(feature = "pg15"))]
            let (first, none) = (
                (&raw const (*list).head.next).read_volatile(),
                &raw mut (*list).head,
            );
            first != null_mut() && first != none
        })
    }
}

/// The end of the record that was being replayed, of old if none was.
struct Replay(pg_sys::XLogRecPtr);

impl Replay {
    fn now() -> Self {
        // SAFETY: reads shared memory under its spinlock; a null pointer asks for no timeline.
        Self(unsafe { pg_sys::GetCurrentReplayRecPtr(null_mut()) })
    }

    fn is_complete(&self) -> bool {
        // SAFETY: as above.
        unsafe { pg_sys::GetXLogReplayRecPtr(null_mut()) >= self.0 }
    }
}
