//! Side-by-side measurements of Weir and the minimal work of any broker.
//!
//! Receives: the release binaries of this workspace, from its own folder.
//! Promises: compared programs run in the same minute on the same machine with the same load.
//! Hands on: printed tables.
//! Never: asserts a figure.

mod balancer;
mod client;
mod crowd;
mod disturb;
mod fanout;
mod flood;
mod front_door;
mod hold;
mod node;
mod null_broker;
mod process;
mod reconnect;
mod rolling;
mod site;

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
    /// Break the connections of a fleet twice, by the network and by kill -9 of Weir: time until
    /// all devices are back, CPU time and memory of a connection, with each kind of credential.
    /// Fails when a reading was lost or doubled.
    Reconnect(reconnect::Options),
    /// Restart three nodes of a fleet one after the other while devices publish: time until all
    /// devices are back, PUBACKs meanwhile. Fails when a reading was lost or doubled.
    Rolling(rolling::Options),
    /// Run a TCP load balancer over the nodes that are ready.
    Balancer(balancer::Options),
    /// Let one of many tenants flood Weir, with a limit and without: PUBACKs, calls and lag of the
    /// others.
    Flood(flood::Options),
    /// Compare Weir with another broker: one publisher and many subscribers, many publishers and
    /// one subscriber.
    Fanout(fanout::Options),
    /// Measure the latency of a publisher and a subscriber beside clients that do not read, read
    /// slowly, or leave packets unfinished, and the memory of Weir.
    Disturb(disturb::Options),
    /// Connect many idle devices to several nodes: how fast, the memory of a connection, and
    /// PUBACKs of devices that publish beside them.
    Crowd(crowd::Options),
    /// Connect idle devices, and hold them until standard input ends.
    #[command(hide = true)]
    Hold(hold::Options),
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
        Command::Reconnect(options) => reconnect::run(&options),
        Command::Rolling(options) => rolling::run(&options),
        Command::Balancer(options) => balancer::run(options),
        Command::Flood(options) => flood::run(&options),
        Command::Fanout(options) => fanout::run(&options),
        Command::Disturb(options) => disturb::run(&options),
        Command::Crowd(options) => crowd::run(&options),
        Command::Hold(options) => hold::run(&options),
        Command::NullBroker { listen } => null_broker::run(listen),
    }
}
