//! A running Weir for one test.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Time-out of every wait.
const BOUND: Duration = Duration::from_secs(60);

/// A Weir on free ports with its data in a temporary folder.
pub(crate) struct World {
    child: Option<Child>,
    dir: TempDir,
    environment: Vec<(String, String)>,
    addresses: serde_json::Value,
}

/// A command of the program without settings from the environment.
pub(crate) fn weir() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WEIR_")) {
        command.env_remove(name);
    }
    // A folder without a foreign weir.toml.
    command.current_dir(std::env::temp_dir()).stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    weir().args(arguments).output().expect("weir runs")
}

/// Like [`run`], with settings from the environment.
pub(crate) fn run_with(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    weir().args(arguments).envs(environment.iter().copied()).output().expect("weir runs")
}

pub(crate) fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

impl World {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts on a copy of a data folder.
    pub(crate) fn start_on(copy: &std::path::Path) -> Self {
        Self::prepare(&[], |data| copy_folder(copy, data))
    }

    pub(crate) fn start_with(environment: &[(&str, &str)]) -> Self {
        Self::prepare(environment, |_| ())
    }

    fn prepare(environment: &[(&str, &str)], fill: impl FnOnce(&std::path::Path)) -> Self {
        // Small, so that a start does not write 64 MiB of zeros.
        let small = [("WEIR_LOG_SEGMENT_BYTES", "1048576")];
        let mut world = Self {
            child: None,
            dir: tempfile::tempdir().unwrap(),
            environment: small.iter().chain(environment).map(|(n, v)| ((*n).into(), (*v).into())).collect(),
            addresses: serde_json::Value::Null,
        };
        fill(&world.data());
        world.up();
        world
    }

    /// Starts Weir, or restarts it after its end.
    pub(crate) fn up(&mut self) {
        // Of a process that was killed.
        std::fs::remove_file(self.data().join("addresses.json")).ok();
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        let child = weir()
            .args(["run", "--mqtt", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir"])
            .arg(self.data())
            .envs(self.environment.iter().cloned())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let text = wait("weir writes its addresses", || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "weir ended at its start: {}", self.log());
            std::fs::read_to_string(self.data().join("addresses.json")).map_err(|error| error.to_string())
        });
        self.addresses = serde_json::from_str(&text).unwrap();
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("weir.log")
    }

    /// Its output.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub(crate) fn address(&self, of: &str) -> SocketAddr {
        self.addresses[of].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address("grpc"))
    }

    /// Runs a client command against this Weir.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Output {
        weir().args(arguments).args(["--server", &self.url()]).output().expect("weir runs")
    }

    /// Like [`World::ask`], for a command that must succeed.
    pub(crate) fn answer(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        assert!(output.status.success(), "weir {arguments:?}: {}{}\n{}", out(&output), err(&output), self.log());
        out(&output)
    }

    /// Publishes at QoS 1 and returns when everything is acknowledged.
    pub(crate) fn publish(&self, messages: &[(&str, &str)]) {
        let mqtt = self.address("mqtt");
        let mut options = MqttOptions::new("test", mqtt.ip().to_string(), mqtt.port());
        options.set_inflight(100);
        let (client, mut connection) = Client::new(options, messages.len() + 1);
        for (topic, payload) in messages {
            client.publish(*topic, QoS::AtLeastOnce, false, *payload).unwrap();
        }
        let mut open = messages.len();
        for event in connection.iter() {
            if let Event::Incoming(Packet::PubAck(_)) = event.expect("the broker answers") {
                open -= 1;
            }
            if open == 0 {
                client.disconnect().unwrap();
                // Until the connection has ended.
                connection.iter().take_while(Result::is_ok).for_each(drop);
                return;
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// True once the process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    /// Waits for the end. Returns the exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        wait("weir ends", || child.try_wait().unwrap().ok_or_else(|| "it runs".to_owned())).code()
    }

    /// HTTP status code and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        get(self.address("http"), path)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Copies a folder with its folders.
pub(crate) fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// HTTP status code and body.
pub(crate) fn get(server: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(server).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Runs `probe` until it succeeds; the panic has its last error.
pub(crate) fn wait<T>(what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(last) => assert!(begun.elapsed() < BOUND, "{what}: not within {BOUND:?}; last: {last}"),
        }
        std::thread::yield_now();
    }
}
