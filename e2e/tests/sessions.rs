//! Sessions under fire: subscribers whose sessions last and devices, while connections break or
//! Weir is killed at random moments. The simulator's oracle verifies each delivery.
//!
//! `WEIR_FIRE_SECS` sets the time in which devices send (12).

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use weir_e2e::partition::Partition;
use weir_e2e::{Weir, checked, program};

/// Telemetry and commands of both QoS and versions, and subscribers to all of it.
fn scenario(secs: u64, seed: u32) -> String {
    let mut text = format!("name = \"fire\"\nseed = {seed}\nduration = \"{secs}s\"\ndrain = \"60s\"\n");
    for (name, topic, qos, mqtt) in [
        ("readings", "devices/{device}/telemetry", 1, "5"),
        ("meters", "devices/{device}/telemetry", 2, "3.1.1"),
        ("orders", "commands/{device}", 1, "3.1.1"),
        ("recipes", "commands/{device}", 2, "5"),
    ] {
        text.push_str(&format!(
            "\n[[group]]\nname = \"{name}\"\ncount = 4\ninterval = \"20ms\"\njitter = 0.3\ntopic = \"{topic}\"\n\
             qos = {qos}\nmqtt = \"{mqtt}\"\nclean_start = false\nsession_expiry = \"1h\"\nin_flight = 20\n\
             values.count = {{ model = \"counter\" }}\n"
        ));
    }
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

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A fleet with its subscribers that plays against a broker.
struct Fire {
    fleet: Child,
    secs: u64,
    random: Random,
}

impl Fire {
    fn begin(dir: &Path, broker: SocketAddr) -> anyhow::Result<Self> {
        let secs = std::env::var("WEIR_FIRE_SECS").map_or(Ok(12), |text| text.parse()).context("WEIR_FIRE_SECS")?;
        let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos();
        println!("seed {seed}");
        let path = dir.join("fire.toml");
        std::fs::write(&path, scenario(secs, seed))?;
        let mut command = Command::new(program("weir-sim")?);
        command.args(["run", path.to_str().context("a path is text")?, "--quiet", "--json"]);
        command.args(["--broker", &broker.to_string()]);
        let fleet = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        Ok(Self { fleet, secs, random: Random(u64::from(seed) | 1) })
    }

    /// Waits for a random moment. False when the fleet has ended.
    async fn goes_on(&mut self, most: Duration) -> anyhow::Result<bool> {
        let most = u64::try_from(most.as_millis())?;
        tokio::time::sleep(Duration::from_millis(most / 8 + self.random.below(most))).await;
        Ok(self.fleet.try_wait()?.is_none())
    }

    /// Checks that no subscriber has a fault, and that each was connected more often than that.
    fn end(self, connections: u64) -> anyhow::Result<()> {
        let out = checked("weir-sim run", self.fleet.wait_with_output()?)?;
        let summary: serde_json::Value = serde_json::from_str(&out)?;
        let reports = summary["subscribers"].as_array().context("subscribers")?;
        ensure!(reports.len() == 8, "{out}");
        for report in reports {
            println!("{report}");
            ensure!(report["acknowledged"].as_u64() > Some(20 * self.secs), "too few to show anything: {report}");
            ensure!(report["connections"].as_u64() > Some(connections), "too few connections: {report}");
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_lose_and_double_nothing_while_connections_break() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let weir = Weir::start(dir.path())?;
    let network = Partition::new(weir.mqtt).await?;
    let mut fire = Fire::begin(dir.path(), network.address)?;
    let mut breaks = 0;
    while fire.goes_on(Duration::from_millis(1_500)).await? {
        network.drop_connections();
        breaks += 1;
    }
    println!("{breaks} breaks");
    fire.end(3)?;
    weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_lose_and_double_nothing_while_weir_is_killed() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut weir = Weir::start(dir.path())?;
    let mqtt = weir.mqtt;
    let mut fire = Fire::begin(dir.path(), mqtt)?;
    let mut kills = 0;
    while fire.goes_on(Duration::from_secs(3)).await? {
        weir.kill()?;
        weir = Weir::start_with(dir.path(), &mqtt.to_string(), &[])
            .with_context(|| format!("start after kill {kills}"))?;
        kills += 1;
    }
    println!("{kills} kills");
    fire.end(2)?;
    weir.stop()
}
