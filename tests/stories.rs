//! What count_relations promises, told on real servers, one story per file.
//!
//! All stories run in parallel, each on its own clusters; `cluster` contains what they share. A
//! story also fails if the server's log has a line at WARNING or above that it does not name
//! with `expect`.

mod cluster;
mod random_ddl;

mod alerts;
mod all_churn;
mod all_databases;
mod all_visits;
mod attached;
mod census;
mod churn;
mod clock;
mod coming_back;
mod counting;
mod dashboard;
mod diagnosis;
mod documents;
mod exporter;
mod failing;
mod faults;
mod first_worker;
mod hooks;
mod introducing;
mod kept;
mod leaving;
mod log_lines;
mod making_way;
mod memory;
mod preloading;
mod refused;
mod runbook;
mod scrape;
mod settings;
mod standby;
mod states;
mod taking_nothing;
mod tricks;
mod uninstalling;
mod upgrading;
mod view;
mod wrong_index;
