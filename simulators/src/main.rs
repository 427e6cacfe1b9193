//! `weir-sim`: plays devices against an MQTT broker.

use clap::{Parser, Subcommand};

/// Plays devices against any MQTT broker.
#[derive(Parser)]
#[command(name = "weir-sim", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures throughput and PUBACK latency.
    Bench(weir_simulators::bench::Load),
}

fn main() -> anyhow::Result<()> {
    let Command::Bench(load) = Arguments::parse().command;
    let json = load.json;
    let report = weir_simulators::bench::run(&load)?;
    if json {
        println!("{}", serde_json::to_string(&report)?)
    } else {
        print!("{report}")
    }
    if report.failed_connections > 0 {
        anyhow::bail!("{} connections ended early; the first: {}", report.failed_connections, report.first_failure);
    }
    Ok(())
}
