//! Which registered workers the server has room for (`postmaster/bgworker.c`).
//!
//! If `max_worker_processes` is exhausted, `RegisterBackgroundWorker()` logs this but does not
//! tell its caller: the worker is then not on the postmaster's list.

use pgrx::pg_sys;
use std::ffi::CStr;
use std::mem::offset_of;

#[cfg(any(feature = "pg15", feature = "pg16", feature = "pg17"))]
type Node = pg_sys::slist_node;
#[cfg(not(any(feature = "pg15", feature = "pg16", feature = "pg17")))]
type Node = pg_sys::dlist_node;

/// The arguments of the registered workers that start in `function`. Must be called in the
/// postmaster.
pub fn arguments_of(function: &str) -> Vec<usize> {
    let mut arguments = Vec::new();
    // SAFETY: the postmaster's own list (postmaster/bgworker_internals.h), which nothing
    // changes meanwhile. It ends with a null pointer or, if it is doubly linked, where it
    // began, unless nothing was ever put into it (lib/ilist.h). A name ends in a null byte, as
    // the server has checked.
    unsafe {
        let head: *const Node = &raw const pg_sys::BackgroundWorkerList.head;
        let mut node: *const Node = (*head).next;
        while !node.is_null() && node != head {
            let worker = node
                .byte_sub(offset_of!(pg_sys::RegisteredBgWorker, rw_lnode))
                .cast::<pg_sys::RegisteredBgWorker>();
            let worker = &(*worker).rw_worker;
            let name = CStr::from_ptr(worker.bgw_function_name.as_ptr());
            if name.to_bytes() == function.as_bytes() {
                arguments.push(worker.bgw_main_arg.value());
            }
            node = (*node).next;
        }
    }
    arguments
}
