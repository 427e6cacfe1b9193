//! Sessions under fire: subscribers whose sessions last and devices, while connections break or
//! Weir is killed at random moments. The simulator's oracle verifies each delivery.
//!
//! `WEIR_FIRE_SECS` sets the time in which devices send (12; 15 for a fleet).

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use weir_e2e::Weir;
use weir_e2e::fire::Fire;
use weir_e2e::partition::Partition;
use weir_e2e::services::skipped;
use weir_e2e::site::Site;

const SECS: u64 = 12;
const FLEET_SECS: u64 = 15;
/// Time between two messages of a device.
const INTERVAL: Duration = Duration::from_millis(20);
/// In a fleet, each message goes to Redis several times, and is on disk there each time.
const FLEET_INTERVAL: Duration = Duration::from_millis(100);
const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];

#[tokio::test(flavor = "multi_thread")]
async fn sessions_lose_and_double_nothing_while_connections_break() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let weir = Weir::start(dir.path())?;
    let network = Partition::new(weir.mqtt).await?;
    let mut fire = Fire::begin(dir.path(), &[network.address], SECS, INTERVAL)?;
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
    let mut fire = Fire::begin(dir.path(), &[mqtt], SECS, INTERVAL)?;
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

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_fleet_lose_and_double_nothing_while_nodes_are_killed() -> anyhow::Result<()> {
    if skipped("sessions_of_a_fleet", &["redis-server", "mongod"])? {
        return Ok(());
    }
    let site = Site::new(false, &[]).await?;
    let mut nodes = Vec::new();
    // Each connection of a client goes to a random node, and breaks at random moments.
    let mut networks = Vec::new();
    for name in NODES {
        nodes.push(site.start(name, "all", "127.0.0.1:0")?);
        networks.push(Partition::new(nodes[nodes.len() - 1].mqtt).await?);
    }
    let addresses: Vec<SocketAddr> = networks.iter().map(|network| network.address).collect();
    let mut fire = Fire::begin(site.dir.path(), &addresses, FLEET_SECS, FLEET_INTERVAL)?;
    let (mut kills, mut breaks) = ([0; 3], 0);
    while fire.goes_on(Duration::from_secs(2)).await? {
        let place = usize::try_from(fire.random.below(3))?;
        if fire.random.below(3) == 0 {
            networks[place].drop_connections();
            breaks += 1;
            continue;
        }
        let mqtt = nodes[place].mqtt.to_string();
        nodes.remove(place).kill().with_context(|| site.logs_of(&NODES))?;
        // Its clients find another node, or this one when it is back.
        if fire.random.below(2) == 0 {
            fire.goes_on(Duration::from_secs(2)).await?;
        }
        nodes.insert(place, site.start(NODES[place], "all", &mqtt)?);
        kills[place] += 1;
    }
    println!("kills of {NODES:?}: {kills:?}, and {breaks} breaks");
    fire.end(1).with_context(|| site.logs_of(&NODES))?;
    nodes.into_iter().try_for_each(Weir::stop)
}
