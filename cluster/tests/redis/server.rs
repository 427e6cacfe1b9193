//! Real redis-servers for tests, each in its own folder, killed at the end of the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use buffer::redis::Redis;
use weir_cluster::Config;

use crate::node::Node;

/// Settings that Weir accepts.
pub(crate) const SAFE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always", "--save", ""];

/// Path of the program; None when tests are to be skipped.
pub(crate) fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let services = std::env::var_os("WEIR_SERVICES").map(PathBuf::from);
    let cached = std::env::home_dir().map(|home| home.join(".cache/weir-services/bin"));
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(services.or(cached));
    let found = folders.into_iter().map(|folder| folder.join("redis-server")).find(|file| file.is_file());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "there is no redis-server, and CI must run every test");
        println!("skipped: there is no redis-server");
    }
    found
}

/// An unused port.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until `done` for a bounded time.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// A redis-server process.
pub(crate) struct Server {
    program: PathBuf,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) port: u16,
    pub(crate) arguments: Vec<String>,
    pub(crate) process: Option<Child>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    /// Starts a server with [`SAFE`] settings and these; None without the program.
    pub(crate) fn start(arguments: &[&str]) -> Option<Self> {
        Self::start_with(&[SAFE, arguments].concat())
    }

    /// Starts a server with only these settings.
    pub(crate) fn start_with(arguments: &[&str]) -> Option<Self> {
        Self::start_prepared(arguments, |_| ())
    }

    /// Starts a server with files in its folder; a `sentinel.conf` is its configuration.
    pub(crate) fn start_prepared(arguments: &[&str], prepare: impl Fn(&std::path::Path)) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut server = Self { program: program()?, dir, port: free_port(), arguments, process: None };
        server.restart();
        Some(server)
    }

    /// Restarts the server with its data on disk.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let log = std::fs::File::create(self.dir.path().join("output")).unwrap();
        let sentinel = self.dir.path().join("sentinel.conf");
        let process = Command::new(&self.program)
            .args(sentinel.is_file().then_some(sentinel))
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir"])
            .arg(self.dir.path())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        let port = self.port;
        let process = self.process.as_mut().unwrap();
        wait_until("redis-server listens", || {
            assert!(process.try_wait().unwrap().is_none(), "redis-server ended");
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
    }

    /// Kills the server with SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Access for a node.
    pub(crate) async fn redis(&self, node: &str) -> Redis {
        redis_at(node, self.port).await
    }

    /// Starts a node.
    pub(crate) async fn node(&self, name: &str, config: Config) -> Node {
        Node::open(&self.redis(name).await, config).await
    }

    /// Runs a command, and returns the first line of the response or a whole bulk response.
    pub(crate) fn command(&self, words: &[&str]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let mut text = format!("*{}\r\n", words.len());
        for word in words {
            text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.write_all(text.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end().to_owned();
        let Some(length) = line.strip_prefix('$').and_then(|length| length.parse::<usize>().ok()) else { return line };
        let mut bulk = vec![0; length];
        reader.read_exact(&mut bulk).unwrap();
        String::from_utf8_lossy(&bulk).into_owned()
    }

    /// Number of keys whose names begin so.
    pub(crate) fn keys(&self, part: &str) -> usize {
        let script = "return #redis.call('KEYS', 'weir:{sessions}:' .. ARGV[1] .. '*')";
        self.command(&["EVAL", script, "0", part]).trim_start_matches(':').parse().unwrap()
    }
}

/// Access for a node, by way of a port.
pub(crate) async fn redis_at(node: &str, port: u16) -> Redis {
    let config = buffer::redis::Config {
        urls: vec![format!("redis://127.0.0.1:{port}")],
        response_timeout_ms: 1_000,
        connect_timeout_ms: 500,
        node: node.into(),
        ..buffer::redis::Config::default()
    };
    Redis::connect(config).await.unwrap()
}
