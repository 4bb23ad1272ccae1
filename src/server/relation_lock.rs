//! The locks that reading `pg_class` takes (`storage/lmgr/lmgr.c`).

use pgrx::pg_sys;

/// Waits for the locks that reading `pg_class` takes, and keeps them until the end of
/// the transaction. (Planning the query, once, may still wait for other catalogs.)
///
/// The query would take them by itself. Taking them beforehand keeps the wait out of two
/// things: the snapshot, which would otherwise hold back vacuum for as long as another process
/// keeps `pg_class` or one of its indexes locked, and the measured duration of the count.
pub fn lock_pg_class() {
    // All that `catalog/pg_class.h` declares. By constants, because looking them up would take
    // a snapshot.
    for relation in [
        pg_sys::RelationRelationId.to_u32(),
        pg_sys::ClassOidIndexId,
        pg_sys::ClassNameNspIndexId,
        pg_sys::ClassTblspcRelfilenodeIndexId,
    ] {
        // SAFETY: called within a transaction, whose resource owner remembers the
        // lock; AccessShareLock is what a SELECT takes, and the table comes before
        // its indexes, as everywhere.
        unsafe {
            pg_sys::LockRelationOid(
                pg_sys::Oid::from(relation),
                pg_sys::AccessShareLock as pg_sys::LOCKMODE,
            );
        }
    }
}
