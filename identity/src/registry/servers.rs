//! Real servers for tests: PostgreSQL, and mongod as a replica set of one, each on a free port with
//! a folder of its own.

#[path = "../../../buffer/tests/common/free_port.rs"]
mod ports;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use mongodb::bson::doc;

/// Runs a server until the input ends, then removes its folder, so that nothing is left when a test
/// is killed. A line of input kills the server and its children, which may be sessions of their
/// own; the next line starts it again.
const KEEPER: &str = r#"
dir=$1; shift
end() {
    all="$pid $(ps -o pid= --ppid $pid)"
    kill -9 $all 2>/dev/null
    wait $pid 2>/dev/null
    for one in $all; do
        while grep -qs '^State:.[^ZX]' /proc/$one/status; do sleep 0.01; done
    done
}
while :; do
    "$@" >"$dir/server.log" 2>&1 & pid=$!
    echo $pid
    read -r line || break
    end
    echo killed
    read -r line || break
done
end
rm -rf "$dir"
"#;
const WAIT: Duration = Duration::from_secs(60);

/// The program of a server and its arguments, run as an ordinary user where it refuses root.
pub(crate) struct Kept {
    keeper: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    dir: PathBuf,
    pub(crate) pid: String,
    pub(crate) port: u16,
}

impl Kept {
    /// Starts a server. `command` returns it for a folder and a port.
    pub(crate) fn start(name: &str, command: impl FnOnce(&Path, u16) -> Vec<String>) -> Self {
        let dir = tempfile::Builder::new().prefix(name).tempdir().unwrap().keep();
        let port = ports::free_port().unwrap();
        let mut keeper = Command::new("bash");
        keeper.args(["-c", KEEPER, "keeper"]).arg(&dir).args(command(&dir, port));
        let mut keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (input, output) = (keeper.stdin.take(), BufReader::new(keeper.stdout.take().unwrap()));
        let mut server = Self { keeper, input, output, dir, pid: String::new(), port };
        server.pid = server.line();
        server.listens();
        server
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn listens(&self) {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = std::fs::read_to_string(self.dir.join("server.log")).unwrap_or_default();
            assert!(begun.elapsed() < WAIT, "the server does not listen:\n{log}");
            std::thread::yield_now();
        }
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.input.as_mut().unwrap().write_all(b"\n").unwrap();
        assert_eq!(self.line(), "killed");
    }

    /// Starts it again after [`Kept::kill`].
    pub(crate) fn start_again(&mut self) {
        self.input.as_mut().unwrap().write_all(b"\n").unwrap();
        self.pid = self.line();
        self.listens();
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.input.take());
        drop(self.keeper.wait());
    }
}

/// Finds a program in the path, in folders, or among the services of the tests.
///
/// # Panics
/// When there is none: these tests are not skipped.
fn program(name: &str, folders: &[PathBuf]) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let services = std::env::var_os("WEIR_SERVICES").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/weir-services/bin"));
    let places = std::env::split_paths(&path).chain(folders.iter().cloned()).chain(services).chain(home);
    let mut programs = places.map(|dir| dir.join(name));
    programs.find(|place| place.is_file()).unwrap_or_else(|| {
        panic!("{name} is missing: run `cargo xtask services install`");
    })
}

/// Programs of PostgreSQL, where Debian keeps them.
fn postgres_program(name: &str) -> String {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let mut folders: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    folders.sort();
    folders.reverse();
    program(name, &folders).display().to_string()
}

/// Words before a command that is to run as an ordinary user: PostgreSQL refuses root.
fn as_ordinary_user() -> Vec<String> {
    if !rustix::process::getuid().is_root() {
        return Vec::new();
    }
    ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"].map(str::to_owned).to_vec()
}

/// Gives files to the user of the server.
fn give(path: &Path) {
    if rustix::process::getuid().is_root() {
        run(&["chown", "-R", "postgres:postgres", &path.display().to_string()].map(str::to_owned));
    }
}

fn run(words: &[String]) {
    let output = Command::new(&words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A PostgreSQL server. The user `weir` owns the databases, `postgres` is the superuser.
pub(crate) struct Postgres(pub(crate) Kept);

impl Postgres {
    /// Starts a server with the given settings.
    pub(crate) fn start(settings: &[&str]) -> Self {
        Self(Kept::start("weir-postgres-", |dir, port| {
            let data = dir.join("data").display().to_string();
            std::fs::create_dir(&data).unwrap();
            let user = as_ordinary_user();
            give(dir);
            let words = |rest: &[&str]| -> Vec<String> {
                user.iter().cloned().chain(rest.iter().map(|&word| word.to_owned())).collect()
            };
            let initdb = postgres_program("initdb");
            run(&words(&[&initdb, "-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]));
            let (server, port) = (postgres_program("postgres"), port.to_string());
            let mut words = words(&[&server, "-D", &data, "-h", "127.0.0.1", "-p", &port, "-k", ""]);
            for setting in ["shared_buffers=32MB", "max_connections=300"].iter().chain(settings) {
                words.extend(["-c".to_owned(), (*setting).to_owned()]);
            }
            words
        }))
    }

    /// Starts a server with the certificate of a folder that [`tls::create`] made, and a clients'
    /// authority.
    pub(crate) fn encrypted(dir: &Path) -> Self {
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        give(&dir.join("server.key"));
        let file = |setting: &str, name: &str| format!("{setting}={}", dir.join(name).display());
        let files =
            [file("ssl_cert_file", "server.pem"), file("ssl_key_file", "server.key"), file("ssl_ca_file", "ca.pem")];
        Self::start(&["fsync=off", "ssl=on", &files[0], &files[1], &files[2]])
    }

    /// Has the server use these lines of `pg_hba.conf`, and waits until it does.
    pub(crate) async fn admit(&self, lines: &str) {
        let superuser = self.superuser("postgres").await;
        let file: String = superuser.query_one("SHOW hba_file", &[]).await.unwrap().get(0);
        std::fs::write(file, format!("host all postgres 127.0.0.1/32 trust\n{lines}\n")).unwrap();
        let loaded = "SELECT pg_conf_load_time()::text";
        let before: String = superuser.query_one(loaded, &[]).await.unwrap().get(0);
        superuser.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        // A session reads the new time after the server has it.
        while self.superuser("postgres").await.query_one(loaded, &[]).await.unwrap().get::<_, String>(0) == before {}
    }

    /// The URL of a database, for a user.
    pub(crate) fn url(&self, user: &str, database: &str) -> String {
        format!("postgresql://{user}@127.0.0.1:{}/{database}", self.0.port)
    }

    /// Connects as the superuser, once the server answers.
    pub(crate) async fn superuser(&self, database: &str) -> tokio_postgres::Client {
        let begun = Instant::now();
        loop {
            match tokio_postgres::connect(&self.url("postgres", database), tokio_postgres::NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return client;
                }
                Err(error) => assert!(begun.elapsed() < WAIT, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Makes a database that belongs to the user `weir`, and returns its URL.
    pub(crate) async fn database(&self, name: &str) -> String {
        let client = self.superuser("postgres").await;
        let role = "DO $$ BEGIN CREATE ROLE weir LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; \
                    END $$";
        client.batch_execute(role).await.unwrap();
        client.batch_execute(&format!("CREATE DATABASE {name} OWNER weir")).await.unwrap();
        self.url("weir", name)
    }
}

/// A mongod, as a replica set of one member or without one.
pub(crate) struct Mongod(pub(crate) Kept);

impl Mongod {
    pub(crate) fn start(is_replica_set: bool) -> Self {
        let server = Self(Kept::start("weir-mongod-", |dir, port| {
            let (program, dir, port) = (program("mongod", &[]), dir.display().to_string(), port.to_string());
            let mut words = vec![program.display().to_string()];
            let rest = ["--dbpath", &dir, "--bind_ip", "127.0.0.1", "--port", &port, "--nounixsocket"];
            words.extend(rest.iter().chain(&["--wiredTigerCacheSizeGB", "0.25"]).map(|&word| word.to_owned()));
            if is_replica_set {
                words.extend(["--replSet", "rs0", "--oplogSize", "64"].map(str::to_owned));
            }
            words
        }));
        if is_replica_set {
            std::thread::scope(|scope| {
                let begin = || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(server.begin());
                };
                scope.spawn(begin).join().unwrap();
            });
        }
        server
    }

    pub(crate) fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}", self.0.port)
    }

    /// Returns a client of this one server.
    pub(crate) async fn client(&self) -> mongodb::Client {
        let mut options = mongodb::options::ClientOptions::parse(self.uri()).await.unwrap();
        options.direct_connection = Some(true);
        options.server_selection_timeout = Some(WAIT);
        mongodb::Client::with_options(options).unwrap()
    }

    async fn begin(&self) {
        let member = doc! { "_id": 0, "host": format!("127.0.0.1:{}", self.0.port) };
        let command = doc! { "replSetInitiate": { "_id": "rs0", "members": [member] } };
        self.client().await.database("admin").run_command(command).await.unwrap();
        self.primary().await;
    }

    /// Waits until the server accepts writes.
    pub(crate) async fn primary(&self) {
        let client = self.client().await;
        let begun = Instant::now();
        loop {
            let hello = client.database("admin").run_command(doc! { "hello": 1 }).await;
            if hello.as_ref().is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or_default()) {
                return;
            }
            assert!(begun.elapsed() < WAIT, "the server does not accept writes: {hello:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
