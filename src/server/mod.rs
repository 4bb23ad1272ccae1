//! The server's own facilities, made safe: the only room with `unsafe` in it.
//!
//! Each file wraps one facility that pgrx lacks, or that it offers in a form
//! which does not suit a long-lived worker, behind a small safe API, and opens
//! with the server's rule that the facility lives by. Nothing in here uses
//! anything outside of it. Everything assumes what PostgreSQL assumes of every
//! backend: one process, one thread.

#![allow(unsafe_code)]

#[cfg(not(test))] // the unit tests run in no server
mod allocator;
pub mod backend_status;
pub mod catalog_lock;
pub mod catalog_scan;
pub mod catalog_size;
pub mod clock;
pub mod database_list;
pub mod database_lock;
pub mod dynamic_worker;
pub mod elog;
pub mod guc;
pub mod hooks;
pub mod inval;
pub mod ipc;
pub mod latch;
pub mod library;
pub mod malloc;
pub mod preload;
pub mod procarray;
pub mod recovery;
pub mod registered_workers;
pub mod relation_lock;
pub mod role;
pub mod session;
pub mod shmem;
pub mod signals;
pub mod sinval;
pub mod transaction;
