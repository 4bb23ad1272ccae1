//! Catalogs as large as those of the people who need us.

use postgres::Client;
use std::ops::Range;

/// Where clones may have their oids; far from those that a throwaway server hands out.
pub const FIRST_CLONE: u32 = 1_000_000_000;

/// Gives `pg_class` rows with these oids, clones of the row of a view; a thousand at a time,
/// because for every row a transaction searches the list of the invalidation messages it has
/// yet to send.
pub fn clone_relations(client: &mut Client, oids: Range<u32>) {
    const AT_A_TIME: usize = 1_000;
    client
        .batch_execute("SET allow_system_table_mods = on; SET synchronous_commit = off")
        .unwrap();
    for first in oids.clone().step_by(AT_A_TIME) {
        let last = oids.end.min(first + AT_A_TIME as u32) - 1;
        let insert = format!(
            "INSERT INTO pg_class SELECT clone.* \
             FROM pg_class AS original, generate_series({first}, {last}) AS n, \
                 jsonb_populate_record(original, jsonb_build_object( \
                     'oid', n, 'relname', 'clone_' || n, 'reltype', 0)) AS clone \
             WHERE original.oid = 'pg_views'::regclass"
        );
        client.batch_execute(&insert).unwrap();
    }
}
