//! A fleet that reconnects at once: after the network broke, and after kill -9 of Weir.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::process::{Guarded, cpu_seconds, resident_bytes};
use crate::site::{FleetOptions, Site, pause};

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
    /// Seconds after the ramp until the network breaks, and for the way back before Weir is killed:
    /// enough for all devices to be connected.
    #[arg(long, default_value_t = 20)]
    steady: u64,
    /// Seconds for the way back after that.
    #[arg(long, default_value_t = 60)]
    way_back: u64,
    /// Processes of Weir, with as many simulators. More than one are a fleet: it needs --redis and
    /// --mongodb, which it fills.
    #[arg(long, default_value_t = 1, requires_ifs = [("2", "redis"), ("3", "redis"), ("4", "redis")])]
    processes: usize,
    #[command(flatten)]
    fleet: FleetOptions,
    /// Folder for the data; a temporary one by default.
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

impl Options {
    fn network_at(&self) -> u64 {
        self.ramp + self.steady
    }

    fn killed_at(&self) -> u64 {
        self.network_at() + self.steady + if self.spread { 15 } else { 5 }
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
    node: usize,
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
    let each = fitting(options.devices / options.processes.max(1));
    let options = &Options { devices: each * options.processes.max(1), ..options.clone() };
    let temporary = tempfile::tempdir()?;
    let base = options.data_dir.as_deref().unwrap_or(temporary.path());
    println!(
        "{} devices, {} processes of Weir, a message each {} s, {}",
        options.devices,
        options.processes,
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

/// The scenario of the devices of one process.
fn scenario(options: &Options, number: usize) -> String {
    let Options { interval, ramp, .. } = options;
    let devices = options.devices / options.processes;
    let (in_step, first, most) = if options.spread { (false, "2s", "15s") } else { (true, "200ms", "1s") };
    // A device leaves after its last message, which is due within the last interval.
    let (network, duration) = (options.network_at(), options.killed_at() + options.way_back + interval);
    format!(
        "name = \"reconnect\"\nseed = 1\nduration = \"{duration}s\"\ndrain = \"60s\"\n\
         [[group]]\nname = \"storm\"\ncount = {devices}\nid = \"storm{number}-{{n:5}}\"\ninterval = \"{interval}s\"\n\
         jitter = 0.5\nramp = \"{ramp}s\"\nmqtt = \"5\"\n[group.values]\nn = {{ model = \"counter\" }}\n\
         [group.faults]\nreconnect = \"{first}\"\nreconnect_max = \"{most}\"\nreconnect_in_step = {in_step}\n\
         [[event]]\nkind = \"reconnect\"\nat = \"{network}s\"\nwithin = \"{}s\"\n",
        if options.spread { 10 } else { 0 }
    )
}

/// A simulator and the files of its run.
struct Simulated {
    child: Guarded,
    number: usize,
    /// Seconds since 1970 at its start.
    wall: f64,
}

impl Simulated {
    /// Writes the scenario and creates the credentials of its devices.
    fn prepare(site: &Site, options: &Options, way: Way, number: usize) -> anyhow::Result<()> {
        let (scenario_file, credentials) = (format!("storm-{number}.toml"), format!("devices-{number}.csv"));
        std::fs::write(site.path(&scenario_file), scenario(options, number))?;
        site.credentials(&credentials, &[&scenario_file, "--kind", way.kind()])
    }

    fn start(site: &Site, way: Way, number: usize) -> anyhow::Result<Self> {
        let (scenario_file, credentials) = (format!("storm-{number}.toml"), format!("devices-{number}.csv"));
        let (broker, samples) = (site.broker_of(number, way != Way::Plain)?, format!("samples-{number}.jsonl"));
        let ledger = format!("ledger-{number}");
        let arguments = ["run", &scenario_file, "--credentials", &credentials, "--json", "--quiet"];
        let mut command = site.simulator_of_server(&arguments)?;
        command.args(["--broker", &broker, "--per-source", "500", "--parallel", "32", "--ledger", &ledger]);
        command.args(["--samples", &samples, "--sample-every", "100ms"]);
        command.stdout(site.file(&format!("summary-{number}.json"))?);
        command.stderr(site.file(&format!("simulator-{number}.log"))?);
        let child = Guarded(command.spawn().with_context(|| format!("start {command:?}"))?);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        Ok(Self { child, number, wall })
    }

    /// Returns its summary and its samples, in seconds after `wall`.
    fn ended(&mut self, site: &Site, wall: f64) -> anyhow::Result<(Value, Vec<Sample>, f64)> {
        let (status, number) = (self.child.0.wait()?, self.number);
        let summary = std::fs::read_to_string(site.path(&format!("summary-{number}.json")))?;
        let summary: Value = serde_json::from_str(&summary).with_context(|| {
            let log = std::fs::read_to_string(site.path(&format!("simulator-{number}.log"))).unwrap_or_default();
            format!("the simulator ended with {status}: {log}")
        })?;
        ensure!(status.success(), "readings were lost, doubled or altered: {}", summary["stores"]);
        let samples = std::fs::read_to_string(site.path(&format!("samples-{number}.jsonl")))?;
        let samples: Result<Vec<Sample>, _> = samples.lines().map(serde_json::from_str).collect();
        let mut samples = samples?;
        // The simulator begins a moment after the process.
        let late = unix_seconds(summary["started"].as_str().context("the start")?)? - wall;
        samples.iter_mut().for_each(|sample| sample.at_secs += late);
        Ok((summary, samples, late))
    }
}

fn measure(options: &Options, way: Way, dir: &Path) -> anyhow::Result<String> {
    let servers = options.fleet.servers();
    let mut site = Site::start_all(dir, options.processes, servers.as_ref())?;
    let begun = Instant::now();
    let resident = |site: &Site| -> anyhow::Result<u64> {
        site.pids()?.into_iter().map(|pid| resident_bytes(pid).context("memory of Weir")).sum()
    };
    let idle = resident(&site)?;
    for number in 0..options.processes {
        Simulated::prepare(&site, options, way, number)?;
    }
    let prepared = begun.elapsed();
    // At the same moment, so that all devices come back together.
    let simulators = (0..options.processes).map(|number| Simulated::start(&site, way, number));
    let mut simulators = simulators.collect::<anyhow::Result<Vec<_>>>()?;
    let (begun, killed_at) = (Instant::now(), options.killed_at());
    let wall = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    // Of the earliest simulator.
    let ahead = simulators.first().map_or(0.0, |first| wall - first.wall);
    let (mut used, mut restart) = (Vec::new(), None);
    let mut running = true;
    while running {
        let at_secs = begun.elapsed().as_secs_f64();
        if restart.is_none() && at_secs + ahead >= killed_at as f64 {
            site.kill();
            restart = Some((at_secs, site.run()?));
        }
        for (node, pid) in site.pids()?.into_iter().enumerate() {
            if let Some((cpu_secs, resident)) = cpu_seconds(pid).zip(resident_bytes(pid)) {
                used.push(Use { at_secs, node, pid, cpu_secs, resident });
            }
        }
        pause(Duration::from_millis(50));
        running = false;
        for simulator in &mut simulators {
            running |= simulator.child.0.try_wait()?.is_none();
        }
    }
    let (killed, start_up) = restart.context("weir was killed")?;
    let (mut by_network, mut by_kill, mut acknowledged, mut failures) = (Vec::new(), Vec::new(), 0, Vec::new());
    let mut network = f64::MAX;
    for simulator in &mut simulators {
        let (summary, samples, late) = simulator.ended(&site, wall)?;
        let broken = options.network_at() as f64 + late;
        network = network.min(broken);
        by_network.push(storm(options, &samples, broken, killed, false)?);
        by_kill.push(storm(options, &samples, killed, f64::MAX, true)?);
        acknowledged += summary["total"]["acknowledged"].as_u64().context("acknowledged messages")?;
        failures.push(summary["last_failure"].to_string());
    }
    let mut lines = vec![
        row(way, "network", &Storm::of_all(&by_network), &used),
        row(way, "kill -9", &Storm::of_all(&by_kill), &used),
    ];
    let most = |node: usize| {
        let of_node = used.iter().filter(|u| u.node == node && u.at_secs < network);
        of_node.map(|u| u.resident).max().unwrap_or_default()
    };
    let full: u64 = (0..options.processes).map(most).sum();
    lines.push(format!(
        "\n{way:?}: {acknowledged} messages acknowledged, none lost or doubled; credentials in {prepared:.1?}; memory \
         {:.0} MB idle, {:.0} MB connected: {:.1} KiB each; start {start_up:.1?}; last failures: {}; load {}\n",
        idle as f64 / 1e6,
        full as f64 / 1e6,
        full.saturating_sub(idle) as f64 / 1024.0 / options.devices as f64,
        failures.join(", "),
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim(),
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

impl Storm {
    /// The way back of all fleets, each of which began at about the same moment.
    fn of_all(all: &[Self]) -> Self {
        let least = |of: fn(&Self) -> f64| all.iter().map(of).fold(f64::MAX, f64::min);
        let from = least(|storm| storm.from);
        let most = |of: fn(&Self) -> f64| all.iter().map(|storm| storm.from - from + of(storm)).fold(0.0, f64::max);
        Self {
            from,
            most_back: most(|storm| storm.most_back),
            all_back: most(|storm| storm.all_back),
            first: least(|storm| storm.first),
            connects: all.iter().map(|storm| storm.connects).sum(),
            failures: all.iter().map(|storm| storm.failures).sum(),
        }
    }
}

/// The reconnections between two moments, after the connections broke.
fn storm(options: &Options, samples: &[Sample], from: f64, until: f64, by_kill: bool) -> anyhow::Result<Storm> {
    let devices = (options.devices / options.processes) as u64;
    let before = samples.iter().rfind(|s| s.at_secs <= from).context("a sample before")?;
    ensure!(
        before.connected >= devices * 99 / 100,
        "{} of {devices} were connected before: give them a longer --steady",
        before.connected
    );
    let within: Vec<&Sample> = samples.iter().filter(|s| s.at_secs > from && s.at_secs < until).collect();
    // A connection that the broker breaks counts as failed.
    let broken = if by_kill { before.connected } else { 0 };
    let back = |count: u64| within.iter().find(|s| s.connects >= before.connects + count).map(|s| s.at_secs);
    // Some devices are between two connections by themselves at that moment.
    let missing = devices - before.connected;
    let end = back(devices - missing).with_context(|| {
        let last = within.last().map_or(0, |s| s.connects - before.connects);
        format!("{last} of {devices} devices are back: give them a longer --steady or --way-back")
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
    let nodes = used.iter().map(|u| u.node + 1).max().unwrap_or_default();
    let of_node = |node: usize| {
        let mut of_storm = used.iter().filter(|u| u.node == node && u.at_secs >= storm.from && u.at_secs <= end);
        let first = of_storm.next().copied();
        let last = of_storm.next_back().copied().or(first);
        // A process that was started in between begins at zero.
        let first = first.filter(|first| last.is_some_and(|last| last.pid == first.pid));
        last.map_or(0.0, |last| last.cpu_secs) - first.map_or(0.0, |first| first.cpu_secs)
    };
    let cpu: f64 = (0..nodes).map(of_node).sum();
    let rate = storm.connects as f64 / (storm.all_back - storm.first).max(0.001);
    format!(
        "| {way:?} | {after} | {:.1} s | {:.1} s | {rate:.0} | {:.0} us | {} |",
        storm.most_back,
        storm.all_back,
        cpu * 1e6 / storm.connects.max(1) as f64,
        storm.failures
    )
}
