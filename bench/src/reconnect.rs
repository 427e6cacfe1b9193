//! A fleet that reconnects at once: after the network broke, and after kill -9 of Weir.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::process::{Guarded, cpu_seconds, resident_bytes};
use crate::site::{Site, pause};

/// Options of the measurement.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Devices; each is an open file of Weir and of the simulator. Fewer, if the limit of open
    /// files (`ulimit -Hn`) is too low.
    #[arg(long, default_value_t = 20_000)]
    devices: usize,
    /// Ways to connect.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "plain,secret,jwt,certificate")]
    ways: Vec<Way>,
    /// Each device waits a random time before it connects again, as client libraries do; otherwise
    /// all do so at the same moment.
    #[arg(long)]
    spread: bool,
    /// Seconds between two messages of a device.
    #[arg(long, default_value_t = 20)]
    interval: u64,
    /// Seconds over which the devices connect first.
    #[arg(long, default_value_t = 15)]
    ramp: u64,
    /// Folder for the data; a temporary one by default.
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

/// Seconds before the network breaks, and until Weir is killed.
const STEADY: u64 = 10;
/// Seconds for the way back after that.
const WAY_BACK: u64 = 30;

impl Options {
    fn network_at(&self) -> u64 {
        self.ramp + STEADY
    }

    fn killed_at(&self) -> u64 {
        self.network_at() + STEADY + if self.spread { 15 } else { 5 }
    }
}

/// How devices connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Way {
    /// Secrets, without TLS.
    Plain,
    /// Secrets over TLS.
    Secret,
    /// Tokens over TLS.
    Jwt,
    /// Client certificates.
    Certificate,
}

impl Way {
    fn kind(self) -> &'static str {
        match self {
            Self::Plain | Self::Secret => "secret",
            Self::Jwt => "jwt",
            Self::Certificate => "certificate",
        }
    }
}

/// A line of `--samples`.
#[derive(Debug, Clone, Deserialize)]
struct Sample {
    at_secs: f64,
    connects: u64,
    connected: u64,
    failures: u64,
}

/// CPU time and memory of Weir at a moment after the start of the simulator.
#[derive(Debug, Clone, Copy)]
struct Use {
    at_secs: f64,
    pid: u32,
    cpu_secs: f64,
    resident: u64,
}

/// The devices that fit into the limit of open files, of which Weir keeps some for itself.
fn fitting(devices: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let most = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
    most.map_or(devices, |most| devices.min((most / 8 * 7).saturating_sub(200)))
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let options = &Options { devices: fitting(options.devices), ..options.clone() };
    let temporary = tempfile::tempdir()?;
    let base = options.data_dir.as_deref().unwrap_or(temporary.path());
    println!(
        "{} devices, a message each {} s, {}",
        options.devices,
        options.interval,
        if options.spread { "reconnecting after a random wait" } else { "reconnecting at the same moment" }
    );
    println!("| way | after | 99 % back | all back | connections/s | CPU of Weir each | failed attempts |");
    println!("|---|---|---|---|---|---|---|");
    for way in &options.ways {
        let name = format!("{way:?}").to_lowercase();
        let line = measure(options, *way, &base.join(&name)).with_context(|| name.clone())?;
        println!("{line}");
    }
    Ok(())
}

fn scenario(options: &Options) -> String {
    let Options { devices, interval, ramp, .. } = options;
    let (in_step, first, most) = if options.spread { (false, "2s", "15s") } else { (true, "200ms", "1s") };
    // A device leaves after its last message, which is due within the last interval.
    let (network, duration) = (options.network_at(), options.killed_at() + WAY_BACK + interval);
    format!(
        "name = \"reconnect\"\nseed = 1\nduration = \"{duration}s\"\ndrain = \"60s\"\n\
         [[group]]\nname = \"storm\"\ncount = {devices}\nid = \"storm-{{n:5}}\"\ninterval = \"{interval}s\"\n\
         jitter = 0.5\nramp = \"{ramp}s\"\nmqtt = \"5\"\n[group.values]\nn = {{ model = \"counter\" }}\n\
         [group.faults]\nreconnect = \"{first}\"\nreconnect_max = \"{most}\"\nreconnect_in_step = {in_step}\n\
         [[event]]\nkind = \"reconnect\"\nat = \"{network}s\"\nwithin = \"{}s\"\n",
        if options.spread { 10 } else { 0 }
    )
}

fn measure(options: &Options, way: Way, dir: &Path) -> anyhow::Result<String> {
    let mut site = Site::start(dir)?;
    std::fs::write(site.path("storm.toml"), scenario(options))?;
    let begun = Instant::now();
    site.credentials("devices.csv", &["storm.toml", "--kind", way.kind()])?;
    let prepared = begun.elapsed();
    let idle = resident_bytes(site.pid()?).context("memory of Weir")?;

    let broker = site.broker(way != Way::Plain)?;
    let mut command = site.simulator_of_server(&["run", "storm.toml", "--credentials", "devices.csv", "--json"])?;
    command.args(["--quiet", "--broker", &broker, "--per-source", "500", "--parallel", "32"]);
    command.args(["--samples", "samples.jsonl", "--sample-every", "100ms"]);
    command.stdout(site.file("summary.json")?).stderr(site.file("simulator.log")?);
    let mut child = Guarded(command.spawn().with_context(|| format!("start {command:?}"))?);
    let (begun, killed_at) = (Instant::now(), options.killed_at());
    let wall = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let (mut used, mut restart) = (Vec::new(), None);
    while child.0.try_wait()?.is_none() {
        let at_secs = begun.elapsed().as_secs_f64();
        if restart.is_none() && begun.elapsed().as_secs() >= killed_at {
            site.kill();
            restart = Some((at_secs, site.run()?));
        }
        let pid = site.pid()?;
        if let Some((cpu_secs, resident)) = cpu_seconds(pid).zip(resident_bytes(pid)) {
            used.push(Use { at_secs, pid, cpu_secs, resident });
        }
        pause(Duration::from_millis(50));
    }
    let status = child.0.wait()?;
    let summary = std::fs::read_to_string(site.path("summary.json"))?;
    let summary: Value = serde_json::from_str(&summary).with_context(|| {
        let log = std::fs::read_to_string(site.path("simulator.log")).unwrap_or_default();
        format!("the simulator ended with {status}: {log}")
    })?;
    ensure!(status.success(), "readings were lost, doubled or altered: {}", summary["stores"]);
    let samples = std::fs::read_to_string(site.path("samples.jsonl"))?;
    let samples: Result<Vec<Sample>, _> = samples.lines().map(serde_json::from_str).collect();
    let mut samples = samples?;
    // The simulator begins a moment after the process.
    let started = summary["started"].as_str().context("the start")?;
    let late = unix_seconds(started)? - wall;
    samples.iter_mut().for_each(|sample| sample.at_secs += late);

    let (killed, start_up) = restart.context("weir was killed")?;
    let network = options.network_at() as f64 + late;
    let mut lines = vec![
        row(way, "network", &storm(options, &samples, network, killed, false)?, &used),
        row(way, "kill -9", &storm(options, &samples, killed, f64::MAX, true)?, &used),
    ];
    let full = used.iter().filter(|u| u.at_secs < network).map(|u| u.resident).max().context("memory")?;
    lines.push(format!(
        "\n{way:?}: {} messages acknowledged, none lost or doubled; credentials in {prepared:.1?}; memory {:.0} MB idle, \
         {:.0} MB connected: {:.1} KiB each; start {start_up:.1?}; last failure: {}\n",
        summary["total"]["acknowledged"],
        idle as f64 / 1e6,
        full as f64 / 1e6,
        full.saturating_sub(idle) as f64 / 1024.0 / options.devices as f64,
        summary["last_failure"],
    ));
    Ok(lines.join("\n"))
}

/// Seconds since 1970 of a time in RFC 3339 with UTC, `2026-11-29T10:00:00.000Z`.
fn unix_seconds(text: &str) -> anyhow::Result<f64> {
    let clock = text.split_once('T').and_then(|(_, clock)| clock.strip_suffix('Z')).context("a time")?;
    let of_day = clock.split(':').try_fold(0.0, |sum, part| anyhow::Ok(sum * 60.0 + part.parse::<f64>()?))?;
    let today = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / 86_400 * 86_400;
    Ok(today as f64 + of_day)
}

/// The way back of a fleet.
struct Storm {
    from: f64,
    most_back: f64,
    all_back: f64,
    first: f64,
    connects: u64,
    failures: u64,
}

/// The reconnections between two moments, after the connections broke.
fn storm(options: &Options, samples: &[Sample], from: f64, until: f64, by_kill: bool) -> anyhow::Result<Storm> {
    let devices = options.devices as u64;
    let before = samples.iter().rfind(|s| s.at_secs <= from).context("a sample before")?;
    ensure!(before.connected >= devices * 99 / 100, "{} of {devices} were connected before", before.connected);
    let within: Vec<&Sample> = samples.iter().filter(|s| s.at_secs > from && s.at_secs < until).collect();
    // A connection that the broker breaks counts as failed.
    let broken = if by_kill { before.connected } else { 0 };
    let back = |count: u64| within.iter().find(|s| s.connects >= before.connects + count).map(|s| s.at_secs);
    // Some devices are between two connections by themselves at that moment.
    let missing = devices - before.connected;
    let end = back(devices - missing).with_context(|| {
        let last = within.last().map_or(0, |s| s.connects - before.connects);
        format!("{last} of {devices} devices are back")
    })?;
    let last = within.iter().find(|s| s.at_secs >= end).context("a sample")?;
    Ok(Storm {
        from,
        most_back: back(devices * 99 / 100).unwrap_or(end) - from,
        all_back: end - from,
        first: back(1).unwrap_or(from) - from,
        connects: last.connects - before.connects,
        failures: (last.failures - before.failures).saturating_sub(broken),
    })
}

fn row(way: Way, after: &str, storm: &Storm, used: &[Use]) -> String {
    let end = storm.from + storm.all_back;
    let of_storm: Vec<&Use> = used.iter().filter(|u| u.at_secs >= storm.from && u.at_secs <= end).collect();
    let last = of_storm.last().copied();
    // A process that was started in between begins at zero.
    let first = of_storm.first().filter(|first| last.is_some_and(|last| last.pid == first.pid));
    let cpu = last.map_or(0.0, |last| last.cpu_secs) - first.map_or(0.0, |first| first.cpu_secs);
    let rate = storm.connects as f64 / (storm.all_back - storm.first).max(0.001);
    format!(
        "| {way:?} | {after} | {:.1} s | {:.1} s | {rate:.0} | {:.0} us | {} |",
        storm.most_back,
        storm.all_back,
        cpu * 1e6 / storm.connects.max(1) as f64,
        storm.failures
    )
}
