//! The server's log, with `log_line_prefix = '%n [%p] '`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Levels, by severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    /// DETAIL, HINT, CONTEXT, STATEMENT and so on, which belong to a previous line.
    Addition,
    Log,
    Notice,
    Warning,
    Error,
    Fatal,
    Panic,
}

/// A message of the log. Continuation lines are part of it.
#[derive(Clone, Debug)]
pub struct Line {
    /// Seconds since the epoch.
    pub time: f64,
    pub pid: i32,
    pub level: Level,
    pub message: String,
}

/// What has been read of a log that grows.
#[derive(Default)]
pub struct Log {
    /// In bytes.
    length: u64,
    lines: Vec<Line>,
}

impl Log {
    /// The lines of the file so far; text after the last newline is still being written. Reads
    /// only what has been added since the last call, as stories look every few milliseconds.
    pub fn read(&mut self, path: &Path) -> &[Line] {
        let mut bytes = Vec::new();
        // There may be no such file yet.
        let _ = File::open(path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.length))?;
            file.read_to_end(&mut bytes)
        });
        if let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') {
            self.length += end as u64 + 1;
            self.parse(&String::from_utf8_lossy(&bytes[..end]));
        }
        &self.lines
    }

    fn parse(&mut self, complete: &str) {
        for text in complete.split('\n') {
            if let Some(line) = parse_line(text) {
                self.lines.push(line);
            } else if let Some(last) = self.lines.last_mut() {
                last.message.push('\n');
                last.message
                    .push_str(text.strip_prefix('\t').unwrap_or(text));
            }
        }
    }
}

fn parse_line(text: &str) -> Option<Line> {
    let (time, rest) = text.split_once(" [")?;
    let (pid, rest) = rest.split_once("] ")?;
    let (level, message) = rest.split_once(":  ")?;
    let level = match level {
        "LOG" => Level::Log,
        "INFO" | "NOTICE" => Level::Notice,
        "WARNING" => Level::Warning,
        "ERROR" => Level::Error,
        "FATAL" => Level::Fatal,
        "PANIC" => Level::Panic,
        _ if level.starts_with("DEBUG") => Level::Debug,
        _ => Level::Addition,
    };
    Some(Line {
        time: time.parse().ok()?,
        pid: pid.parse().ok()?,
        level,
        message: message.to_owned(),
    })
}

/// The last `count` lines.
pub fn tail(log: &str, count: usize) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let start = lines.len().saturating_sub(count);
    lines[start..]
        .iter()
        .map(|line| format!("{line}\n"))
        .collect()
}
