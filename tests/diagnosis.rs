//! What to know when a count is wrong.

use crate::cluster::{Cluster, eventually};
use crate::random_ddl::{relations, rows_of_index};
use postgres::Client;
use std::fs;
use std::path::Path;

/// The indexes of `pg_class`, each with its first column.
const INDEXES: [(&str, &str); 3] = [
    ("pg_class_oid_index", "oid"),
    ("pg_class_relname_nsp_index", "relname"),
    ("pg_class_tblspc_relfilenode_index", "reltablespace"),
];

/// What `pg_class` of `database` and each of its indexes contain, on a server that counted
/// wrongly and on its primary; what amcheck says about them; and the worker's plan. Keeps the
/// servers' logs, and says where.
pub fn diagnose(seed: u64, database: &str, server: &Cluster, primary: &Cluster) -> String {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("wrong-count-{seed}"));
    fs::create_dir_all(&directory).unwrap();
    let mut found = String::new();
    for (name, cluster) in [("counting", server), ("primary", primary)] {
        let mut client = cluster.connect(database);
        found += &format!(
            "the {name} server's pg_class: {} rows\n",
            relations(&mut client)
        );
        for (index, column) in INDEXES {
            found += &inspect(&mut client, index, column);
        }
    }
    found += &format!("the worker's plan:\n{}\n", plan(database, server, primary));
    found += &format!("the last counts: {:?}\n", last_counts(server, database));
    for (name, cluster) in [("counting", server), ("primary", primary)] {
        let log = directory.join(name);
        fs::write(&log, cluster.log()).unwrap();
        found += &format!("the {name} server's log: {}\n", log.display());
    }
    found
}

fn last_counts(server: &Cluster, database: &str) -> Vec<i64> {
    let counts = server.counts(database);
    let last = counts.iter().rev().take(20).rev();
    last.map(|count| count.relations).collect()
}

fn inspect(client: &mut Client, index: &str, column: &str) -> String {
    let rows = rows_of_index(client, column);
    let check = format!("SELECT bt_index_check('{index}', true)");
    let opinion = match client.batch_execute(&check) {
        Ok(()) => "amcheck finds nothing".to_owned(),
        Err(error) => match error.as_db_error() {
            Some(said) => format!("amcheck: {said:?}"),
            None => format!("{error:?}"),
        },
    };
    format!("{index}: {rows} rows, {opinion}\n")
}

/// The plan that the worker makes when it has to re-plan.
fn plan(database: &str, server: &Cluster, primary: &Cluster) -> String {
    server.configure(&["debug_print_plan = on"]);
    server.reload();
    let worker = server.worker(database);
    eventually("a plan", || {
        primary.execute(database, "ANALYZE pg_class");
        let lines = server.lines_with("{PLANNEDSTMT");
        let line = lines.into_iter().find(|line| line.pid == worker);
        line.map(|line| line.message)
    })
}
