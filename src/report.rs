//! What the log says about the counts of a database.

use crate::registry::Said;
use crate::server::elog::Line;
use crate::settings::{self, LogCounts};
use pgrx::prelude::*;
use std::time::{Duration, Instant};

/// The reporter of one database, which remembers what it and its predecessors have said.
#[derive(Default)]
pub struct Report {
    pub said: Said,
    /// A count and the line for it: formatting it again would cost an idle tick about as much
    /// as all the rest that it does for us.
    line: Option<(i64, Line)>,
}

impl Report {
    pub fn new(said: Said) -> Self {
        Report { said, line: None }
    }

    /// Logs the count of a tick, as `log_counts` and `warn_above` ask for; a warning takes its
    /// DETAIL from `census`. Returns whether there is something new to remember.
    pub fn tick(
        &mut self,
        database: &str,
        relations: i64,
        census: impl FnOnce() -> Option<String>,
    ) -> bool {
        let before = self.said;
        let text = || format!("Currently {relations} relations in database \"{database}\"");
        match settings::log_counts() {
            LogCounts::All => {
                self.line.take_if(|(count, _)| *count != relations);
                let (_, line) = self
                    .line
                    .get_or_insert_with(|| (relations, Line::new(&text())));
                line.log();
                self.said.last_logged = Some(relations);
            }
            LogCounts::Changes => {
                match self.said.last_logged.replace(relations) {
                    None => log::info!("{}", text()),
                    Some(last) if last == relations => {}
                    Some(last) => log::info!("{} ({:+})", text(), relations - last),
                };
            }
            LogCounts::None => {}
        }
        self.compare(database, relations, settings::warn_above(), census);
        self.said != before
    }

    /// Warns when the count rises above the threshold, and logs when it is back.
    fn compare(
        &mut self,
        database: &str,
        relations: i64,
        threshold: Option<i64>,
        census: impl FnOnce() -> Option<String>,
    ) {
        let above = threshold.filter(|threshold| relations > *threshold);
        match above {
            Some(threshold) if !self.said.warned => {
                too_many(database, relations, threshold, census())
            }
            None if self.said.warned => {
                if let Some(threshold) = threshold {
                    log::info!(
                        "database \"{database}\" has {relations} relations, no longer more than count_relations.warn_above ({threshold})"
                    );
                }
            }
            _ => {}
        }
        self.said.warned = above.is_some();
    }
}

fn too_many(database: &str, relations: i64, threshold: i64, census: Option<String>) {
    let mut warning = pg_sys::panic::ErrorReport::new(
        PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        format!(
            "database \"{database}\" has {relations} relations, more than count_relations.warn_above ({threshold})"
        ),
        function_name!(),
    )
    .set_hint("Look for runaway temporary tables, partitions or schemas, or raise count_relations.warn_above.");
    if let Some(census) = census {
        warning = warning.set_detail(census);
    }
    warning.report(PgLogLevel::WARNING);
}

/// Logs at DEBUG1 that the next count waits for so long because the last one took that long.
pub fn rest(database: &str, rest: Duration, count: Duration) {
    log::debug!(
        "count relations worker for database \"{database}\" rests for {} ms after a count that took {} ms",
        rest.as_millis(),
        count.as_millis()
    );
}

/// Logs that the launcher could not get a database counted, and how it goes on.
pub fn visit_failed(database: &str) {
    log::info!(
        "could not count relations of database \"{database}\", which is tried again less and less often, at least every five minutes"
    );
}

/// Logs that a database is no longer counted, though it exists.
pub fn left_out(database: &str) {
    log::info!(
        "relations of database \"{database}\" are no longer counted, as it allows no connections or is a template"
    );
}

/// Warns that the registry has no room for some of the databases, `total` in all.
pub fn too_many_databases(uncounted: &[impl AsRef<str>], total: usize, max_databases: usize) {
    warn_of_uncounted(
        PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        &format!("more databases than count_relations.max_databases ({max_databases})"),
        "Raise count_relations.max_databases, and restart the server.",
        uncounted,
        total,
    );
}

/// Warns that the server has no worker slots for some of the databases, `total` in all.
/// Says nothing if there are none.
pub fn out_of_slots(uncounted: &[impl AsRef<str>], total: usize) {
    if uncounted.is_empty() {
        return;
    }
    warn_of_uncounted(
        PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        "out of background worker slots",
        MORE_SLOTS,
        uncounted,
        total,
    );
}

/// Warns that the server has no worker slot for the launcher.
pub fn no_slot_for_launcher() {
    pg_sys::panic::ErrorReport::new(
        PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        "out of background worker slots: relations of no database are counted",
        function_name!(),
    )
    .set_hint(MORE_SLOTS)
    .report(PgLogLevel::WARNING);
}

const MORE_SLOTS: &str = "You might need to increase max_worker_processes.";

/// Warns that the role cannot connect to some of the databases, `total` in all.
pub fn cannot_connect(role: &str, uncounted: &[impl AsRef<str>], total: usize) {
    warn_of_uncounted(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        &format!("role \"{role}\" lacks the CONNECT privilege"),
        "Use GRANT CONNECT ON DATABASE to let it connect to those that are to be counted.",
        uncounted,
        total,
    );
}

fn warn_of_uncounted(
    code: PgSqlErrorCode,
    why: &str,
    hint: &str,
    uncounted: &[impl AsRef<str>],
    total: usize,
) {
    let what = match total {
        1 => "relations of the database are not counted".to_owned(),
        _ => format!(
            "relations of {} of {total} databases are not counted",
            uncounted.len()
        ),
    };
    pg_sys::panic::ErrorReport::new(code, format!("{why}: {what}"), function_name!())
        .set_detail(format!("Not counted: {}.", some_of(uncounted)))
        .set_hint(hint)
        .report(PgLogLevel::WARNING);
}

/// Names some databases, and says how many more there are.
fn some_of(databases: &[impl AsRef<str>]) -> String {
    const SOME: usize = 5;
    let quoted = |name| format!("\"{name}\"");
    let names = databases.iter().map(|name| quoted(name.as_ref()));
    match databases.len() {
        // One more would not be shorter.
        count if count <= SOME + 1 => names.collect::<Vec<_>>().join(", "),
        count => {
            let names: Vec<_> = names.take(SOME).collect();
            format!("{} and {} others", names.join(", "), count - SOME)
        }
    }
}

/// Decides whether a number is worth another message: when it is no longer 0; when it has
/// doubled since the last message; and, a minute after that at the earliest, when it had fallen
/// to half meanwhile.
#[derive(Default)]
pub struct Alarm {
    said: usize,
    fallen: bool,
    rung: Option<Instant>,
}

impl Alarm {
    /// Whether `number` is worth a message; if so, it counts as said, at this moment. Must be
    /// called with 0, too, when all is well.
    pub fn rings(&mut self, number: usize) -> bool {
        const LEAST_PAUSE: Duration = Duration::from_secs(60);
        self.fallen |= number <= self.said / 2;
        let doubled = number >= (2 * self.said).max(1);
        let is_over = |rung: Instant| rung.elapsed() >= LEAST_PAUSE;
        let back = number > 0 && self.fallen && self.rung.is_none_or(is_over);
        if doubled || back {
            self.said = number;
            self.fallen = false;
            self.rung = Some(Instant::now());
        }
        doubled || back
    }
}
