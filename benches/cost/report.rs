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
    /// Of our worker and of plain_worker.
    pub first_counts: [Times; 2],
    pub departures: [Times; 2],
}

/// What a tick of our worker costs, as ratios.
pub struct Cost {
    pub relations: u32,
    pub load: Load,
    pub skip_unchanged: bool,
    pub to_empty: f64,
    pub to_plain: f64,
    pub memory_to_plain: f64,
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

impl Cost {
    fn is_idle(&self) -> bool {
        self.skip_unchanged && self.load == Load::Idle
    }

    fn limit_to_empty(&self) -> Option<f64> {
        self.is_idle().then_some(1.15)
    }

    fn limit_to_plain(&self) -> Option<f64> {
        match self.load {
            _ if !self.skip_unchanged => None,
            Load::Idle if self.relations <= 400 => Some(0.6),
            Load::Idle if self.relations >= 1_000_000 => Some(0.01),
            Load::Idle => None,
            Load::OneDdlASecond | Load::OneDdlATick => Some(1.0),
        }
    }
}

/// How much an idle tick on the largest catalog may cost of one on the smallest
/// before that counts as a trend and not as noise.
const NO_TREND: f64 = 1.1;

// --- The page ---

impl Report {
    /// Prints the page, and writes it to benches/RESULTS.md.
    pub fn publish(&self) {
        let page = self.page();
        print!("{page}");
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
        let _ = write!(
            page,
            "CPU time of a tick of count_relations, as a ratio to that of a worker which only \
             writes a line (`empty_worker`) and to that of one which runs the query at every tick \
             (`plain_worker`, its parallel helpers included), and private memory. All three live \
             in one server at the same time, with a naptime of {} ms. One DDL a tick is what one \
             DDL a second is at the default naptime.\n\n",
            self.naptime.as_millis()
        );
        self.write_costs(&mut page);
        page.push('\n');
        self.write_times(&mut page);
        page
    }

    fn write_costs(&self, page: &mut String) {
        page.push_str(
            "| relations | load | `skip_unchanged` | CPU ÷ empty_worker | CPU ÷ plain_worker \
             | memory ÷ plain_worker |\n|--:|---|---|---|---|---|\n",
        );
        for cost in &self.costs {
            let _ = writeln!(
                page,
                "| {} | {} | {} | {} | {} | {} |",
                cost.relations,
                cost.load.name(),
                if cost.skip_unchanged { "on" } else { "off" },
                verdict(cost.to_empty, cost.limit_to_empty()),
                verdict(cost.to_plain, cost.limit_to_plain()),
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
    }

    fn write_times(&self, page: &mut String) {
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

fn verdict(value: f64, limit: Option<f64>) -> String {
    let digits = if value < 0.1 { 4 } else { 2 };
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
