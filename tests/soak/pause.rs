//! What must be true whenever nothing changes.

use crate::cluster::{Cluster, eventually};
use crate::random_ddl::relations;
use postgres::Client;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The findings of a pause.
pub struct Checked {
    /// Databases that must be counted.
    pub databases: usize,
    /// How long it took until every database had been counted again.
    pub counted_in: Duration,
}

/// A row of the view.
#[derive(Debug)]
struct Row {
    database: u32,
    relations: i64,
    ticks: i64,
}

/// Waits until every database has a row with a tick that began after this call, and there are
/// no other rows. Then the count must be what any session can see.
pub fn check(cluster: &Cluster, problems: &mut Vec<String>) -> Checked {
    let begun = Instant::now();
    let mut client = cluster.connect("postgres");
    let databases = databases(&mut client);
    let expected = databases.len();
    let mut first_seen: HashMap<u32, i64> = HashMap::new();
    let mut repeated = false;
    let what = format!("{expected} rows for {databases:?}");
    let rows = eventually(&what, || {
        let rows = rows(&mut client);
        repeated |= rows
            .windows(2)
            .any(|two| two[0].database == two[1].database);
        let is_fresh = |row: &Row| {
            let seen = first_seen.entry(row.database);
            // The next tick may have begun already.
            row.ticks >= *seen.or_insert(row.ticks) + 2
        };
        let fresh = rows.iter().map(is_fresh).filter(|fresh| *fresh).count();
        let is_wanted = |row: &Row| databases.contains_key(&row.database);
        (fresh == expected && rows.len() == expected && rows.iter().all(is_wanted)).then_some(rows)
    });
    let counted_in = begun.elapsed();
    if repeated {
        problems.push(format!("two rows for a database, of {databases:?}"));
    }
    for row in &rows {
        let name = &databases[&row.database];
        let relations = relations(&mut cluster.connect(name));
        if row.relations != relations {
            problems.push(format!(
                "database {name:?} has {relations} relations, but {row:?}"
            ));
        }
    }
    Checked {
        databases: databases.len(),
        counted_in,
    }
}

/// The names of the databases that must be counted.
fn databases(client: &mut Client) -> HashMap<u32, String> {
    let sql = "SELECT oid, datname::text FROM pg_database \
               WHERE datallowconn AND NOT datistemplate AND datconnlimit <> -2";
    let rows = client.query(sql, &[]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Not from the view itself, which shows rows of existing databases only.
fn rows(client: &mut Client) -> Vec<Row> {
    let sql = "SELECT datid, relations, ticks FROM relation_counts() ORDER BY datid";
    let rows = client.query(sql, &[]).unwrap();
    rows.iter()
        .map(|row| Row {
            database: row.get(0),
            relations: row.get(1),
            ticks: row.get(2),
        })
        .collect()
}
