//! Measured programs as child processes.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;

/// A child process that is killed when dropped.
pub(crate) struct Guarded(pub(crate) Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // An error means that it has already ended.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A broker that is measured.
pub(crate) struct Running {
    pub(crate) child: Guarded,
    pub(crate) mqtt: SocketAddr,
    pub(crate) start_up: Duration,
}

/// The path of a program of this workspace.
pub(crate) fn program(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    anyhow::ensure!(path.exists(), "{} is missing: run `cargo build --release --workspace` first", path.display());
    Ok(path)
}

pub(crate) fn null_broker() -> anyhow::Result<Running> {
    let begun = Instant::now();
    let mut child =
        Command::new(program("weir-bench")?).arg("null-broker").stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("stdout was piped")?).read_line(&mut line)?;
    let mqtt = line.trim().parse().context("the null broker prints its address first")?;
    Ok(Running { child: Guarded(child), mqtt, start_up: begun.elapsed() })
}

/// Waits until Weir has written its addresses, and returns them. `log` is the file with its lines.
pub(crate) fn addresses(weir: &mut Guarded, file: &Path, log: &Path, patience: Duration) -> anyhow::Result<Value> {
    let begun = Instant::now();
    loop {
        if let Some(status) = weir.0.try_wait()? {
            anyhow::bail!("weir ended at its start with {status}: see {}", log.display());
        }
        if let Ok(text) = std::fs::read_to_string(file) {
            return Ok(serde_json::from_str(&text)?);
        }
        anyhow::ensure!(begun.elapsed() < patience, "weir does not start within {patience:?}");
        std::thread::yield_now();
    }
}

/// Starts `weir run` on free ports with its data under `dir`.
pub(crate) fn weir(dir: &Path) -> anyhow::Result<Running> {
    weir_with(dir, &[])
}

/// Like [`weir`], with environment variables.
pub(crate) fn weir_with(dir: &Path, environment: &[(&str, String)]) -> anyhow::Result<Running> {
    let begun = Instant::now();
    let file = dir.join("addresses.json");
    // A file of an earlier start on the same data.
    std::fs::remove_file(&file).ok();
    let path = dir.with_extension("log");
    let log = std::fs::File::create(&path)?;
    let child = Command::new(program("weir")?)
        .args(["run", "--mqtt", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir"])
        .arg(dir)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let mut child = Guarded(child);
    let found = addresses(&mut child, &file, &path, Duration::from_secs(30))?;
    let mqtt = found["mqtt"].as_str().context("addresses.json names the MQTT address")?.parse()?;
    Ok(Running { child, mqtt, start_up: begun.elapsed() })
}

/// Ticks of a second in `/proc`, on every usual machine.
const TICKS: f64 = 100.0;

/// User and system time that a process has used.
pub(crate) fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may contain blanks: fields are counted after it. Times are fields 14
    // and 15 of proc(5).
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / TICKS)
}

/// Memory of a process that is in use.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
