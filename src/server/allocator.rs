//! Running out of memory (`utils/mmgr/mcxt.c`, `utils/error/elog.c`).
//!
//! When Rust's allocator runs out of memory, it aborts the process, and a server process that
//! aborts takes all others with it: the postmaster has to assume that shared memory is damaged.
//! PostgreSQL itself would raise an ERROR, but that would unwind through code that is not
//! prepared for it. So here it is a FATAL, which costs only this process.

use super::shmem::NOTHING_TO_ALLOCATE;
use pgrx::pg_sys;
use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{c_char, c_int};
use std::sync::atomic::Ordering;

unsafe extern "C-unwind" {
    fn errstart(elevel: c_int, domain: *const c_char) -> bool;
    fn errcode(sqlerrcode: c_int) -> c_int;
    fn errmsg(format: *const c_char, ...) -> c_int;
    fn errdetail(format: *const c_char, ...) -> c_int;
    fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
}

struct ServerAllocator;

#[global_allocator]
static ALLOCATOR: ServerAllocator = ServerAllocator;

// SAFETY: the system's allocator, except for a null result, which is never returned: the
// process ends instead. That is not unwinding, which an allocator may not do.
unsafe impl GlobalAlloc for ServerAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        or_exit(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        or_exit(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises.
        or_exit(unsafe { System.realloc(pointer, layout, size) }, size)
    }
}

fn or_exit(pointer: *mut u8, size: usize) -> *mut u8 {
    // A mistake that would only show when there is no memory.
    if cfg!(debug_assertions) && NOTHING_TO_ALLOCATE.load(Ordering::Relaxed) {
        std::process::abort();
    }
    if pointer.is_null() {
        out_of_memory(size);
    }
    pointer
}

#[cold]
fn out_of_memory(size: usize) -> ! {
    // SAFETY: what ereport(FATAL) does (utils/error/elog.c), with the words of
    // utils/mmgr/mcxt.c, in memory that ErrorContext keeps for this case. errfinish()
    // runs the exit callbacks and does not return from a FATAL.
    unsafe {
        if errstart(pg_sys::FATAL as c_int, std::ptr::null()) {
            errcode(pg_sys::errcodes::PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY as c_int);
            errmsg(c"out of memory".as_ptr());
            errdetail(c"Failed on request of size %zu.".as_ptr(), size);
        }
        errfinish(c"allocator.rs".as_ptr(), line!() as c_int, std::ptr::null());
    }
    std::process::abort()
}
