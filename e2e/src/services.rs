//! Real servers: redis-server, mongod as a replica set of one member, influxd, Jaeger, Kafka,
//! Mosquitto and PostgreSQL, each on a free port with its data in a given folder.

mod kafka;
mod mosquitto;
#[path = "../../buffer/tests/common/free_port.rs"]
mod ports;
mod postgres;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use mongodb::bson::doc;
use mongodb::options::ClientOptions;
use rustix::process::{Pid, Signal, kill_process};

pub use kafka::{Kafka, Record};
pub use mosquitto::Mosquitto;
pub use postgres::Postgres;

/// Time-out of the start of a server.
const WAIT: Duration = Duration::from_secs(60);
const REPLICA_SET: &str = "weir";
/// Folder in which Debian keeps the programs of each version of PostgreSQL.
const POSTGRESQL: &str = "/usr/lib/postgresql";

/// A server process. Killed when dropped, unless [`Server::leave`] was called.
#[derive(Debug)]
pub struct Server {
    child: Child,
    program: PathBuf,
    arguments: Vec<String>,
    dir: PathBuf,
    /// Address of the server.
    pub address: SocketAddr,
    left: bool,
}

/// Finds a server program in PATH, in the folder `WEIR_SERVICES`, or in the default folder.
///
/// # Errors
/// When it is in none of them.
pub fn find(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let services = std::env::var_os("WEIR_SERVICES").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/weir-services/bin"));
    let versions = std::fs::read_dir(POSTGRESQL).into_iter().flatten().filter_map(Result::ok);
    let versions = versions.map(|version| version.path().join("bin"));
    let places = std::env::split_paths(&path).chain(services).chain(home).chain(versions);
    let mut places = places.map(|dir| dir.join(name));
    places
        .find(|place| place.is_file())
        .with_context(|| format!("{name} is missing: run `cargo xtask services install`"))
}

/// Skips a test whose server is missing, with a message; fails if `CI` is set.
///
/// # Errors
/// When a program is missing and `CI` is set.
pub fn skipped(test: &str, programs: &[&str]) -> anyhow::Result<bool> {
    for program in programs {
        if let Err(error) = find(program) {
            ensure!(std::env::var_os("CI").is_none(), "{test}: {error}");
            println!("skipped {test}: {error}");
            return Ok(true);
        }
    }
    Ok(false)
}

/// An address at which no process listens, and which this process never received before.
///
/// # Errors
/// When no port is free.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok((Ipv4Addr::LOCALHOST, ports::free_port()?).into())
}

impl Server {
    fn start(program: &str, dir: &Path, arguments: impl FnOnce(u16) -> Vec<String>) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let address = free_address()?;
        let port = address.port();
        // A path is one already.
        let program = if program.contains('/') { program.into() } else { find(program)? };
        let arguments = arguments(port);
        let child = spawn(&program, &arguments, dir)?;
        let mut server = Self { child, program, arguments, dir: dir.to_owned(), address, left: false };
        server.listening()?;
        Ok(server)
    }

    fn listening(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.program.display(), self.log());
            }
            ensure!(begun.elapsed() < WAIT, "{} does not listen:\n{}", self.program.display(), self.log());
            std::thread::yield_now();
        }
        Ok(())
    }

    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.join("server.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Kills the process with SIGKILL.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Restarts the server on the same port with the same data. Returns when it listens.
    ///
    /// # Errors
    /// When it does not.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.program, &self.arguments, &self.dir)?;
        self.listening()
    }

    /// Stops the process with SIGSTOP: it exists but does not respond.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn freeze(&self) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::STOP)?)
    }

    /// Continues the process with SIGCONT.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn thaw(&self) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::CONT)?)
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Leaves the server running after this process.
    pub fn leave(mut self) {
        self.left = true;
    }
}

fn spawn(program: &Path, arguments: &[String], dir: &Path) -> anyhow::Result<Child> {
    let log = File::options().create(true).append(true).open(dir.join("server.log"))?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("start {}", program.display()))
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.left {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// A Redis that confirms writes only when they are on disk.
#[derive(Debug)]
pub struct Redis(pub Server);

impl Redis {
    /// Starts a Redis; `more` are additional arguments such as `--maxmemory 50mb`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(dir: &Path, more: &str) -> anyhow::Result<Self> {
        let server = Server::start("redis-server", dir, |port| {
            let mut arguments = words(&format!(
                "--bind 127.0.0.1 --port {port} --appendonly yes --appendfsync always --save  --maxmemory-policy noeviction"
            ));
            arguments.extend(more.split_whitespace().map(str::to_owned));
            arguments
        })?;
        Ok(Self(server))
    }

    /// Value of `redis.url`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.0.address)
    }
}

/// A MongoDB replica set of one member.
#[derive(Debug)]
pub struct Mongod(pub Server);

impl Mongod {
    /// Starts a MongoDB and waits until it is writable.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let db = std::path::absolute(dir)?.display().to_string();
        let server = Server::start("mongod", dir, |port| {
            words(&format!(
                "--dbpath {db} --bind_ip 127.0.0.1 --port {port} --nounixsocket --wiredTigerCacheSizeGB 0.5 --replSet {REPLICA_SET}"
            ))
        })?;
        let mongod = Self(server);
        let client = mongod.client().await?;
        let member = doc! { "_id": 0, "host": mongod.0.address.to_string() };
        let set = doc! { "_id": REPLICA_SET, "members": [member] };
        client.database("admin").run_command(doc! { "replSetInitiate": set }).await?;
        mongod.primary().await?;
        Ok(mongod)
    }

    /// Waits until it is writable.
    ///
    /// # Errors
    /// When it is not within a minute.
    pub async fn primary(&self) -> anyhow::Result<()> {
        let client = self.client().await?;
        crate::wait_until("a primary", WAIT, || async {
            let hello = client.database("admin").run_command(doc! { "hello": 1 }).await?;
            ensure!(hello.get_bool("isWritablePrimary")?, "{hello}");
            Ok(())
        })
        .await
    }

    /// A client of this member.
    ///
    /// # Errors
    /// When the driver rejects the address.
    pub async fn client(&self) -> anyhow::Result<mongodb::Client> {
        let mut options = ClientOptions::parse(format!("mongodb://{}", self.0.address)).await?;
        options.direct_connection = Some(true);
        options.server_selection_timeout = Some(WAIT);
        Ok(mongodb::Client::with_options(options)?)
    }

    /// Value of `mongodb.uri`.
    pub fn uri(&self) -> String {
        format!("mongodb://{}/?replicaSet={REPLICA_SET}", self.0.address)
    }
}

/// An InfluxDB 2 with organization, bucket and token.
#[derive(Debug)]
pub struct Influxd {
    /// Process of the server.
    pub server: Server,
    /// Token with all permissions.
    pub token: String,
    /// Name of the organization.
    pub org: String,
    /// Name of the bucket, which has no retention.
    pub bucket: String,
}

impl Influxd {
    /// Starts an InfluxDB and sets it up.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let home = std::path::absolute(dir)?.display().to_string();
        let server = Server::start("influxd", dir, |port| {
            words(&format!(
                "run --bolt-path {home}/influxd.bolt --engine-path {home}/engine --sqlite-path {home}/influxd.sqlite \
                 --http-bind-address 127.0.0.1:{port} --reporting-disabled --log-level error"
            ))
        })?;
        let (token, org, bucket) = ("test-token".to_owned(), "weir".to_owned(), "weir".to_owned());
        let setup = serde_json::json!({
            "username": "weir", "password": "weir-password", "org": org, "bucket": bucket, "token": token,
        });
        let influxd = Self { server, token, org, bucket };
        influxd.post("/api/v2/setup", "application/json", &setup.to_string())?;
        Ok(influxd)
    }

    /// Value of `influxdb.url`.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// Sends a POST request. Returns the body of the response.
    ///
    /// # Errors
    /// When the status is not a success; the error has the response.
    pub fn post(&self, path: &str, content: &str, body: &str) -> anyhow::Result<String> {
        self.send("POST", path, content, body)
    }

    /// Deletes the bucket and makes another with its name, as an operator does.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn make_bucket_anew(&self) -> anyhow::Result<()> {
        let json = "application/json";
        let found = self.send("GET", &format!("/api/v2/buckets?name={}", self.bucket), json, "")?;
        let found: serde_json::Value = serde_json::from_str(&found)?;
        let (id, org) = (&found["buckets"][0]["id"], &found["buckets"][0]["orgID"]);
        self.send("DELETE", &format!("/api/v2/buckets/{}", id.as_str().context("an id")?), json, "")?;
        let bucket = serde_json::json!({ "orgID": org, "name": self.bucket, "retentionRules": [] });
        self.post("/api/v2/buckets", json, &bucket.to_string()).map(drop)
    }

    /// Deletes the token, so that every request with it is refused.
    ///
    /// # Errors
    /// When a request is refused.
    pub fn delete_token(&self) -> anyhow::Result<()> {
        let json = "application/json";
        let list: serde_json::Value = serde_json::from_str(&self.send("GET", "/api/v2/authorizations", json, "")?)?;
        let id = list["authorizations"][0]["id"].as_str().context("an authorization")?;
        self.send("DELETE", &format!("/api/v2/authorizations/{id}"), json, "").map(drop)
    }

    fn send(&self, method: &str, path: &str, content: &str, body: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(self.server.address)?;
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: influxd\r\nAuthorization: Token {}\r\nContent-Type: {content}\r\n\
             Accept: application/csv, application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer with a head")?;
        ensure!(head.contains(" 20"), "{path}: {answer}");
        Ok(body.to_owned())
    }
}

impl Influxd {
    /// Options of `weir-sim verify` for its points.
    pub fn options<'a>(&'a self, url: &'a str) -> [&'a str; 8] {
        [
            "--influxdb",
            url,
            "--influxdb-token",
            &self.token,
            "--influxdb-org",
            &self.org,
            "--influxdb-bucket",
            &self.bucket,
        ]
    }
}

/// A Jaeger with traces in memory.
#[derive(Debug)]
pub struct Jaeger {
    /// Process of the server; its address is that of the UI and the API.
    pub server: Server,
    otlp: SocketAddr,
}

impl Jaeger {
    /// Starts a Jaeger.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(dir: &Path) -> anyhow::Result<Self> {
        let otlp = free_address()?;
        let server = Server::start("jaeger-all-in-one", dir, |port| {
            // Unused ports are chosen by the system.
            let unused = [
                "admin.http",
                "collector.grpc-server",
                "collector.http-server",
                "collector.otlp.http",
                "query.grpc-server",
            ];
            let unused = unused.iter().map(|part| format!("--{part}.host-port=127.0.0.1:0"));
            let used = [
                format!("--query.http-server.host-port=127.0.0.1:{port}"),
                format!("--collector.otlp.grpc.host-port={otlp}"),
                "--log-level=warn".to_owned(),
            ];
            unused.chain(used).collect()
        })?;
        let mut jaeger = Self { server, otlp };
        let ui = std::mem::replace(&mut jaeger.server.address, otlp);
        jaeger.server.listening()?;
        jaeger.server.address = ui;
        Ok(jaeger)
    }

    /// Value of `tracing.endpoint`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.otlp)
    }

    /// Sends a GET request to its API. Returns the JSON of the response.
    ///
    /// # Errors
    /// When the status is not a success; the error has the response.
    pub fn get(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        let mut stream = TcpStream::connect(self.server.address)?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: jaeger\r\nAccept: application/json\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer with a head")?;
        ensure!(head.contains(" 200 "), "{path}: {answer}");
        Ok(serde_json::from_str(body)?)
    }
}
