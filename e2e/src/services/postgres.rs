//! PostgreSQL.

use std::path::Path;
use std::process::Command;

use super::{Server, find, words};

/// A PostgreSQL server. The user `weir` owns the database `weir`.
#[derive(Debug)]
pub struct Postgres(pub Server);

impl Postgres {
    /// Starts a server and makes the database.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let dir = std::path::absolute(dir)?;
        let data = dir.join("data").display().to_string();
        std::fs::create_dir_all(&data)?;
        let user = ordinary_user();
        if !user.is_empty() {
            // Folders of tests are for their user alone.
            for folder in dir.ancestors().take_while(|folder| **folder != std::env::temp_dir()) {
                run(Command::new("chmod").arg("o+x").arg(folder))?;
            }
            run(Command::new("chown").args(["-R", "postgres:postgres", &data]))?;
        }
        let initdb = find("initdb")?.display().to_string();
        let make = format!("{initdb} -D {data} -U postgres -A trust -E UTF8 --locale=C -N");
        let (first, rest) = command(&user, &make);
        run(Command::new(&first).args(rest).current_dir("/"))?;
        let postgres = find("postgres")?.display().to_string();
        let server = Server::start(&command(&user, &postgres).0, &dir, |port| {
            let settings = "-c shared_buffers=32MB -c max_connections=200 -c fsync=off";
            command(&user, &format!("{postgres} -D {data} -h 127.0.0.1 -p {port} -k {data} {settings}")).1
        })?;
        let postgres = Self(server);
        crate::wait_until("an answer of PostgreSQL", super::WAIT, || async { postgres.psql("SELECT 1") }).await?;
        postgres.psql("CREATE ROLE weir LOGIN")?;
        postgres.psql("CREATE DATABASE weir OWNER weir")?;
        Ok(postgres)
    }

    /// Runs a statement as the superuser.
    ///
    /// # Errors
    /// The error of the server.
    pub fn psql(&self, statement: &str) -> anyhow::Result<String> {
        let mut command = Command::new(find("psql")?);
        command.args([
            "-h",
            "127.0.0.1",
            "-p",
            &self.0.address.port().to_string(),
            "-U",
            "postgres",
            "-Atc",
            statement,
        ]);
        crate::checked(statement, command.output()?)
    }

    /// Value of `auth.registry`, through an address in place of its own.
    pub fn url_at(&self, address: std::net::SocketAddr) -> String {
        format!("postgresql://weir@{address}/weir")
    }

    /// Value of `auth.registry`.
    pub fn url(&self) -> String {
        self.url_at(self.0.address)
    }
}

/// Words before the server: it refuses root.
fn ordinary_user() -> String {
    match rustix::process::getuid().is_root() {
        true => "setpriv --reuid=postgres --regid=postgres --clear-groups ".to_owned(),
        false => String::new(),
    }
}

/// The program to start and its arguments.
fn command(user: &str, words_of_server: &str) -> (String, Vec<String>) {
    let mut words = words(&format!("{user}{words_of_server}"));
    let first = words.remove(0);
    (first, words)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    crate::checked(&format!("{command:?}"), command.output()?).map(drop)
}
