//! The worker of the article of 2013, "custom background workers", for today's PostgreSQL
//! and pgrx: every second it counts the relations of a database, and writes a line to the
//! server's log.
//!
//! It is what one writes first, and on a good day it is good enough.
//! docs/write-your-own-worker.md shows it on bad days, and what cures it.

use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, SignalWakeFlags};
use pgrx::prelude::*;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};
use std::ffi::CString;
use std::time::Duration;

// The server refuses a library that was built for another major version.
::pgrx::pg_module_magic!(name, version);

static DATABASE: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"postgres"));
static NAPTIME: GucSetting<i32> = GucSetting::<i32>::new(1_000);

/// Called by the server when it loads the library.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    GucRegistry::define_string_guc(
        c"first_worker.database",
        c"Sets the database whose relations are counted.",
        c"",
        &DATABASE,
        GucContext::Postmaster,
        GucFlags::empty(),
    );
    GucRegistry::define_int_guc(
        c"first_worker.naptime",
        c"Sets the time from one count to the next.",
        c"",
        &NAPTIME,
        10,
        24 * 60 * 60 * 1_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    // `ps` shows the name, pg_stat_activity.backend_type the type.
    BackgroundWorkerBuilder::new("bgworker: first worker")
        .set_type("first worker")
        .set_library("first_worker")
        .set_function("first_worker_main")
        .enable_spi_access()
        // What the postmaster waits before it starts a worker that failed again.
        .set_restart_time(Some(Duration::from_secs(5)))
        .load();
}

/// Where the postmaster starts the worker.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn first_worker_main(_argument: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    let database = DATABASE.get().unwrap_or_default();
    let database = database.to_str().expect("the database's name is UTF-8");
    BackgroundWorker::connect_worker_to_spi(Some(database), None);
    log!("first worker started for database \"{database}\"");
    // False when SIGTERM came, or the postmaster died.
    while BackgroundWorker::wait_latch(Some(naptime())) {
        if BackgroundWorker::sighup_received() {
            // SAFETY: a process's own reaction to SIGHUP, between two transactions.
            unsafe { pg_sys::ProcessConfigFile(GucContext::Sighup as pg_sys::GucContext::Type) };
        }
        let relations = BackgroundWorker::transaction(count);
        log!("Currently {relations} relations in database \"{database}\"");
    }
    log!("first worker stopped");
}

fn naptime() -> Duration {
    Duration::from_millis(NAPTIME.get() as u64)
}

fn count() -> i64 {
    Spi::get_one("SELECT count(*) FROM pg_class")
        .expect("the query succeeds")
        .expect("count(*) is never null")
}
