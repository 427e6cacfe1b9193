//! `weir doctor`: checks for problems and their cures.

mod audit;
mod bridges;
mod certificates;
mod issuers;
mod local;
mod remote;
mod servers;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;

use crate::cli::DoctorOptions;
use crate::client::Target;
use crate::config;
use crate::data_dir::{User, user_of};

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
    what: String,
    /// The observation and, for a problem, its cure.
    text: String,
}

impl Finding {
    fn ok(what: impl Into<String>, text: impl Into<String>) -> Self {
        Self { level: Level::Ok, what: what.into(), text: text.into() }
    }

    fn warn(what: impl Into<String>, text: impl Into<String>) -> Self {
        Self { level: Level::Warn, what: what.into(), text: text.into() }
    }

    fn fail(what: impl Into<String>, text: impl Into<String>) -> Self {
        Self { level: Level::Fail, what: what.into(), text: text.into() }
    }
}

/// Runs every check and prints a line for each; the exit code is a failure when one of them fails.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn run(options: &DoctorOptions) -> anyhow::Result<ExitCode> {
    let mut worst = Level::Ok;
    let mut say = |finding: Finding| -> anyhow::Result<()> {
        if finding.level == Level::Fail || (worst == Level::Ok && finding.level == Level::Warn) {
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
    for finding in certificates::certificates(config) {
        say(finding)?;
    }
    for finding in audit::checkpoints(config) {
        say(finding)?;
    }
    let user = user_of(&config.data_dir);
    for finding in local::encryption(config) {
        say(finding)?;
    }
    say(local::process(config, user.as_ref()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start")?;
    if user.is_none() {
        for finding in local::files(config).into_iter().chain(local::ports(config)) {
            say(finding)?;
        }
        for finding in runtime.block_on(servers::configured(config)) {
            say(finding)?;
        }
        for finding in runtime.block_on(bridges::configured(config)) {
            say(finding)?;
        }
    }
    let of_process = match user {
        Some(User::Running(addresses)) => addresses.grpc.map(|grpc| Target::of_process(config, grpc)),
        _ => None,
    };
    let given = options.server.as_ref();
    let given = given.map(|server| Target::given_or_of(Some(server), options.ca.as_ref(), config));
    // Another server has other bridges.
    let of_this = if given.is_none() { &config.bridge[..] } else { &[] };
    if let Some(target) = given.or(of_process) {
        for finding in runtime.block_on(remote::server(&target, &config.auth, of_this)) {
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
