//! The locks that reading `pg_class` takes (`storage/lmgr/lmgr.c`).

use pgrx::pg_sys;

/// The mode of all locks on catalogs, which is what a `SELECT` takes: AccessShareLock.
pub const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;

/// The table and, after it as everywhere, all indexes that `catalog/pg_class.h` declares. By
/// constants, because looking them up would take a snapshot.
pub const PG_CLASS: [u32; 4] = [
    pg_sys::RelationRelationId.to_u32(),
    pg_sys::ClassOidIndexId,
    pg_sys::ClassNameNspIndexId,
    pg_sys::ClassTblspcRelfilenodeIndexId,
];

/// Waits for the locks that reading `pg_class` takes, and keeps them until the end of
/// the transaction. (Planning the query, once, may still wait for other catalogs.) Must be
/// called within a transaction.
///
/// The query would take them by itself. Taking them beforehand keeps the wait out of two
/// things: the snapshot, which would otherwise hold back vacuum for as long as another process
/// keeps `pg_class` or one of its indexes locked, and the measured duration of the count.
pub fn lock_pg_class() {
    for relation in PG_CLASS {
        // SAFETY: within a transaction, whose resource owner remembers the lock.
        unsafe { pg_sys::LockRelationOid(pg_sys::Oid::from(relation), LOCK) };
    }
}
