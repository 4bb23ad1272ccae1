//! The results, as a page of Markdown.

use crate::{Load, median};
use std::fmt::Write;
use std::fs;
use std::time::Duration;

#[derive(Default)]
pub struct Report {
    pub server: String,
    pub date: String,
    pub naptime: Duration,
    pub costs: Vec<Cost>,
    pub scans: Vec<Scan>,
    pub censuses: Vec<Census>,
    /// What a tick of empty_worker costs with a transaction around it, as a ratio to
    /// one without.
    pub in_transaction: Option<f64>,
    /// What an idle tick costs at the default naptime, as a ratio to empty_worker's.
    pub idle_at_default: Option<f64>,
    pub reads: Vec<Reads>,
    pub tick_with_reader: Option<TickWithReader>,
    pub databases: Vec<Databases>,
    pub visits: Option<Visits>,
    /// Of our worker and of plain_worker.
    pub first_counts: [Times; 2],
    pub departures: [Times; 2],
}

/// What a tick of our worker costs, as ratios.
pub struct Cost {
    pub relations: u32,
    pub dead_rows: u32,
    pub load: Load,
    pub skip_unchanged: bool,
    pub to_empty: f64,
    pub to_plain: f64,
    pub memory_to_plain: f64,
}

/// What counting the rows of the table costs, as ratios to counting those of an index.
pub struct Scan {
    pub relations: u32,
    pub after_vacuum: f64,
    pub after_changes: f64,
}

/// What a census costs.
pub struct Census {
    pub relations: u32,
    /// CPU time ÷ that of counting in a session without helpers.
    pub to_count: f64,
    /// The share of a processor, with one a minute.
    pub of_a_minute: f64,
    /// The share of a processor if the naptime does not limit it.
    pub most: f64,
    pub tick: TickWithCensus,
}

/// What a tick costs under one DDL a tick, as ratios to empty_worker's in the same windows.
pub struct TickWithCensus {
    /// At the default naptime of a census.
    pub with_census: f64,
    pub without: f64,
}

/// What a read of one of our views costs, as ratios.
pub struct Reads {
    pub databases: usize,
    pub view: &'static str,
    pub to_pg_stat_database: f64,
    pub to_pg_stat_activity: f64,
}

/// What an idle tick costs, as ratios to empty_worker's in the same windows.
pub struct TickWithReader {
    pub alone: f64,
    pub with_reader: f64,
}

/// What counting this many idle databases costs, all of our processes together.
pub struct Databases {
    pub count: usize,
    /// CPU time a second ÷ that of a tick of empty_worker.
    pub cpu: f64,
    pub memory_to_plain: f64,
}

/// What changes of some databases cost.
pub struct Visits {
    /// CPU time of a visit ÷ that of a session that connects, counts and leaves.
    pub to_session: f64,
    /// From a committed change in an idle database to its row.
    pub changes: Times,
    /// How long `DROP DATABASE` of an idle database takes ÷ the same without us.
    pub drop: f64,
}

/// In seconds.
#[derive(Default)]
pub struct Times(Vec<f64>);

impl Times {
    pub fn push(&mut self, time: f64) {
        self.0.push(time);
    }
}

// --- The limits ---

/// For an idle tick, at every size, as a ratio to empty_worker's; entering the count in shared
/// memory is part of every tick, so the limit includes that.
const IDLE_TO_EMPTY: f64 = 1.15;

/// For the CPU time per second of all our processes on the server with most databases, as a
/// ratio to a tick of empty_worker's.
const DATABASES_TO_EMPTY: f64 = 3.0;

/// For the memory of all our processes.
const DATABASES_TO_PLAIN: f64 = 4.0;

/// For a read of relation_counts, as a ratio to one of pg_stat_database, the server's own view
/// with one row of numbers per database.
const READ_TO_PG_STAT_DATABASE: f64 = 1.0;

impl Reads {
    /// The others have several, and longer, rows per database.
    fn limit(&self) -> Option<f64> {
        (self.view == "relation_counts").then_some(READ_TO_PG_STAT_DATABASE)
    }
}

impl Cost {
    fn is_idle(&self) -> bool {
        self.skip_unchanged && self.load == Load::Idle && self.dead_rows == 0
    }

    fn limit_to_empty(&self) -> Option<f64> {
        self.is_idle().then_some(IDLE_TO_EMPTY)
    }

    fn limit_to_plain(&self) -> Option<f64> {
        match self.load {
            _ if !self.skip_unchanged => None,
            Load::OneDdlATick if self.dead_rows > 0 => Some(0.05),
            Load::OneDdlATick if self.relations >= 1_000_000 => Some(0.01),
            Load::OneDdlATick if self.relations >= 100_000 => Some(0.1),
            _ if self.dead_rows > 0 => None,
            Load::Idle if self.relations <= 400 => Some(0.6),
            Load::Idle if self.relations >= 1_000_000 => Some(0.01),
            Load::Idle | Load::TemporaryTables => None,
            _ => Some(1.0),
        }
    }
}

/// For the time that censuses take.
const CENSUSES_OF_THE_TIME: f64 = 0.01;

/// How much more the largest may cost than the smallest, of catalogs for an idle tick and of
/// servers for all databases, or a tick with censuses than without, before that counts as a
/// trend and not as noise.
const NO_TREND: f64 = 1.1;

// --- The page ---

impl Report {
    /// Prints the page, and writes it to benches/RESULTS.md if it is `complete`.
    pub fn publish(&self, complete: bool) {
        let page = self.page();
        print!("{page}");
        if !complete {
            return;
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/RESULTS.md");
        fs::write(path, page).expect("could not write the results");
    }

    fn page(&self) -> String {
        let mut page = format!(
            "# What counting costs\n\n\
             Written by `make bench` on {}: PostgreSQL {}, Linux {}, {} × {}.\n\n",
            self.date,
            self.server,
            read("/proc/sys/kernel/osrelease"),
            std::thread::available_parallelism().unwrap(),
            processor(),
        );
        if !self.costs.is_empty() {
            self.write_costs(&mut page);
        }
        if !self.scans.is_empty() {
            self.write_scans(&mut page);
        }
        if !self.censuses.is_empty() {
            self.write_censuses(&mut page);
        }
        if !self.reads.is_empty() {
            self.write_reads(&mut page);
        }
        if !self.databases.is_empty() {
            write_databases(&self.databases, &mut page);
        }
        if let Some(visits) = &self.visits {
            visits.write(&mut page);
        }
        if !self.first_counts[0].0.is_empty() {
            self.write_times(&mut page);
        }
        page
    }

    fn write_costs(&self, page: &mut String) {
        let _ = write!(
            page,
            "## A tick\n\n\
             CPU time of a tick of count_relations, as a ratio to that of a worker which only \
             writes a line (`empty_worker`) and to that of one which runs the query at every tick \
             (`plain_worker`, its parallel helpers included), to that of an idle one which has to count \
             everything (`skip_unchanged` off), and memory. All three live \
             in one server at the same time, with a naptime of {} ms. One DDL a tick is what one \
             DDL a second is at the default naptime. Memory is `Anonymous` of \
             `/proc/PID/smaps_rollup`: what the process has written and what it has inherited \
             from the postmaster, without pages of files and of shared memory, in workers that \
             were started together when the server was already running.\n\n",
            self.naptime.as_millis()
        );
        page.push_str(
            "| relations | load | `skip_unchanged` | CPU ÷ empty_worker | CPU ÷ plain_worker \
             | CPU ÷ a full count | memory ÷ plain_worker |\n|--:|---|---|---|---|---|---|\n",
        );
        for cost in &self.costs {
            let dead_rows = match cost.dead_rows {
                0 => String::new(),
                rows => format!(", {rows} dead rows"),
            };
            let _ = writeln!(
                page,
                "| {}{dead_rows} | {} | {} | {} | {} | {} | {} |",
                cost.relations,
                cost.load.name(),
                if cost.skip_unchanged { "on" } else { "off" },
                verdict(cost.to_empty, cost.limit_to_empty()),
                verdict(cost.to_plain, cost.limit_to_plain()),
                verdict(self.to_full_count(cost), None),
                verdict(cost.memory_to_plain, Some(1.0)),
            );
        }
        let idle = || self.costs.iter().filter(|cost| cost.is_idle());
        if let (Some(smallest), Some(largest)) = (idle().next(), idle().next_back()) {
            let trend = largest.to_empty / smallest.to_empty;
            let _ = writeln!(
                page,
                "\nAn idle tick at {} relations ÷ one at {}: {}.",
                largest.relations,
                smallest.relations,
                verdict(trend, Some(NO_TREND))
            );
        }
        if let Some(ratio) = self.idle_at_default {
            let _ = writeln!(
                page,
                "\nAn idle tick ÷ empty_worker at the default naptime of a second, where both \
                 find less of what they need in the processor's caches: {ratio:.2}."
            );
        }
        if let Some(ratio) = self.in_transaction {
            let _ = write!(
                page,
                "\nA tick of `empty_worker` in a transaction that does nothing ÷ one in none: \
                 {ratio:.2}."
            );
            if ratio > IDLE_TO_EMPTY {
                let _ = write!(
                    page,
                    " That alone would be above {IDLE_TO_EMPTY}, which is why a tick that finds \
                     no message opens no transaction."
                );
            }
            page.push('\n');
        }
    }

    /// As a ratio to an idle tick of the same catalog with `skip_unchanged` off, each by its
    /// ratio to empty_worker.
    fn to_full_count(&self, cost: &Cost) -> f64 {
        let is_full = |other: &&Cost| {
            let same = (other.relations, other.dead_rows) == (cost.relations, cost.dead_rows);
            same && other.load == Load::Idle && !other.skip_unchanged
        };
        let full = self.costs.iter().find(is_full);
        full.map_or(f64::NAN, |full| cost.to_empty / full.to_empty)
    }

    fn write_scans(&self, page: &mut String) {
        page.push_str(
            "\n## The table, not an index\n\n\
             An index of `pg_class` can be wrong, so the worker reads the table. CPU time of \
             such a count, as a ratio to one with the plan that the planner would choose, in \
             one session without helpers: after `VACUUM`, which is when an index serves best, \
             and after an update of all rows, but of 100,000 at most.\n\n\
             | relations | after VACUUM | after changes |\n|--:|---|---|\n",
        );
        for scan in &self.scans {
            let _ = writeln!(
                page,
                "| {} | {} | {} |",
                scan.relations,
                verdict(scan.after_vacuum, None),
                verdict(scan.after_changes, None),
            );
        }
    }

    fn write_censuses(&self, page: &mut String) {
        page.push_str(
            "\n## A census\n\n\
             CPU time of a census, with the tick that it comes with, as a ratio to that of \
             `SELECT count(*) FROM pg_class` in a session without helpers; as a share of a \
             minute, which is the default of `census_naptime`; and as a share of the time from one \
             to the next while one DDL a tick goes on and `census_naptime` is 10 ms.\n\n\
             | relations | ÷ count | of a minute | at most |\n|--:|---|---|---|\n",
        );
        for census in &self.censuses {
            let _ = writeln!(
                page,
                "| {} | {} | {:.5} | {} |",
                census.relations,
                verdict(census.to_count, None),
                census.of_a_minute,
                verdict(census.most, Some(CENSUSES_OF_THE_TIME)),
            );
        }
        page.push_str(
            "\nA tick ÷ empty_worker with one DDL a tick, when `census_naptime` is a minute, and \
             when it is 0, which turns censuses off:\n\n\
             | relations | a minute | off | the one ÷ the other |\n|--:|---|---|---|\n",
        );
        for Census {
            relations, tick, ..
        } in &self.censuses
        {
            let _ = writeln!(
                page,
                "| {relations} | {} | {} | {} |",
                verdict(tick.with_census, None),
                verdict(tick.without, None),
                verdict(tick.with_census / tick.without, Some(NO_TREND)),
            );
        }
    }

    fn write_reads(&self, page: &mut String) {
        page.push_str(
            "\n## Reading the views\n\n\
             CPU time that a session's server process spends on `SELECT *` from one of our views, \
             as a ratio to what it spends on the same from two of the server's own.\n\n\
             | databases counted | view | ÷ pg_stat_database | ÷ pg_stat_activity |\n\
             |--:|---|---|---|\n",
        );
        for reads in &self.reads {
            let _ = writeln!(
                page,
                "| {} | `{}` | {} | {} |",
                reads.databases,
                reads.view,
                verdict(reads.to_pg_stat_database, reads.limit()),
                verdict(reads.to_pg_stat_activity, None),
            );
        }
        if let Some(tick) = &self.tick_with_reader {
            let _ = writeln!(
                page,
                "\nAn idle tick ÷ empty_worker while a session reads the view without a pause: {}; \
                 without the session: {}; the one ÷ the other: {}.",
                verdict(tick.with_reader, Some(IDLE_TO_EMPTY)),
                verdict(tick.alone, Some(IDLE_TO_EMPTY)),
                verdict(tick.with_reader / tick.alone, None),
            );
        }
    }

    fn write_times(&self, page: &mut String) {
        page.push_str("\n## Coming and going\n\n");
        page.push_str(
            "| | count_relations | plain_worker | ratio of the medians |\n|---|---|---|---|\n",
        );
        for (name, [ours, plain]) in [
            ("from SIGTERM to gone", &self.departures),
            ("from server ready to first count", &self.first_counts),
        ] {
            let [(median, maximum), (plain_median, plain_maximum)] = [ours, plain].map(|times| {
                let maximum = times.0.iter().copied().fold(f64::NAN, f64::max);
                (median(times.0.clone()) * 1e3, maximum * 1e3)
            });
            let _ = writeln!(
                page,
                "| {name} (median and maximum of {}) | {median:.1} and {maximum:.1} ms \
                 | {plain_median:.1} and {plain_maximum:.1} ms | {:.2} |",
                ours.0.len(),
                median / plain_median
            );
        }
    }
}

fn write_databases(databases: &[Databases], page: &mut String) {
    page.push_str(
        "\n## Many databases\n\n\
         With `count_relations.databases = '*'` and `log_counts = none`, idle, at the default \
         naptime of a second: CPU time a second of all our processes, as a ratio to that of a \
         tick of `empty_worker`; and their memory (`Anonymous`), as a ratio to that of one \
         `plain_worker`.\n\n\
         | databases | CPU ÷ empty_worker | memory ÷ plain_worker |\n|--:|---|---|\n",
    );
    for row in databases {
        let _ = writeln!(
            page,
            "| {} | {} | {} |",
            row.count,
            verdict(row.cpu, Some(DATABASES_TO_EMPTY)),
            verdict(row.memory_to_plain, Some(DATABASES_TO_PLAIN)),
        );
    }
    let (fewest, most) = (&databases[0], &databases[databases.len() - 1]);
    let _ = writeln!(
        page,
        "\nWith {} databases ÷ with {}: CPU {}, memory {}.",
        most.count,
        fewest.count,
        verdict(most.cpu / fewest.cpu, Some(NO_TREND)),
        verdict(
            most.memory_to_plain / fewest.memory_to_plain,
            Some(NO_TREND)
        ),
    );
}

impl Visits {
    fn write(&self, page: &mut String) {
        let maximum = self.changes.0.iter().copied().fold(f64::NAN, f64::max);
        let _ = write!(
            page,
            "\nCPU time of a visit ÷ that of a session that connects, counts and leaves: {}. \
             From a committed change in an idle database to its row, median and maximum of {}: \
             {:.2} and {maximum:.2} s. `DROP DATABASE` of an idle database ÷ the same without \
             us: {}.\n",
            verdict(self.to_session, None),
            self.changes.0.len(),
            median(self.changes.0.clone()),
            verdict(self.drop, None),
        );
    }
}

fn verdict(value: f64, limit: Option<f64>) -> String {
    let near = limit.is_some_and(|limit| (value - limit).abs() < 0.01);
    let digits = match () {
        () if value < 0.1 => 4,
        () if near => 3,
        () => 2,
    };
    let value_text = format!("{value:.digits$}");
    match limit {
        None => value_text,
        Some(limit) if value <= limit => format!("{value_text} (≤ {limit}: reached)"),
        Some(limit) => format!("**{value_text} (≤ {limit}: not reached)**"),
    }
}

fn processor() -> String {
    let description = read("/proc/cpuinfo");
    let model = description
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned());
    model.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}
