//! What the server's statistics (`utils/adt/pgstatfuncs.c`) and the file system
//! (`utils/adt/dbsize.c`) have of a catalog, from the functions that SQL calls, too.

use pgrx::{IntoDatum, direct_function_call, pg_sys};

/// How many rows there are and have been, as the statistics have it, all 0 if there are none;
/// and how many bytes it takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    pub live_rows: i64,
    pub dead_rows: i64,
    pub rows_inserted: i64,
    pub rows_deleted: i64,
    /// With indexes and TOAST.
    pub total_bytes: i64,
}

/// To be called within a transaction, with the locks of
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
