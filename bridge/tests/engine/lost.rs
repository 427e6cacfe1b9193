//! Sessions that are lost at one side.

use mqtt_client::{PropertyList, Version};
use weir_bridge::Direction;

use crate::remote::{Break, Manner, Remote};
use crate::world::*;

fn v5() -> Manner {
    Manner { version: Version::V5, properties: PropertyList::new(), ..Manner::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_half_way_is_sent_anew_when_the_other_broker_has_lost_the_session() {
    let edge = Node::start();
    let mut client = Client::connect(edge.address, "a").await;
    let remote = Remote::start(v5()).await;
    let bridge = Running::start(&edge, remote.address, |_| ());
    bridge.connected().await;
    remote.breaks([(Break::BeforeAnswer, 1)]);
    client.publish("x", "0", 2).await;
    until("the connection has broken", || remote.breaks_left() == 0).await;
    remote.forget();
    client.publish("x", "1", 2).await;
    until("both have come", || remote.messages().last().is_some_and(|last| last == "1")).await;
    assert_eq!(remote.messages(), ["0", "0", "1"], "the other broker no longer knew the first");
    assert_eq!((bridge.metrics.lost(NAME, "local"), bridge.metrics.lost(NAME, "remote")), (0, 1));
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_session_here_does_not_use_packet_ids_that_the_other_broker_holds() {
    let remote = Remote::start(v5()).await;
    {
        let edge = Node::start();
        let mut client = Client::connect(edge.address, "a").await;
        let bridge = Running::start(&edge, remote.address, |_| ());
        bridge.connected().await;
        remote.breaks([(Break::AfterAnswer, 1), (Break::BeforePubrel, 1), (Break::BeforePubrel, 1)]);
        client.publish("x", "old", 2).await;
        until("the connection has broken", || remote.breaks_left() == 0).await;
        bridge.stop().await;
    }
    assert_eq!(remote.known.lock().unreleased.len(), 1);
    // Another broker with the same name: its sessions are gone.
    let edge = Node::start();
    let mut client = Client::connect(edge.address, "a").await;
    let bridge = Running::start(&edge, remote.address, |_| ());
    bridge.connected().await;
    until("all are released", || remote.known.lock().needless == 65_534).await;
    assert_eq!(bridge.metrics.lost(NAME, "local"), 1);
    for n in 0..3 {
        client.publish("x", &format!("new {n}"), 2).await;
    }
    until("all have come", || remote.messages() == ["old", "new 0", "new 1", "new 2"]).await;
    until("every packet id is released", || remote.known.lock().unreleased.is_empty()).await;
    bridge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_session_there_does_not_use_packet_ids_that_are_held_here() {
    let edge = Node::start();
    let mut at_edge = Client::connect(edge.address, "a").await;
    at_edge.subscribe("x/#", 2).await;
    let back = |config: &mut weir_bridge::Config| config.topic = vec![topic("x/#", Direction::In, 2)];
    // Packet ids 1 to 3 are held here: the other broker sends no PUBREL.
    let mut peer = peer::Peer::start(0).await;
    let bridge = Running::start(&edge, peer.address, back);
    peer.accept().await;
    for packet_id in 1..=3 {
        peer.publish(packet_id, &format!("old {packet_id}")).await;
    }
    peer.pubrecs(3).await;
    assert_eq!(at_edge.payloads(3).await, ["old 1", "old 2", "old 3"]);
    peer.close();
    // It comes again without its session.
    peer.accept().await;
    for packet_id in 1..=3 {
        peer.publish(packet_id, &format!("new {packet_id}")).await;
    }
    assert_eq!(at_edge.payloads(3).await, ["new 1", "new 2", "new 3"]);
    assert_eq!(bridge.metrics.lost(NAME, "remote"), 1);
    bridge.stop().await;
}

/// Another broker that sends, byte by byte.
mod peer {
    use std::net::SocketAddr;

    use mqtt_client::{Packet, Publish, Version};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use crate::world::BOUND;

    pub(super) struct Peer {
        pub(super) address: SocketAddr,
        listener: TcpListener,
        stream: Option<TcpStream>,
        present: u8,
        bytes: Vec<u8>,
    }

    impl Peer {
        pub(super) async fn start(present: u8) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            Self { address, listener, stream: None, present, bytes: Vec::new() }
        }

        /// Accepts a connection and the subscription.
        pub(super) async fn accept(&mut self) {
            self.bytes.clear();
            let (stream, _) = tokio::time::timeout(BOUND, self.listener.accept()).await.unwrap().unwrap();
            self.stream = Some(stream);
            assert_eq!(self.packet().await[0], 0x10);
            let present = self.present;
            self.write(&[0x20, 3, present, 0, 0]).await;
            let subscribe = self.packet().await;
            assert_eq!(subscribe[0], 0x82);
            self.write(&[0x90, 4, subscribe[2], subscribe[3], 0, 2]).await;
        }

        async fn write(&mut self, bytes: &[u8]) {
            self.stream.as_mut().unwrap().write_all(bytes).await.unwrap();
        }

        async fn packet(&mut self) -> Vec<u8> {
            loop {
                let found = mqtt_client::framing(&self.bytes).unwrap();
                if let Some(found) = found.filter(|found| found.total_bytes <= self.bytes.len()) {
                    return self.bytes.drain(..found.total_bytes).collect();
                }
                let read = self.stream.as_mut().unwrap().read_buf(&mut self.bytes);
                assert!(tokio::time::timeout(BOUND, read).await.unwrap().unwrap() > 0, "the bridge is there");
            }
        }

        pub(super) async fn publish(&mut self, packet_id: u16, payload: &str) {
            let publish =
                Publish { topic: "x/1", payload: payload.as_bytes(), qos: 2, packet_id, ..Publish::default() };
            let mut out = Vec::new();
            mqtt_client::publish(&mut out, Version::V5, &publish);
            self.write(&out).await;
        }

        /// Reads this many PUBRECs.
        pub(super) async fn pubrecs(&mut self, count: usize) {
            for _ in 0..count {
                let packet = self.packet().await;
                let (packet, _) = mqtt_client::decode(&packet, Version::V5).unwrap().unwrap();
                assert!(matches!(packet, Packet::Ack { ack: mqtt_client::Ack::Pubrec, .. }), "{packet:?}");
            }
        }

        pub(super) fn close(&mut self) {
            self.stream = None;
        }
    }
}
