//! Reads a catalog row by row (`access/index/genam.c`), without the parser and the planner,
//! which look up, and keep in memory, much that a process needs for nothing else.
//!
//! Must be called within [`super::transaction::with_snapshot`], whose snapshot determines which
//! rows there are. Reading all rows reads the table itself, whatever state its indexes are in.

use super::relation_lock::LOCK;
use pgrx::pg_sys;
use std::ffi::CStr;

/// What a row of `pg_class` says about a relation.
pub struct Relation {
    pub oid: u32,
    /// Its schema's oid.
    pub schema: u32,
    /// All three as in `pg_class`.
    pub relkind: u8,
    pub relpersistence: u8,
    pub relispartition: bool,
}

/// Calls `visit` for each row of `pg_class`.
pub fn for_each_relation(mut visit: impl FnMut(Relation)) {
    // SAFETY: the rows of pg_class begin with this structure, as catalog/pg_class.h has it.
    unsafe {
        for_each_row(
            pg_sys::RelationRelationId,
            |row: &pg_sys::FormData_pg_class| {
                visit(Relation {
                    oid: row.oid.to_u32(),
                    schema: row.relnamespace.to_u32(),
                    relkind: row.relkind as u8,
                    relpersistence: row.relpersistence as u8,
                    relispartition: row.relispartition,
                });
            },
        );
    }
}

/// Calls `visit` for each schema, with its oid and its name in the database's encoding.
pub fn for_each_schema(mut visit: impl FnMut(u32, &[u8])) {
    // SAFETY: the rows of pg_namespace begin with this structure, as catalog/pg_namespace.h
    // has it. A name ends in a zero.
    unsafe {
        for_each_row(
            pg_sys::NamespaceRelationId,
            |row: &pg_sys::FormData_pg_namespace| {
                let name = CStr::from_ptr(row.nspname.data.as_ptr());
                visit(row.oid.to_u32(), name.to_bytes());
            },
        );
    }
}

/// What a row of `pg_authid` says about a role.
pub struct Role {
    pub oid: u32,
    pub is_superuser: bool,
    pub creates_databases: bool,
}

/// Calls `visit` for each role of the server.
pub fn for_each_role(mut visit: impl FnMut(Role)) {
    // SAFETY: the rows of pg_authid begin with this structure, as catalog/pg_authid.h has it.
    unsafe {
        for_each_row(
            pg_sys::AuthIdRelationId,
            |row: &pg_sys::FormData_pg_authid| {
                visit(Role {
                    oid: row.oid.to_u32(),
                    is_superuser: row.rolsuper,
                    creates_databases: row.rolcreatedb,
                });
            },
        );
    }
}

/// # Safety
///
/// The rows of the catalog begin with a `T`.
unsafe fn for_each_row<T>(catalog: pg_sys::Oid, mut visit: impl FnMut(&T)) {
    // SAFETY: a catalog scan as in systable_beginscan()'s comment, with the active snapshot.
    // A row is valid until the next is asked for. An error inside leaves with the
    // transaction, which gives everything back.
    unsafe {
        let relation = pg_sys::table_open(catalog, LOCK);
        let snapshot = pg_sys::GetActiveSnapshot();
        let (no_index, no_keys) = (pg_sys::InvalidOid, std::ptr::null_mut());
        let scan = pg_sys::systable_beginscan(relation, no_index, false, snapshot, 0, no_keys);
        loop {
            let row = pg_sys::systable_getnext(scan);
            if row.is_null() {
                break;
            }
            let row: *const T = pg_sys::heap_tuple_get_struct(row);
            visit(&*row);
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
}

/// Calls `visit` for each of the `oids`, with whether the snapshot sees a row of `pg_class`
/// with that oid, for as long as `visit` returns true. The row is found as the relation cache
/// finds it (`ScanPgRelation()` in `utils/cache/relcache.c`): through the index, which takes
/// longer the more dead versions of the row there are.
pub fn look_up<'a>(
    oids: impl IntoIterator<Item = &'a u32>,
    mut visit: impl FnMut(u32, bool) -> bool,
) {
    // SAFETY: as in for_each_row(). The key is for the first column of the index on oids.
    unsafe {
        let relation = pg_sys::table_open(pg_sys::RelationRelationId, LOCK);
        let snapshot = pg_sys::GetActiveSnapshot();
        let index = pg_sys::Oid::from(pg_sys::ClassOidIndexId);
        for &oid in oids {
            let mut key = pg_sys::ScanKeyData::default();
            pg_sys::ScanKeyInit(
                &mut key,
                pg_sys::Anum_pg_class_oid as pg_sys::AttrNumber,
                pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
                pg_sys::Oid::from(pg_sys::F_OIDEQ),
                pg_sys::Datum::from(oid),
            );
            let scan = pg_sys::systable_beginscan(relation, index, true, snapshot, 1, &mut key);
            let is_there = !pg_sys::systable_getnext(scan).is_null();
            pg_sys::systable_endscan(scan);
            if !visit(oid, is_there) {
                break;
            }
        }
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
}

/// How many pages `pg_class` has, whatever they contain.
pub fn pages_of_pg_class() -> u32 {
    // SAFETY: as in for_each_row(); the main fork is always there.
    unsafe {
        let relation = pg_sys::table_open(pg_sys::RelationRelationId, LOCK);
        let pages =
            pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM);
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        pages
    }
}

/// Whether [`look_up`] has to read the whole table for every row.
pub fn ignores_indexes() -> bool {
    // SAFETY: a plain global of this process, the setting ignore_system_indexes.
    unsafe { pg_sys::IgnoreSystemIndexes }
}
