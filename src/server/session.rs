//! Connecting a worker to a database, on its own terms (`postmaster/bgworker.c`).
//!
//! When a worker connects, the server applies to it, as to any process, the settings attached
//! to the database and the role with `ALTER DATABASE … SET` and `ALTER ROLE … SET`
//! (`process_settings()` in `utils/init/postinit.c`): by the database's owner, by a role that
//! may alter the role, by a superuser who had client sessions in mind. None of them should
//! apply to a worker that watches on behalf of the whole server:
//!
//! - Settings that must have a certain value get it before we connect, in a way that nothing
//!   attached can change ([`FIXED_SETTINGS`]).
//! - *All* others are reset afterwards to the server's own values, from postgresql.conf, its
//!   command line, or by default; from then on they follow the configuration file again.
//!
//! All, because no list is ever complete. `log_min_messages` and `log_error_verbosity` would
//! decide what our processes log, `lc_messages` in which language, `track_activities`,
//! `track_counts` and `update_process_title` what they report; `debug_discard_caches`,
//! `work_mem` or `enable_seqscan` what a count costs; and nobody knows what the settings of
//! other libraries would do.

use super::database_list::database_name;
use super::guc::State;
use super::signals::cancelable;
use super::transaction::transaction;
use super::{guc, hooks, inval, role, signals};
use pgrx::pg_sys;
use std::ffi::CStr;
use std::{fmt, ptr};

/// Settings that have these values in our processes, whatever was attached and whatever the
/// server has. `AutoVacWorkerMain()` (`postmaster/autovacuum.c`) does the same, with most of
/// the same list.
const FIXED_SETTINGS: &[(&CStr, &CStr)] = &[
    // By name, only the server's own objects are found.
    (c"search_path", c""),
    // Run as the requested role.
    (c"role", c"none"),
    (c"row_security", c"on"),
    // No client, no conversion; without this, a process does not start if there is no
    // conversion for its client's encoding.
    (c"client_encoding", c"SQL_ASCII"),
    // Wait for as long as it takes; SIGTERM is there to end it.
    (c"statement_timeout", c"0"),
    (c"idle_in_transaction_session_timeout", c"0"),
    (c"idle_session_timeout", c"0"),
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    (c"transaction_timeout", c"0"),
    // Serializable transactions are refused on a standby.
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_deferrable", c"off"),
    (c"default_transaction_read_only", c"on"),
    // Fetch only the requested part of the server's statistics.
    (c"stats_fetch_consistency", c"none"),
    // Rows are read from the table itself, whatever state its indexes are in.
    (c"enable_seqscan", c"on"),
    (c"enable_indexscan", c"off"),
    (c"enable_indexonlyscan", c"off"),
    (c"enable_bitmapscan", c"off"),
    // A count takes one process and no compiler.
    (c"max_parallel_workers_per_gather", c"0"),
    (c"jit", c"off"),
];

const FOR_AS_LONG_AS_IT_TAKES: &CStr = c"0";
const FOR_A_WHILE: &CStr = c"2s";

/// Until called again, makes the process wait for locks for two seconds if `for_a_while`, after
/// which there is an ERROR; or as long as it takes. Has no effect while cancel requests are held
/// (see [`signals::cancelable`]).
pub fn wait_for_locks(for_a_while: bool) {
    let timeout = if for_a_while {
        FOR_A_WHILE
    } else {
        FOR_AS_LONG_AS_IT_TAKES
    };
    fix_setting(c"lock_timeout", timeout);
}

/// What the process has become by connecting.
pub struct Session {
    /// The database's name, for messages; empty without a database.
    pub database: String,
    database_name: Vec<u8>,
    /// The database's oid; 0 without a database.
    pub database_oid: u32,
    /// The role's name, for messages.
    pub role: String,
    pub role_oid: u32,
}

/// Connects the process to `database` as `role` (the bootstrap superuser if none), shows it as
/// `application_name`, and discards all settings that are attached to either.
///
/// Without a database, only the shared catalogs can be read.
///
/// Ends the process with the server's own FATAL message if the database or the role
/// does not exist or may not be used.
pub fn connect(database: Option<&CStr>, role: Option<&CStr>, application_name: &CStr) -> Session {
    let state = prepare(FOR_AS_LONG_AS_IT_TAKES);
    // SAFETY: called once, by a worker registered with a database connection
    // (postmaster/bgworker.c). The strings are copied. No library preloading and
    // no login event trigger happens on this path, unlike for client backends.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnection(
            database.map_or(ptr::null(), CStr::as_ptr),
            role.map_or(ptr::null(), CStr::as_ptr),
            0,
        );
    }
    if database.is_none() {
        role::follow_memberships();
    }
    settle(state, database, application_name)
}

/// As [`connect`], for a visit: by oid, which a database keeps when it is renamed; and without
/// waiting long for any lock, even while connecting, because others may wait for the visit to
/// end.
pub fn visit(database: u32, role: u32, application_name: &CStr) -> Session {
    let state = prepare(FOR_A_WHILE);
    // SAFETY: as above.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnectionByOid(
            pg_sys::Oid::from(database),
            pg_sys::Oid::from(role),
            0,
        );
    }
    settle(state, None, application_name)
}

impl Session {
    /// Whether the database has been renamed. On a primary, the renaming process waits for us
    /// to leave. A standby replays this without telling connected processes, because it replays
    /// no locks except those on relations (`LogAccessExclusiveLock()` in
    /// `storage/ipc/standby.c`).
    pub fn is_of_another_name(&self) -> bool {
        // Cancelable, because only then a visitor stops waiting when it has waited for a while.
        inval::take_pg_database_change()
            && cancelable(|| transaction(current_database)) != self.database_name
    }
}

/// What must be done before connecting. Returns the state of the settings to restore.
fn prepare(lock_timeout: &CStr) -> State {
    // Applying settings may look up names, and there is a hook for that.
    hooks::clear();
    for (name, value) in FIXED_SETTINGS {
        fix_setting(name, value);
    }
    fix_setting(c"lock_timeout", lock_timeout);
    let state = State::save();
    // Whoever connects is warned, each time, of settings that are attached and can't be applied,
    // and of a collation that has another version. Visits are many.
    fix_setting(c"log_min_messages", c"error");
    state
}

fn settle(state: State, asked_for: Option<&CStr>, application_name: &CStr) -> Session {
    signals::hold_cancel_requests();
    guc::reserve::keep();
    inval::watch();
    state.restore();
    fix_setting(c"application_name", application_name);
    transaction(|| {
        // The role that connected, not the one that the database's settings may have switched
        // to.
        //
        // SAFETY: the catalog look-up needs a transaction. The role exists, because we are
        // connected as it. Its name is palloc'd.
        let (role_oid, role) = unsafe {
            let role = pg_sys::GetAuthenticatedUserId();
            (role, CStr::from_ptr(pg_sys::GetUserNameFromId(role, false)))
        };
        fix_setting(c"session_authorization", role);
        // On a standby, the database may have been renamed since.
        let database_name = asked_for.map_or_else(current_database, |name| name.to_bytes().into());
        Session {
            database: String::from_utf8_lossy(&database_name).into_owned(),
            database_name,
            database_oid: current_database_oid(),
            role: role.to_string_lossy().into_owned(),
            role_oid: role_oid.to_u32(),
        }
    })
}

fn current_database_oid() -> u32 {
    // SAFETY: a global that is set once the process is connected.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

/// The name of the database that the process is connected to, empty without one. Must be called
/// within [`transaction`].
fn current_database() -> Vec<u8> {
    database_name(current_database_oid()).unwrap_or_default()
}

/// Gives a setting a value that nothing of lower priority than `PGC_S_OVERRIDE` can change:
/// neither the database, nor the role, nor a reload.
fn fix_setting(name: &CStr, value: &CStr) {
    // SAFETY: both strings are copied; a name or value that the server doesn't
    // know is an ordinary error.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

/// Logs `reason` and ends the process, as [`exit`] does.
pub fn leave(reason: fmt::Arguments) -> ! {
    hold_interrupts();
    log::info!("{reason}");
    exit()
}

/// Logs `reason` at DEBUG1 and ends this process, which a running process has started,
/// permanently. The server, too, logs at DEBUG1 that a process has exited if the status is 0
/// (`LogChildExit()` in `postmaster/postmaster.c`).
pub fn end_visit(reason: fmt::Arguments) -> ! {
    hold_interrupts();
    log::debug!("{reason}");
    exit_with(0)
}

/// Every log message ends in a CHECK_FOR_INTERRUPTS(), which would end a worker that was sent
/// SIGTERM with a second message.
fn hold_interrupts() {
    // SAFETY: HOLD_INTERRUPTS() of miscadmin.h, never to be resumed.
    unsafe { pg_sys::InterruptHoldoffCount += 1 };
}

/// Ends the process with the exit status that makes the postmaster restart a worker after its
/// restart interval, unless the server is shutting down. (0 would mean "done permanently",
/// anything above 1 a crash; see `CleanupBackgroundWorker()` in `postmaster/postmaster.c`, from
/// 18 on `CleanupBackend()`.)
pub fn exit() -> ! {
    exit_with(1)
}

fn exit_with(status: i32) -> ! {
    // SAFETY: proc_exit() runs the server's exit callbacks and does not return, so
    // nothing of the caller's is used afterwards.
    unsafe { pg_sys::proc_exit(status) };
    // Some versions' headers do not say that proc_exit() never returns.
    #[allow(unreachable_code)]
    {
        unreachable!()
    }
}

/// The pid of this process.
pub fn my_pid() -> i32 {
    // SAFETY: a global that is set when the process starts.
    unsafe { pg_sys::MyProcPid }
}
