//! Project chores: `cargo xtask CHORE`.
//!
//! Receives: the name of a chore.
//! Promises: installs the tools of a chore into a cache folder outside the checkout, or reports
//! missing ones.
//! Hands on: exit status 0 only when all commands succeeded.
//! Never: skips a check silently.

mod check;
mod clients;
mod dist;
mod fuzz;
mod observability;
mod security;
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
    /// Install the clients of the tests, then run every test.
    Test {
        /// Arguments for `cargo test`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Check formatting, lints and documentation, with warnings denied.
    Check,
    /// Check rules, dashboards and alerts against a running Weir, Prometheus, Alertmanager and
    /// InfluxDB.
    Observability,
    /// Check licenses and advisories of the crates, secrets in the tree, and the image.
    ///
    /// Without names all checks run, and those that cannot are printed; a named check that cannot
    /// run is an error.
    Security {
        /// Checks to run.
        checks: Vec<security::Check>,
    },
    /// Check the Terraform module with the real provider, including the objects it creates.
    Terraform,
    /// Build static programs with a bill of materials and checksums into target/dist.
    Dist(dist::Options),
    /// Manage servers for manual tests: redis-server, mongod (a replica set of one member),
    /// influxd, Kafka.
    Services {
        #[command(subcommand)]
        what: Services,
    },
    /// Run fuzz targets, each from valid inputs and from what earlier runs have found. Needs a
    /// nightly toolchain.
    Fuzz(fuzz::Options),
}

#[derive(Subcommand)]
enum Services {
    /// Install missing programs into a cache folder.
    Install,
    /// Start the servers on free ports and print variables for Weir:
    /// `eval "$(cargo xtask services up)"`.
    Up {
        /// Folder of their data.
        #[arg(default_value = "target/services")]
        dir: std::path::PathBuf,
    },
    /// Stop the servers; their data remains.
    Down {
        /// Folder of their data.
        #[arg(default_value = "target/services")]
        dir: std::path::PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().chore {
        Chore::Test { arguments } => test::workspace(&arguments),
        Chore::Check => check::run(),
        Chore::Observability => observability::run(),
        Chore::Security { checks } => security::check(&checks),
        Chore::Terraform => terraform::check(),
        Chore::Dist(options) => dist::run_chore(&options),
        Chore::Services { what: Services::Install } => {
            services::install().map(|folder| println!("{}", folder.display()))
        }
        Chore::Services { what: Services::Up { dir } } => services::up(&dir),
        Chore::Services { what: Services::Down { dir } } => services::down(&dir),
        Chore::Fuzz(options) => fuzz::run_targets(&options),
    }
}

/// Runs a command and shows its output.
pub(crate) fn run(command: &mut std::process::Command) -> anyhow::Result<()> {
    use anyhow::Context;
    let shown = format!("{command:?}");
    let status = command.status().with_context(|| format!("start {shown}"))?;
    anyhow::ensure!(status.success(), "{shown} ended with {status}");
    Ok(())
}

/// The `cargo` that runs this program.
pub(crate) fn cargo() -> std::process::Command {
    std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
