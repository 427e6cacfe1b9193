//! A Mosquitto that bridges to Weir, and a Weir that bridges to Mosquitto: every message once on
//! each side, retained ones retained.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use weir_e2e::keyed::{Keyed, init, run};
use weir_e2e::services::{Mosquitto, skipped};
use weir_e2e::{Weir, checked, program, wait_until};

const BOUND: Duration = Duration::from_secs(20);
const COUNT: usize = 12;

/// Topics that a client has seen: how often, and whether retained.
type Seen = Arc<Mutex<BTreeMap<String, Vec<bool>>>>;

fn lock(seen: &Seen) -> MutexGuard<'_, BTreeMap<String, Vec<bool>>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client of one side.
struct Side {
    client: AsyncClient,
    seen: Seen,
    task: tokio::task::JoinHandle<()>,
}

impl Side {
    /// Subscribes to `x/#`.
    async fn join(address: SocketAddr, id: &str) -> anyhow::Result<Self> {
        let mut options = MqttOptions::new(id, "127.0.0.1", address.port());
        options.set_keep_alive(Duration::from_secs(30));
        let (client, mut events) = AsyncClient::new(options, 100);
        client.subscribe("x/#", QoS::ExactlyOnce).await?;
        let seen = Seen::default();
        let subscribed = Arc::new(tokio::sync::Notify::new());
        let task = tokio::spawn({
            let (seen, subscribed) = (Arc::clone(&seen), Arc::clone(&subscribed));
            async move {
                while let Ok(event) = events.poll().await {
                    match event {
                        Event::Incoming(Packet::SubAck(_)) => subscribed.notify_one(),
                        Event::Incoming(Packet::Publish(publish)) => {
                            lock(&seen).entry(publish.topic).or_default().push(publish.retain);
                        }
                        _ => {}
                    }
                }
            }
        });
        tokio::time::timeout(BOUND, subscribed.notified()).await?;
        Ok(Self { client, seen, task })
    }

    async fn publish(&self, topic: &str, qos: usize, retain: bool) -> anyhow::Result<()> {
        let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][qos];
        Ok(self.client.publish(topic, qos, retain, "1").await?)
    }

    async fn has(&self, topic: &str) -> anyhow::Result<()> {
        wait_until("a message", BOUND, async || {
            ensure!(lock(&self.seen).contains_key(topic), "no {topic}: {:?}", lock(&self.seen));
            Ok(())
        })
        .await
    }

    /// Asserts how often each message of one side has come.
    fn check(&self, from: &str, times: usize, what: &str) -> anyhow::Result<()> {
        let seen = lock(&self.seen);
        for n in 0..COUNT {
            let topic = format!("x/{from}/{n}");
            let found = seen.get(&topic).map_or(0, Vec::len);
            ensure!(found == times, "{what}: {topic} came {found} times: {seen:?}");
        }
        Ok(())
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts both brokers and a bridge of Mosquitto, and asserts how often the messages of each side
/// have come to the other and to itself: (edge at Weir, Weir at the edge, edge at the edge).
async fn bridged(settings: &str, direction: &str, counts: (usize, usize, usize)) -> anyhow::Result<()> {
    let what = format!("{direction}, {}", settings.replace('\n', ", "));
    let dir = tempfile::tempdir()?;
    let weir = Weir::start(dir.path())?;
    let bridge = format!(
        "connection weir\naddress {}\n{settings}\ntopic x/# {direction} 2\nnotifications false\nrestart_timeout 1\n\
         cleansession true",
        weir.mqtt
    );
    let early = Side::join(weir.mqtt, "early").await?;
    early.publish("x/kept/weir", 1, true).await?;
    early.has("x/kept/weir").await?;
    let edge = Mosquitto::start(&dir.path().join("edge"), &bridge)?;
    let keeps = !settings.contains("try_private false");
    exchange(&what, (weir.mqtt, edge.0.address), counts, keeps).await?;
    drop((edge, early));
    weir.stop()
}

/// Publishes at Weir and at a Mosquitto, the edge, and asserts how often the messages have come.
async fn exchange(
    what: &str,
    (weir, edge): (SocketAddr, SocketAddr),
    counts: (usize, usize, usize),
    keeps: bool,
) -> anyhow::Result<()> {
    let (at_weir, at_edge) = (Side::join(weir, "a").await?, Side::join(edge, "b").await?);
    // Until the bridge is there.
    wait_until("the bridge", BOUND, async || {
        at_edge.publish("x/probe/edge", 1, false).await?;
        at_weir.publish("x/probe/weir", 1, false).await?;
        ensure!(counts.0 == 0 || lock(&at_weir.seen).contains_key("x/probe/edge"), "{what}: not to Weir");
        ensure!(counts.1 == 0 || lock(&at_edge.seen).contains_key("x/probe/weir"), "{what}: not to the edge");
        Ok(())
    })
    .await?;
    for n in 0..COUNT {
        at_edge.publish(&format!("x/edge/{n}"), n % 3, false).await?;
        at_weir.publish(&format!("x/weir/{n}"), n % 3, false).await?;
    }
    at_edge.publish("x/kept/edge", 1, true).await?;
    // What comes back, or goes round, comes before these.
    for round in ["x/last/1", "x/last/2", "x/last/3"] {
        for side in [&at_edge, &at_weir] {
            let topic = format!("{round}/{}", if std::ptr::eq(side, &at_edge) { "edge" } else { "weir" });
            side.publish(&topic, 1, false).await?;
            side.has(&topic).await?;
        }
        if counts.0 > 0 {
            at_weir.has(&format!("{round}/edge")).await?;
        }
        if counts.1 > 0 {
            at_edge.has(&format!("{round}/weir")).await?;
        }
    }
    at_weir.check("weir", 1, what)?;
    at_weir.check("edge", counts.0, what)?;
    at_edge.check("weir", counts.1, what)?;
    at_edge.check("edge", counts.2, what)?;
    // Retained on one side is retained on the other.
    if counts.0 > 0 {
        let late = Side::join(weir, "late").await?;
        late.has("x/kept/edge").await?;
        ensure!(lock(&late.seen)["x/kept/edge"] == [true], "{what}: not retained at Weir");
    }
    if counts.1 > 0 && keeps {
        let late = Side::join(edge, "late").await?;
        late.has("x/kept/weir").await?;
        ensure!(lock(&late.seen)["x/kept/weir"] == [true], "{what}: not retained at the edge");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mosquitto_bridge_gets_and_gives_every_message_once() -> anyhow::Result<()> {
    if skipped("bridges", &["mosquitto"])? {
        return Ok(());
    }
    for version in ["mqttv311", "mqttv50", "mqttv31"] {
        let settings = format!("bridge_protocol_version {version}\ntry_private true");
        bridged(&settings, "both", (1, 1, 1)).await?;
    }
    let settings = "bridge_protocol_version mqttv311\ntry_private true";
    bridged(settings, "in", (0, 1, 1)).await?;
    bridged(settings, "out", (1, 0, 1)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_does_not_say_so_never_loops() -> anyhow::Result<()> {
    if skipped("bridges", &["mosquitto"])? {
        return Ok(());
    }
    let settings = "bridge_protocol_version mqttv311\ntry_private false";
    bridged(settings, "in", (0, 1, 1)).await?;
    bridged(settings, "out", (1, 0, 1)).await?;
    // 3.1.1 without the bridge bit cannot ask for no-local: its own messages come back to it.
    bridged(settings, "both", (1, 1, 2)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_weir_bridges_to_mosquitto_and_back_and_every_message_comes_once() -> anyhow::Result<()> {
    if skipped("bridges", &["mosquitto"])? {
        return Ok(());
    }
    for version in ["5", "3.1.1"] {
        let dir = tempfile::tempdir()?;
        let edge = Mosquitto::start(&dir.path().join("edge"), "")?;
        let file = dir.path().join("weir.toml");
        let address = edge.0.address;
        let bridge = format!("[[bridge]]\nname = \"m\"\naddress = \"mqtt://{address}\"\nversion = \"{version}\"\n");
        let topic = "[[bridge.topic]]\nfilter = \"x/#\"\ndirection = \"both\"\nqos = 2\n";
        std::fs::write(&file, format!("{bridge}client_id = \"weir\"\nmax_wait_secs = 1\n{topic}"))?;
        let settings = [("WEIR_CONFIG", file.to_str().context("a path is text")?)];
        let weir = Weir::start_with(dir.path(), "127.0.0.1:0", &settings)?;
        let early = Side::join(weir.mqtt, "early").await?;
        early.publish("x/kept/weir", 1, true).await?;
        early.has("x/kept/weir").await?;
        exchange(&format!("Weir bridges, {version}"), (weir.mqtt, address), (1, 1, 1), true).await?;
        let metrics = weir.get("/metrics")?;
        ensure!(metrics.contains("weir_bridge_connected{bridge=\"m\"} 1"), "{metrics}");
        ensure!(!metrics.contains("weir_bridge_dropped_total{"), "{metrics}");
        // The other broker goes: the status names the bridge.
        drop(edge);
        wait_until("the status names the bridge", BOUND, async || {
            let status = weir.get("/health/ready")?;
            ensure!(status.starts_with("HTTP/1.1 200") && status.contains("bridge m"), "{status}");
            Ok(())
        })
        .await?;
        drop(early);
        weir.stop()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_whose_tenant_is_deleted_ends_and_says_why() -> anyhow::Result<()> {
    const TENANTS: [&str; 2] = ["acme", "other"];
    if skipped("bridges", &["mosquitto"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let centre = Mosquitto::start(&dir.path().join("centre"), "")?;
    let key = init(dir.path())?;
    let file = dir.path().join("weir.toml");
    let mut text = std::fs::read_to_string(&file)?;
    for tenant in TENANTS {
        text.push_str(&format!(
            "\n[[bridge]]\nname = {tenant:?}\ntenant = {tenant:?}\naddress = \"mqtt://{}\"\nclient_id = {tenant:?}\n\
             max_wait_secs = 1\n[[bridge.topic]]\nfilter = \"devices/#\"\nremote_prefix = \"x/{tenant}/\"\n",
            centre.0.address
        ));
    }
    std::fs::write(&file, text)?;
    let site = Keyed { weir: run(dir.path())?, key };
    let at_centre = Side::join(centre.0.address, "look").await?;
    let mut passwords = BTreeMap::new();
    for tenant in TENANTS {
        site.cli(&site.key, &["tenants", "add", tenant])?;
        passwords.insert(tenant, site.add_device_of(tenant, tenant)?.1);
    }
    let publish = |weir: &Weir, tenant: &str, name: &str| {
        let (port, topic) = (weir.mqtt.port().to_string(), format!("devices/{tenant}/{name}"));
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-i", tenant, "-u", tenant]);
        command.args(["-P", &passwords[tenant], "-t", &topic, "-m", "1"]);
        checked("mosquitto_pub", command.output()?)
    };
    for tenant in TENANTS {
        wait_until("the bridge", BOUND, async || {
            publish(&site.weir, tenant, "first")?;
            let seen = lock(&at_centre.seen).contains_key(&format!("x/{tenant}/devices/{tenant}/first"));
            ensure!(seen, "{tenant} is not bridged yet");
            Ok(())
        })
        .await?;
    }
    site.cli(&site.key, &["tenants", "delete", "acme", "--now"])?;
    let why = "\"bridge acme\",\"reason\":\"its tenant acme is deleted: remove the table [[bridge]]\"";
    let named = async |weir: &Weir| {
        wait_until("the status says why the bridge has ended", BOUND, async || {
            let ready = weir.get("/health/ready")?;
            ensure!(ready.starts_with("HTTP/1.1 200") && ready.contains(why), "{ready}");
            let metrics = weir.get("/metrics")?;
            let is = |tenant: &str, connected: u8| {
                metrics.contains(&format!("weir_bridge_connected{{bridge=\"{tenant}\"}} {connected}"))
            };
            ensure!(is("acme", 0) && is("other", 1), "{metrics}");
            Ok(())
        })
        .await
    };
    named(&site.weir).await?;
    let mut doctor = Command::new(program("weir")?);
    doctor.current_dir(dir.path()).args(["doctor", "--config", "weir.toml", "--data-dir", "data"]);
    let doctor = doctor.env("WEIR_API_KEY", &site.key).output()?;
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let line = |bridge: &str| doctor.lines().find(|line| line.contains(&format!("  bridge {bridge} ")));
    let (ended, runs) = (line("acme").with_context(|| doctor.clone())?, line("other").context("a bridge")?);
    ensure!(ended.starts_with("warn") && ended.contains("its tenant acme is deleted"), "{doctor}");
    ensure!(runs.starts_with("ok"), "{doctor}");
    publish(&site.weir, "other", "last")?;
    at_centre.has("x/other/devices/other/last").await?;
    // Nor does it begin at the next start.
    site.weir.stop()?;
    let weir = run(dir.path())?;
    named(&weir).await?;
    weir.stop()
}
