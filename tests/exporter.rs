//! Prometheus sees what the views show, through the exporters that Debian has.

use crate::cluster::{Cluster, FAST, Stopped, eventually};
use crate::scrape::{Labels, Metrics, Server, monitoring, tool};
use nix::sys::signal::Signal;
use postgres::Client;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::NamedTempFile;

const SETTINGS: &[&str] = &[
    FAST,
    "count_relations.census_naptime = '100ms'",
    "count_relations.databases = 'postgres, app'",
];

/// A server with the extension in the database "postgres", and a role that may only monitor.
fn start(configuration: &[&str], extension: &str) -> Cluster {
    let cluster = Cluster::start(&[SETTINGS, configuration].concat());
    cluster.execute("postgres", extension);
    cluster.execute("postgres", "CREATE ROLE watcher LOGIN IN ROLE pg_monitor");
    cluster
}

/// Every metric, its labels and its value, from the views.
const VIEWS: &str = "
    SELECT 'pg_relation_counts_' || metric, jsonb_build_object('datname', datname)::text, value
    FROM relation_counts,
         LATERAL (VALUES ('relations', relations::float8),
                         ('min_relations', min_relations),
                         ('max_relations', max_relations),
                         ('max_age_seconds', extract(epoch FROM clock_timestamp() - max_at)),
                         ('recounts_total', recounts),
                         ('unchanged_seconds', extract(epoch FROM clock_timestamp() - changed_at)),
                         ('age_seconds', extract(epoch FROM clock_timestamp() - counted_at)))
             AS m (metric, value)
    UNION ALL
    SELECT 'pg_relation_counts_by_kind_relations',
           jsonb_build_object('datname', datname, 'kind', kind, 'persistence', persistence,
                              'partition', relispartition::text)::text, relations
    FROM relation_counts_by_kind
    JOIN (VALUES ('r', 'table'), ('i', 'index'), ('S', 'sequence'), ('t', 'TOAST table'),
                 ('v', 'view'), ('m', 'materialized view'), ('c', 'composite type'),
                 ('f', 'foreign table'), ('p', 'partitioned table'), ('I', 'partitioned index'))
        AS k (letter, kind) ON k.letter = relkind::text
    JOIN (VALUES ('p', 'permanent'), ('u', 'unlogged'), ('t', 'temporary'))
        AS p (letter, persistence) ON p.letter = relpersistence::text
    UNION ALL
    SELECT 'pg_relation_counts_by_schema_' || metric,
           jsonb_build_object('datname', datname, 'schema', coalesce(nspname, 'pg_others'))::text,
           value
    FROM relation_counts_by_schema,
         LATERAL (VALUES ('schemas', schemas::float8), ('relations', relations)) AS m (metric, value)
    UNION ALL
    SELECT DISTINCT ON (datid) 'pg_relation_census_age_seconds',
           jsonb_build_object('datname', datname)::text,
           extract(epoch FROM clock_timestamp() - checked_at)::float8
    FROM relation_catalogs
    UNION ALL
    SELECT 'pg_relation_catalog' || metric,
           jsonb_build_object('datname', datname, 'catalog', relname)::text, value
    FROM relation_catalogs,
         LATERAL (VALUES ('s_bytes', total_bytes::float8), ('_rows_live', live_rows),
                         ('_rows_dead', dead_rows), ('_rows_inserted_total', rows_inserted),
                         ('_rows_deleted_total', rows_deleted)) AS m (metric, value)
    WHERE value IS NOT NULL
    UNION ALL
    VALUES ('pg_relation_server_uncounted_databases', '{}', 0),
           ('pg_relation_server_census_naptime_seconds', '{}', 0.1)";

fn views(client: &mut Client) -> Metrics {
    let rows = client.query(VIEWS, &[]).unwrap();
    let metric = |row: &postgres::Row| {
        let labels: Labels = serde_json::from_str(row.get(1)).unwrap();
        ((row.get(0), labels), row.get(2))
    };
    Metrics(rows.iter().map(metric).collect())
}

/// What we export, without the label that the exporter for PostgreSQL adds.
fn ours(exporter: &Server) -> Metrics {
    let metrics = exporter.scrape();
    assert_eq!(metrics.value("pg_up", &[]), 1.0);
    assert_eq!(metrics.value("pg_exporter_last_scrape_error", &[]), 0.0);
    metrics.with_prefix("pg_relation_", &["server"])
}

/// Whether two sets of metrics have the same series with the same values, except for ages:
/// these must not have decreased.
fn agree(earlier: &Metrics, later: &Metrics) -> bool {
    let names = |metrics: &Metrics| metrics.0.keys().cloned().collect::<Vec<_>>();
    names(earlier) == names(later)
        && later.0.iter().all(|(series, value)| {
            let earlier = earlier.0[series];
            // A tick may come between.
            let is_tick = series.0.ends_with("counts_age_seconds") && (0.0..60.0).contains(value);
            let is_age = series.0.ends_with("_seconds") && earlier <= *value;
            is_tick || is_age || earlier == *value
        })
}

/// Waits until an exporter shows what the views show.
fn await_agreement(client: &mut Client, mut exported: impl FnMut() -> Metrics) -> Metrics {
    eventually("the views and the exporter to agree", || {
        let before = views(client);
        let exported = exported();
        let after = views(client);
        (agree(&before, &exported) && agree(&exported, &after)).then_some(exported)
    })
}

/// Waits until the views, including those of the census, are up to date.
fn await_census(cluster: &Cluster, client: &mut Client) {
    let sql = "SELECT count(*) FROM pg_class";
    let row = cluster.connect("app").query_one(sql, &[]).unwrap();
    let seen = "SELECT 1 FROM relation_counts AS c WHERE datname = 'app' AND relations = $1 \
                AND relations = (SELECT sum(relations) FROM relation_counts_by_kind AS k \
                                 WHERE k.datid = c.datid)";
    let relations: i64 = row.get(0);
    eventually("a census", || {
        client.query_opt(seen, &[&relations]).unwrap()
    });
}

/// Makes the smallest, the largest and the current number differ, and creates something for
/// every label.
fn change(cluster: &Cluster, client: &mut Client) {
    await_census(cluster, client);
    cluster.execute(
        "app",
        "CREATE TABLE a (i int PRIMARY KEY) PARTITION BY RANGE (i); \
         CREATE TABLE b PARTITION OF a FOR VALUES FROM (0) TO (9); \
         CREATE UNLOGGED TABLE c (t text); CREATE SEQUENCE s; CREATE VIEW v AS SELECT 1; \
         CREATE MATERIALIZED VIEW m AS SELECT 1; CREATE TYPE t AS (i int); CREATE TABLE d (t text UNIQUE, u text UNIQUE); \
         DO $$ BEGIN FOR i IN 1..20 LOOP EXECUTE format( \
             'CREATE SCHEMA s%s CREATE TABLE t ()', i); END LOOP; END $$",
    );
    await_census(cluster, client);
    cluster.execute("app", "DROP TABLE d");
    await_census(cluster, client);
}

#[test]
fn the_prometheus_exporter_shows_a_member_of_pg_monitor_what_the_views_show() {
    let cluster = start(&[], "CREATE EXTENSION count_relations");
    let mut client = cluster.connect_as("watcher", "postgres");
    change(&cluster, &mut client);
    let mut session = cluster.connect("app");
    session
        .batch_execute("CREATE TEMPORARY TABLE mine (t text)")
        .unwrap();
    await_census(&cluster, &mut client);

    let queries = monitoring("postgres_exporter.yml");
    let exporter = Server::postgres_exporter(&cluster, "watcher", &queries);
    let exported = await_agreement(&mut client, || ours(&exporter));
    let of_app = |metric: &str, labels: &[(&str, &str)]| {
        exported.value(metric, &[&[("datname", "app")], labels].concat())
    };
    let [least, now, most] = ["min_relations", "relations", "max_relations"]
        .map(|column| of_app(&format!("pg_relation_counts_{column}"), &[]));
    assert!(least < now && now < most, "{least} {now} {most}");
    let by_kind = "pg_relation_counts_by_kind_relations";
    for (kind, persistence, partition) in [
        ("table", "permanent", "true"),
        ("table", "unlogged", "false"),
        ("table", "temporary", "false"),
        ("TOAST table", "temporary", "false"),
    ] {
        let labels = [
            ("kind", kind),
            ("persistence", persistence),
            ("partition", partition),
        ];
        assert_eq!(of_app(by_kind, &labels), 1.0, "{labels:?}");
    }
    let by_schema = "pg_relation_counts_by_schema_relations";
    for (schema, relations) in [("pg_temp", 3.0), ("s1", 1.0)] {
        assert_eq!(of_app(by_schema, &[("schema", schema)]), relations);
    }
    // As many as there can be, according to docs/monitoring.md, whatever the number of schemas.
    let of_app_but_kinds = exported.0.keys().filter(|(name, labels)| {
        let is_of_app = labels.get("datname").is_some_and(|name| name == "app");
        is_of_app && !name.starts_with("pg_relation_counts_by_kind")
    });
    assert_eq!(of_app_but_kinds.count(), 72);
    let others = of_app(
        "pg_relation_counts_by_schema_schemas",
        &[("schema", "pg_others")],
    );
    assert!(others >= 10.0, "{others}");
    assert_eq!(
        exported.find(by_schema, &[("datname", "app"), ("schema", "s9")]),
        None
    );
}

#[test]
fn it_does_so_with_an_empty_search_path() {
    let cluster = start(&[], "CREATE EXTENSION count_relations");
    cluster.execute("postgres", "ALTER ROLE watcher SET search_path = ''");
    let mut client = cluster.connect("postgres");
    let queries = monitoring("postgres_exporter.yml");
    let exporter = Server::postgres_exporter(&cluster, "watcher", &queries);
    await_agreement(&mut client, || ours(&exporter));
}

/// A copy of a file, changed for another schema as the file itself says.
fn of_another_schema(file: &str) -> NamedTempFile {
    let path = monitoring(file);
    let text = fs::read_to_string(&path).unwrap();
    let command = text
        .lines()
        .find_map(|line| line.strip_prefix("#   sed -i "));
    let command = command.expect("how to change the schema");
    let (script, _) = command.rsplit_once(' ').unwrap();
    let copy = NamedTempFile::new().unwrap();
    let status = Command::new("sh")
        .args(["-c", &format!("sed {script} \"$0\"")])
        .arg(&path)
        .stdout(copy.reopen().unwrap())
        .status();
    assert!(status.unwrap().success());
    copy
}

#[test]
fn it_does_so_in_another_schema_after_the_change_that_the_file_describes() {
    let cluster = start(
        &[],
        "CREATE SCHEMA \"the schema\"; CREATE EXTENSION count_relations SCHEMA \"the schema\"",
    );
    cluster.execute(
        "postgres",
        "GRANT USAGE ON SCHEMA \"the schema\" TO watcher",
    );
    let mut client = cluster.connect("postgres");
    client
        .batch_execute("SET search_path = \"the schema\"")
        .unwrap();
    let queries = of_another_schema("postgres_exporter.yml");
    let exporter = Server::postgres_exporter(&cluster, "watcher", queries.path());
    await_agreement(&mut client, || ours(&exporter));
}

/// Schemas whose names are not UTF-8, and others that look like their replacements.
const IN_LATIN1: &str = "
    CREATE SCHEMA \"größe\" CREATE TABLE t ();
    CREATE SCHEMA \"gr\\366\\337e\" CREATE TABLE t ();
    CREATE SCHEMA \"Ã¼\" CREATE TABLE t ();
    CREATE SCHEMA \"new\nline \"\"quoted\"\"\" CREATE TABLE t ()";

#[test]
fn no_name_keeps_it_from_answering() {
    let cluster = start(
        &["count_relations.databases = 'app, postgres, latin'"],
        "CREATE EXTENSION count_relations",
    );
    cluster.expect("database \"latin\" does not exist"); // until it does
    cluster.execute(
        "postgres",
        "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0",
    );
    cluster.execute("latin", IN_LATIN1);
    cluster.execute("app", "CREATE SCHEMA \"größe_日本\" CREATE TABLE t ()");
    let expected = [
        ("app", "größe_日本"),
        ("latin", r"gr\366\337e"),
        ("latin", r"gr\\366\\337e"),
        ("latin", "ü"), // two letters there, one here
        ("latin", "new\nline \"quoted\""),
    ];
    let queries = monitoring("postgres_exporter.yml");
    let exporter = Server::postgres_exporter(&cluster, "watcher", &queries);
    eventually("all schemas", || {
        let exported = ours(&exporter);
        let name = "pg_relation_counts_by_schema_relations";
        let seen = |(datname, schema): &(&str, &str)| {
            exported.find(name, &[("datname", datname), ("schema", schema)]) == Some(1.0)
        };
        expected.iter().all(seen).then_some(())
    });
}

#[test]
fn nor_does_a_databases_name() {
    let cluster = start(
        &["count_relations.databases = '*'"],
        "CREATE EXTENSION count_relations",
    );
    let latin = "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0";
    cluster.execute("postgres", latin);
    // What is sent is in its encoding, and so is what is stored.
    cluster.execute("latin", "CREATE DATABASE \"größe\" TEMPLATE template0");
    let configuration = every_second(&monitoring("sql_exporter.yml"));
    let exporter = Server::sql_exporter(&cluster, "watcher", configuration.path());
    let queries = monitoring("postgres_exporter.yml");
    // The exporter's own metrics fail on such a name.
    let other = Server::postgres_exporter_of_ours_only(&cluster, "watcher", &queries);
    eventually("the database", || {
        let metrics = exporter.scrape();
        let labels = [("datname", r"gr\366\337e"), ("col", "relations")];
        metrics.find("sql_pg_relation_counts", &labels)
    });
    let labels = [("datname", r"gr\366\337e")];
    other
        .scrape()
        .value("pg_relation_counts_relations", &labels);
}

#[test]
fn on_a_standby_what_is_not_known_has_no_series() {
    let primary = start(&[], "CREATE EXTENSION count_relations");
    let standby = primary.start_standby(&[]);
    let mut client = standby.connect("postgres");
    let queries = monitoring("postgres_exporter.yml");
    let exporter = Server::postgres_exporter(&standby, "watcher", &queries);
    let exported = await_agreement(&mut client, || ours(&exporter));
    let pg_class = &[("datname", "app"), ("catalog", "pg_class")];
    assert!(exported.value("pg_relation_catalogs_bytes", pg_class) > 0.0);
    assert_eq!(
        exported.find("pg_relation_catalog_rows_live", pg_class),
        None
    );
}

fn await_shown_uncounted(exporter: &Server, databases: f64) {
    eventually("the number of databases without a count", || {
        let shown = ours(exporter);
        let shown = shown.value("pg_relation_server_uncounted_databases", &[]);
        (shown == databases).then_some(())
    });
}

#[test]
fn databases_without_a_count_are_shown() {
    let cluster = start(
        &["count_relations.databases = '*'"],
        "CREATE EXTENSION count_relations",
    );
    cluster.execute(
        "postgres",
        "CREATE ROLE tenant LOGIN; ALTER DATABASE app OWNER TO tenant",
    );
    let queries = monitoring("postgres_exporter.yml");
    let exporter = Server::postgres_exporter(&cluster, "watcher", &queries);
    let [check_postgres, psql] =
        ["check_postgres", "psql"].map(|program| documented_commands(&cluster, program).remove(1));
    let await_uncounted = |databases: f64| {
        await_shown_uncounted(&exporter, databases);
        let (code, said) = status(&check_postgres);
        assert_eq!(code, databases as i32, "{said}"); // 1 is WARNING
        let (code, said) = status(&psql);
        assert_eq!(code, databases as i32, "{said}");
    };
    cluster.expect("a database is not counted");
    await_uncounted(0.0);
    let mut tenant = cluster.connect_as("tenant", "postgres");
    for (setting, before, after) in [
        ("IS_TEMPLATE", true, false),
        ("ALLOW_CONNECTIONS", false, true),
    ] {
        for (value, databases) in [(before, 1.0), (after, 0.0)] {
            let sql = format!("ALTER DATABASE app {setting} {value}");
            tenant.batch_execute(&sql).unwrap();
            await_uncounted(databases);
        }
    }
}

#[test]
fn so_are_those_of_a_list() {
    let cluster = start(
        &[r#"count_relations.databases = 'postgres, app,app, "with, a "" and *"'"#],
        "CREATE EXTENSION count_relations",
    );
    cluster.expect("does not exist"); // until it does
    let queries = monitoring("postgres_exporter.yml");
    let exporter = Server::postgres_exporter(&cluster, "watcher", &queries);
    await_shown_uncounted(&exporter, 1.0);
    let sql = r#"CREATE DATABASE "with, a "" and *" TEMPLATE template0"#;
    cluster.execute("postgres", sql);
    await_shown_uncounted(&exporter, 0.0);
}

/// What a file says, in comment lines after `#   scrape_configs:`, that Prometheus needs.
fn relabelling(file: &str) -> String {
    let text = fs::read_to_string(monitoring(file)).unwrap();
    let (_, after) = text.split_once("metric_relabel_configs:\n").unwrap();
    let lines = after.lines().map_while(|line| line.strip_prefix("#   "));
    let lines: Vec<&str> = lines.collect();
    assert!(!lines.is_empty());
    format!("    metric_relabel_configs:\n{}\n", lines.join("\n"))
}

/// A configuration with which it polls every second.
fn every_second(file: &Path) -> NamedTempFile {
    let copy = NamedTempFile::new().unwrap();
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains("interval: 15s"));
    fs::write(&copy, text.replace("interval: 15s", "interval: 1s")).unwrap();
    copy
}

/// The expression of an alert.
fn expression_of(alert: &str) -> String {
    let alerts = fs::read_to_string(monitoring("alerts.yml")).unwrap();
    let (_, rule) = alerts.split_once(&format!("- alert: {alert}\n")).unwrap();
    let (_, expression) = rule.split_once("expr: >-\n").unwrap();
    let (expression, _) = expression.split_once("  for: ").unwrap();
    expression.to_owned()
}

#[test]
fn the_sql_exporter_gives_prometheus_the_same_metrics() {
    let cluster = start(
        &[],
        "CREATE SCHEMA \"the schema\"; CREATE EXTENSION count_relations SCHEMA \"the schema\"",
    );
    cluster.execute(
        "postgres",
        "ALTER ROLE watcher SET search_path = ''; GRANT USAGE ON SCHEMA \"the schema\" TO watcher",
    );
    let mut client = cluster.connect("postgres");
    client
        .batch_execute("SET search_path = \"the schema\"")
        .unwrap();
    change(&cluster, &mut client);
    // After the change that the file describes.
    let configuration = every_second(of_another_schema("sql_exporter.yml").path());
    let exporter = Server::sql_exporter(&cluster, "watcher", configuration.path());
    let prometheus = Server::prometheus(&format!(
        "scrape_configs:\n  - job_name: sql\n    scrape_interval: 1s\n    static_configs:\n      \
         - targets: ['{}']\n{}",
        exporter.address(),
        relabelling("sql_exporter.yml")
    ));
    let added = [
        "job", "instance", "sql_job", "driver", "host", "database", "user",
    ];
    let is_of_a_second_ago =
        |name: &str| name.ends_with("age_seconds") || name.ends_with("unchanged_seconds");
    let shown = || {
        let metrics = prometheus.query("{__name__=~\"pg_relation_.*\"}");
        let mut metrics = metrics.with_prefix("", &added);
        metrics.0.retain(|(name, _), _| !is_of_a_second_ago(name));
        metrics
    };
    let views = eventually("the views and Prometheus to agree", || {
        let mut views = views(&mut client);
        views.0.retain(|(name, _), _| !is_of_a_second_ago(name));
        (shown() == views).then_some(views)
    });
    assert!(views.0.len() > 100, "{}", views.0.len());
    let failed = prometheus.query("sql_exporter_last_scrape_failed");
    assert!(failed.0.values().all(|failed| *failed == 0.0), "{failed:?}");
    for age in [
        "counts_unchanged",
        "counts_max_age",
        "counts_age",
        "census_age",
    ] {
        let name = format!("pg_relation_{age}_seconds");
        let seconds = prometheus.query(&name).value(&name, &[("datname", "app")]);
        assert!((0.0..600.0).contains(&seconds), "{name} {seconds}");
    }
    // What it shows stays when it can't query any more.
    cluster.expect("the database system is shutting down");
    cluster.stop(Signal::SIGINT);
    let frozen = expression_of("RelationCountsFrozen");
    eventually("the alert to see it", || {
        prometheus.query(&frozen).0.into_values().next()
    });
    let relations = "pg_relation_counts_relations";
    prometheus
        .query(relations)
        .value(relations, &[("datname", "app")]);
}

#[test]
fn the_documentation_lists_exactly_the_metrics_that_there_are() {
    let cluster = start(&[], "CREATE EXTENSION count_relations");
    let mut client = cluster.connect("postgres");
    await_census(&cluster, &mut client);
    let views = views(&mut client);
    let mut names: Vec<&str> = views.0.keys().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    let text = fs::read_to_string("docs/monitoring.md").unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `pg_"));
    let cells = rows.map(|row| row.split('|').nth(1).unwrap());
    let mut documented: Vec<&str> = cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    documented.sort();
    assert_eq!(names, documented);
}

/// The commands in the documentation that begin with `program`, for `cluster` and the role
/// "watcher".
fn documented_commands(cluster: &Cluster, program: &str) -> Vec<String> {
    let text = fs::read_to_string("docs/monitoring.md").unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("    "));
    let lines = lines.filter(|line| line.starts_with(&format!("{program} ")));
    let socket = cluster.socket().to_str().unwrap();
    let here = |line: &str| {
        assert!(line.contains("monitor"), "{line}");
        let line = line.replace("/run/postgresql", socket);
        let line = line.replace("monitor", "watcher");
        assert!(line.contains(socket), "{line}");
        line
    };
    lines.map(here).collect()
}

/// The exit status and the output of a command.
fn status(command: &str) -> (i32, String) {
    let mut shell = tool("sh");
    // check_postgres needs one that no other user can write to.
    shell.args(["-c", command]).env_remove("TMPDIR");
    let output = shell.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    (output.status.code().unwrap(), said)
}

#[test]
fn check_postgres_warns_and_alarms() {
    let cluster = start(&[], "CREATE EXTENSION count_relations");
    let mut client = cluster.connect("postgres");
    cluster.execute("app", "CREATE TABLE a (t text UNIQUE, u text UNIQUE)");
    await_census(&cluster, &mut client);
    let command = documented_commands(&cluster, "check_postgres").remove(0);
    let with = |warning: &str, critical: &str| {
        let warns = command.replace("50000", warning);
        status(&warns.replace("100000", critical))
    };
    for (warning, critical, expected, state) in [
        ("50000", "100000", 0, "OK"),
        ("100", "100000", 1, "WARNING"),
        ("100", "200", 2, "CRITICAL"),
    ] {
        let (status, said) = with(warning, critical);
        assert_eq!(status, expected, "{said}");
        assert!(
            said.starts_with("POSTGRES_CUSTOM_QUERY ") && said.contains(state),
            "{said}"
        );
        assert!(said.contains("app"), "{said}");
    }
    let old = command.replace("10 min", "1 s");
    let stopped = Stopped::in_a_nap(&cluster, "app");
    eventually("an old count to be noticed", || {
        let (status, said) = status(&old);
        (status == 3).then(|| assert!(said.contains("UNKNOWN"), "{said}"))
    });
    let (status_of_many, said) = status(&old.replace("50000", "100").replace("100000", "200"));
    assert_eq!(status_of_many, 2, "{said}");
    drop(stopped);
    cluster.configure(&["count_relations.databases = ''"]);
    cluster.stop(Signal::SIGINT);
    cluster.start_server();
    let (status, said) = with("50000", "100000");
    assert_eq!(status, 3, "{said}");
}

#[test]
fn psql_tells_cron() {
    let cluster = start(&[], "CREATE EXTENSION count_relations");
    let mut client = cluster.connect("postgres");
    await_census(&cluster, &mut client);
    cluster.expect("more than 100");
    let command = documented_commands(&cluster, "psql").remove(0);
    assert_eq!(status(&command), (0, String::new()));
    let (code, said) = status(&command.replace("100000", "100"));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("more than 100 relations"), "{said}");
    let old = command.replace("10 min", "1 s");
    cluster.expect("more than 100000"); // when one is old
    let stopped = Stopped::in_a_nap(&cluster, "app");
    eventually("an old count to be noticed", || {
        (status(&old).0 == 1).then_some(())
    });
    drop(stopped);
    cluster.configure(&["count_relations.databases = ''"]);
    cluster.stop(Signal::SIGINT);
    cluster.start_server();
    assert_eq!(status(&command).0, 1);
    cluster.stop(Signal::SIGINT);
    assert_ne!(status(&command).0, 0);
}
