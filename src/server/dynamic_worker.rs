//! Workers that a running process starts (`postmaster/bgworker.c`).

use pgrx::bgworkers::BackgroundWorkerBuilder;
use pgrx::pg_sys;
use std::ptr;

/// A worker that this process has started.
///
/// pgrx's `DynamicBackgroundWorker` would do, except that it never frees its handle, which adds
/// up in a process that starts workers for months.
pub struct DynamicWorker(*mut pg_sys::BackgroundWorkerHandle);

impl DynamicWorker {
    /// Asks the postmaster to start a worker; `None` if all worker slots are taken.
    pub fn start(builder: &BackgroundWorkerBuilder) -> Option<DynamicWorker> {
        let mut worker = pg_sys::BackgroundWorker::from(builder);
        let mut handle = ptr::null_mut();
        // SAFETY: called under the postmaster, with a complete description, which is
        // copied. The handle is palloc'd in TopMemoryContext, which is the current one
        // between transactions, and stays.
        let started = unsafe { pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle) };
        started.then(|| DynamicWorker(handle))
    }

    /// Whether the worker has started and exited.
    pub fn has_ended(&self) -> bool {
        let mut pid = 0;
        // SAFETY: the handle is valid until dropped.
        let status = unsafe { pg_sys::GetBackgroundWorkerPid(self.0, &mut pid) };
        status == pg_sys::BgwHandleStatus::BGWH_STOPPED
    }
}

impl Drop for DynamicWorker {
    fn drop(&mut self) {
        // SAFETY: palloc'd by RegisterDynamicBackgroundWorker() for its caller, which has not
        // passed it on.
        unsafe { pg_sys::pfree(self.0.cast()) };
    }
}
