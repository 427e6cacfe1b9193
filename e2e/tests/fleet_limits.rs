//! The limits of a tenant hold for all processes of a fleet together.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use weir_e2e::device::Device;
use weir_e2e::keyed_fleet::KeyedFleet;
use weir_e2e::load::RoundTrips;
use weir_e2e::quiet::show;
use weir_e2e::services::skipped;
use weir_e2e::site::Site;
use weir_e2e::wait_until;

const NODES: usize = 3;
/// Devices that flood each node.
const FLOODING: usize = 3;
const RATE: u64 = 600;
/// The sum of the parts of all nodes is at most the limit and a tenth.
const MOST: u64 = RATE * 11 / 10;
const CONNECTIONS: usize = 12;
const WINDOW: usize = 30;
const WAIT: Duration = Duration::from_secs(30);

/// Acknowledged messages of the flood at each node.
#[derive(Default)]
struct Counts([AtomicU64; NODES]);

impl Counts {
    fn of(&self, nodes: &[usize]) -> u64 {
        nodes.iter().map(|node| self.0[*node].load(Ordering::Relaxed)).sum()
    }
}

/// Sends messages until it is stopped, or its node dies.
fn flood(mut device: Device, id: &str, count: &AtomicU64, is_over: &AtomicBool) {
    let topic = format!("devices/{id}/telemetry");
    let mut number = 0;
    while !is_over.load(Ordering::Relaxed) {
        while device.in_flight() >= WINDOW {
            let Ok(numbers) = device.acknowledged() else { return };
            count.fetch_add(numbers.len() as u64, Ordering::Relaxed);
        }
        if device.send(number, &topic, format!("{{\"n\":{number}}}").as_bytes()).is_err() {
            return;
        }
        number += 1;
    }
}

fn device(fleet: &KeyedFleet, node: usize, tenant: &str, id: &str) -> anyhow::Result<Device> {
    let (_, password) = fleet.add_of(0, tenant, id)?;
    Ok(Device::new(id, fleet.nodes[node].mqtt).with_password(id, &password))
}

fn usage(fleet: &KeyedFleet, node: usize) -> anyhow::Result<String> {
    fleet.cli(node, &["tenants", "usage", "flood", "--format", "csv"])
}

/// Waits for a future in a thread of the runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_at_every_process_gets_the_limits_once_and_those_of_a_killed_one_go_to_the_rest() -> anyhow::Result<()>
{
    let name = "a_flood_at_every_process_gets_the_limits_once_and_those_of_a_killed_one_go_to_the_rest";
    if skipped(name, &["redis-server", "mongod"])? {
        return Ok(());
    }
    let site = Site::new(false, &[("WEIR_AUTH_REQUIRED", "true")]).await?;
    let mut fleet = KeyedFleet::with(site, &["mongodb"; NODES].map(str::to_owned))?;
    for tenant in ["flood", "calm"] {
        fleet.cli(0, &["tenants", "add", tenant])?;
    }
    let limits = [format!("messages_per_second={RATE}"), format!("connections={CONNECTIONS}")];
    fleet.cli(0, &["tenants", "set", "flood", "--limit", &limits[0], "--limit", &limits[1]])?;
    let mut calm = RoundTrips::new(device(&fleet, 0, "calm", "calm")?, "calm", 0);
    let alone = calm.round_trips_for(Duration::from_secs(2))?;

    let (counts, is_over) = (Counts::default(), AtomicBool::new(false));
    let mut flooding = Vec::new();
    for node in 0..NODES {
        for number in 0..FLOODING {
            let id = format!("n{node}-{number}");
            flooding.push((node, device(&fleet, node, "flood", &id)?, id));
        }
    }
    let spare: Vec<_> = (0..4).map(|n| fleet.add_of(0, "flood", &format!("spare{n}"))).collect::<Result<_, _>>()?;
    let spare_at = |fleet: &KeyedFleet, node: usize, n: usize| {
        Device::new(&format!("spare{n}"), fleet.nodes[node].mqtt).with_password(&format!("spare{n}"), &spare[n].1)
    };
    thread::scope(|scope| {
        let (counts, is_over) = (&counts, &is_over);
        for (node, device, id) in flooding {
            scope.spawn(move || flood(device, &id, &counts.0[node], is_over));
        }
        let checked = (|| {
            // The burst, and a few seconds until each has its part.
            calm.round_trips_for(Duration::from_secs(10))?;
            let (begun, before) = (Instant::now(), counts.of(&[0, 1, 2]));
            let beside = calm.round_trips_for(Duration::from_secs(10))?;
            let sum = (counts.of(&[0, 1, 2]) - before) as f64 / begun.elapsed().as_secs_f64();
            println!("the sum of all processes: {sum:.0} messages a second, {RATE} are the limit");
            ensure!(sum <= MOST as f64, "{sum} a second, {MOST} at most");
            ensure!(sum >= RATE as f64 * 0.7, "{sum} a second of {RATE}");
            let alone_half = show("another tenant alone", alone).p50;
            let beside_half = show("beside the flood", beside).p50;
            // Behind the flood each would take the time of nine messages at the limit, and more.
            let most = alone_half * 5 + Duration::from_millis(20);
            ensure!(beside_half < most, "{beside_half:?} in place of {alone_half:?}");

            let mut held: Vec<_> = (0..3).map(|n| spare_at(&fleet, 0, n)).collect();
            held.iter_mut().try_for_each(Device::connect)?;
            block_on(wait_until("the limit of connections holds at another process", WAIT, async || {
                ensure!(spare_at(&fleet, 1, 3).connect().is_err(), "a connection beyond the limit is admitted");
                let usage = usage(&fleet, 2)?;
                let has = |line: &str| usage.lines().any(|found| found.starts_with(line));
                ensure!(has("connections,12,12,") && has("processes,3,"), "{usage}");
                Ok(())
            }))?;

            let killed = Instant::now();
            fleet.nodes.remove(2).kill()?;
            let (mut at, mut last) = (Instant::now(), counts.of(&[0, 1]));
            let mut rates = Vec::new();
            loop {
                calm.round_trips_for(Duration::from_secs(1))?;
                let now = counts.of(&[0, 1]);
                let rate = (now - last) as f64 / at.elapsed().as_secs_f64();
                (at, last) = (Instant::now(), now);
                rates.push(rate as u64);
                ensure!(killed.elapsed() < WAIT, "the rest has {rates:?} messages a second of {RATE}");
                if rate >= RATE as f64 * 0.9 {
                    break;
                }
            }
            println!("after a kill the rest had {rates:?} a second, within {:?}", killed.elapsed());
            block_on(wait_until("the connections of the killed process are forgotten", WAIT, async || {
                Ok(spare_at(&fleet, 1, 3).connect()?)
            }))
        })();
        is_over.store(true, Ordering::Relaxed);
        checked
    })?;
    let usage = usage(&fleet, 1)?;
    ensure!(usage.lines().any(|line| line.starts_with("processes,2,")), "{usage}");
    Ok(())
}
