//! Side-by-side measurements of Weir and the minimal work of any broker.
//!
//! Receives: the release binaries of this workspace, from its own folder.
//! Promises: compared programs run in the same minute on the same machine with the same load.
//! Hands on: printed tables.
//! Never: asserts a figure.

mod front_door;
mod null_broker;
mod process;

use clap::{Parser, Subcommand};

/// Side-by-side measurements.
#[derive(Parser)]
#[command(name = "weir-bench", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compare Weir with the null broker under several loads, then measure idle connections,
    /// start-up time and binary size.
    FrontDoor(front_door::Options),
    /// Run a server that only answers PUBLISH with PUBACK: the lower bound of ingestion.
    NullBroker {
        /// Address to listen on.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: std::net::SocketAddr,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::FrontDoor(options) => front_door::run(&options),
        Command::NullBroker { listen } => null_broker::run(listen),
    }
}
