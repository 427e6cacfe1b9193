//! One of many tenants floods Weir: its messages, beside those, the calls and the lag of the
//! others.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::process::Guarded;
use crate::site::{Site, pause};

/// Options of the measurement.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Tenants, one of which floods.
    #[arg(long, default_value_t = 20)]
    tenants: usize,
    /// Devices of each of the others.
    #[arg(long, default_value_t = 10)]
    devices: usize,
    /// Messages per second of each of the others.
    #[arg(long, default_value_t = 50)]
    rate: usize,
    /// Devices that flood, each with 100 messages in flight.
    #[arg(long, default_value_t = 50)]
    noisy: usize,
    /// Messages per second that the limit allows.
    #[arg(long, default_value_t = 1000)]
    limit: usize,
    /// Seconds of each run.
    #[arg(long, default_value_t = 15.0)]
    secs: f64,
    /// Rounds; each has the three runs.
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Folder for the data; a temporary one by default.
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

const FLOOD: &str = "flood";
const OTHERS: &str = "others.csv";
const FIRST: &str = "first.csv";
const NOISY: &str = "noisy.csv";

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(options.tenants >= 3, "--tenants is {}: use at least 3", options.tenants);
    let temporary = tempfile::tempdir()?;
    let site = Site::start(options.data_dir.as_deref().unwrap_or(temporary.path()))?;
    let each = options.devices.to_string();
    for tenant in 0..options.tenants - 1 {
        let (name, first) = (format!("calm{tenant}"), (tenant * options.devices).to_string());
        site.weir(&["tenants", "add", &name])?;
        let file = if tenant == 0 { FIRST } else { OTHERS };
        site.credentials(file, &["--bench", &each, "--first-device", &first, "--tenant", &name])?;
    }
    site.weir(&["tenants", "add", FLOOD])?;
    let (noisy, first) = (options.noisy.to_string(), first_noisy(options).to_string());
    site.credentials(NOISY, &["--bench", &noisy, "--first-device", &first, "--tenant", FLOOD])?;
    let key = site.weir(&["keys", "add", "bench", "--role", "viewer", "--tenant", "calm0"])?;
    let key = key["key"].as_str().context("a key")?.to_owned();

    println!("{} tenants, {} messages/s of each of the others", options.tenants, options.rate);
    println!("| run | flood | PUBACK of the others p50 | p99 | max | calls p50 | p99 | max | failed | lag p50 | max |");
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for _ in 0..options.rounds {
        beside(options, &site, &key, "alone", false)?;
        set(&site, &options.limit.to_string())?;
        beside(options, &site, &key, "flood with a limit", true)?;
        set(&site, "none")?;
        beside(options, &site, &key, "flood without a limit", true)?;
    }
    Ok(())
}

fn first_noisy(options: &Options) -> usize {
    options.tenants * options.devices
}

fn set(site: &Site, rate: &str) -> anyhow::Result<()> {
    let (rate, burst) = (format!("messages_per_second={rate}"), format!("message_burst={rate}"));
    site.weir(&["tenants", "set", FLOOD, "--limit", &rate, "--limit", &burst]).map(drop)
}

struct Load(Guarded);

impl Load {
    fn start(mut command: Command) -> anyhow::Result<Self> {
        let command = command.args(["--json", "--threads", "1"]).stdout(Stdio::piped()).stderr(Stdio::inherit());
        Ok(Self(Guarded(command.spawn().context("start the simulator")?)))
    }

    fn figures(mut self) -> anyhow::Result<Value> {
        let out = self.0.0.stdout.take().context("stdout was piped")?;
        let text = std::io::read_to_string(out)?;
        let status = self.0.0.wait()?;
        ensure!(status.success(), "the simulator ended with {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }
}

fn bench(site: &Site, file: &str, conns: usize, first: usize, secs: f64) -> anyhow::Result<Command> {
    let (conns, first, secs) = (conns.to_string(), first.to_string(), secs.to_string());
    site.simulator(&[
        "bench",
        "--credentials",
        file,
        "--conns",
        &conns,
        "--first-device",
        &first,
        "--secs",
        &secs,
        "--broker",
        &site.broker(false)?,
    ])
}

fn beside(options: &Options, site: &Site, key: &str, name: &str, floods: bool) -> anyhow::Result<()> {
    let Options { tenants, devices, rate, noisy, secs, .. } = options;
    let flood = if floods {
        let mut command = bench(site, NOISY, *noisy, first_noisy(options), secs + 3.0)?;
        command.args(["--inflight", "100", "--warmup-secs", "1"]);
        Some(Load::start(command)?)
    } else {
        None
    };
    let mut first = bench(site, FIRST, *devices, 0, *secs)?;
    first.env("WEIR_API_KEY", key).args(["--rate", &rate.to_string(), "--server", &site.url()?]);
    let mut others = bench(site, OTHERS, (tenants - 2) * devices, *devices, *secs)?;
    others.args(["--rate", &((tenants - 2) * rate).to_string()]);
    let (first, others) = (Load::start(first)?, Load::start(others)?);
    let (begun, mut lags) = (Instant::now(), Vec::new());
    pause(Duration::from_secs(2));
    while begun.elapsed().as_secs_f64() < secs + 1.5 {
        let status = site.weir(&["status"])?;
        let sinks = status["sinks"].as_array().cloned().unwrap_or_default();
        lags.push(sinks.iter().filter_map(|sink| sink["lag_seconds"].as_f64()).fold(0.0, f64::max));
        pause(Duration::from_millis(400));
    }
    let (first, others) = (first.figures()?, others.figures()?);
    let flood = flood.map(Load::figures).transpose()?;
    lags.sort_by(f64::total_cmp);
    let ms = |value: &Value| value.as_f64().map_or("-".to_owned(), |us| format!("{:.1} ms", us / 1000.0));
    println!(
        "| {name} | {} | {} | {} | {} | {} | {} | {} | {} | {:.2} s | {:.2} s |",
        flood.map_or("-".to_owned(), |f| format!("{:.0}/s", f["per_second"].as_f64().unwrap_or_default())),
        ms(&others["puback_p50_us"]),
        ms(&others["puback_p99_us"]),
        ms(&others["puback_max_us"]),
        ms(&first["calls"]["p50_us"]),
        ms(&first["calls"]["p99_us"]),
        ms(&first["calls"]["max_us"]),
        first["calls"]["failed"],
        lags.get(lags.len() / 2).copied().unwrap_or_default(),
        lags.last().copied().unwrap_or_default(),
    );
    Ok(())
}
