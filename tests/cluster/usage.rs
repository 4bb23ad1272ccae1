//! The resources that a process uses (`man 5 proc`).

use std::fs;

/// The resources that only this process uses.
#[allow(dead_code)] // The soak reads all of it.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Heap, stack and the like, in bytes. Pages of files and of shared memory are left out:
    /// they count as private as long as no other process happens to look at them.
    pub anonymous: u64,
    /// All pages that no other process has, in bytes.
    pub private: u64,
    /// Open files.
    pub files: u64,
}

impl Usage {
    /// The usage of a running process.
    pub fn of(pid: i32) -> Usage {
        let smaps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let bytes = |name: &str| {
            let (_, size) = smaps.split_once(name).unwrap();
            let kilobytes: u64 = size.split_whitespace().next().unwrap().parse().unwrap();
            kilobytes * 1024
        };
        Usage {
            anonymous: bytes("Anonymous:"),
            private: bytes("Private_Clean:") + bytes("Private_Dirty:"),
            files: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64,
        }
    }
}

/// Processor time that a process has used so far, in the hundredths of a second of
/// /proc/PID/stat.
pub fn processor_time(pid: i32) -> u64 {
    let [own, _] = processor_times(pid).unwrap();
    own
}

/// The same for a process and for its children that have ended; `None` if it has ended, too.
pub fn processor_times(pid: i32) -> Option<[u64; 2]> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = stat.rsplit(')').next()?.split(' ').skip(12).take(4);
    let times: Vec<u64> = fields.map(|field| field.parse().unwrap()).collect();
    Some([times[0] + times[1], times[2] + times[3]])
}
