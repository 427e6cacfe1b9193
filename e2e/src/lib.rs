//! Whole-path tests with the real program, unmodified clients and real kills.
//!
//! Receives: programs built by `cargo build --bins`; clients installed by `cargo xtask test`.
//! Promises: each [`Weir`] has its own ports and its own folder and ends with its test.
//! Hands on: helpers that wait for a state, with a bound and the last state in the error.
//! Never: sleeps for a fixed time; retries until green.

pub mod device;
pub mod fire;
pub mod keyed;
pub mod keyed_fleet;
pub mod load;
pub mod paho;
pub mod partition;
pub mod picture;
pub mod play;
pub mod quiet;
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

/// A running `weir run` with its data in a folder that outlasts it.
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
    /// Starts Weir on free ports with its data in `dir`, and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready within 60 s; the error has the end of its log.
    pub fn start(dir: &Path) -> anyhow::Result<Self> {
        Self::start_with(dir, "127.0.0.1:0", &[])
    }

    /// Like [`Weir::start`], on a given MQTT address and with additional environment variables.
    ///
    /// # Errors
    /// Like [`Weir::start`].
    pub fn start_with(dir: &Path, mqtt: &str, environment: &[(&str, &str)]) -> anyhow::Result<Self> {
        let data = dir.join("data");
        let addresses = data.join("addresses.json");
        // A file of an earlier start on the same data.
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
            // Absent without the role that listens.
            Ok(addresses[key].as_str().unwrap_or("0.0.0.0:0").parse()?)
        };
        Ok(Self { mqtt: address("mqtt")?, grpc: address("grpc")?, http: address("http")?, child, dir: dir.to_owned() })
    }

    /// The URL for gRPC clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// Opens a gRPC channel.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn channel(&self) -> anyhow::Result<tonic::transport::Channel> {
        Ok(tonic::transport::Endpoint::from_shared(self.url())?.connect().await?)
    }

    /// Runs a client command of the program. Returns its standard output.
    ///
    /// # Errors
    /// When it fails; the error has its output.
    pub fn cli(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(program("weir")?).args(arguments).args(["--server", &self.url()]).output()?;
        checked(&format!("weir {arguments:?}"), output)
    }

    /// Sends a GET request. Returns head and body of the response.
    ///
    /// # Errors
    /// When there is no response.
    pub fn get(&self, path: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(self.http)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Value of a series in `/metrics`, such as `weir_broker_dropped_total{reason="memory"}`.
    ///
    /// # Errors
    /// When it is not there; the error has all that are.
    pub fn metric(&self, series: &str) -> anyhow::Result<f64> {
        let text = self.get("/metrics")?;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.with_context(|| format!("no {series} in {text}"))?.trim().parse().context(series.to_owned())
    }

    /// Bytes that the system counts for the process under `key`, such as `VmHWM`.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn memory_bytes(&self, key: &str) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let kilobytes = line.with_context(|| format!("no {key}"))?.trim().trim_end_matches(" kB");
        Ok(kilobytes.parse::<u64>()? << 10)
    }

    /// Resident memory of the process, in bytes.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        self.memory_bytes("VmRSS")
    }

    /// Sends SIGHUP: certificates and peppers are read again.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn hang_up(&self) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::HUP)?)
    }

    /// Kills the process with SIGKILL.
    ///
    /// # Errors
    /// When it had already ended.
    pub fn kill(mut self) -> anyhow::Result<()> {
        ensure!(self.child.try_wait()?.is_none(), "weir had ended before:\n{}", tail_of_log(&self.dir));
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Stops the process with SIGSTOP: it exists but does not run.
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

    /// Sends SIGTERM and waits for the end of the process.
    ///
    /// # Errors
    /// When it takes more than 60 s or exits with an error.
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
    /// When the status is unavailable.
    pub fn runs(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        // An error means that `kill` or `stop` has ended it.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The last lines of the log of a Weir.
pub fn tail_of_log(dir: &Path) -> String {
    let text = std::fs::read_to_string(dir.join("weir.log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// Path of a program of this workspace, built with the same profile as the test.
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

/// Path of a Python with Eclipse Paho, gRPC, kafka-python and DuckDB.
///
/// # Errors
/// When `cargo xtask test` did not set the variable.
pub fn python() -> anyhow::Result<PathBuf> {
    Ok(std::env::var_os("WEIR_TEST_PYTHON").context("WEIR_TEST_PYTHON is not set: run `cargo xtask test`")?.into())
}

/// The folder with MQTT.js and oidc-provider.
///
/// # Errors
/// When `cargo xtask test` did not set the variable.
pub fn node_folder() -> anyhow::Result<PathBuf> {
    Ok(std::env::var_os("WEIR_TEST_NODE").context("WEIR_TEST_NODE is not set: run `cargo xtask test`")?.into())
}

/// The folder with the jars of Eclipse Paho Java.
///
/// # Errors
/// When `cargo xtask test` did not set the variable.
pub fn java_folder() -> anyhow::Result<PathBuf> {
    Ok(std::env::var_os("WEIR_TEST_JAVA").context("WEIR_TEST_JAVA is not set: run `cargo xtask test`")?.into())
}

/// Runs a command that must succeed. Returns its standard output.
///
/// # Errors
/// When it fails; the error has its output.
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

/// Runs `probe` until it succeeds.
///
/// # Errors
/// After `bound`; the error has the last one of `probe`.
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
