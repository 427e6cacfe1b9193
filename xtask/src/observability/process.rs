//! Servers that are run for a while.

#[path = "../../../buffer/tests/common/free_port.rs"]
mod ports;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

/// Time-out of every wait.
const BOUND: Duration = Duration::from_secs(90);

/// A process that is killed when dropped.
pub(super) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts the command with its output in a file.
    pub(super) fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let file = std::fs::File::create(log).with_context(|| format!("create {}", log.display()))?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
        Ok(Self { child: child.with_context(|| format!("start {command:?}"))?, log: log.to_owned() })
    }

    /// Fails with its output when it has ended.
    pub(super) fn alive(&mut self) -> anyhow::Result<()> {
        let ended = self.child.try_wait()?;
        let said = || std::fs::read_to_string(&self.log).unwrap_or_default();
        anyhow::ensure!(ended.is_none(), "{} ended early: {}", self.log.display(), said());
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has already ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// An address that was just free, each time another one.
pub(super) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok((Ipv4Addr::LOCALHOST, ports::free_port()?).into())
}

/// Runs `probe` until it succeeds; the error has its last one.
pub(super) fn wait<T>(what: &str, mut ask: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        match ask() {
            Ok(value) => return Ok(value),
            Err(error) if begun.elapsed() > BOUND => {
                return Err(error.context(format!("{what}: not within {BOUND:?}")));
            }
            Err(_) => pause(),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "between two looks at another process")]
fn pause() {
    std::thread::sleep(Duration::from_millis(100));
}
