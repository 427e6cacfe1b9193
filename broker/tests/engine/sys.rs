//! Figures under `$SYS`, and the topics that are reserved.

use std::collections::BTreeMap;

use weir_broker::Config;

use crate::devices::{Devices, LASTS, login};
use crate::world::*;

fn each_second() -> Config {
    Config { sys_interval_secs: 1, ..Config::default() }
}

/// A broker for one tenant, as without authentication.
fn open(config: Config) -> World {
    World::guarded(Box::<door::OneTenant>::default(), true, config, Vec::new())
}

/// The next message of QoS 0: retain flag, topic and value.
fn next(peer: &mut Peer, v5: bool) -> (bool, String, String) {
    let (first, body) = peer.packet();
    assert_eq!(first & 0xFE, 0x30, "QoS 0");
    let topic = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
    let payload = if v5 { topic + 1 } else { topic };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (first & 1 == 1, text(&body[2..topic]), text(&body[payload..]))
}

/// All figures that come with a subscription.
fn present(peer: &mut Peer, filter: &str) -> BTreeMap<String, String> {
    assert_eq!(peer.subscribe(filter, 1, true).last(), Some(&1));
    let mut figures = BTreeMap::new();
    peer.send(0xC0, &[]);
    loop {
        let (first, body) = peer.packet();
        if first == 0xD0 {
            return figures;
        }
        assert_eq!(first, 0x31, "retained");
        let topic = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        figures.insert(text(&body[2..topic]), text(&body[topic + 1..]));
    }
}

#[test]
fn figures_come_with_the_subscription_and_whenever_they_have_changed() {
    let world = open(each_second());
    let mut peer = world.v5("s", CLEAN, &[]);
    wait(|| world.metrics.session_bytes.get() >= 0 && world.metrics.sessions.get() == 1);
    let figures = present(&mut peer, "$SYS/#");
    for name in [
        "version",
        "uptime",
        "clients/connected",
        "clients/disconnected",
        "clients/expired",
        "clients/maximum",
        "clients/total",
        "messages/received",
        "messages/sent",
        "publish/messages/received",
        "publish/messages/sent",
        "publish/messages/dropped",
        "bytes/received",
        "bytes/sent",
        "subscriptions/count",
        "shared_subscriptions/count",
        "retained messages/count",
        "store/messages/bytes",
        "load/messages/received/1min",
        "load/bytes/sent/15min",
        "load/messages/sent/1min",
        "load/sockets/5min",
        "load/connections/5min",
    ] {
        assert!(figures.contains_key(&format!("$SYS/broker/{name}")), "{name}: {figures:?}");
    }
    assert!(figures["$SYS/broker/version"].starts_with("weir version "));
    let mut uptimes = Vec::new();
    while uptimes.len() < 2 {
        let (retain, topic, value) = next(&mut peer, true);
        assert!(!retain && topic != "$SYS/broker/version", "only what has changed");
        if topic == "$SYS/broker/uptime" {
            uptimes.push(value.strip_suffix(" seconds").unwrap().parse::<u64>().unwrap());
        }
    }
    assert!(uptimes[1] > uptimes[0]);
    let mut three = world.v4("three", CLEAN);
    three.subscribe("$SYS/broker/clients/+", 0, false);
    loop {
        let (_, topic, value) = next(&mut three, false);
        assert!(topic.starts_with("$SYS/broker/clients/"));
        if topic == "$SYS/broker/clients/connected" && value == "2" {
            break;
        }
    }
}

#[test]
fn sent_packets_shared_subscriptions_and_expired_sessions_are_counted() {
    let world = open(each_second());
    let mut peer = world.v5("s", CLEAN, &[]);
    peer.subscribe("n", 2, true);
    peer.subscribe("$share/g/n", 1, true);
    let mut publisher = world.v4("p", CLEAN);
    for (qos, answers) in [(0, 0), (1, 1), (2, 1)] {
        publisher.publish("n", b"x", qos, 7, false);
        (0..answers).for_each(|_| drop(publisher.packet()));
    }
    // One for each of its two subscriptions.
    wait(|| world.metrics.delivered() == 6);
    drop(world.v5("short", 0, &[0x11, 0, 0, 0, 1]));
    wait(|| world.metrics.sessions_expired.get() == 1 && world.metrics.shared_subscriptions.get() == 1);
    let figures = present(&mut world.v5("w", CLEAN, &[]), "$SYS/broker/#");
    assert_eq!(figures["$SYS/broker/clients/expired"], "1");
    assert_eq!(figures["$SYS/broker/shared_subscriptions/count"], "1");
    // 4 CONNACK, 3 SUBACK, PUBACK and PUBREC, and the messages; perhaps the PINGRESP.
    let sent: u64 = figures["$SYS/broker/messages/sent"].parse().unwrap();
    assert!((15..=16).contains(&sent), "{sent}");
    drop(peer);
    wait(|| world.metrics.shared_subscriptions.get() == 0);
}

#[test]
fn messages_by_qos_and_times_are_metrics() {
    let world = open(Config::default());
    let mut peer = world.v5("s", CLEAN, &[]);
    peer.subscribe("n", 2, true);
    let mut publisher = world.v4("p", CLEAN);
    for n in 0..40 {
        publisher.publish("n", b"x", n % 2, 7, false);
        if n % 2 == 1 {
            assert_eq!(publisher.packet().0, 0x40);
        }
    }
    wait(|| world.metrics.delivered() == 40);
    let mut registry = prometheus_client::registry::Registry::default();
    world.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "weir_broker_delivered_total{qos=\"0\"} 20\n",
        "weir_broker_delivered_total{qos=\"1\"} 20\n",
        "weir_broker_delivered_total{qos=\"2\"} 0\n",
        "weir_broker_delivery_seconds_count 2\n",
        "weir_broker_connect_seconds_count 2\n",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

#[test]
fn no_wildcard_at_the_first_level_matches_figures() {
    let world = open(each_second());
    let mut watcher = world.v5("w", CLEAN, &[]);
    present(&mut watcher, "$SYS/broker/uptime");
    let mut peer = world.v5("s", CLEAN, &[]);
    for filter in ["#", "+/#", "+/broker/#", "/#"] {
        assert_eq!(present(&mut peer, filter).len(), 0);
    }
    for _ in 0..3 {
        next(&mut watcher, true);
    }
    peer.ping();
}

#[test]
fn figures_wait_for_no_client_that_is_away_and_can_be_turned_off() {
    let world = open(each_second());
    let mut peer = world.v5("s", 0, LASTS);
    present(&mut peer, "$SYS/#");
    drop(peer);
    wait(|| world.dropped("offline_qos0") > 0);
    let off = open(Config { sys_interval_secs: 0, ..Config::default() });
    let mut peer = off.v5("s", CLEAN, &[]);
    assert_eq!(present(&mut peer, "$SYS/#").len(), 0);
}

#[test]
fn a_tenant_sees_its_own_figures_and_only_the_clients_that_were_granted_them() {
    let devices = Devices::new();
    let world = World::guarded(Box::new(std::sync::Arc::clone(&devices)), true, each_second(), Vec::new());
    devices.grant("a/observer", &["#"], &["#"]);
    devices.grant("a/sys", &["#"], &["#", "$SYS/#"]);
    let mut observer = login("a/observer").enter(&world);
    assert_eq!(observer.subscribe("$SYS/#", 0, true).last(), Some(&0x87));
    let _others: Vec<Peer> = ["b/1", "b/2", "b/3"].iter().map(|user| login(user).enter(&world)).collect();
    let mut peer = login("a/sys").enter(&world);
    let figures = present(&mut peer, "$SYS/#");
    assert!(!figures.contains_key("$SYS/broker/bytes/received"), "of the whole process");
    assert_eq!(figures["$SYS/broker/clients/total"], "2", "its own clients");
    let mut connected = figures["$SYS/broker/clients/connected"].clone();
    while connected != "2" {
        let (_, topic, value) = next(&mut peer, true);
        assert_ne!((&*topic, &*value), ("$SYS/broker/clients/total", "5"));
        if topic == "$SYS/broker/clients/connected" {
            connected = value;
        }
    }
}

#[test]
fn no_client_publishes_to_reserved_topics() {
    let world = open(each_second());
    let mut watcher = world.v5("w", CLEAN, &[]);
    for filter in ["$share/g/#", "$weir/#", "$other/#", "$SYS/#"] {
        watcher.subscribe(filter, 0, true);
    }
    for topic in ["$SYS/broker/uptime", "$SYS/x", "$share/g/x", "$share", "$weir/wills/x", "$other/x"] {
        let mut peer = world.v5("p", CLEAN, &[]);
        peer.publish(topic, b"forged", 0, 0, true);
        peer.publish_with(0x33, topic, b"forged", 1, true);
        let (first, body) = peer.packet();
        assert_eq!((first, body[2]), (0x40, 0x87), "{topic}");
        let mut three = world.v4("three", CLEAN);
        three.publish(topic, b"forged", 1, 1, false);
        assert!(three.is_closed(), "{topic}");
        // As a will message.
        let mut will = world.client();
        let mut body = b"\0\x04MQTT\x05\x06\0\0\0".to_vec();
        body.extend_from_slice(&text("will"));
        body.push(0);
        body.extend_from_slice(&text(topic));
        body.extend_from_slice(&text("forged"));
        will.send(0x10, &body);
        assert_eq!(will.packet().1[1], 0x87, "{topic}");
    }
    assert_eq!(world.log.retained.lock().len(), 0);
    for _ in 0..60 {
        let (_, _, value) = next(&mut watcher, true);
        assert_ne!(value, "forged");
    }
}
