//! `make uninstall` removes what `make install` has installed, unless a server could then not
//! start again.

use crate::cluster::{Cluster, installed_library};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Replaces the file in one step, as `make install` does.
fn place(file: &Path, contents: &Path) {
    let new = file.with_extension("new");
    fs::copy(contents, &new).unwrap();
    fs::rename(new, file).unwrap();
}

/// A pg_config that names directories of the test's own.
fn write_pg_config(path: &Path, lib: &str, share: &str) {
    let real = std::env::var("PG_CONFIG").unwrap();
    let script = format!(
        "#!/bin/sh\n\
         case $1 in\n\
         --pkglibdir) echo {lib} ;;\n\
         --sharedir) echo {share} ;;\n\
         *) exec {real} \"$@\" ;;\n\
         esac\n"
    );
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn uninstall(pg_config: &Path) -> Output {
    let mut uninstall = Command::new("scripts/uninstall.sh");
    uninstall.env("PG_CONFIG", pg_config).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_server_that_preloads_the_library_keeps_it() {
    let cluster = Cluster::init(&["count_relations.naptime = '50ms'"]);
    let lib = cluster.new_server_directory("lib");
    let share = cluster.new_server_directory("share");
    let extensions = Path::new(&share).join("extension");
    let pg_config = Path::new(&share).join("pg_config");
    write_pg_config(&pg_config, &lib, &share);
    fs::create_dir(&extensions).unwrap();
    let ours = [
        Path::new(&lib).join("count_relations.so"),
        extensions.join("count_relations.control"),
        extensions.join("count_relations--1.0.sql"),
    ];
    place(&ours[0], &installed_library());
    place(&ours[1], Path::new("count_relations.control"));
    place(&ours[2], Path::new("sql/relation_counts.sql"));
    let somebody_elses = extensions.join("count_relations_too.control");
    fs::write(&somebody_elses, "").unwrap();
    cluster.configure(&[&format!("dynamic_library_path = '{lib}:$libdir'")]);
    cluster.start_server();
    cluster.next_count("postgres");

    let assert_refused = || {
        let output = uninstall(&pg_config);
        assert!(!output.status.success());
        let said = said(&output);
        assert!(said.contains(cluster.data().to_str().unwrap()), "{said}");
        assert!(ours.iter().all(|file| file.exists()));
    };
    assert_refused();
    // A newer build, which the server has not loaded, but would.
    place(&ours[0], &installed_library());
    assert_refused();

    cluster.stop(Signal::SIGINT);
    cluster.configure(&["shared_preload_libraries = ''"]);
    cluster.start_server();
    let output = uninstall(&pg_config);
    assert!(output.status.success(), "{}", said(&output));
    assert!(ours.iter().all(|file| !file.exists()));
    assert!(somebody_elses.exists());
    let again = uninstall(&pg_config);
    assert!(again.status.success() && said(&again).contains("Nothing"));
}
