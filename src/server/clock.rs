//! The server's clock (`utils/adt/timestamp.c`).

// Declared here and not taken from `pg_sys`, whose wrapper would be ready to catch an
// error; this raises none.
unsafe extern "C-unwind" {
    safe fn GetCurrentTimestamp() -> i64;
}

/// The time now, in the server's terms: microseconds since 2000-01-01 UTC.
pub fn now() -> i64 {
    GetCurrentTimestamp()
}
