//! The locks that looking at a catalog's size takes (`utils/adt/dbsize.c`).

use pgrx::pg_sys;

/// Takes AccessShareLock on the catalog `relation`, its indexes, its TOAST table and that
/// one's index, and keeps them until the end of the transaction, if that can be had without
/// waiting. Returns whether it could. To be called within a transaction.
pub fn try_lock_with_indexes(relation: pg_sys::Oid) -> bool {
    const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: within a transaction, whose resource owner remembers the locks. A catalog is
    // never dropped, so it is there once it is locked, and its relcache entry is valid while
    // it is open. The list is a copy, palloc'd, as RelationGetIndexList() says in
    // utils/cache/relcache.c.
    unsafe {
        if !pg_sys::ConditionalLockRelationOid(relation, LOCK) {
            return false;
        }
        let opened = pg_sys::relation_open(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        let toast = (*(*opened).rd_rel).reltoastrelid;
        let list = pg_sys::RelationGetIndexList(opened);
        let indexes = pgrx::PgList::<pg_sys::Oid>::from_pg(list);
        let mut free = indexes
            .iter_oid()
            .all(|index| pg_sys::ConditionalLockRelationOid(index, LOCK));
        pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
        if toast != pg_sys::InvalidOid {
            free = free && try_lock_with_indexes(toast);
        }
        free
    }
}
