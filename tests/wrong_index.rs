//! An index of `pg_class` can be wrong. The count is not.

use crate::cluster::{Cluster, FAST, has_assertions, leave_out, server_user_command};
use crate::random_ddl::{relations, rows_of_index};
use nix::sys::signal::Signal;
use postgres::Client;

const DATABASE: &str = "app";
const INDEX: &str = "pg_class_tblspc_relfilenode_index";

/// A server that prefers indexes wherever it can.
fn start() -> Cluster {
    Cluster::start(&[
        "count_relations.databases = 'app'",
        FAST,
        "enable_seqscan = off",
        "enable_bitmapscan = off",
    ])
}

fn in_the_index(client: &mut Client) -> i64 {
    rows_of_index(client, "reltablespace")
}

/// The worker logs what the table contains, now and after the next change.
fn assert_counted_right(cluster: &Cluster, client: &mut Client) {
    assert_eq!(cluster.next_count(DATABASE), relations(client));
    client.batch_execute("CREATE TABLE one_more ()").unwrap();
    assert_eq!(cluster.next_count(DATABASE), relations(client));
}

#[test]
fn rows_that_an_index_lacks_are_counted() {
    let cluster = start();
    let mut client = cluster.connect(DATABASE);
    let path = format!("SELECT pg_relation_filepath('{INDEX}')");
    let path: String = client.query_one(&path, &[]).unwrap().get(0);
    let index = cluster.data().join(path);
    let earlier = cluster.data().join("earlier");
    let copy = |from, to| {
        cluster.stop(Signal::SIGINT);
        let status = server_user_command("cp").args([from, to]).status();
        assert!(status.unwrap().success());
        cluster.start_server();
    };
    copy(&index, &earlier);
    for table in ["a", "b", "c"] {
        cluster.execute(DATABASE, &format!("CREATE TABLE {table} ()"));
    }
    copy(&earlier, &index);

    let mut client = cluster.connect(DATABASE);
    assert_eq!(in_the_index(&mut client), relations(&mut client) - 3);
    assert_counted_right(&cluster, &mut client);
}

/// How the server itself makes an index wrong: it enters each version of a row of a transaction
/// that has not ended.
#[test]
fn rows_that_an_index_has_twice_are_counted_once() {
    let cluster = start();
    let mut client = cluster.connect(DATABASE);
    if has_assertions(&mut client) {
        let why = "with assertions, the server ends instead of making such an index";
        leave_out("wrong_index::rows_that_an_index_has_twice", why);
        return;
    }
    // Leaves room on the last page, where the versions have to be together.
    client.batch_execute("VACUUM FULL pg_class").unwrap();
    let mut other = cluster.connect(DATABASE);
    other.batch_execute("BEGIN").unwrap();
    for table in ["a", "b", "c"] {
        let sql = format!("CREATE TABLE {table} (); ALTER TABLE {table} SET (fillfactor = 50)");
        other.batch_execute(&sql).unwrap();
    }
    client
        .batch_execute(&format!("REINDEX INDEX {INDEX}"))
        .unwrap();
    other.batch_execute("COMMIT").unwrap();

    assert!(in_the_index(&mut client) > relations(&mut client));
    assert_counted_right(&cluster, &mut client);
}
