//! How many relations: the kept `SELECT count(*) FROM pg_class`, and whether it has
//! to run again. Where that takes long, what changed is looked up instead ([`crate::kept`]).
//!
//! # Why an unchanged count need not be taken again
//!
//! Nearly always nothing has changed since the last tick, and the server tells us
//! so for next to nothing: every change of `pg_class` sends an invalidation message to
//! every process (see [`crate::server::inval`]), and a tick begins by receiving them.
//! If there was none, the last count still holds, and the tick does not even
//! open a transaction. That no change can be missed rests on two orders.
//!
//! **Visible first, sent second.** `CommitTransaction()` makes a transaction's
//! changes visible to new snapshots (`ProcArrayEndTransaction()`) before it sends
//! its messages (`AtEOXact_Inval()`), both in `access/transam/xact.c`.
//!
//! **Forget first, look second.** A count forgets the messages received so far
//! *before* it takes its snapshot. What had been sent by then was visible, and
//! is in the count. What is sent later, during the count too, sets the flag
//! again and the next tick counts. It may find that the last count had already seen
//! the change; that costs a query, not a wrong number.
//!
//! So a tick can be late by the moment between a commit's two steps, never wrong
//! about what had been sent before it began. Case by case:
//!
//! - *Rollbacks*, of savepoints too, send nothing to others and change nothing
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
//!   send messages too, but make and remove no rows: a needless query at most.
//! - *`VACUUM FULL pg_class`* and *REINDEX* of its indexes move the rows to a new
//!   file. The plan holds no file; the locks on `pg_class` and its indexes, taken
//!   before the snapshot, bring the message about the new one.
//! - *Direct changes* (`allow_system_table_mods`) go through `heap_insert()` and
//!   `heap_delete()` as all others do, which is where `CacheInvalidateHeapTuple()`
//!   is called.
//! - *On a hot standby* the commit record carries the messages.
//!   `xact_redo_commit()` in xact.c first ends the transaction
//!   (`ExpireTreeKnownAssignedTransactionIds()`), then sends them
//!   (`ProcessCommittedInvalidationMessages()`): the same order. Promotion changes
//!   neither.
//! - *Other databases'* messages are ignored here, and their relations not counted.
//!
//! # Why a large catalog need not be counted again
//!
//! Messages also say which relation they are about, and the set of those that the last count
//! found can be brought up to date by looking these up. Here the moment between a commit's two
//! steps matters: a snapshot can see a transaction of which only some messages have been
//! received. [`crate::kept`] waits for all of them, so a transaction is in the count as a whole
//! or not at all. As for the cases above:
//!
//! - *Rollbacks* name nothing; subtransactions are named when their transaction commits.
//! - *Prepared transactions* and *hot standbys* have their own signs of being in between (see
//!   [`crate::server::procarray`]). While one stays in between, everything is counted.
//! - *A reader that falls behind* is told no names, nor is it where a message is about all
//!   relations, as for a publication for all tables: everything is counted.
//! - *`VACUUM FULL pg_class`*, *in-place updates* and changes of other catalogs at most name
//!   relations whose rows have not changed, and to look these up changes nothing.
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
//! [`crate::server::session`]): what a snapshot sees in the table is the truth. Between two such
//! counts of a large catalog the unique index on the oid is relied on, as all of the server does.

use crate::kept::Kept;
use crate::server::signals::cancelable;
use crate::server::transaction::{transaction, with_snapshot};
use crate::server::{backend_status, inval, malloc, relation_lock};
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgrx::spi::{OwnedPreparedStatement, SpiResult};
use std::collections::BTreeSet;
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
    /// The relations that the last count found, where [`Kept::pays`].
    kept: Option<Kept>,
}

/// What a tick found out.
pub struct Tally {
    pub relations: i64,
    /// How long it took to count all relations, without the wait for the locks, but with what
    /// was looked up in vain; `None` if that was not necessary.
    pub counted_in: Option<Duration>,
    /// Whether anything may have changed since the last tick.
    pub changed: bool,
}

impl Counter {
    /// Receives invalidation messages; to be called before each tick, and whenever
    /// the process wakes up, as the server throws messages away only once
    /// everybody has them (`SICleanupQueue()` in `storage/ipc/sinvaladt.c`).
    pub fn receive_messages(&self) {
        inval::receive();
    }

    /// Whether nothing that has been received says that the last count does not hold any
    /// more.
    pub fn holds(&self) -> bool {
        self.last.is_some() && !inval::pg_class_changed()
    }

    /// Returns the number of relations, by running the query unless `skip_unchanged` is set
    /// and the last count is known to hold, or can be brought up to date.
    ///
    /// Raises an ERROR if the server does, among others when the query is canceled.
    pub fn tick(&mut self, skip_unchanged: bool) -> Tally {
        match self.last {
            Some(relations)
                if skip_unchanged
                    && !inval::pg_class_changed()
                    && !self.kept.as_ref().is_some_and(Kept::is_too_old) =>
            {
                inval::forget_pg_class_changes();
                Tally {
                    relations,
                    counted_in: None,
                    changed: false,
                }
            }
            last => {
                let changed = last.is_none() || inval::pg_class_changed();
                let tally = cancelable(|| transaction(|| self.count(changed, skip_unchanged)));
                if tally.counted_in.is_some() {
                    // What counting took; it may be long until the next.
                    malloc::give_back();
                }
                tally
            }
        }
    }

    fn count(&mut self, changed: bool, may_keep: bool) -> Tally {
        backend_status::running(QUERY);
        relation_lock::lock_pg_class();
        let started = Instant::now();
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
        let counted_in = (!was_kept).then(|| started.elapsed());
        self.last = Some(relations);
        backend_status::idle();
        Tally {
            relations,
            counted_in,
            changed,
        }
    }

    /// Brings the set of relations up to date, if it pays to have one, and returns whether
    /// looking up those that changed was enough. The first count of a process, which may be
    /// the only one, is not worth a set.
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
