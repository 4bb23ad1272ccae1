//! Where this library was loaded from (`utils/fmgr/dfmgr.c`).
//!
//! A worker is registered with the name of the library that contains its main function. It
//! inherits what the postmaster has loaded, but looks the name up like any process: a bare name
//! is searched in `dynamic_library_path`, which may contain another copy, or none. By the path
//! that the postmaster used, it finds the library that is already loaded.

use pgrx::{PgLogLevel, PgSqlErrorCode, function_name, pg_sys, pg_sys::panic::ErrorReport};
use std::ffi::{CStr, c_char, c_int, c_void};

/// `Dl_info` of dladdr(3).
#[repr(C)]
struct DlInfo {
    file_name: *const c_char,
    file_base: *mut c_void,
    symbol_name: *const c_char,
    symbol_address: *mut c_void,
}

unsafe extern "C" {
    fn dladdr(address: *const c_void, info: *mut DlInfo) -> c_int;
}

/// The name to register workers of this library with.
///
/// It is the library's path, unless that is too long, which is quite possible before 17. Then
/// it begins with `$libdir` if the library is in there; otherwise this ends the starting server
/// with FATAL.
pub fn name() -> String {
    let longest = pg_sys::BackgroundWorker::default().bgw_library_name.len() - 1;
    let path = path();
    if path.len() > longest {
        path_in_libdir(&path).unwrap_or_else(|| refuse(&path, longest))
    } else {
        path
    }
}

fn path() -> String {
    let mut info = DlInfo {
        file_name: std::ptr::null(),
        file_base: std::ptr::null_mut(),
        symbol_name: std::ptr::null(),
        symbol_address: std::ptr::null_mut(),
    };
    // SAFETY: dladdr() fills in its result if it finds the library that contains the address,
    // which is this function's. The name is the one passed to dlopen(), and stays for as long
    // as the library is loaded.
    unsafe {
        let found = dladdr(path as *const c_void, &mut info);
        assert!(found != 0, "a loaded function is in some library");
        CStr::from_ptr(info.file_name)
            .to_string_lossy()
            .into_owned()
    }
}

fn path_in_libdir(path: &str) -> Option<String> {
    // SAFETY: a C string that does not change after the server's start (miscadmin.h).
    let directory = unsafe { CStr::from_ptr((&raw const pg_sys::pkglib_path).cast()) };
    let file = path.strip_prefix(directory.to_str().ok()?)?;
    file.starts_with('/').then(|| format!("$libdir{file}"))
}

fn refuse(path: &str, longest: usize) -> ! {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_NAME_TOO_LONG,
        format!("path of library \"{path}\" is too long for a background worker"),
        function_name!(),
    )
    .set_detail(format!(
        "This server takes {longest} bytes; the path has {}.",
        path.len()
    ))
    .set_hint("Move the library to a directory with a shorter path, or install it where a bare name in shared_preload_libraries suffices.")
    .report(PgLogLevel::FATAL);
    unreachable!("FATAL ends the process")
}
