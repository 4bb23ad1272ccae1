//! Who may connect (`InitializeSessionUserId()` in `utils/init/miscinit.c`,
//! `CheckMyDatabase()` in `utils/init/postinit.c`): the same answers without trying.

use super::catalog_scan::for_each_role;
use super::signals::cancelable;
use super::transaction::{transaction, with_snapshot};
use pgrx::pg_sys::{
    self,
    SysCacheIdentifier::{AUTHNAME, DATABASEOID},
};
use pgrx::varlena::varatt_is_1b_e;
use std::ffi::CStr;

/// The oid of the role `name` if there is one that may log in. Without a name it is 0,
/// which stands for the bootstrap superuser, who always may.
pub fn role_to_connect_as(name: Option<&CStr>) -> Option<u32> {
    let Some(name) = name else {
        return Some(0);
    };
    transaction(|| {
        let key = pg_sys::Datum::from(name.as_ptr());
        // SAFETY: a look-up within a transaction, in a shared catalog, of columns before the
        // row's nullable fields. The tuple is valid until released.
        unsafe {
            let tuple = pg_sys::SearchSysCache1(AUTHNAME as _, key);
            if tuple.is_null() {
                return None;
            }
            let row: *const pg_sys::FormData_pg_authid = pg_sys::heap_tuple_get_struct(tuple);
            let role = (*row).rolcanlogin.then(|| (*row).oid.to_u32());
            pg_sys::ReleaseSysCache(tuple);
            role
        }
    })
}

/// Whether somebody who logged in as the role may drop, rename, move or copy the database, so
/// that the command is not refused in the end. Decides as `dropdb()`, `RenameDatabase()`,
/// `movedb()` and `createdb()` in `commands/dbcommands.c` do for this role and for all that it
/// can become with `SET ROLE`, but not for functions that run with their owner's rights. A
/// process without a role, as background workers can be, is allowed everything. Must be called
/// outside a transaction.
pub fn may_have_database(role: pg_sys::Oid, database: u32) -> bool {
    if role == pg_sys::InvalidOid {
        return true;
    }
    let may = || {
        // SAFETY: a look-up within a transaction, in a shared catalog, of columns before the
        // row's nullable fields. The tuple is valid until released.
        let (owner, is_template) = unsafe {
            let key = pg_sys::Datum::from(database);
            let tuple = pg_sys::SearchSysCache1(DATABASEOID as _, key);
            if tuple.is_null() {
                return false;
            }
            let row: *const pg_sys::FormData_pg_database = pg_sys::heap_tuple_get_struct(tuple);
            let database = ((*row).datdba, (*row).datistemplate);
            pg_sys::ReleaseSysCache(tuple);
            database
        };
        // SAFETY: look-ups in shared catalogs, within the transaction. A superuser has the
        // privileges of every role.
        let is_owner = |role| unsafe { pg_sys::has_privs_of_role(role, owner) };
        let mut may = is_owner(role);
        if !may {
            with_snapshot(|| {
                for_each_role(|other| {
                    let oid = pg_sys::Oid::from(other.oid);
                    may = may
                        || can_become(role, oid)
                            && (other.is_superuser
                                || other.creates_databases && is_template
                                || is_owner(oid));
                });
            });
        }
        may
    };
    // Cancelable, because only then a visitor waits for a lock no longer than others.
    cancelable(|| transaction(may))
}

/// Whether `SET ROLE` makes whoever logged in as `role` the other one. Must be called within a
/// transaction.
fn can_become(role: pg_sys::Oid, other: pg_sys::Oid) -> bool {
    #[cfg(feature = "pg15")]
    use pg_sys::is_member_of_role as can_become;
    #[cfg(not(feature = "pg15"))]
    use pg_sys::member_can_set_role as can_become;
    // SAFETY: look-ups in shared catalogs.
    unsafe { can_become(role, other) }
}

/// Keeps the caches of role memberships up to date in a process without a database of its own;
/// `InitPostgres()` in `utils/init/postinit.c` does so only for the others.
pub fn follow_memberships() {
    // SAFETY: registers callbacks, and looks at a shared catalog.
    transaction(|| unsafe { pg_sys::initialize_acl() });
}

/// Whether the role (0 for the bootstrap superuser) has the CONNECT privilege on a
/// database with this owner and this `datacl`.
///
/// The answer of `pg_database_aclcheck()` (`catalog/aclchk.c`), except in two cases: a list so
/// long that it is stored outside the row, which only a process with a database can read; and a
/// privilege that the owner has only as a member of `pg_database_owner`. The answer is then
/// "yes" and "no", respectively.
///
/// # Safety
///
/// Must be called within a transaction. `acl` is an `aclitem[]`; if it is `None`, the column is
/// null.
pub unsafe fn has_privilege_to_connect(
    role: u32,
    owner: pg_sys::Oid,
    acl: Option<pg_sys::Datum>,
) -> bool {
    let Some(acl) = acl else {
        return true; // the default for databases includes it, acldefault() in acl.c
    };
    let acl: *mut pg_sys::varlena = acl.cast_mut_ptr();
    let connect = pg_sys::ACL_CONNECT as pg_sys::AclMode;
    let role_oid = pg_sys::Oid::from(role);
    // SAFETY: as the caller promises. A value that is stored in the row can be read without any
    // other catalog; if it was compressed, the copy is palloc'd and ends with the transaction.
    // The look-ups are in shared catalogs.
    unsafe {
        role == 0
            || varatt_is_1b_e(acl)
            || pg_sys::superuser_arg(role_oid)
            || pg_sys::aclmask(
                pg_sys::pg_detoast_datum(acl).cast(),
                role_oid,
                owner,
                connect,
                pg_sys::AclMaskHow::ACLMASK_ANY,
            ) != 0
    }
}
