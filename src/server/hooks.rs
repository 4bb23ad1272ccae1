//! Keeps other libraries' hooks out of what this process does (`*_hook` in the server's
//! headers, set from `_PG_init` functions).
//!
//! A hook is a global variable that each process inherits from the postmaster. A library that
//! sets one takes part in every query from then on, with the rights of the role that runs it:
//! in our processes, often a superuser. If what a hook does depends on settings that anybody
//! can attach to a database, or on tables that anybody can create, that is an invitation, and
//! no list of settings can be complete. And hooks that merely collect queries have no use for
//! ours. So before a query, every hook that a query can reach is set to null: the server then
//! does what it does by itself.
//!
//! The server also has hooks that no query reaches; those stay (they are listed with the test
//! below, which checks that every hook in the server's headers is on one of the two lists). A
//! preloaded library can still have run in our processes:
//!
//! - check and assign hooks of its settings, when we connect and when the configuration is
//!   reloaded; only when we connect do they see what is attached to a database or role (see
//!   [`super::session`]);
//! - callbacks at the end of transactions (`RegisterXactCallback()`), when caches are
//!   invalidated (`CacheRegisterSyscacheCallback()`), when resources are released, and at exit.
//!   A callback could set hooks again, as libraries do that load their other half on demand;
//!   hence *before every query*, and not once.
//!
//! None of those are given a query, or run between a query and its result.

/// Defines [`clear`] for these hooks.
macro_rules! hooks_of_queries {
    ($($(#[$attribute:meta])* $hook:ident),* $(,)?) => {
        /// Sets all hooks that a query can reach to null, in this process.
        pub fn clear() {
            // SAFETY: globals that only the one thread of this process reads and writes, for
            // which null is the server's own default. Nothing is called back from here, and a
            // hook that has been entered does not return to here: this runs between two
            // queries.
            unsafe {
                $(
                    $(#[$attribute])*
                    {
                        pgrx::pg_sys::$hook = None;
                    }
                )*
            }
        }

        #[cfg(test)]
        const CLEARED: &[&str] = &[$($(#[$attribute])* stringify!($hook)),*];
    };
}

hooks_of_queries! {
    // Parse analysis (parser/analyze.h)
    post_parse_analyze_hook,
    // Rewriting (rewrite/rowsecurity.h)
    row_security_policy_hook_permissive,
    row_security_policy_hook_restrictive,
    // Planning (optimizer/planner.h, plancat.h, pathnode.h, paths.h)
    planner_hook,
    #[cfg(not(any(feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18")))]
    planner_setup_hook,
    #[cfg(not(any(feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18")))]
    planner_shutdown_hook,
    create_upper_paths_hook,
    #[cfg(any(feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18"))]
    get_relation_info_hook,
    #[cfg(not(any(feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18")))]
    build_simple_rel_hook,
    #[cfg(not(any(feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18")))]
    joinrel_setup_hook,
    #[cfg(not(any(feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18")))]
    join_path_setup_hook,
    join_search_hook,
    set_join_pathlist_hook,
    set_rel_pathlist_hook,
    // Planning's statistics (utils/selfuncs.h, utils/lsyscache.h)
    get_relation_stats_hook,
    get_index_stats_hook,
    get_attavgwidth_hook,
    // Execution (executor/executor.h)
    ExecutorCheckPerms_hook,
    ExecutorStart_hook,
    ExecutorRun_hook,
    ExecutorFinish_hook,
    ExecutorEnd_hook,
    // Function calls (fmgr.h)
    needs_fmgr_hook,
    fmgr_hook,
    // Looking up and changing objects (catalog/objectaccess.h)
    object_access_hook,
    object_access_hook_str,
    // Utility commands, including EXPLAIN (tcop/utility.h, commands/explain.h,
    // commands/explain_state.h)
    ProcessUtility_hook,
    ExplainOneQuery_hook,
    explain_get_index_name_hook,
    #[cfg(not(any(feature = "pg15", feature = "pg16", feature = "pg17")))]
    explain_per_node_hook,
    #[cfg(not(any(feature = "pg15", feature = "pg16", feature = "pg17")))]
    explain_per_plan_hook,
    #[cfg(not(any(feature = "pg15", feature = "pg16", feature = "pg17")))]
    explain_validate_options_hook,
}

#[cfg(test)]
mod tests {
    use super::CLEARED;
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    /// The library in tests/hooks.rs that must have every hook.
    const SINGER: &str = include_str!("../../tests/singer/singer.c");

    /// Hooks that stay as they are, and why.
    const STAY: &[(&str, &str)] = &[
        (
            "emit_log_hook",
            "is how others forward the log, ours included",
        ),
        (
            "shmem_request_hook",
            "is called once, in the starting postmaster",
        ),
        (
            "shmem_startup_hook",
            "is called when shared memory is set up",
        ),
        ("ClientAuthentication_hook", "concerns only client backends"),
        (
            "ldap_password_hook",
            "concerns only clients' authentication",
        ),
        ("openssl_tls_init_hook", "is called where SSL is set up"),
        (
            "check_password_hook",
            "is called by CREATE ROLE and ALTER ROLE only",
        ),
    ];

    /// The directory of the server's headers.
    fn headers() -> String {
        let pg_config = std::env::var("PG_CONFIG").expect("PG_CONFIG is set by scripts/test.sh");
        let output = Command::new(pg_config)
            .arg("--includedir-server")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// The hook that a line of a header declares, if any: `extern PGDLLIMPORT planner_hook_type
    /// planner_hook;`
    fn declared_hook(line: &str) -> Option<&str> {
        let declaration = line.trim().strip_prefix("extern ")?.split(';').next()?;
        let declarator = match declaration.split_once("(*") {
            Some((_, pointer)) => pointer.split(')').next()?,
            None if declaration.contains('(') => return None,
            None => declaration.rsplit([' ', '\t', '*']).next()?,
        };
        declarator.contains("_hook").then_some(declarator)
    }

    fn collect_declared_hooks(directory: &Path, hooks: &mut Vec<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect_declared_hooks(&path, hooks);
            } else {
                let header = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
                hooks.extend(header.lines().filter_map(declared_hook).map(str::to_owned));
            }
        }
    }

    #[test]
    fn every_hook_of_the_headers_is_set_to_none_or_stays_for_a_reason() {
        let mut declared = Vec::new();
        collect_declared_hooks(Path::new(&headers()), &mut declared);
        let is_declared = |hook: &str| declared.iter().any(|other| other == hook);
        for hook in CLEARED {
            assert!(is_declared(hook), "{hook} is not found in the headers");
            // The stories rely on this.
            let listens = format!("LISTEN({hook}, ");
            assert!(SINGER.contains(&listens), "the singer lacks {hook}");
        }
        let stays = |hook: &str| STAY.iter().any(|(other, _reason)| *other == hook);
        let unknown: Vec<_> = declared
            .iter()
            .filter(|hook| !CLEARED.contains(&hook.as_str()) && !stays(hook))
            .collect();
        assert!(
            unknown.is_empty(),
            "neither set to none nor kept: {unknown:?}"
        );
    }
}
