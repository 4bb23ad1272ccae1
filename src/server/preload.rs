//! How the library is being loaded (`utils/init/miscinit.c`).

use pgrx::{PgLogLevel, PgSqlErrorCode, function_name, pg_sys, pg_sys::panic::ErrorReport};

/// Whether the postmaster is loading the libraries of `shared_preload_libraries`: the only time
/// at which workers, shared memory and postmaster settings can be requested.
pub fn in_progress() -> bool {
    // SAFETY: a plain global that only the one thread of this process writes.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Whether this is a server to count in: not one that `pg_upgrade` runs, nor a single-user one,
/// which has no background workers.
pub fn by_postmaster() -> bool {
    // SAFETY: as above.
    unsafe { pg_sys::IsPostmasterEnvironment && !pg_sys::IsBinaryUpgrade }
}

/// Logs that `library` does nothing unless it is preloaded, and how to do that.
pub fn warn_not_preloaded(library: &str) {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("{library} was not loaded via shared_preload_libraries and counts nothing"),
        function_name!(),
    )
    .set_hint(preload_hint(library))
    .report(PgLogLevel::WARNING);
}

/// Raises an ERROR unless `preloaded`.
pub fn require_preloaded(library: &str, preloaded: bool) {
    if !preloaded {
        ErrorReport::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("{library} must be loaded via shared_preload_libraries"),
            function_name!(),
        )
        .set_hint(preload_hint(library))
        .report(PgLogLevel::ERROR);
    }
}

fn preload_hint(library: &str) -> String {
    format!(
        "Add \"{library}\" to shared_preload_libraries in postgresql.conf and restart the server."
    )
}
