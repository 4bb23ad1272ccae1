//! The databases of the server (`catalog/pg_database.h`).
//!
//! `pg_database` is a shared catalog. A process without a database of its own can read it, but
//! not with SQL, which would need the catalogs of a database. So this scans it directly, as
//! `get_database_list()` in `postmaster/autovacuum.c` does.

use super::role::has_privilege_to_connect;
use super::transaction::transaction;
use pgrx::pg_sys;
use std::ffi::{CStr, CString};

/// What `pg_database` says about a database, and what that means for a role.
pub struct Database {
    pub oid: u32,
    pub name: CString,
    pub is_template: bool,
    /// Whether the database can be connected to.
    pub allows_connections: bool,
    /// Whether the requested role has the privilege to connect.
    pub may_connect: bool,
    /// Differs after every change of the row: the transaction that wrote this version of it,
    /// and where the version is.
    pub version: (u32, u32, u16),
}

/// The databases that allow connections, as seen by the role with the oid `role` (0 for the
/// bootstrap superuser).
pub fn databases(role: u32) -> Vec<Database> {
    let mut databases = all_databases(role);
    databases.retain(|database| database.allows_connections);
    databases
}

/// As [`databases`], but includes those that allow no connections.
pub fn all_databases(role: u32) -> Vec<Database> {
    transaction(|| {
        let mut databases = Vec::new();
        // SAFETY: a catalog scan as in systable_beginscan()'s comment in
        // access/index/genam.c: without an index, and with the catalog snapshot
        // that a null one stands for. A tuple is valid until the next is asked for,
        // and the fields that are read through the struct are in front of the nullable
        // ones.
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
                let mut is_null = false;
                let attribute = pg_sys::Anum_pg_database_datacl as i32;
                let acl = pg_sys::fastgetattr(tuple, attribute, (*relation).rd_att, &mut is_null);
                let acl = (!is_null).then_some(acl);
                databases.push(Database {
                    oid: (*row).oid.to_u32(),
                    name: CStr::from_ptr((*row).datname.data.as_ptr()).to_owned(),
                    is_template: (*row).datistemplate,
                    allows_connections: (*row).datallowconn && !invalid,
                    may_connect: has_privilege_to_connect(role, (*row).datdba, acl),
                    version: version(tuple),
                });
            }
            pg_sys::systable_endscan(scan);
            pg_sys::table_close(relation, lock);
        }
        databases
    })
}

/// # Safety
///
/// The tuple is valid.
unsafe fn version(tuple: pg_sys::HeapTuple) -> (u32, u32, u16) {
    // SAFETY: as the caller promises. A tuple from a table has these fields
    // (access/htup_details.h); xmin stays when it is frozen.
    unsafe {
        let place = (*tuple).t_self;
        let block = u32::from(place.ip_blkid.bi_hi) << 16 | u32::from(place.ip_blkid.bi_lo);
        let xmin = (*(*tuple).t_data).t_choice.t_heap.t_xmin;
        (xmin.into_inner(), block, place.ip_posid)
    }
}

/// The oid of the database `name`. Raises an ERROR if there is none. Must be called within a
/// transaction.
pub fn database_oid(name: &CStr) -> u32 {
    // SAFETY: a catalog look-up within the caller's transaction.
    unsafe { pg_sys::get_database_oid(name.as_ptr(), false) }.to_u32()
}

/// The name of the database with this oid, as its catalog has it. `None` if there is none. Must
/// be called within a transaction.
pub fn database_name(oid: u32) -> Option<Vec<u8>> {
    // SAFETY: a catalog look-up within the caller's transaction. The name, a palloc'd C
    // string unless it is null, is copied.
    unsafe {
        let name = pg_sys::get_database_name(pg_sys::Oid::from(oid));
        (!name.is_null()).then(|| CStr::from_ptr(name).to_bytes().to_vec())
    }
}
