//! Sessions under fire: devices and subscribers whose sessions last, which the simulator plays
//! while a test breaks connections or kills processes. The simulator's oracle verifies each
//! delivery.
//!
//! `WEIR_FIRE_SECS` sets the time in which devices send.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};

use crate::play::Run;
use crate::program;

/// Subscribers of the scenario.
const SUBSCRIBERS: usize = 8;
/// Devices and subscribers.
pub const CLIENTS: u64 = 16 + SUBSCRIBERS as u64;

/// Telemetry and commands of both QoS and versions, and subscribers to all of it.
fn scenario(secs: u64, interval: Duration, seed: u32) -> String {
    let mut text = format!("name = \"fire\"\nseed = {seed}\nduration = \"{secs}s\"\ndrain = \"60s\"\n");
    for (name, topic, qos, mqtt) in [
        ("readings", "devices/{device}/telemetry", 1, "5"),
        ("meters", "devices/{device}/telemetry", 2, "3.1.1"),
        ("orders", "commands/{device}", 1, "3.1.1"),
        ("recipes", "commands/{device}", 2, "5"),
    ] {
        text.push_str(&format!(
            "\n[[group]]\nname = \"{name}\"\ncount = 4\ninterval = \"{}ms\"\njitter = 0.3\ntopic = \"{topic}\"\n\
             qos = {qos}\nmqtt = \"{mqtt}\"\nclean_start = false\nsession_expiry = \"1h\"\nin_flight = 20\n\
             values.count = {{ model = \"counter\" }}\nfaults = {{ reconnect = \"200ms\", reconnect_max = \"2s\" }}\n",
            interval.as_millis()
        ));
    }
    // All nodes know the subscriptions when the first messages are sent.
    text.push_str("\n[[event]]\nkind = \"offline\"\nat = \"0s\"\nfor = \"1s\"\n");
    for (name, filter, qos, mqtt) in [
        ("all-twice", "#", 2, "5"),
        ("all-once", "#", 1, "3.1.1"),
        ("commands", "commands/+", 2, "3.1.1"),
        ("readings", "devices/+/telemetry", 1, "5"),
    ] {
        text.push_str(&format!(
            "\n[[subscriber]]\nname = \"sub-{name}\"\ncount = 2\nfilter = \"{filter}\"\nqos = {qos}\nmqtt = \"{mqtt}\"\n"
        ));
    }
    text
}

/// Random numbers of a test.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A number from 0 to below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A fleet with its subscribers that plays against a broker. It ends when dropped.
pub struct Fire {
    fleet: Run,
    dir: PathBuf,
    /// Messages that each subscriber must get at least.
    acknowledged: u64,
    /// Random numbers.
    pub random: Random,
}

impl Fire {
    /// Starts 16 devices, each of which sends a message every `interval`, and eight subscribers.
    /// Each connection goes to one of the brokers. They send for `secs`, unless `WEIR_FIRE_SECS` is
    /// set. Scenario, ledger and output are in `dir`.
    ///
    /// # Errors
    /// When the simulator does not start.
    pub fn begin(dir: &Path, brokers: &[SocketAddr], secs: u64, interval: Duration) -> anyhow::Result<Self> {
        let secs = std::env::var("WEIR_FIRE_SECS").map_or(Ok(secs), |text| text.parse()).context("WEIR_FIRE_SECS")?;
        let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos();
        println!("seed {seed}");
        let path = dir.join("fire.toml");
        std::fs::write(&path, scenario(secs, interval, seed))?;
        let brokers: Vec<String> = brokers.iter().map(SocketAddr::to_string).collect();
        let mut command = Command::new(program("weir-sim")?);
        command.arg("run").arg(path).args(["--quiet", "--json", "--broker", &brokers.join(",")]);
        command.arg("--ledger").arg(dir.join("ledger")).stdin(Stdio::null());
        command.stdout(File::create(dir.join("fire.json"))?).stderr(File::create(dir.join("fire.log"))?);
        let acknowledged = secs * 4 * 100 / u64::try_from(interval.as_millis())?;
        let random = Random(u64::from(seed) | 1);
        Ok(Self { fleet: Run(command.spawn()?), dir: dir.to_owned(), acknowledged, random })
    }

    /// True while the fleet plays.
    ///
    /// # Errors
    /// When the status is unavailable.
    pub fn plays(&mut self) -> anyhow::Result<bool> {
        Ok(self.fleet.0.try_wait()?.is_none())
    }

    /// Waits for a random moment. False when the fleet has ended.
    ///
    /// # Errors
    /// When the status is unavailable.
    pub async fn goes_on(&mut self, most: Duration) -> anyhow::Result<bool> {
        let most = u64::try_from(most.as_millis())?;
        tokio::time::sleep(Duration::from_millis(most / 8 + self.random.below(most))).await;
        self.plays()
    }

    /// Waits for the end of the fleet. Asserts that each subscriber has got all it must have, in
    /// order, each QoS 2 message once, and over more than that many connections on average.
    ///
    /// # Errors
    /// When it has not; the error has the simulator's report.
    pub fn end(mut self, connections: u64) -> anyhow::Result<()> {
        let status = self.fleet.0.wait()?;
        let read = |name: &str| std::fs::read_to_string(self.dir.join(name));
        let out = read("fire.json")?;
        ensure!(status.success(), "weir-sim run ended with {status}:\n{out}{}", read("fire.log")?);
        let summary: serde_json::Value = serde_json::from_str(&out)?;
        let reports = summary["subscribers"].as_array().context("subscribers")?;
        ensure!(reports.len() == SUBSCRIBERS, "{out}");
        let mut all = 0;
        for report in reports {
            println!("{report}");
            let acknowledged = report["acknowledged"].as_u64();
            ensure!(acknowledged > Some(self.acknowledged), "too few to show anything: {report}");
            all += report["connections"].as_u64().context("a count")?;
        }
        ensure!(all > connections * SUBSCRIBERS as u64, "too few connections: {out}");
        Ok(())
    }
}
