//! Loaded any other way than through shared_preload_libraries, the library says
//! so and does nothing.

use crate::cluster::Cluster;

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
