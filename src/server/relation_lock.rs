//! The lock that reading `pg_class` takes (`storage/lmgr/lmgr.c`).

use pgrx::pg_sys;

/// Waits for the lock that a query on `pg_class` needs, and keeps it until the end
/// of the transaction.
///
/// The query would take it by itself. Taken ahead, it keeps two things apart from
/// the wait: the snapshot, which would otherwise hold back vacuum for as long as
/// somebody keeps `pg_class` locked, and the measured duration of the count.
///
/// That goes for `pg_class` itself, not for its indexes: if the plan uses one that is
/// being rebuilt in an open transaction, the query waits for it with its snapshot.
pub fn lock_pg_class() {
    // SAFETY: called within a transaction, whose resource owner remembers the
    // lock; AccessShareLock is what a SELECT takes.
    unsafe {
        pg_sys::LockRelationOid(
            pg_sys::RelationRelationId,
            pg_sys::AccessShareLock as pg_sys::LOCKMODE,
        );
    }
}
