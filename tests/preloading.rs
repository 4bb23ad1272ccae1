//! If the library is loaded other than by shared_preload_libraries, it says so and does
//! nothing; preloaded from any directory, it works.

use crate::cluster::{Cluster, Level, installed_library, major_version};
use std::fs;

#[test]
fn load_warns_with_a_hint_and_registers_nothing() {
    let cluster = Cluster::init_without_library(&[]);
    cluster.expect("count_relations was not loaded via shared_preload_libraries");
    cluster.start_server();
    cluster.execute("postgres", "LOAD 'count_relations'");
    cluster.await_line(
        "count_relations was not loaded via shared_preload_libraries and counts nothing",
    );
    cluster.await_line(
        "Add \"count_relations\" to shared_preload_libraries in postgresql.conf \
         and restart the server.",
    );
    assert!(!cluster.ps().iter().any(|line| line.contains("bgworker")));
    let mut client = cluster.connect("postgres");
    client.batch_execute("LOAD 'count_relations'").unwrap();
    let settings = client
        .query(
            "SELECT 1 FROM pg_settings WHERE name LIKE 'count_relations.%'",
            &[],
        )
        .unwrap();
    assert!(settings.is_empty());
}

#[test]
fn loaded_once_more_where_it_is_preloaded_it_keeps_quiet() {
    let cluster = Cluster::start(&[]);
    cluster.execute("postgres", "LOAD 'count_relations'");
    cluster.await_line("Currently");
    assert!(cluster.lines_with("shared_preload_libraries").is_empty());
}

/// A server that preloads a copy of the library, by its path, from a directory with this
/// name, outside of dynamic_library_path.
fn with_copy_in(directory: &str) -> Cluster {
    let cluster = Cluster::init(&["count_relations.databases = 'app, postgres'"]);
    let directory = cluster.new_server_directory(directory);
    fs::copy(
        installed_library(),
        format!("{directory}/count_relations.so"),
    )
    .unwrap();
    cluster.configure(&[&format!(
        "shared_preload_libraries = '{directory}/count_relations'"
    )]);
    cluster
}

#[test]
fn a_copy_outside_of_the_library_path_counts() {
    let cluster = with_copy_in("elsewhere");
    cluster.configure(&["dynamic_library_path = '/nowhere'"]);
    cluster.start_server();
    cluster.await_line("relations in database \"app\"");
    cluster.await_line("relations in database \"postgres\"");
}

#[test]
fn a_path_that_is_too_long_for_the_server_is_refused_with_a_hint() {
    let cluster = with_copy_in(&"long".repeat(25));
    if major_version() >= 17 {
        cluster.start_server();
        cluster.await_line("relations in database \"app\"");
        return;
    }
    cluster.expect("is too long for a background worker");
    cluster.start_in_vain();
    let refusal = cluster.await_line("is too long for a background worker");
    assert_eq!(refusal.level, Level::Fatal);
    cluster.await_line("This server takes 95 bytes; the path has ");
    cluster.await_line("Move the library to a directory with a shorter path");
}
