//! Whole-path tests: the real program, unmodified clients, real kills.
//!
//! Receives: the programs that `cargo build --bins` made; clients that `cargo xtask test` installed.
//! Promises: each [`Weir`] is a world of its own (free ports, its own folder) and ends with its test.
//! Hands on: helpers that wait for a state, with a bound and the last state in the error.
//! Never: sleeps for a fixed time; retries until green.

pub mod device;
pub mod picture;
pub mod play;
pub mod read;
pub mod services;
pub mod site;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// A running `weir run` with its data in a folder that outlives it.
pub struct Weir {
    child: Child,
    dir: PathBuf,
    /// MQTT address.
    pub mqtt: SocketAddr,
    /// gRPC address.
    pub grpc: SocketAddr,
    /// HTTP address.
    pub http: SocketAddr,
}

impl Weir {
    /// Starts it on free ports with its data in `dir`, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up in 60 s, with the end of its log.
    pub fn start(dir: &Path) -> anyhow::Result<Self> {
        Self::start_with(dir, "127.0.0.1:0", &[])
    }

    /// As [`Weir::start`], on a given MQTT address and with further environment.
    ///
    /// # Errors
    /// As [`Weir::start`].
    pub fn start_with(dir: &Path, mqtt: &str, environment: &[(&str, &str)]) -> anyhow::Result<Self> {
        let data = dir.join("data");
        let addresses = data.join("addresses.json");
        // Left by an earlier start on the same data.
        std::fs::remove_file(&addresses).ok();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("weir.log"))?;
        let mut child = Command::new(program("weir")?)
            .args(["run", "--mqtt", mqtt, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir"])
            .arg(&data)
            .env("WEIR_FLEET_ADDRESS", "127.0.0.1:0")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let begun = Instant::now();
        let text = loop {
            if let Some(status) = child.try_wait()? {
                bail!("weir ended at its start with {status}:\n{}", tail_of_log(dir));
            }
            if let Ok(text) = std::fs::read_to_string(&addresses) {
                break text;
            }
            if begun.elapsed() > Duration::from_secs(60) {
                child.kill().ok();
                bail!("weir did not start within 60 s:\n{}", tail_of_log(dir));
            }
            std::thread::yield_now();
        };
        let addresses: serde_json::Value = serde_json::from_str(&text)?;
        let address = |key: &str| -> anyhow::Result<SocketAddr> {
            // Not there without the role that listens.
            Ok(addresses[key].as_str().unwrap_or("0.0.0.0:0").parse()?)
        };
        Ok(Self { mqtt: address("mqtt")?, grpc: address("grpc")?, http: address("http")?, child, dir: dir.to_owned() })
    }

    /// The URL for gRPC clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// A gRPC channel.
    ///
    /// # Errors
    /// When it does not connect.
    pub async fn channel(&self) -> anyhow::Result<tonic::transport::Channel> {
        Ok(tonic::transport::Endpoint::from_shared(self.url())?.connect().await?)
    }

    /// Runs a client command of the program itself; its standard output.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn cli(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(program("weir")?).args(arguments).args(["--server", &self.url()]).output()?;
        checked(&format!("weir {arguments:?}"), output)
    }

    /// What it answers to a GET, head and body.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn get(&self, path: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(self.http)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// kill -9.
    ///
    /// # Errors
    /// When it had ended already.
    pub fn kill(mut self) -> anyhow::Result<()> {
        ensure!(self.child.try_wait()?.is_none(), "weir had ended before:\n{}", tail_of_log(&self.dir));
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGSTOP: it is there and does nothing.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn freeze(&self) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::STOP)?)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn thaw(&self) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::CONT)?)
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// When it takes more than 60 s or ends with a failure.
    pub fn stop(mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "weir ended with {status}:\n{}", tail_of_log(&self.dir));
                return Ok(());
            }
            ensure!(begun.elapsed() < Duration::from_secs(60), "weir did not end within 60 s of SIGTERM");
            std::thread::yield_now();
        }
    }

    /// True while the process runs.
    ///
    /// # Errors
    /// When that cannot be asked.
    pub fn runs(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        // After `kill` or `stop` there is nothing left to end.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The last lines of a Weir's log.
pub fn tail_of_log(dir: &Path) -> String {
    let text = std::fs::read_to_string(dir.join("weir.log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// A program of this workspace, built for the same profile as the test.
///
/// # Errors
/// When it was not built.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().context("a program lies in a folder")?;
    // Tests lie in deps/, programs beside it.
    let folder = if folder.ends_with("deps") { folder.parent().context("deps/ lies in a folder")? } else { folder };
    let path = folder.join(name);
    ensure!(
        path.is_file(),
        "{} is missing: run `cargo build --workspace --bins`, or `cargo xtask test`",
        path.display()
    );
    Ok(path)
}

/// The Python that has Eclipse Paho and gRPC.
///
/// # Errors
/// When `cargo xtask test` did not say where.
pub fn python() -> anyhow::Result<PathBuf> {
    Ok(std::env::var_os("WEIR_TEST_PYTHON").context("WEIR_TEST_PYTHON is not set: run `cargo xtask test`")?.into())
}

/// The folder with MQTT.js.
///
/// # Errors
/// When `cargo xtask test` did not say where.
pub fn node_folder() -> anyhow::Result<PathBuf> {
    Ok(std::env::var_os("WEIR_TEST_NODE").context("WEIR_TEST_NODE is not set: run `cargo xtask test`")?.into())
}

/// Standard output of a command that must succeed.
///
/// # Errors
/// With everything it said, when it did not.
pub fn checked(what: &str, output: Output) -> anyhow::Result<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{what} ended with {}:\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

/// Runs `probe` until it says yes; the error carries the last answer.
///
/// # Errors
/// After `bound`.
pub async fn wait_until<T, F: Future<Output = anyhow::Result<T>>>(
    what: &str,
    bound: Duration,
    mut probe: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(last) if begun.elapsed() > bound => bail!("{what}: not within {bound:?}; last: {last:#}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
