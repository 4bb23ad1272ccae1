//! Databases that come and go.

use crate::cluster::{Cluster, eventually, is_gone};
use crate::is_crash;
use fastrand::Rng;
use postgres::{Client, NoTls};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

/// Creates, copies, renames, closes, opens, changes and drops databases.
pub struct Databases {
    settings: postgres::Config,
    rng: Rng,
    /// For new names, each used only once.
    names: usize,
    created: usize,
    copied: usize,
    renamed: usize,
    dropped: usize,
    /// Closed or opened.
    turned: usize,
}

struct Database {
    name: String,
    open: bool,
    /// What an interrupted DROP DATABASE leaves behind.
    invalid: bool,
}

impl Databases {
    pub fn new(settings: postgres::Config, rng: Rng) -> Databases {
        Databases {
            settings,
            rng,
            names: 0,
            created: 0,
            copied: 0,
            renamed: 0,
            dropped: 0,
            turned: 0,
        }
    }

    /// Runs until `done`, with mostly `guests` databases.
    pub fn play(&mut self, guests: usize, done: &AtomicBool) {
        while !done.load(Ordering::Relaxed) {
            match self.step(guests) {
                Err(error) if !is_crash(&error) => panic!("{error:?}"),
                _ => sleep(Duration::from_millis(self.rng.u64(10..600))),
            }
        }
    }

    fn step(&mut self, guests: usize) -> Result<(), postgres::Error> {
        let mut client = self.settings.connect(NoTls)?;
        let present = present(&mut client)?;
        let choice = self.rng.u8(0..10);
        let picked = match present.len() {
            0 => None,
            number => Some(&present[self.rng.usize(0..number)]),
        };
        if let Some(invalid) = present.iter().find(|database| database.invalid) {
            return self.drop_database(&mut client, &invalid.name);
        }
        match picked {
            Some(database) if present.len() > guests => {
                self.drop_database(&mut client, &database.name)
            }
            None => self.create(&mut client),
            Some(_) if present.len() + 1 < guests => self.create(&mut client),
            Some(database) => match choice {
                0 => self.create(&mut client),
                1 => self.drop_database(&mut client, &database.name),
                2 | 3 => self.rename(&mut client, &database.name),
                4 | 5 => self.turn(&mut client, database),
                6 => self.copy(&mut client, &database.name),
                _ => self.change(database),
            },
        }
    }

    fn new_name(&mut self) -> String {
        self.names += 1;
        format!("guest{}", self.names)
    }

    fn create(&mut self, client: &mut Client) -> Result<(), postgres::Error> {
        let name = self.new_name();
        let strategy = ["wal_log", "file_copy"][self.rng.usize(0..2)];
        execute(
            client,
            &format!("CREATE DATABASE {name} STRATEGY {strategy}"),
        )?;
        self.created += 1;
        Ok(())
    }

    fn copy(&mut self, client: &mut Client, template: &str) -> Result<(), postgres::Error> {
        let name = self.new_name();
        execute(
            client,
            &format!("CREATE DATABASE {name} TEMPLATE {template}"),
        )?;
        self.copied += 1;
        Ok(())
    }

    fn rename(&mut self, client: &mut Client, name: &str) -> Result<(), postgres::Error> {
        let new_name = self.new_name();
        execute(
            client,
            &format!("ALTER DATABASE {name} RENAME TO {new_name}"),
        )?;
        self.renamed += 1;
        Ok(())
    }

    fn drop_database(&mut self, client: &mut Client, name: &str) -> Result<(), postgres::Error> {
        execute(client, &format!("DROP DATABASE {name}"))?;
        self.dropped += 1;
        Ok(())
    }

    fn turn(&mut self, client: &mut Client, database: &Database) -> Result<(), postgres::Error> {
        let Database { name, open, .. } = database;
        execute(
            client,
            &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {}", !open),
        )?;
        self.turned += 1;
        Ok(())
    }

    /// Changes the number of its relations.
    fn change(&mut self, database: &Database) -> Result<(), postgres::Error> {
        if !database.open {
            return Ok(());
        }
        let mut client = self
            .settings
            .clone()
            .dbname(&database.name)
            .connect(NoTls)?;
        let row = client.query_one("SELECT pg_backend_pid()", &[])?;
        let table = self.rng.u8(0..10);
        let changed = execute(
            &mut client,
            &format!(
                "DROP TABLE IF EXISTS t{table}; CREATE TABLE IF NOT EXISTS t{table}{table} (id serial)"
            ),
        );
        drop(client);
        // Otherwise it would be in the way of what comes next.
        let backend = row.get(0);
        eventually("a backend to end", || is_gone(backend).then_some(()));
        changed
    }

    /// Declares the messages of a worker on its way to a database that has been dropped.
    pub fn expect_traces(&self, cluster: &Cluster) {
        for number in 1..=self.names {
            cluster.expect(&format!("database \"guest{number}\" does not exist"));
            cluster.expect(&format!(
                "database \"guest{number}\" is not currently accepting connections"
            ));
        }
    }
}

/// Even a command that needs a database to itself must not fail.
fn execute(client: &mut Client, sql: &str) -> Result<(), postgres::Error> {
    let done = client.batch_execute(sql);
    if let Err(error) = &done {
        assert!(is_crash(error), "{sql}: {error:?}");
    }
    done
}

fn present(client: &mut Client) -> Result<Vec<Database>, postgres::Error> {
    let sql = "SELECT datname::text, datallowconn, datconnlimit = -2 FROM pg_database \
               WHERE datname LIKE 'guest%' ORDER BY oid";
    let rows = client.query(sql, &[])?;
    let database = |row: &postgres::Row| Database {
        name: row.get(0),
        open: row.get(1),
        invalid: row.get(2),
    };
    Ok(rows.iter().map(database).collect())
}

impl fmt::Display for Databases {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Databases {
            created,
            copied,
            renamed,
            dropped,
            turned,
            ..
        } = self;
        write!(
            f,
            "databases: {created} created, {copied} copied, {renamed} renamed, \
             {dropped} dropped, {turned} closed or opened"
        )
    }
}
