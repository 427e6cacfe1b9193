//! Sessions and messages of a fleet while its Redis is away.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use weir_e2e::device::Device;
use weir_e2e::paho::{Paho, Session};
use weir_e2e::services::skipped;
use weir_e2e::site::Site;
use weir_e2e::{Weir, read, wait_until};

const WAIT: Duration = Duration::from_secs(30);
const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];
/// Messages in each step.
const COUNT: u64 = 20;

/// A device that publishes telemetry that no session waits for.
fn publish(device: &mut Device, id: &str, from: u64) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let base = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
    device.connect()?;
    for n in from..from + COUNT {
        let payload = format!(r#"{{"ts":{},"n":{n}}}"#, base + u128::from(n - from));
        device.send(n, &format!("devices/{id}/telemetry"), payload.as_bytes())?;
        device.wait_for_all()?;
    }
    Ok(begun.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_acknowledged_is_lost_while_redis_is_away() -> anyhow::Result<()> {
    if skipped("nothing_that_was_acknowledged_is_lost_while_redis_is_away", &["redis-server", "mongod"])? {
        return Ok(());
    }
    let mut site = Site::new(false, &[]).await?;
    let start = |site: &Site, name: &str| site.start(name, "all", "127.0.0.1:0");
    let [a, b, c] = [start(&site, NODES[0])?, start(&site, NODES[1])?, start(&site, NODES[2])?];
    let mut subscribers = Vec::new();
    for (version, qos) in [("5", 1), ("3.1.1", 2)] {
        let mut paho = Paho::new(&format!("sub-{qos}"), version)?;
        paho.connect(b.mqtt, Session::LASTING)?;
        paho.subscribe("orders/#", qos)?;
        paho.wait_routed(&[&c])?;
        subscribers.push(paho);
    }
    let mut publisher = Paho::new("publisher", "5")?;
    publisher.connect(c.mqtt, Session::LASTING)?;
    let mut device = Device::new("d1", a.mqtt);
    let (mut sent, mut readings) = (0, 0);
    for trouble in ["Redis does not run", "Redis is killed"] {
        let first = sent;
        for n in sent..sent + COUNT {
            publisher.publish("orders/1", &n.to_string(), 2, false)?;
        }
        publish(&mut device, "d1", readings)?;
        if trouble == "Redis is killed" {
            site.redis.0.kill()?;
        } else {
            site.redis.0.freeze()?;
        }
        for n in sent + COUNT..sent + 2 * COUNT {
            publisher.send("orders/1", &n.to_string(), 1 + (n % 2) as u8, false)?;
        }
        // Devices go on, and others come: their readings are in the folder of the node.
        let logs = || format!("{trouble}\n{}", site.logs_of(&NODES));
        let took = publish(&mut device, "d1", readings + COUNT).with_context(logs)?;
        let other = publish(&mut Device::new("d2", a.mqtt), "d2", readings).with_context(logs)?;
        println!("{trouble}: {COUNT} messages of a device in {took:?}, of a new one in {other:?}");
        if trouble == "Redis is killed" {
            site.redis.0.start_again()?;
        } else {
            site.redis.0.thaw()?;
        }
        let logs = || format!("{trouble}\n{}", site.logs_of(&NODES));
        (0..COUNT).try_for_each(|_| publisher.published()).with_context(logs)?;
        sent += 2 * COUNT;
        readings += 2 * COUNT;
        publisher.publish("orders/1", &format!("end {sent}"), 2, false)?;
        for paho in &mut subscribers {
            let mut got = paho.messages_to(&format!("end {sent}")).with_context(logs)?;
            got.pop();
            // QoS 1 and 2 have no order among each other.
            got.sort_by_key(|payload| payload.parse::<u64>().unwrap_or_default());
            let due: Vec<String> = (first..sent).map(|n| n.to_string()).collect();
            ensure!(got == due, "{trouble}: {got:?}");
        }
    }
    let channel = a.channel().await?;
    wait_until("all readings are there", WAIT, || async {
        let numbers =
            async |device: &str| -> anyhow::Result<usize> { Ok(read::all_readings(&channel, device).await?.len()) };
        let found = (numbers("d1").await?, numbers("d2").await?);
        ensure!(found == (usize::try_from(readings)?, usize::try_from(2 * COUNT)?), "{found:?}");
        Ok(())
    })
    .await?;
    [a, b, c].into_iter().try_for_each(Weir::stop)
}
