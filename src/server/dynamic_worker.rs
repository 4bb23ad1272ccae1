//! Workers that a running process starts (`postmaster/bgworker.c`).

use pgrx::bgworkers::BackgroundWorkerBuilder;
use pgrx::pg_sys;
use std::ptr;

/// A worker that this process has started.
///
/// pgrx's `DynamicBackgroundWorker` would do, but for memory: it never frees its
/// handle, which a process that starts workers for months would feel.
pub struct DynamicWorker(*mut pg_sys::BackgroundWorkerHandle);

impl DynamicWorker {
    /// Has the postmaster start a worker; `None` if all worker slots are taken.
    pub fn start(builder: &BackgroundWorkerBuilder) -> Option<DynamicWorker> {
        let mut worker = pg_sys::BackgroundWorker::from(builder);
        let mut handle = ptr::null_mut();
        // SAFETY: called under the postmaster, with a complete description, which is
        // copied. The handle is palloc'd in TopMemoryContext, which is the current one
        // between transactions, and stays.
        let started = unsafe { pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle) };
        started.then(|| DynamicWorker(handle))
    }

    /// Whether the worker has come and gone.
    pub fn has_ended(&self) -> bool {
        let mut pid = 0;
        // SAFETY: the handle is valid until dropped.
        let status = unsafe { pg_sys::GetBackgroundWorkerPid(self.0, &mut pid) };
        status == pg_sys::BgwHandleStatus::BGWH_STOPPED
    }
}

impl DynamicWorker {
    /// Whether the worker waits for a lock (`wait_event_info` in `storage/proc.h`).
    pub fn waits_for_lock(&self) -> bool {
        const CLASS: u32 = 0xff00_0000; // wait_classid in utils/activity/wait_event.c
        let mut pid = 0;
        // SAFETY: the handle is valid until dropped. The process is null, or shared memory
        // that stays, whoever's it becomes. The number is of four bytes, which the server,
        // too, reads without a lock.
        unsafe {
            let status = pg_sys::GetBackgroundWorkerPid(self.0, &mut pid);
            if status != pg_sys::BgwHandleStatus::BGWH_STARTED {
                return false;
            }
            let process = pg_sys::BackendPidGetProc(pid);
            !process.is_null()
                && (&raw const (*process).wait_event_info).read_volatile() & CLASS
                    == pg_sys::PG_WAIT_LOCK
        }
    }

    /// Has the postmaster end the worker with SIGTERM.
    pub fn terminate(&self) {
        // SAFETY: the handle is valid until dropped.
        unsafe { pg_sys::TerminateBackgroundWorker(self.0) };
    }
}

impl Drop for DynamicWorker {
    fn drop(&mut self) {
        // SAFETY: palloc'd by RegisterDynamicBackgroundWorker() for its caller, who
        // has not given it to anybody else.
        unsafe { pg_sys::pfree(self.0.cast()) };
    }
}
