//! Messages between two brokers of MQTT 5.

use mqtt_client::{PropertyList, id};
use weir_bridge::{Direction, Topic};

use crate::world::*;

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_both_ways_with_their_qos_in_order_and_never_come_back() {
    let (edge, centre) = (Node::start(), Node::start());
    let mut at_edge = Client::connect(edge.address, "a").await;
    let mut at_centre = Client::connect(centre.address, "b").await;
    at_edge.subscribe("x/#", 2).await;
    at_centre.subscribe("x/#", 2).await;
    let bridge = Running::start(&edge, centre.address, |c| c.topic = vec![topic("x/#", Direction::Both, 2)]);
    bridge.connected().await;
    for n in 0..60 {
        at_edge.publish("x/edge", &format!("e{n}"), n % 3).await;
        at_centre.publish("x/centre", &format!("c{n}"), n % 3).await;
    }
    // What goes round would come before these.
    for _ in 0..3 {
        at_edge.publish("x/edge", "last", 2).await;
        at_centre.publish("x/centre", "last", 2).await;
    }
    for client in [&mut at_edge, &mut at_centre] {
        let mut got = Vec::new();
        while got.iter().filter(|got: &&Got| got.payload == "last").count() < 6 {
            got.push(client.next().await);
        }
        for (topic, letter) in [("x/edge", 'e'), ("x/centre", 'c')] {
            let of: Vec<_> = got.iter().filter(|got| got.topic == topic).collect();
            let qos: Vec<u8> = of.iter().take(60).map(|got| got.qos).collect();
            let payloads: Vec<_> = of.iter().map(|got| got.payload.clone()).collect();
            let mut wanted: Vec<_> = (0..60).map(|n| format!("{letter}{n}")).collect();
            wanted.extend(["last"; 3].map(str::to_owned));
            assert_eq!(payloads, wanted);
            assert_eq!(qos, (0..60).map(|n| n % 3).collect::<Vec<u8>>());
        }
    }
    assert_eq!((bridge.metrics.messages(NAME, "out"), bridge.metrics.messages(NAME, "in")), (63, 63));
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prefixes_are_exchanged_and_properties_and_retain_flags_kept() {
    let (edge, centre) = (Node::start(), Node::start());
    let mut at_edge = Client::connect(edge.address, "a").await;
    let mut at_centre = Client::connect(centre.address, "b").await;
    let own = PropertyList::new()
        .number(id::PAYLOAD_FORMAT, 1)
        .bytes(id::CONTENT_TYPE, "text/plain")
        .bytes(id::RESPONSE_TOPIC, "r")
        .bytes(id::CORRELATION_DATA, [1, 2])
        .user("k", "v");
    // Before the bridge.
    at_edge.publish_with("site/kept", "1", 1, true, own.as_bytes()).await;
    let prefixed = |direction| Topic {
        local_prefix: "site/".into(),
        remote_prefix: "plants/7/".into(),
        ..topic("#", direction, 1)
    };
    let bridge = Running::start(&edge, centre.address, |c| c.topic = vec![prefixed(Direction::Both)]);
    bridge.connected().await;
    until("the retained message has passed", || bridge.metrics.messages(NAME, "out") == 1).await;
    at_centre.subscribe("plants/#", 2).await;
    let got = at_centre.next().await;
    let wanted = Got {
        topic: "plants/7/kept".into(),
        payload: "1".into(),
        qos: 1,
        retain: true,
        properties: own.as_bytes().to_vec(),
    };
    assert_eq!(got, wanted);
    at_edge.subscribe("site/#", 2).await;
    assert_eq!(at_edge.next().await.topic, "site/kept");
    at_centre.publish("plants/7/command", "go", 2).await;
    let got = at_edge.next().await;
    assert_eq!((got.topic.as_str(), got.payload.as_str(), got.qos, got.retain), ("site/command", "go", 1, false));
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_while_the_other_broker_is_away_comes_when_it_is_there() {
    let (edge, centre) = (Node::start(), Node::start());
    let mut at_centre = Client::connect(centre.address, "b").await;
    at_centre.subscribe("x/#", 2).await;
    let mut at_edge = Client::connect(edge.address, "a").await;
    let bridge = Running::start(&edge, centre.address, |_| ());
    bridge.connected().await;
    at_edge.publish("x", "0", 2).await;
    assert_eq!(at_centre.payloads(1).await, ["0"]);
    bridge.stop().await;
    for n in 1..500_u32 {
        at_edge.publish("x", &n.to_string(), 1 + u8::from(n % 2 == 0)).await;
    }
    let bridge = Running::start(&edge, centre.address, |_| ());
    assert_eq!(at_centre.payloads(499).await, numbers(500)[1..]);
    assert_eq!((bridge.metrics.lost(NAME, "local"), bridge.metrics.lost(NAME, "remote")), (0, 0));
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_for_the_other_broker_keeps_no_other_back() {
    let edge = Node::start();
    let centre = Node::with(broker::Config { max_packet_bytes: 1000, ..broker::Config::default() });
    let mut at_centre = Client::connect(centre.address, "b").await;
    at_centre.subscribe("x/#", 2).await;
    let mut at_edge = Client::connect(edge.address, "a").await;
    let bridge = Running::start(&edge, centre.address, |_| ());
    bridge.connected().await;
    for qos in 0..3 {
        at_edge.publish("x", &"l".repeat(2000), qos).await;
        at_edge.publish("x", &qos.to_string(), 2).await;
    }
    assert_eq!(at_centre.payloads(3).await, ["0", "1", "2"]);
    assert_eq!(bridge.metrics.dropped(NAME, "out", "too_large"), 3);
    assert_eq!(bridge.metrics.messages(NAME, "out"), 3);
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reason_why_it_is_not_connected_is_reported_and_it_tries_again() {
    let edge = Node::start();
    // A port at which no process listens.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let bridge = Running::start(&edge, address, |_| ());
    bridge.reports("cannot connect to mqtt://127.0.0.1:").await;
    bridge.reports("refused").await;
    bridge.stop().await;
}
