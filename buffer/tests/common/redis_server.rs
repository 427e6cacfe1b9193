//! Real redis-servers for tests, each in its own folder, killed at the end of the test.

#[path = "free_port.rs"]
mod ports;

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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
    ports::free_port().unwrap()
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
}
