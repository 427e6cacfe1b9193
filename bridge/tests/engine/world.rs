//! Brokers whose log is durable at once, clients, and a bridge between two brokers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use broker::{Broker, Listener, Origins, Settings};
use door::{Failed, Identity, Inbox, Intake, Message, Retained, Sender, Ticket, Verdict};
use mqtt_client::{Ack, Connect, Packet, PropertyList, Publish, Subscription, Version, id};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use weir_bridge::{Attach, Bridge, Config, Direction, Limits, Metrics, Topic};

pub(crate) const BOUND: Duration = Duration::from_secs(20);
/// Name of the bridge.
pub(crate) const NAME: &str = "centre";

/// Takes everything as a plain message.
#[derive(Clone)]
pub(crate) struct Durable;

impl Inbox for Durable {
    type Intake = Self;

    fn open(&self, _sender: &Sender) -> Self {
        Self
    }
}

impl Intake for Durable {
    fn take(&mut self, _message: &Message<'_>) -> Verdict {
        Verdict::Plain
    }

    fn retain(&mut self, _message: &Retained<'_>) {}

    fn poll_submit(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Ticket, Failed>> {
        Poll::Ready(Ok(Ticket::default()))
    }

    fn durable(&self) -> Result<Ticket, Failed> {
        Ok(Ticket::default())
    }
}

/// A broker.
pub(crate) struct Node {
    pub(crate) broker: Arc<Broker<Durable>>,
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::with(broker::Config::default())
    }

    pub(crate) fn with(config: broker::Config) -> Self {
        Self::at(config, None)
    }

    /// With TLS, clients have to present a certificate.
    pub(crate) fn at(config: broker::Config, tls: Option<tls::Acceptor>) -> Self {
        let settings = Settings { requires_certificate: tls.is_some(), ..Settings::default() };
        Self::on(config, [(tls, settings)]).0
    }

    /// With a port for WebSocket besides the plain one; returns its address, too.
    pub(crate) fn web(tls: Option<tls::Acceptor>) -> (Self, SocketAddr) {
        let web = Settings { name: "web".into(), websocket: Some(Origins::new(&[])), ..Settings::default() };
        let (node, [_, web]) = Self::on(broker::Config::default(), [(None, Settings::default()), (tls, web)]);
        (node, web)
    }

    fn on<const N: usize>(
        config: broker::Config,
        listeners: [(Option<tls::Acceptor>, Settings); N],
    ) -> (Self, [SocketAddr; N]) {
        let listeners = listeners.map(|(tls, settings)| {
            let socket: broker::Socket = broker::bind("127.0.0.1:0".parse().unwrap()).unwrap().into();
            Listener { socket, tls, settings }
        });
        let addresses = listeners.each_ref().map(|listener| listener.socket.address().unwrap());
        let broker = Broker::new(config, Durable, Arc::default(), Some(Vec::new()));
        let stop = CancellationToken::new();
        tokio::spawn(Arc::clone(&broker).run(Vec::from(listeners), stop.clone()));
        (Self { broker, address: addresses[0], stop }, addresses)
    }

    /// Connections of clients inside of the process, for the default tenant.
    pub(crate) fn attach(&self) -> Attach {
        let broker = Arc::clone(&self.broker);
        Box::new(move || {
            let (device, grants, ended, meter, expires) = (None, Arc::default(), None, None, None);
            let identity = Identity { tenant: model::DEFAULT_TENANT.into(), device, grants, ended, meter, expires };
            let stream = broker.attach(identity);
            Box::pin(async move { Ok(stream) })
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A bridge that runs.
pub(crate) struct Running {
    pub(crate) metrics: Metrics,
    /// The reasons why it is not connected, or has a concern.
    pub(crate) reports: Arc<Mutex<Vec<Option<String>>>>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Bridges `node` to the broker at `address`.
    pub(crate) fn start(node: &Node, address: SocketAddr, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            name: NAME.into(),
            address: format!("mqtt://{address}"),
            client_id: "edge-7".into(),
            keep_alive_secs: 1,
            max_wait_secs: 1,
            topic: vec![topic("x/#", Direction::Out, 2)],
            ..Config::default()
        };
        change(&mut config);
        let (metrics, reports, stop) = (Metrics::default(), Arc::<Mutex<Vec<_>>>::default(), CancellationToken::new());
        let limits = Limits { max_packet_bytes: 1 << 20, receive_maximum: 1024 };
        let report = {
            let reports = Arc::clone(&reports);
            move |reason| {
                println!("report: {reason:?}");
                reports.lock().push(reason);
            }
        };
        let client_id = format!("{}bridge/{NAME}", Broker::<Durable>::INTERNAL);
        let bridge = Bridge::new(config, client_id, limits, node.attach(), report, &metrics).unwrap();
        let task = tokio::spawn(bridge.run(stop.clone()));
        Self { metrics, reports, stop, task }
    }

    pub(crate) async fn connected(&self) {
        until("the bridge is connected", || self.metrics.is_connected(NAME)).await;
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(BOUND, self.task).await.expect("it stops in time").unwrap();
    }

    /// Waits for a report with these words.
    pub(crate) async fn reports(&self, words: &str) {
        until(words, || self.reports.lock().iter().flatten().any(|reason| reason.contains(words))).await;
    }
}

pub(crate) fn topic(filter: &str, direction: Direction, qos: u8) -> Topic {
    Topic { filter: filter.into(), direction, qos, ..Topic::default() }
}

pub(crate) async fn until(what: &str, state: impl Fn() -> bool) {
    let begun = Instant::now();
    while !state() {
        assert!(begun.elapsed() < BOUND, "not within {BOUND:?}: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A message as a subscriber gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) properties: Vec<u8>,
}

/// A client of MQTT 5.
pub(crate) struct Client {
    stream: TcpStream,
    bytes: Vec<u8>,
    last_id: u16,
    /// Messages that came while an answer was awaited.
    got: Vec<Got>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr, client_id: &str) -> Self {
        Self::with(address, client_id, true).await
    }

    pub(crate) async fn with(address: SocketAddr, client_id: &str, clean_start: bool) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self { stream, bytes: Vec::new(), last_id: 0, got: Vec::new() };
        let lasts = PropertyList::new().number(id::SESSION_EXPIRY, 1000);
        let properties = if clean_start { &[][..] } else { lasts.as_bytes() };
        let connect = Connect { version: Version::V5, client_id, clean_start, properties, ..Connect::default() };
        client.write(|out| mqtt_client::connect(out, &connect)).await;
        client.answer(|packet| matches!(packet, Packet::Connack { reason: 0, .. })).await;
        client
    }

    async fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut out = Vec::new();
        write(&mut out);
        self.stream.write_all(&out).await.unwrap();
    }

    pub(crate) async fn subscribe(&mut self, filter: &str, qos: u8) {
        let subscription = Subscription { filter, qos, retain_as_published: true, ..Subscription::default() };
        self.write(|out| mqtt_client::subscribe(out, Version::V5, 9, &[], &[subscription])).await;
        self.answer(|packet| matches!(packet, Packet::Suback { packet_id: 9, .. })).await;
    }

    pub(crate) async fn publish(&mut self, topic: &str, payload: &str, qos: u8) {
        self.publish_with(topic, payload, qos, false, &[]).await;
    }

    /// Publishes a message, to the end of its exchange.
    pub(crate) async fn publish_with(&mut self, topic: &str, payload: &str, qos: u8, retain: bool, properties: &[u8]) {
        self.last_id = self.last_id % 60_000 + 1;
        let packet_id = if qos > 0 { self.last_id } else { 0 };
        let publish = Publish { topic, payload: payload.as_bytes(), qos, dup: false, retain, packet_id, properties };
        self.write(|out| mqtt_client::publish(out, Version::V5, &publish)).await;
        if qos == 1 {
            self.acknowledged(Ack::Puback, packet_id).await;
        } else if qos == 2 {
            self.acknowledged(Ack::Pubrec, packet_id).await;
            self.write(|out| mqtt_client::ack(out, Version::V5, Ack::Pubrel, packet_id, 0)).await;
            self.acknowledged(Ack::Pubcomp, packet_id).await;
        }
    }

    async fn acknowledged(&mut self, wanted: Ack, of: u16) {
        self.answer(|packet| {
            matches!(packet, Packet::Ack { ack, packet_id, reason: 0 | 0x10, .. } if (*ack, *packet_id) == (wanted, of))
        })
        .await;
    }

    /// Reads on until an answer comes; messages are acknowledged meanwhile.
    async fn answer(&mut self, is_it: impl Fn(&Packet<'_>) -> bool) {
        while !self.handle(&is_it).await {}
    }

    /// Returns the next message.
    pub(crate) async fn next(&mut self) -> Got {
        while self.got.is_empty() {
            self.handle(|_| false).await;
        }
        self.got.remove(0)
    }

    /// Returns the payloads of the next messages.
    pub(crate) async fn payloads(&mut self, count: usize) -> Vec<String> {
        let mut payloads = Vec::new();
        while payloads.len() < count {
            payloads.push(self.next().await.payload);
        }
        payloads
    }

    /// Handles one packet. True when it is the one that is awaited.
    async fn handle(&mut self, is_it: impl Fn(&Packet<'_>) -> bool) -> bool {
        let mut out = Vec::new();
        let (is_it, used) = loop {
            if let Some((packet, used)) = mqtt_client::decode(&self.bytes, Version::V5).unwrap() {
                match packet {
                    Packet::Publish(Publish { topic, payload, qos, retain, packet_id, properties, .. }) => {
                        let payload = String::from_utf8(payload.to_vec()).unwrap();
                        let (topic, properties) = (topic.to_owned(), properties.to_vec());
                        self.got.push(Got { topic, payload, qos, retain, properties });
                        let ack = if qos == 1 { Ack::Puback } else { Ack::Pubrec };
                        if qos > 0 {
                            mqtt_client::ack(&mut out, Version::V5, ack, packet_id, 0);
                        }
                    }
                    Packet::Ack { ack: Ack::Pubrel, packet_id, .. } => {
                        mqtt_client::ack(&mut out, Version::V5, Ack::Pubcomp, packet_id, 0);
                    }
                    _ => {}
                }
                break (is_it(&packet), used);
            }
            let read = tokio::time::timeout(BOUND, self.stream.read_buf(&mut self.bytes)).await;
            assert!(read.expect("a packet comes in time").unwrap() > 0, "the connection is open");
        };
        self.bytes.drain(..used);
        self.stream.write_all(&out).await.unwrap();
        is_it
    }
}

/// The numbers from 0 on, as payloads.
pub(crate) fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}
