//! A Weir under load, observed by a real Prometheus with the rules and panels of this repository,
//! until it is killed.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::alerting::{self, Page};
use super::dashboards::Dashboard;
use super::process::{Running, free_address, wait};
use super::rules::{files, filled};
use super::tools::Tools;
use super::{DEPLOY, http, none, promql};
use crate::{cargo, run};

/// Metrics that Prometheus itself creates.
const OF_PROMETHEUS: [&str; 2] = ["up", "ALERTS"];

/// Metrics that appear with the first failure of a store, with a store that this load does not use,
/// in a fleet, or with TLS or targets of the audit, and the files that register them.
const NOT_HERE: [(&str, &str, &str); 7] = [
    ("weir_audit_altered_chains", "server/src/run/checkpoints.rs", "\"altered_chains\""),
    ("weir_audit_checkpoints_failing", "server/src/run/checkpoints.rs", "\"checkpoints_failing\""),
    ("weir_bridge_connected", "bridge/src/metrics.rs", "register(\"connected\""),
    ("weir_fleet_changes_failed_total", "cluster/src/sessions/metrics.rs", "(\"changes_failed\""),
    ("weir_mongodb_commands_total", "stores/src/mongodb/metrics.rs", "register(\"commands\""),
    ("weir_mongodb_failures_total", "stores/src/mongodb/metrics.rs", "register(\"failures\""),
    ("weir_tls_certificate_expiry_timestamp_seconds", "tls/src/metrics.rs", "\"certificate_expiry_timestamp\""),
];

/// Panels that may be empty with these: a machine may have no disk of its own, and a rate per block
/// needs blocks.
const MAY_BE_EMPTY: [&str; 2] = ["node_filesystem_avail_bytes", "weir_mongodb_readings_total"];

/// Runs all processes and checks the metrics.
pub(super) fn check(tools: &Tools, boards: &[Dashboard], scratch: &Path) -> anyhow::Result<()> {
    run(cargo().args(["build", "--package", "weir-server", "--package", "weir-simulators", "--bins"]))?;
    let world = World::new(scratch)?;
    let weir = world.weir()?;
    let _node = world.start(tools, "prometheus-node-exporter", &[("--web.listen-address", world.node.to_string())])?;
    let _load = world.load()?;
    provoke(world.address("mqtt")?)?;
    let page = Page::listen()?;
    let _alertmanager = alerting::start(tools, &world, page.address)?;
    let _prometheus = world.prometheus(tools)?;

    let rules = world.rules()?;
    none("metrics that dashboards and rules name", wait_for_names(&world, boards, &rules)?)?;
    wait("every rule is evaluated and every panel has data", || {
        world.ask_weir()?;
        faultless(world.unhealthy()?)?;
        faultless(world.empty_panels(boards, &rules)?)
    })?;
    println!("observability: rules and panels: evaluated, with data");
    alerting::check(&world, weir, &page)
}

fn faultless(faults: Vec<String>) -> anyhow::Result<()> {
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// A rule in Prometheus.
pub(super) struct Rule {
    name: String,
    query: String,
    recording: bool,
}

/// Addresses and folders of the processes.
pub(super) struct World {
    pub(super) scratch: PathBuf,
    /// Address of Weir, unchanged after a restart.
    pub(super) http: SocketAddr,
    pub(super) alertmanager: SocketAddr,
    node: SocketAddr,
    prometheus: SocketAddr,
    programs: PathBuf,
}

impl World {
    fn new(scratch: &Path) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("find the folder of the programs")?;
        Ok(Self {
            scratch: scratch.to_owned(),
            http: free_address()?,
            alertmanager: free_address()?,
            node: free_address()?,
            prometheus: free_address()?,
            programs: own.parent().context("a program lies in a folder")?.to_owned(),
        })
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WEIR_")) {
            command.env_remove(variable);
        }
        // A folder without a foreign weir.toml.
        command.current_dir(&self.scratch);
        command
    }

    /// Starts Weir with small files and short intervals, so that all metrics appear soon.
    pub(super) fn weir(&self) -> anyhow::Result<Running> {
        let addresses = self.scratch.join("data/addresses.json");
        // A file of the previous start.
        std::fs::remove_file(&addresses).ok();
        let mut command = self.program("weir");
        command.args(["run", "--mqtt", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--data-dir", "data", "--http"]);
        command.arg(self.http.to_string());
        command.envs([
            ("WEIR_LOG_SEGMENT_BYTES", "1048576"),
            ("WEIR_HISTORY_FLUSH_INTERVAL_MS", "500"),
            ("WEIR_LATEST_FLUSH_INTERVAL_MS", "500"),
        ]);
        let mut running = Running::start(&mut command, &self.scratch.join("weir.log"))?;
        wait("weir listens", || {
            running.alive()?;
            self.address("mqtt").map(drop)
        })?;
        Ok(running)
    }

    fn address(&self, of: &str) -> anyhow::Result<SocketAddr> {
        let path = self.scratch.join("data/addresses.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let addresses: serde_json::Value = serde_json::from_str(&text)?;
        Ok(addresses[of].as_str().context("an address")?.parse()?)
    }

    fn load(&self) -> anyhow::Result<Running> {
        let mut command = self.program("weir-sim");
        command.args(["bench", "--conns", "20", "--rate", "2000", "--secs", "600", "--threads", "1", "--broker"]);
        command.arg(self.address("mqtt")?.to_string());
        Running::start(&mut command, &self.scratch.join("load.log"))
    }

    /// Makes gRPC calls, which are counted.
    fn ask_weir(&self) -> anyhow::Result<()> {
        let server = format!("http://{}", self.address("grpc")?);
        for arguments in [&["latest", "sim-1"][..], &["query", "sim-1", "--limit", "1"]] {
            let mut command = self.program("weir");
            let output = command.args(arguments).args(["--server", &server]).output().context("start weir")?;
            ensure!(output.status.success(), "weir {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Starts one of the tools with its options.
    pub(super) fn start(&self, tools: &Tools, program: &str, options: &[(&str, String)]) -> anyhow::Result<Running> {
        let mut command = tools.command(program);
        command.current_dir(&self.scratch).args(options.iter().map(|(name, value)| format!("{name}={value}")));
        Running::start(&mut command, &self.scratch.join(format!("{program}.log")))
    }

    /// Prometheus' configuration with the addresses of this run and short intervals.
    fn prometheus(&self, tools: &Tools) -> anyhow::Result<Running> {
        let ours = Path::new(DEPLOY).join("prometheus");
        let mut config = std::fs::read_to_string(ours.join("prometheus.yml"))?;
        for (from, to) in [
            ("weir:8080", self.http.to_string()),
            ("scheme: https", "scheme: http".to_owned()),
            ("    tls_config: { ca_file: /etc/weir/tls/ca.pem }\n", String::new()),
            ("node-exporter:9100", self.node.to_string()),
            ("localhost:9090", self.prometheus.to_string()),
            ("alertmanager:9093", self.alertmanager.to_string()),
            ("_interval: 10s", "_interval: 1s".to_owned()),
        ] {
            ensure!(config.contains(from), "prometheus.yml does not contain {from}");
            config = config.replace(from, &to);
        }
        std::fs::write(self.scratch.join("prometheus.yml"), config)?;
        let rules = self.scratch.join("rules");
        std::fs::create_dir_all(&rules)?;
        for file in files(&ours.join("rules"))? {
            let text = std::fs::read_to_string(&file)?;
            let at_once = |line: &str| {
                if line.trim().starts_with("for: ") { "        for: 1s\n".into() } else { format!("{line}\n") }
            };
            let text: String = text.lines().map(at_once).collect();
            std::fs::write(rules.join(file.file_name().context("a file has a name")?), text)?;
        }
        let options = [
            ("--config.file", "prometheus.yml".to_owned()),
            ("--storage.tsdb.path", "prometheus".to_owned()),
            ("--web.listen-address", self.prometheus.to_string()),
        ];
        let mut running = self.start(tools, "prometheus", &options)?;
        wait("prometheus has our rules", || {
            running.alive()?;
            ensure!(!self.rules()?.is_empty(), "it has no rules");
            Ok(())
        })?;
        Ok(running)
    }

    fn groups(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        let answer = http::get(self.prometheus, "/api/v1/rules")?.json()?;
        let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
        Ok(groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect())
    }

    fn rules(&self) -> anyhow::Result<Vec<Rule>> {
        let rule = |rule: &serde_json::Value| {
            let text = |key: &str| rule[key].as_str().unwrap_or_default().to_owned();
            Rule { name: text("name"), query: text("query"), recording: rule["type"] == "recording" }
        };
        Ok(self.groups()?.iter().map(rule).collect())
    }

    fn unhealthy(&self) -> anyhow::Result<Vec<String>> {
        let groups = self.groups()?;
        let bad = groups.iter().filter(|rule| rule["health"] != "ok");
        Ok(bad.map(|rule| format!("rule {} is {}: {}", rule["name"], rule["health"], rule["lastError"])).collect())
    }

    /// Queries without a result, and recorded metrics without a series.
    fn empty_panels(&self, boards: &[Dashboard], rules: &[Rule]) -> anyhow::Result<Vec<String>> {
        let queries = boards.iter().flat_map(Dashboard::queries).filter(|q| q.source == "prometheus" && q.panel);
        let queries = queries.map(|query| (query.from, filled(&query.text)));
        let recorded = rules.iter().filter(|rule| rule.recording);
        let recorded = recorded.map(|rule| ("a rule".to_owned(), rule.name.clone()));
        let mut faults = Vec::new();
        for (from, expression) in queries.chain(recorded) {
            let may_be_empty = NOT_HERE.iter().map(|(name, ..)| *name).chain(MAY_BE_EMPTY);
            let named = promql::names(&expression);
            let answer = http::get(self.prometheus, &format!("/api/v1/query?query={}", http::escaped(&expression)))?;
            let result = answer.json()?;
            ensure!(result["status"] == "success", "{from}: {expression}: {}", answer.body);
            let empty = result["data"]["result"].as_array().is_none_or(Vec::is_empty);
            if empty && !may_be_empty.into_iter().any(|name| named.contains(name)) {
                faults.push(format!("{from} has no data: {expression}"));
            }
        }
        Ok(faults)
    }
}

/// Fails with metrics that are still missing at the end of the bound.
fn wait_for_names(world: &World, boards: &[Dashboard], rules: &[Rule]) -> anyhow::Result<Vec<String>> {
    let mut named = BTreeSet::new();
    for query in boards.iter().flat_map(Dashboard::queries).filter(|query| query.source == "prometheus") {
        named.extend(promql::names(&query.text));
    }
    for rule in rules {
        named.extend(promql::names(&rule.query));
    }
    let recorded: BTreeSet<String> = rules.iter().filter(|r| r.recording).map(|r| r.name.clone()).collect();
    let mut faults = Vec::new();
    for (name, file, registered) in NOT_HERE {
        if !std::fs::read_to_string(file).with_context(|| format!("read {file}"))?.contains(registered) {
            faults.push(format!("{name} is registered no more in {file}"));
        }
        named.remove(name);
    }
    let found = wait("every metric is there", || {
        world.ask_weir()?;
        let mut there = scraped(world.http)?;
        there.extend(scraped(world.node)?);
        there.extend(recorded.iter().cloned());
        there.extend(OF_PROMETHEUS.map(str::to_owned));
        let missing: Vec<String> = named.difference(&there).cloned().collect();
        ensure!(missing.is_empty(), "the scrape lacks the metrics {}", missing.join(", "));
        Ok(there)
    })?;
    for (name, ..) in NOT_HERE.iter().filter(|(name, ..)| found.contains(*name)) {
        faults.push(format!("{name} is there: it needs no exception"));
    }
    println!("observability: {} metrics are used, and all of them exist", named.len());
    Ok(faults)
}

/// The names of all samples.
fn scraped(server: SocketAddr) -> anyhow::Result<BTreeSet<String>> {
    let answer = http::get(server, "/metrics")?;
    ensure!(answer.status == 200, "{server} returns {} for /metrics", answer.status);
    let samples = answer.body.lines().filter(|line| !line.starts_with('#'));
    Ok(samples.filter_map(|line| Some(line.split(['{', ' ']).next()?.to_owned())).collect())
}

/// Causes dropped messages, by a disconnected subscriber at QoS 0, and an unreadable message.
fn provoke(mqtt: SocketAddr) -> anyhow::Result<()> {
    let connect = b"\x10\x10\0\x04MQTT\x04\0\0\x3c\0\x04away";
    let subscribe = b"\x82\x0e\0\x01\0\x09devices/#\0";
    let publish = b"\x32\0\0\x15devices/odd/telemetry\0\x02{{{{";
    talk(mqtt, &[(connect, 4), (subscribe, 5)])?;
    let mut message = publish.to_vec();
    // The length of what follows the first two bytes.
    message[1] = u8::try_from(message.len() - 2).context("a short message")?;
    let connect = b"\x10\x0f\0\x04MQTT\x04\x02\0\x3c\0\x03odd";
    talk(mqtt, &[(connect, 4), (&message, 4)])
}

/// Sends packets, and reads the given number of bytes after each.
fn talk(mqtt: SocketAddr, packets: &[(&[u8], usize)]) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(mqtt)?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30)))?;
    for (packet, length) in packets {
        stream.write_all(packet)?;
        stream.read_exact(&mut vec![0; *length]).context("an answer over MQTT")?;
    }
    Ok(())
}
