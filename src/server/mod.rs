//! The server's own facilities, made safe: the only room with `unsafe` in it.
//!
//! Each file wraps one facility that pgrx lacks, or that it offers in a form
//! which does not suit a long-lived worker, behind a small safe API, and opens
//! with the server's rule that the facility lives by. Nothing in here uses
//! anything outside of it. Everything assumes what PostgreSQL assumes of every
//! backend: one process, one thread.
//!
//! # A process's life
//!
//! - [`preload`]: how the library is being loaded.
//! - [`library`]: by which name a worker finds the library that the postmaster has loaded.
//! - [`registered_workers`]: for which workers the postmaster had room.
//! - [`dynamic_worker`]: workers that a running process starts. Instead of pgrx's
//!   `DynamicBackgroundWorker`, because that never frees its handle.
//! - [`signals`]: SIGHUP, SIGTERM and SIGINT. Instead of pgrx's `attach_signal_handlers()`,
//!   because with its handler for SIGTERM a process that waits for a lock goes on waiting.
//! - [`session`]: connecting, and exiting. Instead of pgrx's `connect_worker_to_spi()`,
//!   because that leaves in effect what others attached to the database and the role.
//! - [`role`]: who may connect to what.
//! - [`latch`]: waiting on the latch. Instead of pgrx's `wait_latch()`, because that handles
//!   interrupts before its caller sees SIGTERM, returns when the postmaster has died, and
//!   rounds down, so that it does not wait for the last millisecond of a nap.
//! - [`ipc`]: what a process does last.
//! - [`allocator`]: running out of memory. Instead of Rust's own, which pgrx keeps, because
//!   that aborts the process, and the server restarts. It matters wherever memory can run
//!   out (a limit on the process, `vm.overcommit_memory = 2`), and in every client's backend
//!   that calls the library.
//! - [`malloc`]: giving memory back to the system.
//!
//! # Work
//!
//! - [`transaction`]: transactions and snapshots. Instead of pgrx's
//!   `BackgroundWorker::transaction()`, because that takes its snapshot first: whoever then
//!   waits for a lock holds back vacuum.
//! - [`hooks`]: keeping other libraries out of our queries.
//! - [`relation_lock`]: the locks that reading `pg_class` takes.
//! - [`catalog_lock`]: the locks that looking at a catalog's size takes.
//! - [`catalog_scan`]: reading a catalog row by row. Instead of pgrx's `Spi`, because a
//!   cursor takes several times as long, and more memory.
//! - [`catalog_size`]: what statistics and file system have of a catalog.
//! - [`inval`]: whether catalogs of this database have changed.
//! - [`sinval`]: which databases' `pg_class` has changed.
//! - [`procarray`]: whether the transactions that a snapshot sees have sent their messages.
//! - [`database_list`]: the databases of the server, without being connected to one, which
//!   `Spi` needs.
//! - [`database_lock`]: whether somebody wants the database to itself.
//! - [`recovery`]: whether the server is a standby.
//! - [`clock`]: the server's time, and the processor's.
//!
//! # Shared state
//!
//! - [`shmem`]: a table in shared memory. Instead of pgrx's `pg_shmem_init!` with
//!   `PgLwLock`, because the size of that is fixed when the library is built, and its readers
//!   keep the writer waiting.
//! - [`guc`]: what pgrx's `GucRegistry` leaves out: rules for a string's value, lists,
//!   values that keep the server from starting, and reading the configuration again.
//!
//! # Reporting
//!
//! - [`elog`]: the `log` crate's records in the server's log. Instead of pgrx's `log!`,
//!   because that formats a line anew each time, be it the same every second.
//! - [`backend_status`]: what `pg_stat_activity` and the statistics show of the process.

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
