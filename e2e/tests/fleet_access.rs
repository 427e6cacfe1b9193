//! Authentication in a fleet: one registry on PostgreSQL for several processes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use mqtt_client::{Connect, Packet, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir_e2e::keyed_fleet::KeyedFleet;
use weir_e2e::partition::Partition;
use weir_e2e::services::{Postgres, skipped};
use weir_e2e::site::Site;
use weir_e2e::wait_until;

const WAIT: Duration = Duration::from_secs(30);
/// The bound within which a revocation reaches every process that reads the registry.
const BOUND: Duration = Duration::from_secs(5);
/// MQTT 5: administrative action.
const ADMINISTRATIVE_ACTION: u8 = 0x98;
const DEVICES: usize = 20;

/// Three processes. The third one reaches the registry through a network that can be cut.
async fn partitioned() -> anyhow::Result<(KeyedFleet, Partition, Postgres)> {
    let site = Site::new(false, &[("WEIR_AUTH_REQUIRED", "true")]).await?;
    let postgres = Postgres::start(&site.dir.path().join("postgres")).await?;
    let network = Partition::new(postgres.0.address).await?;
    let registries = [postgres.url(), postgres.url(), postgres.url_at(network.address)];
    Ok((KeyedFleet::with(site, &registries)?, network, postgres))
}

/// A connected device.
struct Client(TcpStream);

impl Client {
    /// Connects. The error is the reason code of the refusal.
    async fn connect(broker: SocketAddr, device: &str, tool: &str, secret: &str) -> anyhow::Result<Result<Self, u8>> {
        let mut stream = TcpStream::connect(broker).await?;
        let id = format!("{device}:{tool}");
        let connect = Connect {
            version: Version::V5,
            client_id: &id,
            clean_start: true,
            username: Some(device),
            password: Some(secret.as_bytes()),
            ..Connect::default()
        };
        let mut out = Vec::new();
        mqtt_client::connect(&mut out, &connect);
        stream.write_all(&out).await?;
        let mut client = Self(stream);
        match client.next().await? {
            Some(Reason::Connack(0)) => Ok(Ok(client)),
            Some(Reason::Connack(code)) => Ok(Err(code)),
            other => bail!("the answer to CONNECT is {other:?}"),
        }
    }

    /// Returns the next answer of the broker, `None` at the end of the connection.
    async fn next(&mut self) -> anyhow::Result<Option<Reason>> {
        let mut input = Vec::new();
        loop {
            if let Some((packet, _)) = mqtt_client::decode(&input, Version::V5).map_err(anyhow::Error::msg)? {
                return Ok(Some(match packet {
                    Packet::Connack { reason, .. } => Reason::Connack(reason),
                    Packet::Disconnect { reason, .. } => Reason::Disconnect(reason),
                    other => bail!("{other:?}"),
                }));
            }
            let read = self.0.read_buf(&mut input);
            if tokio::time::timeout(WAIT, read).await.context("the broker is silent")?? == 0 {
                return Ok(None);
            }
        }
    }

    /// Waits for the end that a revocation brings; returns its time.
    async fn ended(mut self) -> anyhow::Result<Instant> {
        let reason = self.next().await?;
        ensure!(matches!(reason, Some(Reason::Disconnect(ADMINISTRATIVE_ACTION))), "{reason:?}");
        Ok(Instant::now())
    }
}

#[derive(Debug)]
enum Reason {
    Connack(u8),
    Disconnect(u8),
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_sessions_on_every_node_and_on_a_partitioned_one_when_it_is_back() -> anyhow::Result<()> {
    if skipped("a_revocation_ends_sessions_on_every_node", &["redis-server", "mongod", "postgres"])? {
        return Ok(());
    }
    let (fleet, network, _postgres) = partitioned().await?;
    let mut devices = Vec::new();
    for number in 0..DEVICES {
        let device = format!("d{number}");
        // Added on one node, known on all.
        let (id, secret) = fleet.add(number % 3, &device)?;
        let mut clients = Vec::new();
        for node in &fleet.nodes {
            let connected = Client::connect(node.mqtt, &device, &format!("on-{}", node.mqtt.port()), &secret).await?;
            clients.push(connected.map_err(|code| anyhow::anyhow!("{device} is refused with {code:#04x}"))?);
        }
        devices.push((device, id, secret, clients));
    }
    let held = devices.split_off(DEVICES / 2);

    let mut delays = vec![Vec::new(); 3];
    for (device, id, secret, clients) in devices {
        let begun = Instant::now();
        fleet.cli(0, &["devices", "revoke", &device, &id])?;
        let made = Instant::now();
        for (node, client) in clients.into_iter().enumerate() {
            let ended = client.ended().await.with_context(|| format!("{device} on node {node}"))?;
            let delay = ended.saturating_duration_since(made);
            ensure!(delay < BOUND, "{device} on node {node}: {delay:?}");
            delays[node].push(ended.saturating_duration_since(begun));
        }
        for node in &fleet.nodes {
            let refused = Client::connect(node.mqtt, &device, "x", &secret).await?;
            ensure!(refused.is_err(), "{device} connects after its revocation");
        }
    }
    for (node, delays) in delays.iter_mut().enumerate() {
        delays.sort();
        let (half, last) = (delays[delays.len() / 2], delays.last().context("delays")?);
        println!("node {node}: sessions ended within {last:?}, half of them within {half:?} of the command");
    }

    // The third node is cut off from the registry: its sessions go on, and end when it is back.
    network.cut();
    for (device, id, ..) in &held {
        fleet.cli(1, &["devices", "revoke", device, id])?;
    }
    let mut left = Vec::new();
    for (device, _, _, mut clients) in held {
        let third = clients.pop().context("three clients")?;
        for client in clients {
            client.ended().await.with_context(|| device.clone())?;
        }
        left.push((device, third));
    }
    // It has read nothing of it, and admits no device that it does not know.
    let (_, stranger) = fleet.add(0, "stranger")?;
    let refused = Client::connect(fleet.nodes[2].mqtt, "stranger", "x", &stranger).await?;
    ensure!(refused.is_err(), "a node without the registry admits a device that it has never seen");
    let healed = Instant::now();
    network.heal();
    let mut last = Duration::ZERO;
    for (device, client) in left {
        let ended = client.ended().await.with_context(|| device.clone())?;
        ensure!(ended >= healed, "{device}: a session ended while its node could not know");
        last = last.max(ended - healed);
    }
    println!("the partitioned node: all sessions ended within {last:?} of the end of the partition");
    ensure!(last < BOUND, "{last:?}");
    wait_until("an admission after the partition", WAIT, || async {
        let connected = Client::connect(fleet.nodes[2].mqtt, "stranger", "x", &stranger).await?;
        ensure!(connected.is_ok(), "refused");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_may_be_in_the_database_of_the_readings() -> anyhow::Result<()> {
    if skipped("the_registry_may_be_in_the_database_of_the_readings", &["redis-server", "mongod"])? {
        return Ok(());
    }
    let site = Site::new(false, &[("WEIR_AUTH_REQUIRED", "true")]).await?;
    let fleet = KeyedFleet::with(site, &["mongodb".to_owned(), "mongodb".to_owned()])?;
    let (id, secret) = fleet.add(0, "d1")?;
    let connected = Client::connect(fleet.nodes[1].mqtt, "d1", "x", &secret).await?;
    let client = connected.map_err(|code| anyhow::anyhow!("refused with {code:#04x}"))?;
    fleet.cli(0, &["devices", "revoke", "d1", &id])?;
    let made = Instant::now();
    let ended = client.ended().await?;
    ensure!(ended.saturating_duration_since(made) < BOUND, "{:?}", ended - made);
    let events = fleet.cli(1, &["audit", "--format", "csv"])?;
    ensure!(events.contains("DeleteDeviceCredential"), "{events}");
    fleet.cli(1, &["audit", "verify"])?;
    Ok(())
}
