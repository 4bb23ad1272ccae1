//! What a process has of the machine (`man 5 proc`).

use std::fs;

/// What a process has to itself.
#[allow(dead_code)] // The soak reads all of it.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Heap, stack and the like, in bytes. Pages of files and of shared memory are
    /// left out: they count as private for as long as nobody else happens to look at
    /// them.
    pub anonymous: u64,
    /// All pages that nobody else has, in bytes.
    pub private: u64,
    /// Open files.
    pub files: u64,
}

impl Usage {
    /// That of a process that is there.
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
