//! count_relations: a background worker that watches how many relations a
//! PostgreSQL server holds.
//!
//! The modules, in reading order:
//!
//! - [`worker`]: one database's worker: its registration and the main loop. Start here.
//! - [`attempts`]: how often to retry after a failure.
//! - [`cadence`]: when the next tick is due.
//! - [`counter`]: how many relations there are, and whether to count again.
//! - [`kept`]: the set of relations, for catalogs too large to be counted at every change.
//! - [`census`]: which kinds, in which schemas, how bloated: seldom.
//! - [`report`]: what the log says about the counts.
//! - [`launcher`]: only for `databases = '*'`: one process that knows which databases have
//!   changed, and sends workers to them.
//! - [`budget`]: how much of a processor all these visits may use.
//! - [`registry`]: shared memory: a row and a census for each database.
//! - [`views`]: what SQL sees of the registry.
//! - [`settings`]: every `count_relations.*` setting.
//! - [`server`]: the server's own facilities made safe. All `unsafe` is in there, except what
//!   exported symbols need.
//!
//! Data flows one way: settings → (launcher →) worker → counter, census → (log line,
//! registry) → views.

use crate::server::shmem;
use pgrx::prelude::*;

mod attempts;
mod budget;
mod cadence;
mod census;
mod counter;
mod kept;
mod launcher;
mod registry;
mod report;
mod server;
mod settings;
mod stopwatch;
mod views;
mod worker;

::pgrx::pg_module_magic!(name, version);

/// Called by the server when it loads the library (`utils/fmgr/dfmgr.c`).
#[allow(unsafe_code)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    if !server::preload::in_progress() {
        server::preload::warn_not_preloaded("count_relations");
        return;
    }
    settings::define();
    if server::preload::by_postmaster() {
        server::elog::install();
        let max_databases = settings::max_databases();
        let (workers, databases) = match settings::databases() {
            settings::Databases::All => {
                launcher::register();
                (1, max_databases)
            }
            settings::Databases::Listed(names) => {
                worker::register_all(&names);
                (names.len(), max_databases.max(names.len()))
            }
        };
        shmem::request(
            registry::sizes(databases, workers * attempts::NUMBERS),
            on_all_libraries_loaded,
        );
    }
}

/// Called in the postmaster after it has loaded all libraries.
fn on_all_libraries_loaded() {
    match settings::databases() {
        settings::Databases::All => launcher::warn_if_unregistered(),
        settings::Databases::Listed(names) => worker::warn_of_unregistered(&names),
    }
}

extension_sql_file!("../sql/relation_counts.sql", name = "relation_counts");

#[cfg(any(test, feature = "pg_test"))]
#[pg_schema]
mod tests {
    include!("../tests/in_server.rs");
}

/// `cargo pgrx test` calls this by name.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec![
            "shared_preload_libraries = 'count_relations'",
            // pgrx's tag for lines to print, for scripts/test.sh to read; it swallows others.
            "log_line_prefix = '[%m] [%p] [%c]: TMSG: '",
        ]
    }
}
