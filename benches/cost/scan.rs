//! What it costs to read the table where the planner would read an index.

use crate::cluster::Cluster;
use crate::report::Scan;
use crate::{median, processes, say};

/// The cost of counting as our worker does, as a ratio to counting with the plan that the
/// planner chooses, both in one session without helpers. Measured right after VACUUM, when an
/// index serves best, and with rows that are not known to be visible to all, as after changes
/// everywhere.
pub fn measure(cluster: &Cluster, relations: u32) -> Scan {
    const ROUNDS: usize = 15;
    say(&format!("The table and its indexes, {relations} relations"));
    let mut client = cluster.connect("postgres");
    client
        .batch_execute(
            "SET max_parallel_workers_per_gather = 0; SET jit = off; \
             SET allow_system_table_mods = on; PREPARE count AS SELECT",
        )
        .unwrap();
    let row = client.query_one("SELECT pg_backend_pid()", &[]).unwrap();
    let pid: i32 = row.get(0);
    let counts = 1 + 100_000 / relations;
    let [after_vacuum, after_changes] = [
        "VACUUM ANALYZE pg_class",
        // Makes new versions of rows, which are not visible to all. No more than this, because
        // the server takes minutes over the messages of a million.
        "UPDATE pg_class SET relpages = relpages WHERE oid IN \
             (SELECT oid FROM pg_class WHERE relname LIKE 'clone_%' LIMIT 100000)",
    ]
    .map(|preparation| {
        client.batch_execute(preparation).unwrap();
        let ratios = (0..ROUNDS).map(|_| {
            let [chosen, table] = ["on", "off"].map(|indexes| {
                let set = ["indexscan", "indexonlyscan", "bitmapscan"]
                    .map(|scan| format!("SET enable_{scan} = {indexes}"));
                client.batch_execute(&set.join(";")).unwrap();
                client.batch_execute("DEALLOCATE count").unwrap();
                client
                    .batch_execute("PREPARE count AS SELECT count(*) FROM pg_class")
                    .unwrap();
                client.batch_execute("EXECUTE count").unwrap(); // makes the plan
                let before = processes::cpu_time(pid);
                for _ in 0..counts {
                    client.batch_execute("EXECUTE count").unwrap();
                }
                (processes::cpu_time(pid) - before).as_secs_f64()
            });
            table / chosen
        });
        median(ratios.collect())
    });
    client.batch_execute("VACUUM ANALYZE pg_class").unwrap();
    eprintln!("    {after_vacuum:.2} after VACUUM, {after_changes:.2} after changes");
    Scan {
        relations,
        after_vacuum,
        after_changes,
    }
}
