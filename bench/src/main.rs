//! Side-by-side measurements: Weir beside the least that any broker has to do.
//!
//! Receives: the release binaries of this workspace, from the folder it lies in itself.
//! Promises: what is compared runs in the same minute on the same machine with the same load.
//! Hands on: tables for people.
//! Never: judges; a figure is printed, not asserted.

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
    /// Weir and the null broker in turn under several loads, then idle connections, start-up time and binary size.
    FrontDoor(front_door::Options),
    /// A server that reads PUBLISH, writes PUBACK and does nothing else: the floor for taking readings in.
    NullBroker {
        /// Where to listen.
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
