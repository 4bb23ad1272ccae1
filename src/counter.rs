//! How many relations there are: keeps the result of `SELECT count(*) FROM pg_class`, and
//! decides whether to run it again. Where that takes long, changes are looked up instead
//! ([`crate::kept`]).
//!
//! # Why an unchanged count need not be taken again
//!
//! Nearly always nothing has changed since the last tick, and learning this from the server is
//! almost free: every change of `pg_class` sends an invalidation message to every process (see
//! [`crate::server::inval`]), and a tick begins by receiving them. If there was none, the last
//! count still holds, and the tick does not even open a transaction (except once an hour, where
//! [`crate::kept`] reads its set again). No change can be missed, because of two orders.
//!
//! **Visible first, sent second.** `CommitTransaction()` makes a transaction's
//! changes visible to new snapshots (`ProcArrayEndTransaction()`) before it sends
//! its messages (`AtEOXact_Inval()`), both in `access/transam/xact.c`.
//!
//! **Forget first, look second.** A count forgets the messages received so far *before* it
//! takes its snapshot. What had been sent by then was visible, and is in the count. Anything
//! sent later, even during the count, sets the flag again, and the next tick counts. That tick
//! may find that the last count had already seen the change; this costs a query, not a wrong
//! number.
//!
//! So a tick can be late by the moment between a commit's two steps, but is never wrong about
//! what had been sent before it began. Case by case:
//!
//! - *Rollbacks*, of savepoints too, send nothing to others and change nothing
//!   (`AtEOXact_Inval(false)`, `AtEOSubXact_Inval()` in `utils/cache/inval.c`).
//! - *Prepared transactions* keep their messages in the state file;
//!   `FinishPreparedTransaction()` (`access/transam/twophase.c`) takes the transaction out of
//!   the proc array before it sends them. In between it removes the files of the relations that
//!   the transaction dropped (`DropRelationFiles()`): if there are many, this takes long, and
//!   ticks confirm the old number meanwhile.
//! - *A reader that falls behind* in the queue, because it was stopped or naps for hours, is
//!   told to discard everything: `InvalidateSystemCaches()` in inval.c calls every callback.
//! - *In-place updates* of `pg_class` rows (vacuum's `relpages` and the like) send messages
//!   too, but neither make nor remove rows: they cost a needless query at most.
//! - *`VACUUM FULL pg_class`* and *REINDEX* of its indexes move the rows to a new file. The
//!   plan does not refer to a file; taking the locks on `pg_class` and its indexes, before the
//!   snapshot, brings the message about the new one.
//! - *Direct changes* (`allow_system_table_mods`) go through `heap_insert()` and
//!   `heap_delete()` like all others, and those call `CacheInvalidateHeapTuple()`.
//! - *On a hot standby* the commit record carries the messages.
//!   `xact_redo_commit()` in xact.c first ends the transaction
//!   (`ExpireTreeKnownAssignedTransactionIds()`), then sends them
//!   (`ProcessCommittedInvalidationMessages()`): the same order. Promotion changes
//!   neither.
//! - *Other databases'* messages are ignored here, and their relations are not counted.
//!
//! # Why a large catalog need not be counted again
//!
//! Messages also say which relation they are about, so looking these up brings the set of
//! relations that the last count found up to date. Here the moment between a commit's two steps
//! matters: a snapshot can see a transaction when only some of its messages have been received.
//! [`crate::kept`] waits for all of them, so a transaction is in the count as a whole or not at
//! all. The cases above:
//!
//! - *Rollbacks* name nothing; subtransactions are named when their transaction commits.
//! - *Prepared transactions* and *hot standbys* show in other ways that they are between the
//!   two steps (see [`crate::server::procarray`]). While one remains there, everything is
//!   counted.
//! - *A reader that falls behind* is told no names; neither is one that receives a message
//!   about all relations, as for a publication for all tables. Then everything is counted.
//! - *`VACUUM FULL pg_class`*, *in-place updates* and changes of other catalogs at most name
//!   relations whose rows have not changed, and looking these up changes nothing.
//!
//! # Why the table is read, and not an index
//!
//! The planner would count using the smallest index of `pg_class`, and an index can permanently
//! contain a row twice, or lack it. `REINDEX` can cause this: a transaction that creates a
//! relation and alters it leaves two versions of its row in one HOT chain, and releases the
//! lock on `pg_class` that would keep `REINDEX` out before it commits.
//! `heapam_index_build_range_scan()` (`access/heap/heapam_handler.c`) waits for such a
//! transaction when it builds a unique index; for `pg_class_tblspc_relfilenode_index`, which is
//! not unique, it enters both versions, under the same address. Damaged disks and changed
//! collations do worse. So the session's settings leave the planner nothing but the sequential
//! scan (see [`crate::server::session`]): what a snapshot sees in the table is the truth.
//! Between two such counts of a large catalog we rely on the unique index on the oid, as all of
//! the server does.

use crate::kept::Kept;
use crate::server::signals::cancelable;
use crate::server::transaction::{transaction, with_snapshot};
use crate::server::{backend_status, inval, malloc, relation_lock};
use crate::stopwatch::Stopwatch;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgrx::spi::{OwnedPreparedStatement, SpiResult};
use std::collections::BTreeSet;
use std::ffi::CStr;
use std::time::Duration;

/// The query that is run, and that `pg_stat_activity` shows.
pub const QUERY: &CStr = c"SELECT count(*) FROM pg_class";

/// Runs while the process counts, but not while it waits for the locks.
pub static COUNTING: Stopwatch = Stopwatch::new();

/// Counts the relations of the database that the process is connected to.
#[derive(Default)]
pub struct Counter {
    /// Prepared by the first count and kept; the server re-plans it when necessary.
    query: Option<OwnedPreparedStatement>,
    last: Option<i64>,
    /// The relations that the last count found, if [`Kept::pays`].
    kept: Option<Kept>,
}

/// The result of a tick.
pub struct Tally {
    pub relations: i64,
    /// How long it took to count all relations, not including the wait for the locks, but
    /// including look-ups in vain; `None` if that was not necessary.
    pub counted_in: Option<Duration>,
    /// Whether anything may have changed since the last tick.
    pub changed: bool,
}

impl Counter {
    /// Receives invalidation messages. Must be called before each tick, and whenever the
    /// process wakes up, because the server discards messages only once all processes have them
    /// (`SICleanupQueue()` in `storage/ipc/sinvaladt.c`).
    pub fn receive_messages(&self) {
        inval::receive();
    }

    /// Whether the last count still holds, according to all messages received.
    pub fn holds(&self) -> bool {
        self.last.is_some() && !inval::pg_class_changed()
    }

    /// Returns the number of relations. Runs the query unless `skip_unchanged` is set and the
    /// last count is known to hold or can be brought up to date.
    ///
    /// Raises an ERROR if the server does, for example when the query is canceled.
    pub fn tick(&mut self, skip_unchanged: bool) -> Tally {
        match self.last {
            Some(relations)
                if skip_unchanged
                    && self.holds()
                    && !self.kept.as_ref().is_some_and(Kept::is_too_old) =>
            {
                inval::forget_pg_class_changes();
                Tally {
                    relations,
                    counted_in: None,
                    changed: false,
                }
            }
            _ => {
                let changed = !self.holds();
                let tally = cancelable(|| transaction(|| self.count(changed, skip_unchanged)));
                if tally.counted_in.is_some() {
                    // Memory that counting took; the next count may be far away.
                    malloc::give_back();
                }
                tally
            }
        }
    }

    fn count(&mut self, changed: bool, may_keep: bool) -> Tally {
        backend_status::running(QUERY);
        relation_lock::lock_pg_class();
        COUNTING.start();
        let named = inval::named();
        inval::forget_pg_class_changes();
        let (relations, was_kept) = with_snapshot(|| {
            let was_kept = self.keep_up(named.filter(|_| may_keep));
            let relations = match &self.kept {
                Some(kept) => Some(kept.relations()),
                None => self.run_query().unwrap_or_report(),
            };
            (relations.expect("count(*) is never null"), was_kept)
        });
        let duration = COUNTING.stop();
        let counted_in = (!was_kept).then_some(duration);
        self.last = Some(relations);
        backend_status::idle();
        Tally {
            relations,
            counted_in,
            changed,
        }
    }

    /// Brings the set of relations up to date, if keeping one pays, and returns whether looking
    /// up the changed ones was enough. The first count of a process, which may be the only one,
    /// is not worth a set.
    fn keep_up(&mut self, named: Option<BTreeSet<u32>>) -> bool {
        let named = named.filter(|named| self.last.is_some() && Kept::pays(named));
        let Some(named) = named else {
            self.kept = None;
            return false;
        };
        if self.kept.as_mut().is_some_and(|kept| kept.update(named)) {
            return true;
        }
        self.kept = Kept::load();
        false
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
