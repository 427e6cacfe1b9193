//! A fleet at work, and the oracle behind it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::{Weir, program};

/// A fleet at work. Ends with the value.
pub struct Run(pub Child);

impl Drop for Run {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Lets a scenario's devices loose on a Weir, `time` times as long as it says, and gives the last of them `drain`. The ledger says what was
/// sent, the summary on standard output, as JSON, what the devices saw.
///
/// # Errors
/// When they do not start.
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

/// Devices that publish as fast as they are answered, or as `options` of `weir-sim bench` say.
///
/// # Errors
/// When they do not start.
pub fn load(weir: &Weir, options: &[&str]) -> anyhow::Result<Run> {
    let mut command = Command::new(program("weir-sim")?);
    command.args(["bench", "--secs", "300", "--broker", &weir.mqtt.to_string()]).args(options);
    Ok(Run(command.stdout(Stdio::null()).spawn()?))
}

/// Waits until the ledger has so many bytes: devices get on.
///
/// # Errors
/// When they do not within `bound`.
pub fn grown(ledger: &Path, bytes: u64, bound: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    while std::fs::metadata(ledger).map_or(0, |m| m.len()) < bytes {
        ensure!(begun.elapsed() < bound, "the run does not get on");
        std::thread::yield_now();
    }
    Ok(())
}

/// What was acknowledged is there once, through Weir, and in what `directly` names (options of `weir-sim verify`); each of `named` has to say so.
///
/// # Errors
/// When it is not, or not `within` the time.
pub fn verify(weir: &Weir, ledger: &Path, within: &str, directly: &[&str], named: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(program("weir-sim")?);
    command.args(["verify", "--within", within, "--server", &weir.url(), "--ledger"]).arg(ledger).args(directly);
    let output = command.output()?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    ensure!(output.status.success() && named.iter().all(|name| text.contains(&format!("{name}: "))), "{text}");
    Ok(())
}
