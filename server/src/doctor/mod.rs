//! `weir doctor`: checks for problems and their cures.

mod local;
mod remote;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;

use crate::cli::DoctorOptions;
use crate::config;
use crate::data_dir::Addresses;

/// Result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    level: Level,
    what: &'static str,
    /// The observation and, for a problem, its cure.
    text: String,
}

impl Finding {
    fn ok(what: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Ok, what, text: text.into() }
    }

    fn warn(what: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Warn, what, text: text.into() }
    }

    fn fail(what: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Fail, what, text: text.into() }
    }
}

/// Runs every check and prints a line for each; the exit code is a failure when one of them fails.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn run(options: &DoctorOptions) -> anyhow::Result<ExitCode> {
    let mut worst = Level::Ok;
    let mut say = |finding: Finding| -> anyhow::Result<()> {
        if finding.level == Level::Fail || worst == Level::Ok {
            worst = finding.level;
        }
        print(&finding)
    };
    let loaded = options.run.sources().and_then(|sources| config::load(&sources));
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            // Nothing else can be checked without a configuration.
            say(Finding::fail("configuration", format!("{error:#}")))?;
            return Ok(ExitCode::FAILURE);
        }
    };
    say(local::configuration(&loaded))?;
    let config = &loaded.config;
    for finding in local::data_folder(config) {
        say(finding)?;
    }
    say(local::open_files(config))?;
    say(local::clock())?;
    let running = local::running(config);
    say(match &running {
        Some(addresses) => {
            let listens = [addresses.mqtt, addresses.grpc, Some(addresses.http)].into_iter().flatten();
            let listens: Vec<String> = listens.map(|address| address.to_string()).collect();
            Finding::ok("process", format!("a weir process uses the data folder and listens on {}", listens.join(", ")))
        }
        None => Finding::warn("process", "no weir process uses the data folder: start one with `weir run`"),
    })?;
    if running.is_none() {
        for finding in local::ports(config) {
            say(finding)?;
        }
    }
    let server =
        options.server.clone().or_else(|| running.and_then(|a: Addresses| Some(format!("http://{}", a.grpc?))));
    if let Some(server) = server {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start")?;
        for finding in runtime.block_on(remote::server(&server)) {
            say(finding)?;
        }
    }
    Ok(if worst == Level::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(finding: &Finding) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let (word, colour) = match finding.level {
        Level::Ok => ("ok", "32"),
        Level::Warn => ("warn", "33"),
        Level::Fail => ("fail", "31"),
    };
    let (on, off) = if out.is_terminal() { (format!("\x1b[{colour}m"), "\x1b[0m") } else { (String::new(), "") };
    Ok(writeln!(out, "{on}{word:<4}{off}  {:<16}{}", finding.what, finding.text)?)
}
