//! Has `pg_class` changed, or `pg_database`, or a role? (`utils/cache/inval.c`)
//!
//! Every process keeps caches of the system catalogs, and the server tells all of them, through
//! a queue in shared memory, which entries have become invalid. Changing a row of `pg_class`
//! sends an invalidation message for the cache keyed by the relation's oid, RELOID; for
//! `pg_database` it is DATABASEOID, for roles AUTHOID, and for their memberships
//! AUTHMEMROLEMEM. So a callback registered for that cache is called for every change, in the
//! middle of whatever made the process look into the queue: starting a transaction, taking a
//! lock on a relation, or [`receive`].
//!
//! A second message names the relation, for the relation cache. It comes after the first, and
//! is also sent for changes of other catalogs that describe the relation.

use pgrx::pg_sys::{
    self,
    SysCacheIdentifier::{AUTHMEMROLEMEM, AUTHOID, DATABASEOID, RELOID},
};
use std::collections::BTreeSet;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

static PG_CLASS_CHANGED: AtomicBool = AtomicBool::new(true);
static PG_CLASS_CHANGES: AtomicU64 = AtomicU64::new(0);
static PG_DATABASE_CHANGED: AtomicBool = AtomicBool::new(true);
static ROLES_CHANGED: AtomicBool = AtomicBool::new(true);

/// How many relations are known by name before all count as changed.
const MOST_NAMED: usize = 4096;
static NAMED: [AtomicU32; MOST_NAMED] = [const { AtomicU32::new(0) }; MOST_NAMED];
/// How many relations are named; a larger number means that any relation may have changed.
static NUMBER_NAMED: AtomicUsize = AtomicUsize::new(ANY);
const ANY: usize = usize::MAX;

/// Starts watching. Must be called only once, because callbacks can't be removed. Until then,
/// all count as changed.
pub fn watch() {
    for cache in [RELOID, DATABASEOID, AUTHOID, AUTHMEMROLEMEM] {
        // SAFETY: the callback has the signature that SyscacheCallbackFunction asks for,
        // lives as long as the process, and raises no error.
        unsafe {
            pg_sys::CacheRegisterSyscacheCallback(
                cache as c_int,
                Some(on_change),
                pg_sys::Datum::from(0),
            );
        }
    }
    // SAFETY: likewise.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(on_relation_change), pg_sys::Datum::from(0));
    }
}

/// May be called at nearly any time, even while the caches are being rebuilt, so it looks at
/// nothing, counts and sets a flag.
unsafe extern "C-unwind" fn on_change(_: pg_sys::Datum, cache: c_int, _hash: u32) {
    let changed = if cache == RELOID as c_int {
        PG_CLASS_CHANGES.fetch_add(1, Ordering::Relaxed);
        &PG_CLASS_CHANGED
    } else if cache == DATABASEOID as c_int {
        &PG_DATABASE_CHANGED
    } else {
        &ROLES_CHANGED
    };
    changed.store(true, Ordering::Relaxed);
}

/// As [`on_change`].
unsafe extern "C-unwind" fn on_relation_change(_: pg_sys::Datum, relation: pg_sys::Oid) {
    let number = NUMBER_NAMED.load(Ordering::Relaxed);
    if let Some(place) = NAMED.get(number)
        && relation != pg_sys::InvalidOid
    {
        place.store(relation.to_u32(), Ordering::Relaxed);
        NUMBER_NAMED.store(number + 1, Ordering::Relaxed);
    } else {
        NUMBER_NAMED.store(ANY, Ordering::Relaxed);
    }
}

/// Receives the messages sent so far.
///
/// Starting a transaction would do so as well, at several times the cost. The server's own
/// worker for logical replication does the same between transactions (`LogicalRepApplyLoop()`
/// in `replication/logical/worker.c`).
pub fn receive() {
    // SAFETY: allowed outside a transaction too: entries that can't be rebuilt without one are
    // marked and left for later (`RelationClearRelation()` and others in
    // utils/cache/relcache.c). ProcessCatchupInterrupt() in storage/ipc/sinval.c only doubts
    // that an error half-way would be cleaned up; here, an error ends the process.
    unsafe { pg_sys::AcceptInvalidationMessages() };
}

/// Whether a change of `pg_class` has been received since the last call of
/// [`forget_pg_class_changes`].
pub fn pg_class_changed() -> bool {
    PG_CLASS_CHANGED.load(Ordering::Relaxed)
}

/// How many changes of `pg_class` have been received: enough to see whether there are new ones.
pub fn pg_class_changes() -> u64 {
    PG_CLASS_CHANGES.load(Ordering::Relaxed)
}

/// The relations whose rows in `pg_class` may have changed, according to messages received
/// since the last call of [`forget_pg_class_changes`]. `None` if any may have changed.
pub fn named() -> Option<BTreeSet<u32>> {
    let named = NAMED.get(..NUMBER_NAMED.load(Ordering::Relaxed))?.iter();
    Some(named.map(|oid| oid.load(Ordering::Relaxed)).collect())
}

/// Forgets the messages received so far. Must be called before taking the snapshot that will
/// see the changes, or if [`pg_class_changed`] returns false: then the names come from changes
/// of other catalogs, because a transaction's messages for this cache come first.
pub fn forget_pg_class_changes() {
    PG_CLASS_CHANGED.store(false, Ordering::Relaxed);
    NUMBER_NAMED.store(0, Ordering::Relaxed);
}

/// Whether a change of `pg_database` has been received since the last call.
pub fn take_pg_database_change() -> bool {
    PG_DATABASE_CHANGED.swap(false, Ordering::Relaxed)
}

/// Whether a change of `pg_database`, or of roles and their memberships, that may decide who
/// can connect where, has been received since the last call.
pub fn take_access_change() -> bool {
    let roles_changed = ROLES_CHANGED.swap(false, Ordering::Relaxed);
    take_pg_database_change() || roles_changed
}
