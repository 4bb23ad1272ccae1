// What can be seen from SQL inside one server (`cargo pgrx test`).

use pgrx::prelude::*;

/// Declares the beginning of a message at WARNING or above that the test will cause:
/// `scripts/test.sh` accepts no other in the server's log.
fn expect_in_log(message: &str) {
    log::info!("expected: {message}");
}

/// The row that `pg_settings` has for a setting, as text.
fn setting(name: &str) -> Vec<Option<String>> {
    Spi::connect(|client| {
        let row = client
            .select(
                "SELECT setting, unit, vartype, context, min_val, max_val, boot_val \
                 FROM pg_settings WHERE name = $1",
                Some(1),
                &[name.into()],
            )
            .unwrap()
            .first();
        (1..=7).map(|i| row.get(i).unwrap()).collect()
    })
}

fn described(row: [&str; 7]) -> Vec<Option<String>> {
    row.map(|field| (field != "-").then(|| field.to_owned()))
        .to_vec()
}

#[pg_test]
fn naptime_has_a_unit_a_range_and_a_context() {
    assert_eq!(
        setting("count_relations.naptime"),
        described(["1000", "ms", "integer", "sighup", "10", "86400000", "1000"])
    );
    let shown = Spi::get_one::<String>("SELECT current_setting('count_relations.naptime')");
    assert_eq!(shown, Ok(Some("1s".to_owned())));
}

#[pg_test]
fn databases_role_and_room_need_a_restart() {
    assert_eq!(
        setting("count_relations.databases"),
        described([
            "postgres",
            "-",
            "string",
            "postmaster",
            "-",
            "-",
            "postgres"
        ])
    );
    assert_eq!(
        setting("count_relations.role"),
        described(["", "-", "string", "postmaster", "-", "-", ""])
    );
    assert_eq!(
        setting("count_relations.max_databases"),
        described(["1024", "-", "integer", "postmaster", "1", "1000000", "1024"])
    );
}

#[pg_test]
fn the_other_settings_follow_a_reload() {
    assert_eq!(
        setting("count_relations.skip_unchanged"),
        described(["on", "-", "bool", "sighup", "-", "-", "on"])
    );
    assert_eq!(
        setting("count_relations.log_counts"),
        described(["all", "-", "enum", "sighup", "-", "-", "all"])
    );
    assert_eq!(
        setting("count_relations.warn_above"),
        described(["0", "-", "integer", "sighup", "0", "2147483647", "0"])
    );
    assert_eq!(
        setting("count_relations.max_workers"),
        described(["2", "-", "integer", "sighup", "1", "1000", "2"])
    );
    let values = "SELECT enumvals::text FROM pg_settings WHERE name = 'count_relations.log_counts'";
    assert_eq!(
        Spi::get_one::<String>(values),
        Ok(Some("{all,changes,none}".to_owned()))
    );
}

#[pg_test]
fn every_setting_is_described() {
    let undescribed = "SELECT string_agg(name, ' ') FROM pg_settings \
                       WHERE name LIKE 'count_relations.%' AND short_desc !~ '[.]$'";
    assert_eq!(Spi::get_one::<String>(undescribed), Ok(None));
    let number = "SELECT count(*) FROM pg_settings WHERE name LIKE 'count_relations.%'";
    assert_eq!(Spi::get_one::<i64>(number), Ok(Some(9)));
}

/// The members of the extension, except for these tests.
const MEMBERS: &str = "
    SELECT pg_describe_object(classid, objid, 0) AS name, classid, objid
    FROM pg_depend
    WHERE deptype = 'e'
      AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'count_relations')
      AND pg_describe_object(classid, objid, 0) !~ ' tests([.]|$)'
      -- The type of the view's rows.
      AND classid <> 'pg_type'::regclass";

#[pg_test]
fn the_extension_is_four_views_and_their_functions() {
    let names = format!("SELECT string_agg(name, '; ' ORDER BY name) FROM ({MEMBERS}) AS m");
    assert_eq!(
        Spi::get_one::<String>(&names),
        Ok(Some(
            "function relation_catalogs(); function relation_counts(); \
             function relation_counts_by_kind(); function relation_counts_by_schema(); \
             function relation_counts_census(name); function relation_counts_reset(name); \
             view relation_catalogs; view relation_counts; view relation_counts_by_kind; \
             view relation_counts_by_schema"
                .to_owned()
        ))
    );
    let version = "SELECT extversion FROM pg_extension WHERE extname = 'count_relations'";
    assert_eq!(Spi::get_one::<String>(version), Ok(Some("1.0".to_owned())));
}

#[pg_test]
fn every_object_and_every_column_has_a_comment() {
    let without = format!(
        "SELECT string_agg(name, '; ') FROM ({MEMBERS}) AS m \
         WHERE coalesce(obj_description(objid, classid::regclass::name), '') = ''"
    );
    assert_eq!(Spi::get_one::<String>(&without), Ok(None));
    let without = "SELECT string_agg(attname, '; ') FROM pg_attribute \
                   JOIN pg_class AS c ON c.oid = attrelid AND relkind = 'v' \
                     AND relname ~ '^relation_c' \
                   WHERE attnum > 0 AND coalesce(col_description(attrelid, attnum), '') = ''";
    assert_eq!(Spi::get_one::<String>(without), Ok(None));
}

#[pg_test]
fn the_views_have_these_columns() {
    for (view, columns) in [
        (
            "relation_counts",
            "datid oid, datname name, relations bigint, \
             counted_at timestamp with time zone, changed_at timestamp with time zone, \
             min_relations bigint, max_relations bigint, max_at timestamp with time zone, \
             ticks bigint, recounts bigint, last_count_ms double precision, \
             stats_since timestamp with time zone, pid integer",
        ),
        (
            "relation_counts_by_kind",
            "datid oid, datname name, relkind \"char\", relpersistence \"char\", \
             relispartition boolean, relations bigint, counted_at timestamp with time zone",
        ),
        (
            "relation_counts_by_schema",
            "datid oid, datname name, nspname name, schemas bigint, relations bigint, \
             counted_at timestamp with time zone",
        ),
        (
            "relation_catalogs",
            "datid oid, datname name, relname name, live_rows bigint, dead_rows bigint, \
             rows_inserted bigint, rows_deleted bigint, total_bytes bigint, \
             checked_at timestamp with time zone",
        ),
    ] {
        let sql = format!(
            "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' \
                               ORDER BY attnum) \
             FROM pg_attribute WHERE attrelid = '{view}'::regclass AND attnum > 0"
        );
        assert_eq!(Spi::get_one::<String>(&sql), Ok(Some(columns.to_owned())));
    }
}

#[pg_test]
fn no_object_is_for_everybody() {
    // Without an ACL of its own, a function may be executed by everybody.
    let public = format!(
        "SELECT string_agg(name, '; ') FROM ({MEMBERS}) AS m \
         LEFT JOIN pg_proc AS p ON classid = 'pg_proc'::regclass AND p.oid = objid \
         LEFT JOIN pg_class AS c ON classid = 'pg_class'::regclass AND c.oid = objid \
         WHERE coalesce(proacl, relacl) IS NULL \
            OR EXISTS (SELECT FROM aclexplode(coalesce(proacl, relacl)) WHERE grantee = 0)"
    );
    assert_eq!(Spi::get_one::<String>(&public), Ok(None));
}

#[pg_test(error = "parameter \"count_relations.naptime\" cannot be changed now")]
fn naptime_is_not_for_a_session_to_set() {
    expect_in_log("parameter \"count_relations.naptime\" cannot be changed now");
    Spi::run("SET count_relations.naptime = '2s'").unwrap();
}

#[pg_test(error = "invalid configuration parameter name \"count_relations.foo\"")]
fn the_prefix_is_reserved() {
    expect_in_log("invalid configuration parameter name \"count_relations.foo\"");
    Spi::run("SET count_relations.foo = 1").unwrap();
}

#[pg_test]
fn the_worker_is_in_pg_stat_activity() {
    let worker = Spi::get_three::<String, String, String>(
        "SELECT datname::text, usename::text, application_name FROM pg_stat_activity \
         WHERE backend_type = 'count relations'",
    )
    .unwrap();
    let superuser = Spi::get_one("SELECT rolname::text FROM pg_roles WHERE oid = 10").unwrap();
    assert_eq!(
        worker,
        (
            Some("postgres".to_owned()),
            superuser,
            Some("count_relations".to_owned())
        )
    );
}

/// Runs a worker that will fail. This must not affect others: a crash would end this session,
/// and the worker that counts.
fn costs_the_worker_and_not_the_server(function: &str) {
    let worker = || {
        Spi::get_one::<i32>(
            "SELECT pid FROM pg_stat_get_activity(NULL) AS a \
             WHERE application_name = 'count_relations' AND datid IS NOT NULL",
        )
        .unwrap()
    };
    let before = worker();
    let doomed = crate::worker::builder("doomed", "doomed")
        .set_function(function)
        // The list of databases has no such position.
        .set_argument(Some(pg_sys::Datum::from(999)))
        .set_restart_time(None)
        .set_notify_pid(crate::server::session::my_pid())
        .load_dynamic()
        .expect("no worker slot");
    doomed.wait_for_shutdown().expect("the worker is to end");
    assert_eq!(worker(), before);
}

#[pg_test]
fn a_panic_costs_the_worker_and_not_the_server() {
    expect_in_log("index out of bounds: the len is");
    costs_the_worker_and_not_the_server("count_relations_worker_main");
}

#[pg_test]
fn an_allocation_that_fails_costs_the_worker_and_not_the_server() {
    expect_in_log("out of memory");
    costs_the_worker_and_not_the_server("count_relations_greedy_main");
}

/// Asks Rust's allocator for more than there is.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn count_relations_greedy_main(_argument: pg_sys::Datum) {
    crate::server::signals::attach();
    std::hint::black_box(vec![1_u8; isize::MAX as usize / 2]);
}
