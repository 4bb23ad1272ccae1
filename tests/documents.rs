//! The documents name tests for what they claim; the tests must exist.

use std::fs;
use std::path::Path;

/// What stands between backquotes and has the form of a story's, or of a whole
/// file's: `module::test` or `module`, within brackets.
fn named_tests(document: &str) -> Vec<String> {
    let text = fs::read_to_string(document).unwrap().replace('\n', " ");
    let claims = text.split('[').skip(1).filter_map(|rest| {
        let (inside, after) = rest.split_once(']')?;
        (!after.starts_with('(')).then(|| inside.to_owned())
    });
    claims
        .flat_map(|inside| {
            let odd = inside.split('`').skip(1).step_by(2);
            odd.map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

fn exists(name: &str) -> bool {
    let (module, test) = name.split_once("::").unwrap_or((name, ""));
    let source = fs::read_to_string(format!("tests/{module}.rs")).unwrap_or_default();
    match test {
        "" => source.contains("#[test]"),
        test => ["#[test]", "#[pg_test]"]
            .iter()
            .any(|attribute| source.contains(&format!("{attribute}\nfn {test}()"))),
    }
}

#[test]
fn every_test_that_the_runbook_names_exists() {
    let names = named_tests("docs/too-many-relations.md");
    assert!(!names.is_empty());
    assert!(names.iter().all(|name| exists(name)), "{names:?}");
}

#[test]
fn every_test_that_the_tutorial_names_exists() {
    let names = named_tests("docs/write-your-own-worker.md");
    assert!(names.len() > 15, "{names:?}");
    let missing: Vec<_> = names.iter().filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// What the specification 1.0 of PGXN's META.json requires.
#[test]
fn the_metadata_for_pgxn_is_complete_and_names_files_that_exist() {
    let text = fs::read_to_string("META.json").unwrap();
    let meta: serde_json::Value = serde_json::from_str(&text).unwrap();
    for required in ["name", "abstract", "maintainer", "license"] {
        assert!(!meta[required].as_str().unwrap().is_empty(), "{required}");
    }
    assert_eq!(meta["meta-spec"]["version"], "1.0.0");
    assert_eq!(meta["version"], env!("CARGO_PKG_VERSION"));
    let provided = meta["provides"].as_object().unwrap();
    assert!(!provided.is_empty());
    for (name, extension) in provided {
        assert_eq!(extension["version"], meta["version"], "{name}");
        for file in ["file", "docfile"] {
            let path = extension[file].as_str().unwrap();
            assert!(Path::new(path).exists(), "{path}");
        }
    }
}

#[test]
fn every_file_that_contributing_names_exists() {
    let text = fs::read_to_string("CONTRIBUTING.md").unwrap();
    let quoted = text.split('`').skip(1).step_by(2);
    let paths: Vec<&str> = quoted
        .filter(|quoted| quoted.starts_with("tests/") || quoted.starts_with("src/"))
        .collect();
    assert!(paths.len() > 3, "{paths:?}");
    for path in paths {
        assert!(Path::new(path).exists(), "{path}");
    }
}
