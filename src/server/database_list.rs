//! The databases of the server (`catalog/pg_database.h`).
//!
//! `pg_database` is a shared catalog, which a process without a database of its own
//! can read, but not with SQL: for that it would need the catalogs of a database.
//! So this scans it directly, as `get_database_list()` in `postmaster/autovacuum.c`
//! does.

use super::transaction::transaction;
use pgrx::pg_sys;
use std::ffi::CStr;

pub struct Database {
    pub oid: u32,
    pub name: String,
}

/// The databases that can be connected to and are no templates.
pub fn connectable_databases() -> Vec<Database> {
    transaction(|| {
        let mut databases = Vec::new();
        // SAFETY: a catalog scan as in systable_beginscan()'s comment in
        // access/index/genam.c: without an index, and with the catalog snapshot
        // that a null one stands for. A tuple is valid until the next is asked for,
        // and the fields used are in front of the nullable ones.
        unsafe {
            let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, lock);
            let scan = pg_sys::systable_beginscan(
                relation,
                pg_sys::InvalidOid,
                false,
                std::ptr::null_mut(),
                0,
                std::ptr::null_mut(),
            );
            loop {
                let tuple = pg_sys::systable_getnext(scan);
                if tuple.is_null() {
                    break;
                }
                let row: *const pg_sys::FormData_pg_database = pg_sys::heap_tuple_get_struct(tuple);
                let invalid = (*row).datconnlimit == pg_sys::DATCONNLIMIT_INVALID_DB;
                if (*row).datallowconn && !(*row).datistemplate && !invalid {
                    let name = CStr::from_ptr((*row).datname.data.as_ptr());
                    databases.push(Database {
                        oid: (*row).oid.to_u32(),
                        name: name.to_string_lossy().into_owned(),
                    });
                }
            }
            pg_sys::systable_endscan(scan);
            pg_sys::table_close(relation, lock);
        }
        databases
    })
}

/// The oid of the database `name`. Raises an ERROR if there is none.
pub fn database_oid(name: &CStr) -> u32 {
    // SAFETY: a catalog look-up within the caller's transaction.
    unsafe { pg_sys::get_database_oid(name.as_ptr(), false) }.to_u32()
}

/// The name of the database with this oid, as its catalog has it. `None` if there is none.
/// To be called within a transaction.
pub fn database_name(oid: u32) -> Option<Vec<u8>> {
    // SAFETY: a catalog look-up within the caller's transaction. The name, a palloc'd C
    // string unless it is null, is copied.
    unsafe {
        let name = pg_sys::get_database_name(pg_sys::Oid::from(oid));
        (!name.is_null()).then(|| CStr::from_ptr(name).to_bytes().to_vec())
    }
}
