//! Project chores: `cargo xtask CHORE`.
//!
//! Receives: the name of a chore.
//! Promises: installs what a chore needs into a cache folder outside the checkout, or says what is missing.
//! Hands on: exit status 0 only when everything it ran succeeded.
//! Never: skips a check in silence.

mod check;
mod clients;
mod dist;
mod observability;
mod services;
mod terraform;
mod test;

use clap::{Parser, Subcommand};

/// Project chores.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Installs the clients that the tests use, then runs every test.
    Test {
        /// Passed on to `cargo test`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Formatting, lints and documentation, warnings denied.
    Check,
    /// Checks rules, dashboards and alerts against a running Weir, Prometheus, Alertmanager and InfluxDB.
    Observability,
    /// Checks the Terraform module with the real provider, and what it sends to a cluster.
    Terraform,
    /// Builds the static program with its bill of materials and checksums into target/dist.
    Dist(dist::Options),
    /// Real servers to try Weir with: redis-server, mongod (a replica set of one), influxd.
    Services {
        #[command(subcommand)]
        what: Services,
    },
    /// Runs each fuzz target (needs a nightly toolchain; installs cargo-fuzz).
    Fuzz {
        /// Seconds for each target.
        #[arg(long, default_value_t = 60)]
        secs: u32,
    },
}

#[derive(Subcommand)]
enum Services {
    /// Puts the programs that are missing into a cache folder.
    Install,
    /// Starts them on free ports and prints the variables that Weir takes: `eval "$(cargo xtask services up)"`.
    Up {
        /// Their data.
        #[arg(default_value = "target/services")]
        dir: std::path::PathBuf,
    },
    /// Ends them; their data stays.
    Down {
        /// Their data.
        #[arg(default_value = "target/services")]
        dir: std::path::PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().chore {
        Chore::Test { arguments } => test::workspace(&arguments),
        Chore::Check => check::run(),
        Chore::Observability => observability::run(),
        Chore::Terraform => terraform::check(),
        Chore::Dist(options) => dist::run_chore(&options),
        Chore::Services { what: Services::Install } => {
            services::install().map(|folder| println!("{}", folder.display()))
        }
        Chore::Services { what: Services::Up { dir } } => services::up(&dir),
        Chore::Services { what: Services::Down { dir } } => services::down(&dir),
        Chore::Fuzz { secs } => test::fuzz(secs),
    }
}

/// Runs a command, its output shown.
pub(crate) fn run(command: &mut std::process::Command) -> anyhow::Result<()> {
    use anyhow::Context;
    let shown = format!("{command:?}");
    let status = command.status().with_context(|| format!("start {shown}"))?;
    anyhow::ensure!(status.success(), "{shown} ended with {status}");
    Ok(())
}

/// `cargo`, the one that runs us.
pub(crate) fn cargo() -> std::process::Command {
    std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
