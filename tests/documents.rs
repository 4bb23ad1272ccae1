//! The documents are true, and what they name exists.

use crate::cluster::Cluster;
use std::fs;
use std::path::{Path, PathBuf};

/// Texts between backquotes that look like the name of a story or of a whole file:
/// `module::test` or `module`, within brackets.
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
fn every_test_that_is_named_exists() {
    for (document, least) in [
        ("docs/promises.md", 30),
        ("docs/too-many-relations.md", 1),
        ("docs/write-your-own-worker.md", 15),
        ("RELEASE.md", 3),
    ] {
        let names = named_tests(document);
        assert!(names.len() >= least, "{document}: {names:?}");
        let missing: Vec<_> = names.iter().filter(|name| !exists(name)).collect();
        assert!(missing.is_empty(), "{document}: {missing:?}");
    }
}

/// All documents beneath the directory.
fn documents(directory: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).unwrap();
    let mut paths: Vec<_> = paths.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        !name.starts_with('.') && name != "target" && name != "dist"
    });
    let (directories, files): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path.is_dir());
    let texts = files.into_iter();
    let texts = texts.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    texts
        .chain(directories.iter().flat_map(|path| documents(path)))
        .collect()
}

/// The anchors by which links refer to the headings of a document, as GitHub makes them.
fn anchors(document: &str) -> Vec<String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || "-_".contains(c) => Some(c),
            _ => None,
        });
        kept.collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_within_the_repository_leads_somewhere() {
    let mut links = 0;
    for document in documents(Path::new(".")) {
        let text = fs::read_to_string(&document).unwrap();
        let targets = text.split("](").skip(1);
        let targets = targets.map(|rest| rest.split(')').next().unwrap());
        for target in targets.filter(|target| !target.contains("://")) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let linked = match path {
                "" => document.clone(),
                path => document.with_file_name(path),
            };
            assert!(linked.exists(), "{}: {target}", document.display());
            if !anchor.is_empty() {
                let anchors = anchors(&fs::read_to_string(&linked).unwrap());
                let found = anchors.iter().any(|found| found == anchor);
                assert!(found, "{}: {target}: {anchors:?}", document.display());
            }
            links += 1;
        }
    }
    assert!(links > 40, "{links}");
}

/// The texts between backquotes in the first column of a text's tables.
fn first_columns(text: &str) -> Vec<&str> {
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.flat_map(|row| row[1..].split('|').next().unwrap().split('`').skip(1))
        .step_by(2)
        .collect()
}

fn after<'a>(text: &'a str, heading: &str) -> &'a str {
    let (_, after) = text.split_once(heading).expect(heading);
    after.split("\n#").next().unwrap()
}

#[test]
fn every_setting_is_documented_with_its_default() {
    let cluster = Cluster::start(&[]);
    let sql = "SELECT substr(name, 17), \
                      coalesce(nullif(current_setting(name), ''), 'empty'), \
                      CASE context WHEN 'sighup' THEN 'reload' WHEN 'postmaster' THEN 'restart' END \
               FROM pg_settings WHERE name LIKE 'count_relations.%'";
    let readme = fs::read_to_string("README.md").unwrap();
    let reference = fs::read_to_string("docs/reference.md").unwrap();
    let table = after(&readme, "\n## Settings\n");
    let documented = table.replace('`', "");
    let rows = cluster.connect("postgres").query(sql, &[]).unwrap();
    for row in &rows {
        let [name, default, changed]: [&str; 3] = [row.get(0), row.get(1), row.get(2)];
        let row = format!("\n| {name} | {default} | {changed} | ");
        assert!(documented.contains(&row), "not in README: {row}");
        let detail = format!("**`count_relations.{name}`**");
        assert!(reference.contains(&detail), "not in the reference: {name}");
    }
    assert_eq!(first_columns(table).len(), 1 + rows.len()); // with the heading
}

#[test]
fn every_column_is_documented() {
    let cluster = Cluster::start(&[]);
    let reference = fs::read_to_string("docs/reference.md").unwrap();
    let mut client = cluster.connect("postgres");
    client
        .batch_execute("CREATE EXTENSION count_relations")
        .unwrap();
    let sql = "SELECT relname::text, array_agg(attname::text ORDER BY attnum) \
               FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid \
               WHERE relkind = 'v' AND relname LIKE 'relation\\_c%' GROUP BY 1";
    let views = client.query(sql, &[]).unwrap();
    assert_eq!(views.len(), 4);
    for view in &views {
        let [name, columns]: [String; 2] = [view.get(0), view.get::<_, Vec<String>>(1).join(" ")];
        let table = after(&reference, &format!("# {name}\n"));
        assert_eq!(first_columns(table).join(" "), columns, "{name}");
    }
}

/// The blocks of Rust in a document.
fn rust_blocks(document: &str) -> Vec<String> {
    let text = fs::read_to_string(document).unwrap();
    let blocks = text.split("\n```rust\n").skip(1);
    blocks
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}

/// All files beneath a directory, one after the other.
fn sources(directory: &str) -> String {
    let entries = fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .map(|path| match path.is_dir() {
            true => sources(path.to_str().unwrap()),
            false => fs::read_to_string(path).unwrap(),
        })
        .collect()
}

#[test]
fn the_tutorial_shows_the_code_that_there_is() {
    let sources = sources("src");
    let blocks = rust_blocks("docs/write-your-own-worker.md");
    assert!(blocks.len() > 5);
    for block in blocks {
        let lines: Vec<_> = block.split_inclusive('\n').collect();
        // An ellipsis stands for lines that are left out.
        for part in lines.split(|line| line.trim() == "…") {
            assert!(sources.contains(&part.concat()), "{}", part.concat());
        }
    }
}

#[test]
fn the_tutorial_lists_the_files_of_server() {
    let text = fs::read_to_string("docs/write-your-own-worker.md").unwrap();
    let rows = text.split("\n| `").skip(1);
    let mut listed: Vec<_> = rows.map(|row| row.split('`').next().unwrap()).collect();
    listed.sort_unstable();
    let files = fs::read_dir("src/server").unwrap();
    let mut files: Vec<_> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|file| file != "mod.rs")
        .collect();
    files.sort_unstable();
    assert_eq!(listed, files);
}

/// So that nothing has to be built twice. After an update, copy our Cargo.lock to the example,
/// and build that, which drops what it does not need.
#[test]
fn the_example_has_the_dependencies_that_we_have() {
    let packages = |lock: &str| -> Vec<String> {
        let text = fs::read_to_string(lock).unwrap();
        let packages = text.split("[[package]]\n").skip(1);
        packages
            .map(|package| package.lines().take(2).collect::<Vec<_>>().join(", "))
            .collect()
    };
    let ours = packages("Cargo.lock");
    let others: Vec<_> = packages("examples/first_worker/Cargo.lock")
        .into_iter()
        .filter(|package| !ours.contains(package))
        .collect();
    assert_eq!(others, ["name = \"first_worker\", version = \"1.0.0\""]);
}

/// What the specification 1.0 of PGXN's META.json requires.
#[test]
fn the_metadata_for_pgxn_is_complete_and_names_files_that_exist() {
    let text = fs::read_to_string("META.json").unwrap();
    let meta: serde_json::Value = serde_json::from_str(&text).unwrap();
    // Except the maintainer, which scripts/dist.sh fills in.
    for required in ["name", "abstract", "license"] {
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
