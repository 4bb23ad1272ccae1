//! What the server's statistics (`utils/adt/pgstatfuncs.c`) and the file system
//! (`utils/adt/dbsize.c`) say about a catalog, from the functions that SQL calls, too.

use pgrx::{IntoDatum, direct_function_call, pg_sys};

/// How many rows there are and have been, according to the statistics, all 0 if there are none;
/// and how many bytes the catalog takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    pub live_rows: i64,
    pub dead_rows: i64,
    pub rows_inserted: i64,
    pub rows_deleted: i64,
    /// Including indexes and TOAST.
    pub total_bytes: i64,
}

/// Must be called within a transaction, with the locks of
/// [`super::catalog_lock::try_lock_with_indexes`].
pub fn figures_of(catalog: pg_sys::Oid) -> Figures {
    let call = |function| {
        // SAFETY: functions of one argument, an oid, that return a bigint, or null.
        let result: Option<i64> =
            unsafe { direct_function_call(function, &[catalog.into_datum()]) };
        result.unwrap_or_default()
    };
    Figures {
        live_rows: call(pg_sys::pg_stat_get_live_tuples),
        dead_rows: call(pg_sys::pg_stat_get_dead_tuples),
        rows_inserted: call(pg_sys::pg_stat_get_tuples_inserted),
        rows_deleted: call(pg_sys::pg_stat_get_tuples_deleted),
        total_bytes: call(pg_sys::pg_total_relation_size),
    }
}

/// Makes the relation cache forget a catalog and its indexes, which the process may need for
/// nothing else, so that they do not take memory permanently.
pub fn forget(catalog: pg_sys::Oid) {
    const NO_LOCK: pg_sys::LOCKMODE = pg_sys::NoLock as pg_sys::LOCKMODE;
    // SAFETY: within the transaction that holds the locks of figures_of(). An entry that is not
    // open may be forgotten at any time (RelationCacheInvalidateEntry() in
    // utils/cache/relcache.c), and is rebuilt when needed; nailed entries stay.
    unsafe {
        let opened = pg_sys::relation_open(catalog, NO_LOCK);
        let indexes = pgrx::PgList::<pg_sys::Oid>::from_pg(pg_sys::RelationGetIndexList(opened));
        pg_sys::relation_close(opened, NO_LOCK);
        for relation in indexes.iter_oid().chain([catalog]) {
            let opened = pg_sys::relation_open(relation, NO_LOCK);
            let is_nailed = (*opened).rd_isnailed;
            pg_sys::relation_close(opened, NO_LOCK);
            if !is_nailed {
                pg_sys::RelationCacheInvalidateEntry(relation);
            }
        }
    }
}
