//! Measured programs as child processes.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

/// A child process that is killed when dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) mqtt: SocketAddr,
    pub(crate) start_up: Duration,
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has already ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
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
    Ok(Running { child, mqtt, start_up: begun.elapsed() })
}

/// Starts `weir run` on free ports with its data under `dir`.
pub(crate) fn weir(dir: &std::path::Path) -> anyhow::Result<Running> {
    let begun = Instant::now();
    let addresses = dir.join("addresses.json");
    // A file of an earlier start on the same data.
    std::fs::remove_file(&addresses).ok();
    let log = std::fs::File::create(dir.with_extension("log"))?;
    let mut child = Command::new(program("weir")?)
        .args(["run", "--mqtt", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir"])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    loop {
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("weir ended at its start with {status}: see {}", dir.with_extension("log").display());
        }
        if let Ok(text) = std::fs::read_to_string(&addresses) {
            let value: serde_json::Value = serde_json::from_str(&text)?;
            let mqtt = value["mqtt"].as_str().context("addresses.json names the MQTT address")?.parse()?;
            return Ok(Running { child, mqtt, start_up: begun.elapsed() });
        }
        anyhow::ensure!(begun.elapsed() < Duration::from_secs(30), "weir does not start within 30 s");
        std::thread::yield_now();
    }
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
