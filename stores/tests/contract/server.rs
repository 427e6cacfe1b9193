//! A real mongod, a replica set of one, in a folder of its own on a free port.

#[path = "../../../buffer/tests/common/free_port.rs"]
pub(crate) mod ports;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mongodb::Client;
use mongodb::bson::{Document, doc};
use mongodb::options::ClientOptions;

/// Runs the server until its input ends, then removes its folder, so that nothing is left when a
/// test is killed. Each line of input kills the server, or starts it again.
const KEEPER: &str = r#"
dir=$1; shift
while :; do
    "$@" >/dev/null 2>&1 & pid=$!
    echo $pid
    read -r line || break
    kill -9 $pid; wait $pid 2>/dev/null
    echo killed
    read -r line || break
done
kill -9 $pid 2>/dev/null; wait $pid 2>/dev/null
rm -rf "$dir"
"#;
const SET: &str = "weir-test";
const WAIT: Duration = Duration::from_secs(60);

/// The setup of a server.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    ReplicaSet,
    /// A replica set that requires passwords.
    WithUsers,
    Standalone,
}

pub(crate) struct Server {
    keeper: Child,
    input: Option<ChildStdin>,
    output: BufReader<std::process::ChildStdout>,
    port: u16,
    pid: u32,
}

/// Finds the program, in the path or in the folder of the project's services.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let services = std::env::var_os("WEIR_SERVICES").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/weir-services/bin"));
    let found =
        std::env::split_paths(&path).chain(services).chain(home).map(|dir| dir.join("mongod")).find(|p| p.is_file());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "mongod is not in PATH, nor in the folder that WEIR_SERVICES names");
        eprintln!("skipped: there is no mongod in PATH, nor in the folder that WEIR_SERVICES names");
    }
    found
}

/// The server that tests share, each with a database of its own.
pub(crate) fn shared() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(Kind::ReplicaSet)).as_ref()
}

impl Server {
    /// Starts a server; `None` when there is no program here. Blocks for a few seconds.
    pub(crate) fn start(kind: Kind) -> Option<Self> {
        let program = program()?;
        let dir = tempfile::Builder::new().prefix("weir-mongod-").tempdir().unwrap().keep();
        let port = ports::free_port().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "keeper"]).arg(&dir).arg(program).arg("--dbpath").arg(&dir);
        command.args([
            "--bind_ip",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--nounixsocket",
            "--wiredTigerCacheSizeGB",
            "0.25",
        ]);
        if kind != Kind::Standalone {
            command.args(["--replSet", SET, "--oplogSize", "64"]);
        }
        if kind == Kind::WithUsers {
            let key = dir.join("key");
            std::fs::write(&key, "c2VjcmV0IG9mIGEgdGVzdA==").unwrap();
            assert!(Command::new("chmod").arg("600").arg(&key).status().unwrap().success());
            command.arg("--keyFile").arg(key);
        }
        let mut keeper = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (input, output) = (keeper.stdin.take(), BufReader::new(keeper.stdout.take().unwrap()));
        let mut server = Self { keeper, input, output, port, pid: 0 };
        server.pid = server.line().parse().unwrap();
        block_on(server.begin(kind));
        Some(server)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    pub(crate) fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}", self.port)
    }

    /// Returns a client of this one server, once it answers.
    pub(crate) async fn client(&self) -> Client {
        let mut options = ClientOptions::parse(self.uri()).await.unwrap();
        options.direct_connection = Some(true);
        options.server_selection_timeout = Some(WAIT);
        Client::with_options(options).unwrap()
    }

    async fn begin(&self, kind: Kind) {
        let client = self.client().await;
        if kind == Kind::Standalone {
            client.database("admin").run_command(doc! { "ping": 1 }).await.unwrap();
            return;
        }
        let member = doc! { "_id": 0, "host": format!("127.0.0.1:{}", self.port) };
        let set = doc! { "_id": SET, "members": [member] };
        client.database("admin").run_command(doc! { "replSetInitiate": set }).await.unwrap();
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
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.input.as_mut().unwrap().write_all(b"\n").unwrap();
        assert_eq!(self.line(), "killed");
    }

    /// Starts it again after [`Server::kill`].
    pub(crate) fn start_again(&mut self) {
        self.input.as_mut().unwrap().write_all(b"\n").unwrap();
        self.pid = self.line().parse().unwrap();
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.pid.to_string()]).status().unwrap().success());
    }

    /// Runs a command on the `admin` database.
    pub(crate) async fn admin(&self, command: Document) -> mongodb::error::Result<Document> {
        self.client().await.database("admin").run_command(command).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.input.take());
        drop(self.keeper.wait());
    }
}

/// Runs a future on a thread of its own, also within a runtime.
fn block_on(future: impl Future<Output = ()> + Send) {
    std::thread::scope(|scope| {
        let run = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
        scope.spawn(run).join().unwrap();
    });
}
