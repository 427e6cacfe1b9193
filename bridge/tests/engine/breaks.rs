//! A broker at the other end that breaks the connection at each step, or has limits.

use mqtt_client::{PropertyList, Version, id};
use weir_bridge::{Config, Direction, Protocol};

use crate::remote::{Break, Known, Manner, Remote};
use crate::world::*;

const STEPS: [Break; 7] = [
    Break::BeforePublish,
    Break::BeforeAnswer,
    Break::AfterAnswer,
    Break::BeforePubrel,
    Break::BeforePubcomp,
    Break::AfterPubcomp,
    Break::Silence,
];

fn v5(properties: PropertyList) -> Manner {
    Manner { version: Version::V5, properties, ..Manner::default() }
}

/// Publishes at the edge while the other broker breaks at these steps. Returns what has arrived
/// there.
async fn broken(steps: &[Break], qos: u8, manner: Manner, change: impl FnOnce(&mut Config)) -> Vec<String> {
    let edge = Node::start();
    let mut client = Client::connect(edge.address, "a").await;
    let remote = Remote::start(manner).await;
    let bridge = Running::start(&edge, remote.address, change);
    bridge.connected().await;
    // The first, a later one, and one of those that are sent again.
    remote.breaks(steps.iter().flat_map(|step| [(*step, 1), (*step, 3), (*step, 1)]));
    let mut n = 0;
    while remote.breaks_left() > 0 || n < 50 {
        client.publish("x", &n.to_string(), qos).await;
        n += 1;
        if n % 10 == 0 {
            // Some wait, and some go at once.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    until("the last message has arrived", || remote.messages().contains(&(n - 1).to_string())).await;
    until("every packet id is released", || remote.known.lock().unreleased.is_empty()).await;
    assert_eq!((bridge.metrics.lost(NAME, "local"), bridge.metrics.lost(NAME, "remote")), (0, 0));
    bridge.stop().await;
    let messages = remote.messages();
    assert!(messages.len() >= n, "{} of {n}", messages.len());
    messages
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_2_arrives_exactly_once_and_in_order_wherever_the_connection_breaks() {
    for step in STEPS {
        let messages = broken(&[step], 2, v5(PropertyList::new()), |_| ()).await;
        assert_eq!(messages, numbers(messages.len()), "{step:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_2_arrives_exactly_once_at_a_broker_of_3_1_1() {
    let messages = broken(&STEPS, 2, Manner::default(), |config| config.version = Protocol::V4).await;
    assert_eq!(messages, numbers(messages.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_1_arrives_at_least_once_and_in_order() {
    let steps = [Break::BeforePublish, Break::BeforeAnswer, Break::AfterAnswer, Break::Silence];
    let mut messages = broken(&steps, 1, v5(PropertyList::new()), |_| ()).await;
    let arrived = messages.len();
    let mut seen = std::collections::BTreeSet::new();
    messages.retain(|message| seen.insert(message.clone()));
    assert_eq!(messages, numbers(messages.len()));
    assert!(arrived > messages.len(), "some were sent again after they had arrived");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_in_flight_than_the_other_broker_accepts() {
    let edge = Node::start();
    let mut client = Client::connect(edge.address, "a").await;
    let window = PropertyList::new().number(id::RECEIVE_MAXIMUM, 3);
    let remote = Remote::start(Manner { withholds: 3, ..v5(window) }).await;
    let bridge = Running::start(&edge, remote.address, |config| config.topic[0].qos = 1);
    bridge.connected().await;
    for n in 0..2 {
        client.publish("x", &n.to_string(), 1).await;
    }
    until("two have come", || remote.known.lock().arrivals == 2).await;
    // Answers come with the third: all others have to wait for it.
    for n in 2..20 {
        client.publish("x", &n.to_string(), 1).await;
    }
    until("all have come", || remote.messages() == numbers(20)).await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_qos_2_and_retained_messages_gets_what_it_can() {
    for (most, sent) in [(1, 1), (0, 0)] {
        let edge = Node::start();
        let mut client = Client::connect(edge.address, "a").await;
        // Queued at QoS 2: the other broker had it at first.
        let able = Remote::start(v5(PropertyList::new())).await;
        let bridge = Running::start(&edge, able.address, |_| ());
        bridge.connected().await;
        client.publish("x", "first", 2).await;
        let is_over = || able.messages() == ["first"] && able.known.lock().unreleased.is_empty();
        until("it has come, and was released", is_over).await;
        bridge.stop().await;
        for n in 0..5 {
            client.publish_with("x", &n.to_string(), 2, true, &[]).await;
        }
        let limits = PropertyList::new().number(id::MAXIMUM_QOS, most).number(id::RETAIN_AVAILABLE, 0);
        let poor = Remote::start(v5(limits)).await;
        let bridge = Running::start(&edge, poor.address, |_| ());
        until("all have come", || poor.messages() == numbers(5)).await;
        let (_, qos, retain, _) = poor.known.lock().last.clone();
        assert_eq!((qos, retain), (sent, false));
        client.publish("x", "5", 2).await;
        until("the next has come", || poor.messages() == numbers(6)).await;
        bridge.stop().await;
        // The exchanges are over.
        let bridge = Running::start(&edge, poor.address, |_| ());
        bridge.connected().await;
        client.publish("x", "6", 2).await;
        // The one before may come again, as it was not at QoS 2.
        until("the last has come", || poor.messages().last().is_some_and(|last| last == "6")).await;
        assert_eq!(poor.known.lock().needless, 0, "PUBREL is for QoS 2");
        bridge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_other_broker_refuses_is_counted_and_keeps_no_other_back() {
    let edge = Node::start();
    let mut client = Client::connect(edge.address, "a").await;
    let remote = Remote::start(Manner { code: 0x87, ..v5(PropertyList::new()) }).await;
    let bridge = Running::start(&edge, remote.address, |_| ());
    bridge.connected().await;
    for n in 0..10 {
        client.publish("x", &n.to_string(), 1 + n % 2).await;
    }
    until("all were refused", || bridge.metrics.dropped(NAME, "out", "refused") == 10).await;
    assert_eq!(remote.messages(), numbers(10));
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_of_3_1_1_that_does_not_know_bridges_is_asked_again_without_the_bit() {
    let edge = Node::start();
    let remote = Remote::start(Manner { refuses_bridges: true, ..Manner::default() }).await;
    let bridge = Running::start(&edge, remote.address, |config| config.version = Protocol::V4);
    bridge.connected().await;
    assert_eq!(remote.known.lock().levels, [0x84, 4]);
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_3_1_1_that_was_kept_is_not_subscribed_again() {
    let edge = Node::start();
    let mut client = Client::connect(edge.address, "a").await;
    let remote = Remote::start(Manner::default()).await;
    let bridge = Running::start(&edge, remote.address, |config| {
        config.version = Protocol::V4;
        config.topic = vec![topic("x", Direction::Both, 2)];
    });
    bridge.connected().await;
    remote.breaks([(Break::AfterAnswer, 1), (Break::AfterPubcomp, 1)]);
    for n in 0..3 {
        client.publish("x", &n.to_string(), 2).await;
    }
    until("all have come over three connections", || remote.messages() == numbers(3)).await;
    until("every packet id is released", || remote.known.lock().unreleased.is_empty()).await;
    let of = |known: &Known| (known.levels.len(), known.subscribes.len());
    assert_eq!(of(&remote.known.lock()), (3, 1));
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscribe_whose_packet_id_is_in_use_is_sent_with_another_one_and_a_refused_one_is_reported() {
    let edge = Node::start();
    let manner = v5(PropertyList::new());
    manner.subacks.lock().extend([0x91, 0x91, 0x87]);
    let remote = Remote::start(manner).await;
    let bridge = Running::start(&edge, remote.address, |c| c.topic = vec![topic("x/#", Direction::In, 2)]);
    bridge.reports("the other broker refuses the subscription to x/# (reason code 0x87)").await;
    assert_eq!(remote.known.lock().subscribes, [65_535, 65_534, 65_533]);
    bridge.stop().await;
}
