//! A newer build is installed while a server runs, and is used when the server is restarted.

use crate::cluster::{Cluster, FAST, installed_library, terminate};
use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

const OLD: &str = "count relations worker started for database";
const NEW: &str = "count relations worker STARTED for database";

/// A copy of the installed library whose workers introduce themselves in other words.
fn make_newer_build(path: &Path) {
    let status = Command::new("sed")
        .env("LC_ALL", "C")
        .arg(format!("s/{OLD}/{NEW}/g"))
        .stdin(File::open(installed_library()).unwrap())
        .stdout(File::create(path).unwrap())
        .status()
        .expect("could not run sed");
    assert!(status.success());
}

#[test]
fn a_newer_build_waits_for_the_restart() {
    let cluster = Cluster::init(&[FAST]);
    let directory = cluster.new_server_directory("lib");
    let library = Path::new(&directory).join("count_relations.so");
    fs::copy(installed_library(), &library).unwrap();
    cluster.configure(&[&format!("dynamic_library_path = '{directory}:$libdir'")]);
    cluster.start_server();
    cluster.next_count("postgres");

    let worker = cluster.worker("postgres");
    // As `make install` does, and dpkg.
    let newer = Path::new(&cluster.new_server_directory("newer")).join("count_relations.so");
    make_newer_build(&newer);
    let status = Command::new("scripts/place.sh")
        .args([Path::new(&directory), &newer])
        .status()
        .expect("could not run scripts/place.sh");
    assert!(status.success());
    cluster.execute("postgres", "CREATE TABLE t ()");
    cluster.next_count("postgres");
    assert_eq!(cluster.worker("postgres"), worker);
    // A worker that starts now uses what the postmaster has loaded.
    terminate(worker);
    cluster.await_nth_line(OLD, 2);
    cluster.next_count("postgres");
    assert!(cluster.lines_with(NEW).is_empty());

    cluster.stop(Signal::SIGINT);
    cluster.start_server();
    cluster.await_line(NEW);
    cluster.next_count("postgres");
}
