//! What the kernel knows about the server's processes (`man 5 proc`).

use std::fs;
use std::time::Duration;

/// The time that the process has spent on processors so far.
pub fn cpu_time(pid: i32) -> Duration {
    let schedstat = read(pid, "schedstat");
    Duration::from_nanos(number(schedstat.split(' ').next()))
}

/// The same for all its children that have ended, to 10 ms.
pub fn cpu_time_of_ended_children(pid: i32) -> Duration {
    const CUTIME: usize = 16;
    const FIRST_AFTER_NAME: usize = 3;
    let stat = read(pid, "stat");
    let (_, after_name) = stat.rsplit_once(") ").unwrap();
    let mut fields = after_name.split(' ').skip(CUTIME - FIRST_AFTER_NAME);
    let (user, system) = (number(fields.next()), number(fields.next()));
    // In units of 1/USER_HZ s, which is 100 wherever PostgreSQL runs on Linux.
    Duration::from_millis((user + system) * 10)
}

fn read(pid: i32, file: &str) -> String {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("could not read {path}: {error}"))
}

fn number(field: Option<&str>) -> u64 {
    field.unwrap().trim().parse().unwrap()
}
