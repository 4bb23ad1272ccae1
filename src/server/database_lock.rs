//! Does somebody want this database to itself?
//!
//! `DROP DATABASE`, `ALTER DATABASE … RENAME TO` and `… SET TABLESPACE` lock the
//! database object in AccessExclusiveLock, `CREATE DATABASE … TEMPLATE` locks its
//! source in ShareLock, and then all of them wait up to five seconds for other
//! connections to go away (`CountOtherDBBackends()` in `storage/ipc/procarray.c`)
//! before they give up. A worker that stays connected makes every one of them
//! fail.
//!
//! Connecting takes RowExclusiveLock on the database object (`InitPostgres()` in
//! `utils/init/postinit.c`), the weakest lock that conflicts with both. So asking
//! for just that lock, without waiting, answers the question "could I connect
//! now?". If not, it is time to leave; the restarted worker then waits for its
//! turn in the very same place.
//!
//! PostgreSQL 19 has this built in (`BGWORKER_INTERRUPTIBLE`).

use pgrx::pg_sys;
use std::ffi::c_int;

// Declared here and not taken from `pg_sys`, whose wrapper would be ready to catch an
// error; this raises one only for a lock method that does not exist, or with hundreds
// of LWLocks held.
unsafe extern "C-unwind" {
    fn LockWaiterCount(locktag: *const pg_sys::LOCKTAG) -> c_int;
}

/// Whether a command that needs the current database to itself is under way.
pub fn wanted() -> bool {
    // SAFETY: a global that is set once the worker is connected.
    wanted_by_others(unsafe { pg_sys::MyDatabaseId }.to_u32())
}

/// Whether a command that needs the database with this oid to itself is under way.
pub fn wanted_by_others(database: u32) -> bool {
    let mode = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: the tag is made as SET_LOCKTAG_OBJECT() in storage/lock.h makes it for
    // a shared object, and outlives the calls. A session lock needs no transaction;
    // with dontWait it is refused instead of waited for, also behind somebody who
    // waits for a conflicting lock, and what is acquired is released at once.
    unsafe {
        let database = pg_sys::LOCKTAG {
            locktag_field1: pg_sys::InvalidOid.to_u32(),
            locktag_field2: pg_sys::DatabaseRelationId.to_u32(),
            locktag_field3: database,
            locktag_field4: 0,
            locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
        };
        // Counts the holders as well as those who wait: nearly always there are none,
        // and asking is cheaper than having the lock table remember a lock of ours.
        if LockWaiterCount(&database) == 0 {
            return false;
        }
        let (session_lock, dont_wait) = (true, true);
        match pg_sys::LockAcquire(&database, mode, session_lock, dont_wait) {
            pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL => true,
            _ => {
                pg_sys::LockRelease(&database, mode, session_lock);
                false
            }
        }
    }
}
