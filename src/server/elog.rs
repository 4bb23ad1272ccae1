//! Writes the [`log`] crate's records to the server's log (`utils/error/elog.c`).
//!
//! `info!` becomes LOG, `debug!` DEBUG1, `trace!` DEBUG2, and both `warn!` and
//! `error!` become WARNING: ERROR is control flow in PostgreSQL (it ends the
//! transaction and, in a worker, the process), not a level to log at.
//!
//! pgrx's `ereport!` would do for these, but not for a [`Line`]: it formats and copies each
//! message anew, which costs an idle tick about as much as everything else that it does.

use log::{Level, LevelFilter, Log, Metadata, Record};
use pgrx::{PgLogLevel, pg_sys};
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::Location;

// Not in `pg_sys`, which keeps them for pgrx's own `ereport!`, or only with a wrapper that
// prepares to catch an error, which message_level_is_interesting() never raises.
unsafe extern "C-unwind" {
    safe fn message_level_is_interesting(elevel: c_int) -> bool;
    fn errstart(elevel: c_int, domain: *const c_char) -> bool;
    fn errmsg_internal(format: *const c_char, ...) -> c_int;
    fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
}

struct ServerLog;

/// Sends this process's records to the server's log.
pub fn install() {
    // The server decides for each record whether to log it, so that a change of
    // log_min_messages takes effect at once.
    log::set_max_level(LevelFilter::Trace);
    // Refused only if it was done before, which is fine as well.
    let _ = log::set_logger(&ServerLog);
}

impl Log for ServerLog {
    fn enabled(&self, metadata: &Metadata) -> bool {
        message_level_is_interesting(server_level(metadata.level()))
    }

    fn log(&self, record: &Record) {
        if self.enabled(record.metadata()) {
            emit(
                server_level(record.level()),
                &c_string(&record.args().to_string()),
                &c_string(record.file().unwrap_or_default()),
                record.line().unwrap_or_default(),
            );
        }
    }

    fn flush(&self) {}
}

fn server_level(level: Level) -> c_int {
    (match level {
        Level::Error | Level::Warn => PgLogLevel::WARNING,
        Level::Info => PgLogLevel::LOG,
        Level::Debug => PgLogLevel::DEBUG1,
        Level::Trace => PgLogLevel::DEBUG2,
    }) as c_int
}

fn emit(level: c_int, message: &CStr, file: &CStr, line: u32) {
    let (message, file, line) = (message.as_ptr(), file.as_ptr(), line as c_int);
    // SAFETY: the three calls that the ereport() macro makes, in its order. Below
    // ERROR, errfinish() is done with all pointers when it returns. Should one of
    // them raise an error of its own (out of memory), the boundary turns it into
    // a panic; the closure holds nothing that would need dropping.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            if errstart(level, std::ptr::null()) {
                errmsg_internal(c"%s".as_ptr(), message);
                errfinish(file, line, std::ptr::null());
            }
        });
    }
}

/// A message that is formatted once and logged any number of times, at LOG.
pub struct Line(CString);

impl Line {
    /// Anything after a null byte is dropped.
    pub fn new(text: &str) -> Line {
        Line(c_string(text))
    }

    /// Logs the message, with the caller's place in the source as its location.
    #[track_caller]
    pub fn log(&self) {
        let caller = Location::caller();
        let file = caller.file_as_c_str();
        emit(server_level(Level::Info), &self.0, file, caller.line());
    }
}

/// Drops anything after a null byte.
fn c_string(text: &str) -> CString {
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(&text[..end]).unwrap_or_default()
}
