//! Faults on real servers, and what they cost.

use crate::cluster::{
    Cluster, FAST, FIRST_CLONE, Level, eventually, is_gone, leave_out, major_version, send,
    server_user_command,
};
use crate::states::{self, BUSY, DATABASE};
use nix::sys::signal::Signal;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

#[test]
fn a_thousand_sighups_and_sigusr1s_change_nothing() {
    let cluster = Cluster::start(&[FAST]);
    let before = cluster.next_count("postgres");
    let worker = cluster.worker("postgres");
    for _ in 0..1000 {
        send(worker, Signal::SIGHUP);
        send(worker, Signal::SIGUSR1);
    }
    assert_eq!(cluster.next_count("postgres"), before);
    assert_eq!(cluster.worker("postgres"), worker);
    let counts = cluster.counts("postgres");
    let elapsed = counts.last().unwrap().time - counts[0].time;
    assert!(counts.len() as f64 <= elapsed / 0.05 + 2.0, "extra ticks");
}

/// As many at a time as there are workers, each at a different moment.
/// COUNT_RELATIONS_TERMINATIONS sets a larger number.
#[test]
fn sigterm_at_any_moment_is_followed_by_a_restart() {
    let wanted = std::env::var("COUNT_RELATIONS_TERMINATIONS")
        .map_or(200, |number| number.parse().expect("not a number"));
    let names: Vec<String> = (1..=40).map(|i| format!("d{i}")).collect();
    let cluster = Cluster::start(&["count_relations.databases = ''"]);
    for name in &names {
        cluster.execute(
            "postgres",
            &format!("CREATE DATABASE {name} TEMPLATE template0"),
        );
    }
    cluster.stop(Signal::SIGINT);
    cluster.configure(&[
        "max_worker_processes = 50",
        "count_relations.naptime = '10ms'",
        "count_relations.skip_unchanged = off",
        "count_relations.log_counts = changes",
        &format!("count_relations.databases = '{}'", names.join(", ")),
    ]);
    cluster.start_server();
    let mut client = cluster.connect("postgres");
    let mut workers = || {
        client
            .query(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'count relations' \
                 AND state IS NOT NULL",
                &[],
            )
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect::<Vec<i32>>()
    };
    let mut terminated = 0;
    while terminated < wanted {
        let all = eventually("all workers to run", || {
            Some(workers()).filter(|workers| workers.len() == names.len())
        });
        for worker in &all {
            send(*worker, Signal::SIGTERM);
            terminated += 1;
            // No two in the same place of their ticks.
            std::thread::sleep(std::time::Duration::from_micros(terminated * 137 % 9_000));
        }
        for worker in all {
            eventually("a worker to end", || is_gone(worker).then_some(()));
        }
    }
    let exits = eventually("all exits to be logged", || {
        let exits = cluster.lines_with("background worker \"count relations\" (PID");
        (exits.len() as u64 >= terminated).then_some(exits)
    });
    assert_eq!(exits.len() as u64, terminated);
    let clean = |message: &str| message.ends_with("exited with exit code 1");
    assert!(exits.iter().all(|line| clean(&line.message)), "{exits:?}");
    let last = eventually("the last ones to run", || {
        Some(workers()).filter(|workers| workers.len() == names.len())
    });
    // What was logged before is not logged again.
    cluster.execute("postgres", "CREATE EXTENSION count_relations");
    let sql = "SELECT 1 FROM relation_counts WHERE pid = ANY ($1) AND counted_at > now() \
               HAVING count(*) = $2";
    eventually("the last ones to have counted", || {
        let mut client = cluster.connect("postgres");
        client.batch_execute("BEGIN; SELECT pg_sleep(0.1)").unwrap();
        client
            .query_opt(sql, &[&last, &(names.len() as i64)])
            .unwrap()
    });
    let truth: i64 = cluster
        .connect(&names[0])
        .query_one("SELECT count(*) FROM pg_class", &[])
        .unwrap()
        .get(0);
    let counts = cluster.lines_with("Currently");
    let right = format!("Currently {truth} relations");
    assert!(counts.iter().all(|line| line.message.starts_with(&right)));
}

#[test]
fn a_client_killed_in_the_middle_of_ddl_leaves_the_count_right() {
    let cluster = states::start(BUSY);
    cluster.expect_crash();
    let before = cluster.next_count(DATABASE);
    let mut client = cluster.connect(DATABASE);
    client
        .batch_execute("BEGIN; CREATE TABLE half_made (i int PRIMARY KEY)")
        .unwrap();
    let backend: i32 = client
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    send(backend, Signal::SIGKILL);
    cluster.await_line("all server processes terminated; reinitializing");
    cluster.await_nth_line("worker started for database \"app\"", 2);
    assert_eq!(cluster.next_count(DATABASE), before);
}

#[test]
fn immediate_shutdown_and_recovery() {
    let cluster = states::start(BUSY);
    cluster.execute(DATABASE, "CREATE TABLE t (i int)");
    let before = cluster.next_count(DATABASE);
    let worker = cluster.worker(DATABASE);
    cluster.stop(Signal::SIGQUIT);
    assert!(is_gone(worker));
    cluster.start_server();
    cluster.await_line("database system was not properly shut down");
    assert_eq!(cluster.next_count(DATABASE), before);
}

/// A disk of a few pages, which disappears when the child that it belongs to exits: as soon as
/// the other end of the child's standard input is closed. On failure, the reason: not every
/// machine lets its users mount.
fn small_disk(mount_point: &str) -> Result<(Child, PathBuf), String> {
    let mut unshare = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let mut child = unshare
        .args(["--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o size=16k,mode=777 tmpfs \"$0\" && echo mounted && exec cat")
        .arg(mount_point)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("could not run unshare");
    let mut answer = [0; 8];
    let stdout = child.stdout.as_mut().unwrap();
    if stdout.read_exact(&mut answer).is_err() {
        let output = child.wait_with_output().unwrap();
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    let root = format!("/proc/{}/root{mount_point}", child.id());
    Ok((child, root.into()))
}

#[test]
fn a_full_disk_stops_the_log_and_not_the_counting() {
    let cluster = Cluster::init(&["count_relations.naptime = '10ms'"]);
    let (mut disk_owner, disk) = match small_disk(&cluster.new_server_directory("log")) {
        Ok(disk) => disk,
        Err(why) => {
            let story = "a_full_disk_stops_the_log_and_not_the_counting";
            return leave_out(story, &format!("cannot mount a small disk: {why}"));
        }
    };
    let path = disk.join("log");
    let mut options = OpenOptions::new();
    let log = options.create(true).append(true).open(&path).unwrap();
    cluster.spawn_server_with_log(log.try_clone().unwrap());
    let mut client = eventually("the server to start", || cluster.try_connect("postgres"));
    client
        .batch_execute("CREATE EXTENSION count_relations")
        .unwrap();
    let mut ticks = |more_than: i64| -> (i32, i64) {
        eventually("ticks", || {
            let row = client
                .query_opt("SELECT pid, ticks FROM relation_counts", &[])
                .unwrap()?;
            Some((row.get(0), row.get(1))).filter(|(_, ticks)| *ticks > more_than)
        })
    };
    let (worker, _) = ticks(0);
    eventually("a full disk", || {
        let error = fs::write(disk.join("probe"), "x").err()?;
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        Some(())
    });
    let (_, some) = ticks(0);
    let (same, _) = ticks(some + 100);
    assert_eq!(worker, same);

    log.set_len(0).unwrap();
    eventually("lines in the log again", || {
        let log = fs::read_to_string(&path).unwrap();
        log.contains("Currently").then_some(())
    });
    cluster.stop(Signal::SIGINT);
    drop(disk_owner.stdin.take());
    disk_owner.wait().unwrap();
}

#[test]
fn out_of_memory_costs_no_more_than_a_restart_of_the_worker() {
    let cluster = states::start(BUSY);
    cluster.expect("out of memory");
    cluster.execute("postgres", "CREATE EXTENSION count_relations");
    // As many schemas as relations, if only for those who read pg_class alone.
    states::grow_catalog(&cluster, DATABASE, 100);
    let mut client = cluster.connect(DATABASE);
    client
        .batch_execute("SET allow_system_table_mods = on")
        .unwrap();
    for first in (FIRST_CLONE..FIRST_CLONE + 100_000).step_by(1_000) {
        let last = first + 999;
        let update =
            format!("UPDATE pg_class SET relnamespace = oid WHERE oid BETWEEN {first} AND {last}");
        client.batch_execute(&update).unwrap();
    }
    without_memory(&cluster, || {
        cluster.execute("postgres", "SELECT relation_counts_census('app')");
    });
    // PostgreSQL 19 keeps its settings if it has no room for a long configuration file.
    if major_version() < 19 {
        without_memory(&cluster, || {
            cluster.configure(&["work_mem = '4MB'"; 20_000]);
            cluster.reload();
        });
    }
}

/// Gives the worker not a byte more than it has, and asserts that it ends when it needs some.
fn without_memory(cluster: &Cluster, need: impl FnOnce()) {
    let worker = cluster.worker(DATABASE);
    let status = server_user_command("prlimit")
        .args(["--pid", &worker.to_string(), "--as=1:"])
        .status()
        .expect("could not run prlimit");
    assert!(status.success());
    need();
    eventually("the worker to end", || is_gone(worker).then_some(()));
    states::assert_only_replaced(cluster, worker);
}

/// A server with everything at its minimum, except for worker slots.
fn smallest_server(worker_slots: u32) -> Cluster {
    Cluster::init(&[
        &format!("max_worker_processes = {worker_slots}"),
        "max_logical_replication_workers = 0",
        "max_connections = 4",
        "superuser_reserved_connections = 1",
        "max_wal_senders = 0",
        "shared_buffers = '128kB'",
    ])
}

fn pids_in_view(cluster: &Cluster) -> Vec<i32> {
    let mut client = cluster.connect("postgres");
    let rows = client
        .query("SELECT pid FROM relation_counts", &[])
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[test]
fn settings_at_their_minimum_leave_the_server_alone() {
    let cluster = smallest_server(0);
    cluster.expect("out of background worker slots");
    cluster.start_server();
    let line = cluster.await_line("too many background workers"); // the server's
    assert_eq!(line.level, Level::Log);
    cluster.await_line("Not counted: \"postgres\".");
    cluster.execute("postgres", "CREATE EXTENSION count_relations");
    assert!(pids_in_view(&cluster).is_empty());
}

#[test]
fn one_slot_is_enough_for_a_worker_and_its_row() {
    let cluster = smallest_server(1);
    cluster.start_server();
    cluster.next_count("postgres");
    cluster.execute("postgres", "CREATE EXTENSION count_relations");
    assert_eq!(pids_in_view(&cluster), [cluster.worker("postgres")]);
}
