//! How many relations: the kept `SELECT count(*) FROM pg_class`, and whether it has
//! to run again.
//!
//! # Why an unchanged count need not be taken again
//!
//! Nearly always nothing has changed since the last tick, and the server tells us
//! so for next to nothing: every change of `pg_class` is announced to every process
//! (see [`crate::server::invalidation`]), and a tick begins by receiving what was
//! announced. If nothing was, the last count still holds, and the tick does not even
//! open a transaction. That no change can be missed rests on two orders.
//!
//! **Visible first, announced second.** `CommitTransaction()` makes a transaction's
//! changes visible to new snapshots (`ProcArrayEndTransaction()`) before it sends
//! its messages (`AtEOXact_Inval()`), both in `access/transam/xact.c`.
//!
//! **Forget first, look second.** A count forgets the announcements received so far
//! *before* it takes its snapshot. What had been announced by then was visible, and
//! is in the count. What is announced later, during the count too, sets the flag
//! again and the next tick counts. It may find that the last count had already seen
//! the change; that costs a query, not a wrong number.
//!
//! So a tick can be late by the moment between a commit's two steps, never wrong
//! about what had been announced before it began. Case by case:
//!
//! - *Rollbacks*, of savepoints too, announce nothing to others and change nothing
//!   (`AtEOXact_Inval(false)`, `AtEOSubXact_Inval()` in `utils/cache/inval.c`).
//! - *Prepared transactions* keep their messages in the state file;
//!   `FinishPreparedTransaction()` (`access/transam/twophase.c`) takes the
//!   transaction out of the proc array before it sends them. In between it removes the
//!   files of the relations that the transaction dropped (`DropRelationFiles()`): with
//!   many of them the moment becomes a long one, and ticks confirm the old number
//!   meanwhile.
//! - *A reader that falls behind* in the queue, because it was stopped or naps for
//!   hours, is told to throw everything away: `InvalidateSystemCaches()` in inval.c
//!   calls every callback.
//! - *In-place updates* of `pg_class` rows (vacuum's `relpages` and the like) are
//!   announced too, but make and remove no rows: a needless query at most.
//! - *`VACUUM FULL pg_class`* and *REINDEX* of its indexes move the rows to a new
//!   file. The plan holds no file; the locks on `pg_class` and its indexes, taken
//!   before the snapshot, bring the announcement of the new one.
//! - *Direct changes* (`allow_system_table_mods`) go through `heap_insert()` and
//!   `heap_delete()` as all others do, which is where `CacheInvalidateHeapTuple()`
//!   is called.
//! - *On a hot standby* the commit record carries the messages.
//!   `xact_redo_commit()` in xact.c first ends the transaction
//!   (`ExpireTreeKnownAssignedTransactionIds()`), then sends them
//!   (`ProcessCommittedInvalidationMessages()`): the same order. Promotion changes
//!   neither.
//! - *Other databases'* changes are not announced here, nor counted.
//!
//! # Why the table is read, and not one of its indexes
//!
//! The planner would count by whichever index of `pg_class` is the smallest, and an
//! index can have a row twice, or lack it, for good. `REINDEX` makes one so: a
//! transaction that creates a relation and alters it leaves two versions of its row in
//! one HOT chain, and the lock on `pg_class` that would keep `REINDEX` out is given
//! back before the commit. `heapam_index_build_range_scan()`
//! (`access/heap/heapam_handler.c`) waits for such a transaction when it builds a
//! unique index; for `pg_class_tblspc_relfilenode_index`, which is not, it enters both
//! versions, under the same address. Damaged disks and changed collations do worse. So
//! the session's settings leave the planner nothing but the sequential scan (see
//! [`crate::server::session`]): what a snapshot sees in the table is the truth.

use crate::server::signals::cancelable;
use crate::server::transaction::{transaction, with_snapshot};
use crate::server::{activity, heap, invalidation, relation_lock};
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgrx::spi::{OwnedPreparedStatement, SpiResult};
use std::ffi::CStr;
use std::time::{Duration, Instant};

/// What is run, and what `pg_stat_activity` shows.
pub const QUERY: &CStr = c"SELECT count(*) FROM pg_class";

/// Counts the relations of the database that the process is connected to.
#[derive(Default)]
pub struct Counter {
    /// Prepared by the first count and kept; the server re-plans it when it must.
    query: Option<OwnedPreparedStatement>,
    last: Option<i64>,
}

/// What a tick found out.
pub struct Tally {
    pub relations: i64,
    /// How long the query took, without the wait for its locks; `None` if it did
    /// not have to run.
    pub counted_in: Option<Duration>,
    /// Whether anything may have changed since the last tick.
    pub changed: bool,
}

impl Counter {
    /// Receives what has been announced; to be called before each tick, and whenever
    /// the process wakes up, as the server throws announcements away only once
    /// everybody has them (`SICleanupQueue()` in `storage/ipc/sinvaladt.c`).
    pub fn receive_announcements(&self) {
        invalidation::receive();
    }

    /// Whether nothing that has been received says that the last count does not hold any
    /// more.
    pub fn holds(&self) -> bool {
        self.last.is_some() && !invalidation::pg_class_changed()
    }

    /// Returns the number of relations, by running the query unless
    /// `skip_unchanged` is set and the last count is known to hold.
    ///
    /// Raises an ERROR if the server does, among others when the query is canceled.
    pub fn tick(&mut self, skip_unchanged: bool) -> Tally {
        match self.last {
            Some(relations) if skip_unchanged && !invalidation::pg_class_changed() => Tally {
                relations,
                counted_in: None,
                changed: false,
            },
            last => {
                let changed = last.is_none() || invalidation::pg_class_changed();
                let tally = cancelable(|| transaction(|| self.count(changed)));
                // What counting took; it may be long until the next.
                heap::give_back();
                tally
            }
        }
    }

    fn count(&mut self, changed: bool) -> Tally {
        activity::running(QUERY);
        relation_lock::lock_pg_class();
        let started = Instant::now();
        invalidation::forget_pg_class_changes();
        let relations =
            with_snapshot(|| self.run_query().unwrap_or_report()).expect("count(*) is never null");
        let counted_in = Some(started.elapsed());
        self.last = Some(relations);
        activity::idle();
        Tally {
            relations,
            counted_in,
            changed,
        }
    }

    fn run_query(&mut self) -> SpiResult<Option<i64>> {
        Spi::connect(|client| {
            let query: &OwnedPreparedStatement = match &mut self.query {
                Some(query) => query,
                none => none.insert(client.prepare(QUERY, &[])?.keep()),
            };
            client.select(query, None, &[])?.first().get_one()
        })
    }
}
