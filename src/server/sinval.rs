//! Which databases' `pg_class` have changed? (`storage/ipc/sinval.c`, `sinvaladt.c`)
//!
//! The queue that [`super::inval`] is about carries the messages of all databases
//! to every process, each message with its database's oid. A process drops those of other
//! databases (`LocalExecuteInvalidationMessage()` in `utils/cache/inval.c`), but
//! `ReceiveSharedInvalidMessages()` lets its caller say what to do with them.
//!
//! The server itself calls that function when a transaction starts, when a lock on a relation
//! is taken, and perhaps while we handle a message. The messages received then are lost for us,
//! but their number is not: the server counts all messages (`SharedInvalidMessageCounter`), and
//! we count ours.

use pgrx::pg_sys::{
    self, RelationRelationId, SHAREDINVALCATALOG_ID, SharedInvalidationMessage,
    SysCacheIdentifier::RELOID,
};
use std::ffi::c_int;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

// Declared here and not taken from `pg_sys`, whose wrappers prepare to catch an error, at the
// cost of a sigsetjmp() for each message. An error passes through the functions below, which
// then have nothing to clean up, to the wrapper around all of it.
unsafe extern "C-unwind" {
    fn LocalExecuteInvalidationMessage(message: *mut SharedInvalidationMessage);
    fn InvalidateSystemCaches();
}

/// The databases named in messages since [`receive`] began, possibly several times.
static NAMED: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Whether messages have been lost, or everything must be forgotten, as before the first call
/// of [`receive`].
static ANY: AtomicBool = AtomicBool::new(true);

/// How many messages the process has received, as far as we know.
static KNOWN: AtomicU64 = AtomicU64::new(0);

/// Whose `pg_class` has changed.
pub enum Changed {
    /// Perhaps that of all databases.
    All,
    /// That of the databases with these oids.
    These(Vec<u32>),
}

/// Receives the messages sent so far, as [`super::inval`]'s function of this name does, and
/// returns the databases whose `pg_class` has changed since the last call.
///
/// When it returns, all other processes can receive the same messages, too: any that receives
/// from then on has them, or has had them.
pub fn receive() -> Changed {
    // SAFETY: as in super::inval::receive(). Both functions have the required signatures. The
    // counter is a plain global of this process.
    let received = unsafe {
        pg_sys::ReceiveSharedInvalidMessages(Some(on_message), Some(on_reset));
        pg_sys::SharedInvalidMessageCounter
    };
    let lost = KNOWN.swap(received, Ordering::Relaxed) != received;
    let any = ANY.swap(false, Ordering::Relaxed) || lost;
    let mut named = std::mem::take(&mut *named());
    if any || !named.is_empty() {
        await_senders();
    }
    if any || named.contains(&0) {
        return Changed::All;
    }
    named.sort_unstable();
    named.dedup();
    Changed::These(named)
}

/// Waits until processes that are sending messages right now have sent them.
///
/// `SIInsertDataEntries()` makes its messages visible first, and tells each process that there
/// are some second. In between we may have them, while another process, which looks only
/// whether it has been told, does not. But the sender holds `SInvalWriteLock` meanwhile.
fn await_senders() {
    // SAFETY: takes and releases that lock, and does what a process that has caught up does in
    // ReceiveSharedInvalidMessages().
    unsafe { pg_sys::SICleanupQueue(false, 0) };
}

fn named() -> std::sync::MutexGuard<'static, Vec<u32>> {
    NAMED.lock().unwrap_or_else(|error| error.into_inner())
}

unsafe extern "C-unwind" fn on_message(message: *mut SharedInvalidationMessage) {
    KNOWN.fetch_add(1, Ordering::Relaxed);
    // SAFETY: a message of the server's, whose first byte says which member it is: a
    // catalog cache's number, or one of the negative numbers of storage/sinval.h.
    let concerned = unsafe {
        match c_int::from((*message).id) {
            id if id == RELOID as c_int => Some((*message).cc.dbId),
            SHAREDINVALCATALOG_ID if (*message).cat.catId == RelationRelationId => {
                Some((*message).cat.dbId)
            }
            _ => None,
        }
    };
    if let Some(database) = concerned {
        let mut named = named();
        // Often several messages come from one transaction.
        if named.last() != Some(&database.to_u32()) {
            named.push(database.to_u32());
        }
    }
    // SAFETY: what the server does with the message.
    unsafe { LocalExecuteInvalidationMessage(message) };
}

unsafe extern "C-unwind" fn on_reset() {
    KNOWN.fetch_add(1, Ordering::Relaxed);
    ANY.store(true, Ordering::Relaxed);
    // SAFETY: what the server does when the process has fallen behind.
    unsafe { InvalidateSystemCaches() };
}
