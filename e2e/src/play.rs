//! Simulated fleets and the verification of their readings.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::{Weir, program};

/// A running fleet. Ends when dropped.
pub struct Run(pub Child);

impl Drop for Run {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts the devices of a scenario against a Weir, with its duration multiplied by `time` and
/// `drain` for the last acknowledgements. The ledger records the messages; the summary of the
/// devices is JSON on standard output.
///
/// # Errors
/// When the program does not start.
pub fn play(
    weir: &Weir,
    (scenario, time, drain): (&str, &str, &str),
    ledger: &Path,
    summary: Stdio,
) -> anyhow::Result<Run> {
    let mut command = Command::new(program("weir-sim")?);
    command.args(["run", scenario, "--time", time, "--drain", drain, "--quiet", "--json"]);
    command.args(["--broker", &weir.mqtt.to_string(), "--ledger"]).arg(ledger);
    Ok(Run(command.stdin(Stdio::null()).stdout(summary).spawn()?))
}

/// Starts devices that publish as fast as they are acknowledged, or as `options` of
/// `weir-sim bench` define.
///
/// # Errors
/// When the program does not start.
pub fn load(weir: &Weir, options: &[&str]) -> anyhow::Result<Run> {
    let mut command = Command::new(program("weir-sim")?);
    command.args(["bench", "--secs", "300", "--broker", &weir.mqtt.to_string()]).args(options);
    Ok(Run(command.stdout(Stdio::null()).spawn()?))
}

/// Waits until the ledger has this many bytes, so that devices make progress.
///
/// # Errors
/// When it has fewer after `bound`.
pub fn grown(ledger: &Path, bytes: u64, bound: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    while std::fs::metadata(ledger).map_or(0, |m| m.len()) < bytes {
        ensure!(begun.elapsed() < bound, "the run makes no progress");
        std::thread::yield_now();
    }
    Ok(())
}

/// Asserts that acknowledged readings are stored once, according to Weir and to the stores in
/// `directly` (options of `weir-sim verify`); the report must contain each of `named`.
///
/// # Errors
/// When they are not, or not `within` the time.
pub fn verify(weir: &Weir, ledger: &Path, within: &str, directly: &[&str], named: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(program("weir-sim")?);
    command.args(["verify", "--within", within, "--server", &weir.url(), "--ledger"]).arg(ledger).args(directly);
    let output = command.output()?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    ensure!(output.status.success() && named.iter().all(|name| text.contains(&format!("{name}: "))), "{text}");
    Ok(())
}
