//! Libraries beside ours: those of the tests, in C, built with the server's PGXS, and the
//! one of `examples/`.

use super::{Cluster, major_version, pg_config, pg_config_program, run};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Once;

impl Cluster {
    /// Builds the library in the directory `source` of the repository, and lets the server find
    /// it where it was built, which is not where the server's own are.
    pub fn build_library(&self, source: &str) {
        let source = format!("{}/{source}", env!("CARGO_MANIFEST_DIR"));
        let directory = self.new_server_directory("lib");
        run(Command::new("make")
            .args(["--silent", "--directory", &directory])
            .args(["--file", &format!("{source}/Makefile")])
            .arg(format!("VPATH={source}"))
            .arg(format!("PG_CONFIG={}", pg_config_program()))
            // Flags of our own: pg_config's may be for another compiler than ours.
            .arg("CFLAGS=-O2 -Wall -Werror -fno-strict-aliasing -fwrapv")
            .arg("with_llvm=no")
            // Those of a make that runs the tests.
            .env_remove("MAKEFLAGS")
            .env_remove("MAKELEVEL"));
        self.configure(&[&format!("dynamic_library_path = '{directory}:$libdir'")]);
    }
}

/// Whether the server has its own library of this name; not all of them are installed
/// everywhere.
pub fn has_library(name: &str) -> bool {
    Path::new(&pg_config("--pkglibdir"))
        .join(format!("{name}.so"))
        .exists()
}

/// Builds `examples/first_worker` and installs it into the private installation, once.
pub fn install_first_worker() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // cargo-pgrx copies over a library in place, and a server that has it loaded would
        // crash.
        let library = Path::new(&pg_config("--pkglibdir")).join("first_worker.so");
        let _ = fs::remove_file(library);
        run(Command::new(env!("CARGO"))
            .args(["pgrx", "install", "--no-default-features", "--features"])
            .arg(format!("pg{}", major_version()))
            .args(["--manifest-path", "examples/first_worker/Cargo.toml"])
            .args(["--pg-config", &pg_config_program()])
            // Where its dependencies, which are some of ours, are built already.
            .env(
                "CARGO_TARGET_DIR",
                Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap(),
            ));
    });
}
