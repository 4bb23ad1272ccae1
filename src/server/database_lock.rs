//! Does a command need this database to itself?
//!
//! `DROP DATABASE`, `ALTER DATABASE … RENAME TO` and `… SET TABLESPACE` lock the
//! database object in AccessExclusiveLock, `CREATE DATABASE … TEMPLATE` locks its
//! source in ShareLock, and then all of them wait up to five seconds for other
//! connections to go away (`CountOtherDBBackends()` in `storage/ipc/procarray.c`)
//! before they give up. A worker that stays connected makes every one of them
//! fail.
//!
//! Connecting takes RowExclusiveLock on the database object (`InitPostgres()` in
//! `utils/init/postinit.c`), the weakest lock that conflicts with both. So a process that holds
//! a lock conflicting with that one keeps others from connecting, and may be waiting for us to
//! leave. A process that still waits for the lock is not waiting for us: we hold none.
//!
//! But the commands take their lock *before* they check permissions (`dropdb()`,
//! `RenameDatabase()`, `movedb()` and `createdb()` in `commands/dbcommands.c`). So any role
//! that can log in can hold it for a moment, as often as it likes, with a command that is
//! refused. A command that goes ahead holds it all the time. So we leave for a transaction that
//! is seen holding the lock at each of several looks. Two looks would tell commands apart, each
//! of which has a transaction of its own, but not the iterations of a PL/pgSQL loop that
//! catches its errors. Nor do we leave for a role that has no right to the database, because a
//! refusal can be made to take long: the lock is kept until the error has been logged and sent.
//! (We see the role that has logged in, and consider what it can become. The price: if a
//! function with its owner's rights renames a database for a role that may not, it fails after
//! five seconds.) A process that keeps the lock because its client does not
//! read its output is not waiting for us either.
//!
//! PostgreSQL 19 can end workers for such commands itself (`BGWORKER_INTERRUPTIBLE`, see
//! `TerminateBackgroundWorkersForDatabase()` in `postmaster/bgworker.c`), but it then forgets
//! workers that were registered while libraries were preloaded: nothing would count again, even
//! after a mere copy of the database, or a command that failed in the end.

use super::role::may_have_database;
use pgrx::pg_sys;
use std::ffi::c_int;
use std::time::{Duration, Instant};

/// How often to look. Commands that want the database give up after five seconds.
const INTERVAL: Duration = Duration::from_secs(1);

/// How soon to look again at the holders of the lock.
const NEXT_LOOK: Duration = Duration::from_millis(30);

/// At how many more looks a transaction must be seen.
const LOOKS: u32 = 10;

// Declared here and not taken from `pg_sys`, whose wrapper would prepare to catch an error;
// this raises one only for a lock method that does not exist, or with hundreds of LWLocks held.
unsafe extern "C-unwind" {
    fn LockWaiterCount(locktag: *const pg_sys::LOCKTAG) -> c_int;
}

/// Watches the lock of one database.
pub struct Watch {
    database: u32,
    /// The transactions that have held the lock at every look since a holder was first seen;
    /// mostly none.
    suspects: Vec<Holder>,
    /// How many looks there have been at them since, at least [`NEXT_LOOK`] apart.
    looks: u32,
    first_look: Instant,
    last_look: Instant,
}

/// A transaction, by its process and number (`VirtualTransactionId` in `storage/lock.h`).
#[derive(PartialEq)]
struct Holder {
    process: i32,
    transaction: u32,
}

impl Watch {
    /// Watches the database with this oid.
    pub fn of(database: u32) -> Watch {
        Watch {
            database,
            suspects: Vec::new(),
            looks: 0,
            first_look: Instant::now(),
            last_look: Instant::now(),
        }
    }

    /// Looks, and returns whether a command that needs the database to itself is under way.
    pub fn is_wanted(&mut self) -> bool {
        self.is_held()
            && self.looks >= LOOKS
            && self
                .suspects
                .iter()
                .any(|holder| holder.waits_for_us(self.database))
    }

    /// Looks, and returns whether the same transaction has held the lock at every look since a
    /// holder was first seen: later holders do not count.
    pub fn is_held(&mut self) -> bool {
        let tag = tag(self.database);
        // LockWaiterCount() counts holders as well as waiters: nearly always there are none,
        // and this is all that a look costs.
        //
        // SAFETY: the tag outlives the call.
        if unsafe { LockWaiterCount(&tag) } == 0 {
            self.suspects.clear();
            return false;
        }
        let holders = holders(&tag);
        let now = Instant::now();
        if self.suspects.is_empty() {
            self.suspects = holders;
            self.looks = 0;
            self.first_look = now;
            self.last_look = now;
        } else {
            self.suspects.retain(|suspect| holders.contains(suspect));
            if now - self.last_look >= NEXT_LOOK {
                self.looks += 1;
                self.last_look = now;
            }
        }
        !self.suspects.is_empty()
    }

    /// Whether the holders of the lock have been seen for more than twice as long as a command
    /// waits for others to leave.
    pub fn is_held_for_long(&self) -> bool {
        !self.suspects.is_empty() && self.first_look.elapsed() > Duration::from_secs(10)
    }

    /// How soon to look again.
    pub fn interval(&self) -> Duration {
        let in_a_hurry = !self.suspects.is_empty() && self.looks <= LOOKS;
        if in_a_hurry { NEXT_LOOK } else { INTERVAL }
    }
}

/// The lock that connecting to a database takes.
fn tag(database: u32) -> pg_sys::LOCKTAG {
    // As SET_LOCKTAG_OBJECT() in storage/lock.h does for a shared object.
    pg_sys::LOCKTAG {
        locktag_field1: pg_sys::InvalidOid.to_u32(),
        locktag_field2: pg_sys::DatabaseRelationId.to_u32(),
        locktag_field3: database,
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    }
}

/// The transactions that hold the lock in a mode that keeps others from connecting.
fn holders(tag: &pg_sys::LOCKTAG) -> Vec<Holder> {
    let mode = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
    let mut count = 0;
    // SAFETY: GetLockConflicts() in storage/lmgr/lock.c needs no transaction, and leaves out
    // this process and those that wait. Its result is `count` transactions long, and palloc'd
    // for the caller, except in the startup process, which we are not.
    unsafe {
        let conflicts = pg_sys::GetLockConflicts(tag, mode, &mut count);
        let holders = std::slice::from_raw_parts(conflicts, count as usize);
        let holders = holders.iter().map(Holder::from).collect();
        pg_sys::pfree(conflicts.cast());
        holders
    }
}

impl From<&pg_sys::VirtualTransactionId> for Holder {
    fn from(id: &pg_sys::VirtualTransactionId) -> Holder {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let process = id.backendId;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        let process = id.procNumber;
        Holder {
            process,
            transaction: id.localTransactionId,
        }
    }
}

impl Holder {
    /// Whether this may be a command that waits until nobody is connected to the database.
    ///
    /// It is not if its process waits for its client, reading or writing; nor if it is a
    /// prepared transaction, which has no process and is not waiting for anything; nor if its
    /// role has no right to the database.
    fn waits_for_us(&self, database: u32) -> bool {
        const CLASS: u32 = 0xff00_0000; // wait_classid in utils/activity/wait_event.c
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        use pg_sys::BackendIdGetProc as process;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        use pg_sys::ProcNumberGetProc as process;
        // SAFETY: null, or shared memory that stays mapped, even if another process takes it
        // over. Each number has four bytes, and the server, too, reads it without a lock.
        let (wait_event, role) = unsafe {
            let process = process(self.process);
            if process.is_null() {
                return false;
            }
            (
                (&raw const (*process).wait_event_info).read_volatile(),
                (&raw const (*process).roleId).read_volatile(),
            )
        };
        wait_event & CLASS != pg_sys::PG_WAIT_CLIENT && may_have_database(role, database)
    }
}
