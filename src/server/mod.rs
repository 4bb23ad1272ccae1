//! The server's own facilities, made safe: the only room with `unsafe` in it.
//!
//! Each file wraps one facility that pgrx lacks, or that it offers in a form
//! which does not suit a long-lived worker, behind a small safe API, and opens
//! with the server's rule that the facility lives by. Nothing in here uses
//! anything outside of it. Everything assumes what PostgreSQL assumes of every
//! backend: one process, one thread.

#![allow(unsafe_code)]

pub mod activity;
#[cfg(not(test))] // the unit tests run in no server
mod allocator;
pub mod catalog_lock;
pub mod catalog_scan;
pub mod catalog_size;
pub mod clock;
pub mod commits;
pub mod database_list;
pub mod database_lock;
pub mod dynamic_worker;
pub mod exit;
pub mod heap;
pub mod hooks;
pub mod invalidation;
pub mod library;
pub mod listening;
pub mod log;
pub mod nap;
pub mod preload;
pub mod recovery;
pub mod registered_workers;
pub mod relation_lock;
pub mod role;
pub mod session;
pub mod settings;
pub mod shared_slots;
pub mod signals;
pub mod transaction;
