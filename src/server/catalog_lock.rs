//! The locks taken by looking at a catalog's size (`utils/adt/dbsize.c`).

use super::relation_lock::{LOCK, PG_CLASS};
use pgrx::pg_sys;

/// Takes AccessShareLock, as [`try_lock_with_indexes`] does, on the catalogs that filling the
/// relation cache reads (`ScanPgRelation()`, `RelationBuildTupleDesc()` and
/// `RelationGetIndexList()` in `utils/cache/relcache.c`), and on all indexes of `pg_class`.
/// Must be called before that function, which would wait for these locks, and within the same
/// transaction.
pub fn try_lock_of_cache() -> bool {
    // By constants, as in super::relation_lock, and tables before their indexes.
    let relations = [
        pg_sys::AttributeRelationId.to_u32(),
        pg_sys::AttributeRelidNumIndexId,
        pg_sys::IndexRelationId.to_u32(),
        pg_sys::IndexIndrelidIndexId,
        pg_sys::IndexRelidIndexId,
    ];
    // SAFETY: within a transaction, whose resource owner remembers the locks.
    PG_CLASS
        .into_iter()
        .chain(relations)
        .all(|relation| unsafe {
            pg_sys::ConditionalLockRelationOid(pg_sys::Oid::from(relation), LOCK)
        })
}

/// Takes AccessShareLock on the catalog `relation`, its indexes, its TOAST table and the TOAST
/// table's index, and keeps the locks until the end of the transaction, if it can get them
/// without waiting. Returns whether it could. Must be called within a transaction.
pub fn try_lock_with_indexes(relation: pg_sys::Oid) -> bool {
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
