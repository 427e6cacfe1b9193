//! The program `weir`: everything in one process, and the commands that query it.
//!
//! Receives: the command line, the environment, a configuration file, signals.
//! Promises: the end of any part outside of an ordered stop ends the process with a failure and
//! names the part in its last log line; an ordered stop drains each part within its deadline;
//! errors are one line that gives the remedy.
//! Hands on: listeners to the broker and the services, stores to the flusher, one configuration to
//! each of them.
//! Never: decides what a reading is, when it is durable or how it is stored.

mod access;
mod backup;
mod cli;
mod client;
mod config;
mod data_dir;
mod doctor;
mod drain;
mod encryption;
mod exports;
mod health;
mod http;
mod init;
mod local;
mod logs;
mod map;
mod refill;
mod repair;
mod run;
mod supervise;
mod tls_files;
mod traces;

use std::process::ExitCode;

use clap::Parser;
use tikv_jemallocator::Jemalloc;

/// Returns freed memory to the system within a fraction of a second, so that the process keeps to
/// `memory.max_bytes`: docs/adr/0016.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    match dispatch(arguments) {
        Ok(code) => code,
        Err(error) if client::output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed, too.
            drop(client::output::complain(&error));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: cli::Arguments) -> anyhow::Result<ExitCode> {
    let command = arguments.command.unwrap_or(cli::Command::Run(arguments.run));
    match command {
        cli::Command::Run(options) => run::run(&options),
        cli::Command::Init(options) => init::run(&options),
        cli::Command::Peppers(cli::PeppersCommand::Rotate(options)) => access::rotate(&options),
        cli::Command::Encryption(command) => encryption::run(&command),
        cli::Command::Config(options) => cli::config(&options).map(|()| ExitCode::SUCCESS),
        cli::Command::Map(options) => map::run(&options),
        cli::Command::Refill(options) => refill::run(&options),
        cli::Command::Tls(options) => tls_files::run(&options).map(|()| ExitCode::SUCCESS),
        cli::Command::Repair(options) => repair::run(&options),
        cli::Command::Backup(options) => backup::command::run(&options),
        cli::Command::Restore(options) => backup::restore::run(&options),
        cli::Command::Health(options) => health::run(&options),
        cli::Command::Drain(options) => drain::run(&options),
        cli::Command::Doctor(options) => doctor::run(&options),
        cli::Command::Client(command) => client::run(command),
    }
}
