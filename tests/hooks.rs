//! Other libraries' hooks run in every query of their clients, and in none of ours.

use crate::cluster::{Cluster, FAST, Line, eventually, has_library, leave_out, major_version};
use crate::states::DATABASE;
use nix::sys::signal::Signal;
use std::collections::HashSet;

/// Statements that reach every hook of a query, as the owner of the tables or a superuser.
const AS_OWNER: &[&str] = &[
    "CREATE TABLE songs (a int, b int)",
    "INSERT INTO songs SELECT n, n FROM generate_series(1, 100) n",
    "CREATE INDEX ON songs (a)",
    "CREATE INDEX ON songs ((a + b))",
    "ALTER TABLE songs ENABLE ROW LEVEL SECURITY",
    "GRANT SELECT ON songs TO reader",
    "SELECT count(*) FROM songs JOIN songs others USING (a) WHERE songs.a + songs.b = 2",
    "SET enable_seqscan = off",
    "EXPLAIN SELECT * FROM songs WHERE a = 1",
];

/// The same for the hooks of row security, which does not apply to the owner.
const AS_READER: &str = "SELECT * FROM songs";

/// What the hook of parse analysis runs: in the database "app", a function that belongs to its
/// owner.
const SONG: &str = "SELECT public.song()";

/// A server whose singer is about to sing in every process.
fn set_up(libraries: &str, databases: &str) -> Cluster {
    let cluster = Cluster::init(&["count_relations.databases = ''"]);
    cluster.build_library("tests/singer");
    cluster.configure(&[&format!("shared_preload_libraries = '{libraries}'")]);
    cluster.start_server();
    cluster.execute(
        "postgres",
        "CREATE FUNCTION public.song() RETURNS text LANGUAGE sql AS 'SELECT ''lala''';
         CREATE ROLE mallory LOGIN; CREATE ROLE reader LOGIN;
         ALTER DATABASE app OWNER TO mallory",
    );
    let mut mallory = cluster.connect_as("mallory", DATABASE);
    let become_superuser = format!(
        "CREATE FUNCTION public.song() RETURNS text LANGUAGE plpgsql AS $$
         BEGIN
             COPY (SELECT 'ALTER ROLE mallory SUPERUSER') TO PROGRAM '{} postgres';
             RETURN 'lala';
         EXCEPTION WHEN insufficient_privilege THEN
             RETURN 'not a superuser';
         END $$",
        cluster.psql()
    );
    mallory.batch_execute(&become_superuser).unwrap();
    for setting in [
        // Looked up while the settings are being applied, and there is a hook for that.
        "default_text_search_config = 'pg_catalog.simple'".to_owned(),
        format!("singer.sing = '{SONG}'"),
    ] {
        let sql = format!("ALTER DATABASE app SET {setting}");
        mallory.batch_execute(&sql).unwrap();
    }
    drop(mallory);
    cluster.stop(Signal::SIGINT);
    cluster.configure(&[
        // The server's own, because our processes ignore what is attached to a database.
        &format!("singer.sing = '{SONG}'"),
        &format!("count_relations.databases = '{databases}'"),
        FAST,
        "count_relations.skip_unchanged = off",
    ]);
    cluster.start_server();
    cluster
}

fn is_superuser(cluster: &Cluster, role: &str) -> bool {
    cluster
        .connect("postgres")
        .query_one("SELECT rolsuper FROM pg_roles WHERE rolname = $1", &[&role])
        .unwrap()
        .get(0)
}

/// All of our processes that have logged anything.
fn our_pids(cluster: &Cluster) -> HashSet<i32> {
    let ours = [
        "count relations worker",
        "count relations launcher",
        "Currently ",
    ];
    let says = |line: &Line| ours.iter().any(|words| line.message.starts_with(words));
    let lines = cluster.lines();
    lines
        .iter()
        .filter(|line| says(line))
        .map(|line| line.pid)
        .collect()
}

/// The hooks named in lines that begin with `words`.
fn named(lines: &[Line], words: &str) -> HashSet<String> {
    let hook = |line: &Line| line.message.strip_prefix(words).map(str::to_owned);
    lines.iter().filter_map(hook).collect()
}

/// Every hook sings for clients, and none for our processes, which keep counting.
fn sings_for_clients_only(libraries: &str, databases: &str) {
    let cluster = set_up(libraries, databases);
    for _ in 0..2 {
        cluster.next_count(DATABASE);
    }
    let uninvited: Vec<Line> = cluster.lines_with("singing in");
    assert!(
        !is_superuser(&cluster, "mallory"),
        "her function ran as ours"
    );
    assert!(uninvited.is_empty(), "{uninvited:?}");

    let mut superuser = cluster.connect(DATABASE);
    for sql in AS_OWNER {
        superuser.batch_execute(sql).unwrap();
    }
    let mut reader = cluster.connect_as("reader", DATABASE);
    reader.batch_execute(AS_READER).unwrap();
    let repertoire = named(&cluster.lines(), "able to sing in ");
    assert!(!repertoire.is_empty());
    assert_eq!(named(&cluster.lines(), "singing in "), repertoire);
    assert!(is_superuser(&cluster, "mallory"), "the singer is harmless");

    let truth: i64 = superuser
        .query_one("SELECT count(*) FROM pg_class", &[])
        .unwrap()
        .get(0);
    cluster.await_count(DATABASE, truth);
    assert_eq!(cluster.next_count(DATABASE), truth);
    let ours = our_pids(&cluster);
    let uninvited = cluster.lines_with("singing in");
    assert!(
        uninvited.iter().all(|line| !ours.contains(&line.pid)),
        "{ours:?}: {uninvited:?}"
    );
}

#[test]
fn a_library_loaded_before_us_has_no_part_in_a_list() {
    sings_for_clients_only("singer, count_relations", "app, postgres");
}

#[test]
fn a_library_loaded_after_us_has_no_part_in_a_list() {
    sings_for_clients_only("count_relations, singer", "app, postgres");
}

#[test]
fn a_library_loaded_before_us_has_no_part_in_all_databases() {
    sings_for_clients_only("singer, count_relations", "*");
}

#[test]
fn a_library_loaded_after_us_has_no_part_in_all_databases() {
    sings_for_clients_only("count_relations, singer", "*");
}

/// Libraries that collect queries, or explain slow ones, do not see ours.
fn collects_clients_only(libraries: &str, databases: &str) {
    let missing = |library: &&&str| !has_library(library);
    let contrib = ["pg_stat_statements", "auto_explain"];
    if let Some(missing) = contrib.iter().find(missing) {
        let why = format!("this PostgreSQL {} has no {missing}", major_version());
        leave_out("hooks::collectors_of_queries", &why);
        return;
    }
    let cluster = Cluster::start(&[]);
    cluster.execute("postgres", "CREATE EXTENSION pg_stat_statements");
    cluster.stop(Signal::SIGINT);
    cluster.configure(&[
        &format!("shared_preload_libraries = '{libraries}'"),
        "pg_stat_statements.track = all",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_nested_statements = on",
        &format!("count_relations.databases = '{databases}'"),
        FAST,
        "count_relations.skip_unchanged = off",
    ]);
    cluster.start_server();
    for _ in 0..2 {
        cluster.next_count(DATABASE);
    }
    let mut client = cluster.connect(DATABASE);
    let query = "SELECT count(*) FROM pg_class";
    client.query_one(query, &[]).unwrap();
    let collected: Vec<i64> = cluster
        .connect("postgres")
        .query(
            "SELECT calls FROM pg_stat_statements WHERE query = $1",
            &[&query],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(collected, [1], "only the client's");
    let explained = eventually("the client's plan", || {
        let lines = cluster.lines_with(&format!("Query Text: {query}"));
        (!lines.is_empty()).then_some(lines)
    });
    assert_eq!(explained.len(), 1, "only the client's: {explained:?}");
    let ours = our_pids(&cluster);
    let plans = cluster.lines_with("plan:");
    assert!(
        plans.iter().all(|line| !ours.contains(&line.pid)),
        "{plans:?}"
    );
}

#[test]
fn collectors_of_queries_loaded_before_us_collect_none_of_a_list() {
    collects_clients_only("pg_stat_statements, auto_explain, count_relations", "app");
}

#[test]
fn collectors_of_queries_loaded_after_us_collect_none_of_all_databases() {
    collects_clients_only("count_relations, pg_stat_statements, auto_explain", "*");
}
