//! Compares Weir with the null broker under the same loads.

use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde::Deserialize;

use crate::process::{self, Running};

/// Options of the comparison.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Seconds for each load and server.
    #[arg(long, default_value_t = 10.0)]
    secs: f64,
    /// Number of rounds; the median is printed.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Idle connections for the memory figure.
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// Folder for Weir's data, on the disk to measure; a temporary one by default.
    #[arg(long)]
    data_dir: Option<std::path::PathBuf>,
}

/// Output of the load generator.
#[derive(Debug, Clone, Deserialize)]
struct Figures {
    per_second: f64,
    puback_p50_us: u64,
    puback_p99_us: u64,
    broker_cpu_us: Option<f64>,
    broker_resident_bytes: Option<u64>,
}

struct Shape {
    name: &'static str,
    arguments: &'static [&'static str],
}

const SHAPES: [Shape; 5] = [
    Shape { name: "1,000 x 1 in flight", arguments: &["--conns", "1000", "--inflight", "1"] },
    Shape { name: "1,000 x 5 in flight", arguments: &["--conns", "1000", "--inflight", "5"] },
    Shape { name: "100 x 50 in flight", arguments: &["--conns", "100", "--inflight", "50"] },
    Shape { name: "5,000, 20,000/s in all", arguments: &["--conns", "5000", "--inflight", "1", "--rate", "20000"] },
    Shape { name: "1, 1 in flight", arguments: &["--conns", "1", "--inflight", "1"] },
];

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let temporary = tempfile::tempdir()?;
    let base = options.data_dir.as_deref().unwrap_or(temporary.path());
    let binary = std::fs::metadata(process::program("weir")?)?.len();
    println!("| load | server | readings/s | PUBACK p50 | p99 | CPU per reading |\n|---|---|---|---|---|---|");
    for (number, shape) in SHAPES.iter().enumerate() {
        let (mut floor, mut ours) = (Vec::new(), Vec::new());
        for round in 0..options.rounds {
            floor.push(measure(&process::null_broker()?, shape.arguments, options.secs)?);
            let dir = base.join(format!("load-{number}-{round}"));
            std::fs::create_dir_all(&dir)?;
            ours.push(measure(&process::weir(&dir)?, shape.arguments, options.secs)?);
            std::fs::remove_dir_all(&dir)?;
        }
        let (floor, ours) = (median(floor), median(ours));
        row(shape.name, "null broker", &floor);
        row(shape.name, "Weir", &ours);
        println!("| | ratio | {:.2} | | | {} |", ours.per_second / floor.per_second, difference(&ours, &floor));
    }
    idle(options, base)?;
    start_up(options.rounds, base)?;
    println!("binary: {:.1} MB", binary as f64 / 1e6);
    Ok(())
}

fn row(load: &str, server: &str, figures: &Figures) {
    println!(
        "| {load} | {server} | {:.0} | {} us | {} us | {} |",
        figures.per_second,
        figures.puback_p50_us,
        figures.puback_p99_us,
        figures.broker_cpu_us.map_or("-".into(), |c| format!("{c:.2} us")),
    );
}

fn difference(ours: &Figures, floor: &Figures) -> String {
    ours.broker_cpu_us.zip(floor.broker_cpu_us).map_or("-".into(), |(a, b)| format!("{:+.2} us", a - b))
}

fn median(mut figures: Vec<Figures>) -> Figures {
    figures.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    figures.swap_remove(figures.len() / 2)
}

fn measure(server: &Running, arguments: &[&str], secs: f64) -> anyhow::Result<Figures> {
    let output = Command::new(process::program("weir-sim")?)
        .args(["bench", "--json", "--broker", &server.mqtt.to_string()])
        .args(["--pid", &server.child.0.id().to_string(), "--secs", &secs.to_string()])
        .args(arguments)
        .output()?;
    anyhow::ensure!(
        output.status.success(),
        "the load generator failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    serde_json::from_slice(&output.stdout).context("the load generator prints one line of JSON")
}

/// Memory of idle connections: the difference between many and one.
fn idle(options: &Options, base: &Path) -> anyhow::Result<()> {
    let dir = base.join("idle");
    std::fs::create_dir_all(&dir)?;
    let server = process::weir(&dir)?;
    let resident = |conns: usize| -> anyhow::Result<f64> {
        let arguments = ["--conns", &conns.to_string(), "--inflight", "0", "--warmup-secs", "1"];
        let figures = measure(&server, &arguments, 2.0)?;
        Ok(figures.broker_resident_bytes.context("memory is read from the process")? as f64)
    };
    let (one, many) = (resident(1)?, resident(options.idle)?);
    println!(
        "idle: {:.1} MB with one connection, {:.1} MB with {}: {:.0} bytes each",
        one / 1e6,
        many / 1e6,
        options.idle,
        (many - one) / options.idle as f64
    );
    Ok(())
}

fn start_up(rounds: usize, base: &Path) -> anyhow::Result<()> {
    let dir = base.join("start");
    std::fs::create_dir_all(&dir)?;
    let first = process::weir(&dir)?.start_up;
    let mut again = Vec::new();
    for _ in 0..rounds {
        again.push(process::weir(&dir)?.start_up);
    }
    again.sort();
    println!("start-up: {first:.1?} on an empty folder, {:.1?} after kill -9", again[again.len() / 2]);
    Ok(())
}
