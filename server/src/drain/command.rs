//! `weir drain`.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::offer::{Answer, Order, PATH, PURPOSE, Progress};
use crate::cli::{DrainOptions, configuration};
use crate::client::output::remark;
use crate::config::Config;
use crate::data_dir::{User, user_of};
use crate::local;

/// Time for a process that has closed its connections to end.
const LEAVES: Duration = Duration::from_secs(60);

/// A process that is asked.
struct Process {
    config: Config,
    http: SocketAddr,
    data: PathBuf,
}

/// Drains the process that uses the data folder, and follows it until all connections are closed.
///
/// # Errors
/// When there is no such process, or it refuses.
pub(crate) fn run(options: &DrainOptions) -> anyhow::Result<ExitCode> {
    let config = configuration(options.config.as_deref(), options.data_dir.as_deref())?;
    let data = std::path::absolute(&config.data_dir).context("cannot use the data folder")?;
    let process = Process { http: address(&data)?, config, data };
    if options.status {
        print(&process.order(&Order::Status)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if options.cancel {
        let progress = process.order(&Order::Cancel)?;
        remark(&format!("Connections are accepted again; {} are open.", progress.open));
        return Ok(ExitCode::SUCCESS);
    }
    let mut progress = process.order(&Order::Begin { rate: options.rate, stop: options.stop })?;
    while progress.open > 0 && !options.detach {
        remark(&format!(
            "{} connections are open, {} closed, {} a second",
            progress.open, progress.closed, progress.per_second
        ));
        progress = match process.order(&Order::Follow) {
            Ok(progress) => progress,
            // A process that stops by itself is drained.
            Err(_) if options.stop && leaves(&process.data) => break,
            Err(error) => return Err(error),
        };
        if !progress.draining {
            bail!("the drain was cancelled: {} connections are open", progress.open);
        }
    }
    if options.detach {
        remark("`weir drain --status` prints the progress, `weir drain --cancel` ends it.");
    } else if options.stop {
        remark("All connections are closed, and the process stops.");
    } else {
        remark("All connections are closed, and new ones are refused until `weir drain --cancel` or a restart.");
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until a process that ends no longer uses its data folder. False when it goes on.
fn leaves(data: &Path) -> bool {
    let begun = Instant::now();
    while user_of(data).is_some() {
        if begun.elapsed() > LEAVES {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    true
}

fn address(data: &Path) -> anyhow::Result<SocketAddr> {
    let shown = data.display();
    match user_of(data) {
        Some(User::Running(addresses)) => Ok(addresses.http),
        Some(User::Starting(_)) => bail!("a weir process uses {shown} and is not ready: it has no connections yet"),
        None => bail!("no weir process uses {shown}: name its data folder with --data-dir"),
    }
}

impl Process {
    fn order(&self, order: &Order) -> anyhow::Result<Progress> {
        let body = local::order(&self.config, self.http, &self.data, (PURPOSE, PATH), order)?;
        match serde_json::from_slice(&body).context("the weir process did not answer to the end: check its log")? {
            Answer::Done(progress) => Ok(progress),
            Answer::Failed(reason) => bail!("{reason}"),
        }
    }
}

fn print(progress: &Progress) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let state = match (progress.draining, progress.stops) {
        (false, _) => "no",
        (true, false) => "yes",
        (true, true) => "yes; the process stops after it",
    };
    writeln!(out, "draining    {state}")?;
    writeln!(out, "open        {} connections", progress.open)?;
    if progress.draining {
        writeln!(out, "closed      {} connections in {:.0} s", progress.closed, progress.secs)?;
        writeln!(out, "rate        {} connections a second", progress.per_second)?;
    }
    Ok(())
}
