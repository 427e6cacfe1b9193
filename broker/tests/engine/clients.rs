//! Unmodified clients.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rumqttc::v5;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};

use crate::world::*;

const COUNT: u32 = 500;

/// Makes what was submitted durable every few milliseconds, as a log does.
async fn flush(log: Arc<Log>) {
    let mut pace = tokio::time::interval(Duration::from_millis(3));
    loop {
        pace.tick().await;
        log.release_to(log.last.load(Ordering::SeqCst));
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), test).await.expect("in time") });
}

/// A 3.1.1 client that publishes telemetry and is acknowledged, in order, all of it.
async fn publish_all(port: u16) {
    let mut options = MqttOptions::new("rumqttc", "127.0.0.1", port);
    options.set_inflight(100);
    let (client, mut events) = AsyncClient::new(options, 10);
    let publishing = tokio::spawn(async move {
        for n in 0..COUNT {
            client.publish("devices/r/telemetry", QoS::AtLeastOnce, false, n.to_string()).await.unwrap();
        }
        client
    });
    let mut acknowledged = Vec::new();
    while acknowledged.len() < COUNT as usize {
        if let Event::Incoming(Packet::PubAck(ack)) = events.poll().await.unwrap() {
            acknowledged.push(ack.pkid);
        }
    }
    // Packet ids go round from 1 to 100.
    assert!(acknowledged.windows(2).all(|w| w[1] == w[0] % 100 + 1), "{acknowledged:?}");
    drop(publishing.await.unwrap());
}

#[test]
fn rumqttc_publishes_over_3_1_1_and_subscribes_over_5() {
    let world = World::new(false);
    let (port, log) = (world.address.port(), Arc::clone(&world.log));
    run(async move {
        let flusher = tokio::spawn(flush(log));
        let (subscriber, mut events) = v5::AsyncClient::new(v5::MqttOptions::new("s", "127.0.0.1", port), 10);
        subscriber.subscribe("devices/+/telemetry", v5::mqttbytes::QoS::AtLeastOnce).await.unwrap();
        loop {
            let event = events.poll().await.unwrap();
            if matches!(event, v5::Event::Incoming(v5::mqttbytes::v5::Packet::SubAck(_))) {
                break;
            }
        }
        let publisher = tokio::spawn(publish_all(port));
        let mut got = Vec::new();
        while got.len() < COUNT as usize {
            if let v5::Event::Incoming(v5::mqttbytes::v5::Packet::Publish(publish)) = events.poll().await.unwrap() {
                got.push(String::from_utf8_lossy(&publish.payload).parse::<u32>().unwrap());
            }
        }
        assert_eq!(got, (0..COUNT).collect::<Vec<_>>());
        publisher.await.unwrap();
        flusher.abort();
    });
    assert_eq!(world.log.taken.lock().len(), COUNT as usize);
}

#[test]
fn rumqttc_publishes_at_qos_2_over_5() {
    let world = World::new(false);
    let (port, log) = (world.address.port(), Arc::clone(&world.log));
    run(async move {
        let flusher = tokio::spawn(flush(log));
        let (client, mut events) = v5::AsyncClient::new(v5::MqttOptions::new("p", "127.0.0.1", port), 200);
        for n in 0..100 {
            let payload = n.to_string();
            client.publish("devices/r/telemetry", v5::mqttbytes::QoS::ExactlyOnce, false, payload).await.unwrap();
        }
        let mut complete = 0;
        while complete < 100 {
            let event = events.poll().await.unwrap();
            complete += u32::from(matches!(event, v5::Event::Incoming(v5::mqttbytes::v5::Packet::PubComp(_))));
        }
        flusher.abort();
    });
    assert_eq!(world.log.taken.lock().len(), 100);
}
