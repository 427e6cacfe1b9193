//! A broker over real sockets, and a log whose durability the test controls.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use door::{Failed, Gatekeeper, Inbox, Intake, Message, Retained, Sender, Ticket, Verdict};
use model::trace::{Carried, Span, TraceContext};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use weir_broker::fleet::memory::MemoryFleet;
use weir_broker::fleet::{Bus, SessionStore};
use weir_broker::{Broker, Config, Earlier, Listener, Metrics, RetainedMessage, Settings, bind};

use crate::archive::Shelf;
use crate::devices::ByUser;
pub(crate) use crate::peer::*;

/// A payload with a reading of another device.
pub(crate) const OTHER_DEVICE: &[u8] = b"of another device";
/// Payload of a message beyond the limit of series.
pub(crate) const NEW_SERIES: &[u8] = b"of a new series";

/// A log that the test controls.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) taken: Mutex<Vec<(String, Vec<u8>, bool)>>,
    pub(crate) retained: Mutex<Vec<String>>,
    /// Will messages that are kept: topic and payload, empty when it is cleared.
    pub(crate) own: Mutex<Vec<(String, Vec<u8>)>>,
    /// All retained messages with their tickets, in the order of the log.
    records: Mutex<Vec<(u64, RetainedMessage)>>,
    /// Tenant and client id of every sender that was let in.
    pub(crate) senders: Mutex<Vec<(String, String)>>,
    pub(crate) last: AtomicU64,
    pub(crate) durable: AtomicU64,
    /// Everything is durable at once.
    pub(crate) instant: AtomicBool,
    pub(crate) full: AtomicBool,
    pub(crate) failed: AtomicBool,
    /// Every message of telemetry is traced.
    pub(crate) traced: AtomicBool,
    pub(crate) answered: Mutex<Vec<Span>>,
    /// For each message, whether it was in flight.
    pub(crate) in_flight: Mutex<Vec<bool>>,
    /// Sessions that ended in order.
    pub(crate) ended: AtomicU64,
    pub(crate) released: Mutex<Vec<u64>>,
    /// Cancelled when the next sender is let in.
    pub(crate) cancelled_at_open: Mutex<Option<CancellationToken>>,
    wakers: Mutex<Vec<Waker>>,
}

impl Log {
    pub(crate) fn release_to(&self, ticket: u64) {
        self.durable.store(ticket, Ordering::SeqCst);
        self.wake();
    }

    pub(crate) fn wake(&self) {
        self.wakers.lock().iter().for_each(Waker::wake_by_ref);
    }

    /// The records from the one of this number on that are durable.
    pub(crate) fn records_from(&self, from: usize) -> Vec<RetainedMessage> {
        let durable = self.durable.load(Ordering::SeqCst);
        let records = self.records.lock();
        let of = records[from..].iter().take_while(|(ticket, _)| *ticket <= durable);
        of.map(|(_, record)| record.clone()).collect()
    }

    /// Retained messages that are durable, as the next start finds them.
    pub(crate) fn state(&self) -> Vec<RetainedMessage> {
        let durable = self.durable.load(Ordering::SeqCst);
        let mut state = std::collections::BTreeMap::new();
        for (_, record) in self.records.lock().iter().filter(|(ticket, _)| *ticket <= durable) {
            state.insert((record.tenant.clone(), record.topic.clone()), record.clone());
        }
        state.into_values().filter(|record| !record.payload.is_empty()).collect()
    }

    /// Count of the records under topics that begin so, durable or not.
    pub(crate) fn staged(&self, prefix: &str) -> usize {
        let records = self.records.lock();
        records.iter().filter(|(_, record)| record.topic.starts_with(prefix) && !record.payload.is_empty()).count()
    }

    pub(crate) fn wait_taken(&self, count: usize) {
        wait(|| self.taken.lock().len() >= count);
    }
}

#[derive(Clone)]
pub(crate) struct LogInbox(Arc<Log>);

pub(crate) struct LogIntake {
    log: Arc<Log>,
    tenant: Arc<str>,
    staged: Vec<RetainedMessage>,
    traced: Option<Box<Span>>,
}

impl Inbox for LogInbox {
    type Intake = LogIntake;

    fn open(&self, sender: &Sender) -> LogIntake {
        self.0.senders.lock().push((sender.tenant.to_string(), sender.client.to_string()));
        if let Some(ended) = self.0.cancelled_at_open.lock().take() {
            ended.cancel();
        }
        LogIntake { log: Arc::clone(&self.0), tenant: Arc::clone(&sender.tenant), staged: Vec::new(), traced: None }
    }
}

impl Intake for LogIntake {
    fn take(&mut self, message: &Message<'_>) -> Verdict {
        if !message.topic.starts_with("devices/") {
            return Verdict::Plain;
        }
        if message.payload == OTHER_DEVICE {
            return Verdict::Denied;
        }
        if message.payload == NEW_SERIES {
            return Verdict::OverQuota(door::quota::Quota::Series);
        }
        if self.log.traced.load(Ordering::SeqCst) {
            let own = TraceContext { trace_id: [1; 16], span_id: [1; 8], flags: 1 };
            let context = message.delivery.trace.and_then(Carried::read).unwrap_or(own);
            self.traced = Some(Box::new(Span::new(context, None, "publish", 0)));
        }
        self.log.in_flight.lock().push(message.delivery.in_flight);
        self.log.taken.lock().push((message.topic.to_owned(), message.payload.to_vec(), message.delivery.resent));
        match message.payload {
            b"garbage" => Verdict::Unreadable,
            b"held" => Verdict::Held,
            _ => Verdict::Staged,
        }
    }

    fn is_traced(&self) -> bool {
        self.log.traced.load(Ordering::SeqCst)
    }

    fn take_span(&mut self) -> Option<Box<Span>> {
        self.traced.take()
    }

    fn answered(&mut self, span: Box<Span>) {
        self.log.answered.lock().push(*span);
    }

    fn retain(&mut self, message: &Retained<'_>) {
        if message.topic.starts_with("$weir/wills/") {
            self.log.own.lock().push((message.topic.to_owned(), message.payload.to_vec()));
        } else if !message.topic.starts_with("$weir/") {
            self.log.retained.lock().push(message.topic.to_owned());
        }
        self.staged.push(RetainedMessage {
            tenant: Arc::clone(&self.tenant),
            topic: message.topic.to_owned(),
            payload: message.payload.to_vec(),
            qos: message.qos,
            properties: message.properties.to_vec(),
            published: model::clock::now(),
        });
    }

    fn end_session(&mut self) -> bool {
        self.log.ended.fetch_add(1, Ordering::SeqCst);
        false
    }

    fn released(&mut self, id: u64) {
        self.log.released.lock().push(id);
    }

    fn poll_submit(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ticket, Failed>> {
        if self.log.failed.load(Ordering::SeqCst) {
            return Poll::Ready(Err(Failed("fsync failed".into())));
        }
        self.log.wakers.lock().push(cx.waker().clone());
        if self.log.full.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        let mut records = self.log.records.lock();
        let ticket = self.log.last.fetch_add(1, Ordering::SeqCst) + 1;
        records.extend(self.staged.drain(..).map(|record| (ticket, record)));
        if self.log.instant.load(Ordering::SeqCst) {
            self.log.durable.store(ticket, Ordering::SeqCst);
        }
        Poll::Ready(Ok(Ticket(ticket)))
    }

    fn durable(&self) -> Result<Ticket, Failed> {
        if self.log.failed.load(Ordering::SeqCst) {
            return Err(Failed("fsync failed".into()));
        }
        Ok(Ticket(self.log.durable.load(Ordering::SeqCst)))
    }
}

pub(crate) fn wait(mut state: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !state() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not within 30 s");
        std::thread::yield_now();
    }
}

/// A connection from 127.0.0.`last`.
pub(crate) fn from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, last], 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

/// The other nodes, as a broker reaches them.
type Ports = (Arc<dyn SessionStore>, Arc<dyn Bus>);

/// A broker of its own.
pub(crate) struct World {
    pub(crate) log: Arc<Log>,
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) broker: Arc<Broker<LogInbox>>,
    pub(crate) runtime: tokio::runtime::Runtime,
    running: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
}

impl World {
    pub(crate) fn new(instant: bool) -> Self {
        Self::with(instant, Config::default())
    }

    pub(crate) fn with(instant: bool, config: Config) -> Self {
        Self::restored(instant, config, Vec::new())
    }

    /// With retained messages of an earlier start.
    pub(crate) fn restored(instant: bool, config: Config, retained: Vec<RetainedMessage>) -> Self {
        Self::guarded(Box::new(ByUser), instant, config, retained)
    }

    pub(crate) fn guarded(
        gatekeeper: Box<dyn Gatekeeper>,
        instant: bool,
        config: Config,
        retained: Vec<RetainedMessage>,
    ) -> Self {
        Self::on_ports(gatekeeper, instant, config, retained, None, 2).0
    }

    /// On so many threads. Everything is durable at once.
    pub(crate) fn with_workers(workers: usize) -> Self {
        Self::on_ports(Box::new(ByUser), true, Config::default(), Vec::new(), None, workers).0
    }

    /// With a port for TLS besides the plain one. Everything is durable at once.
    pub(crate) fn encrypted(gatekeeper: Box<dyn Gatekeeper>, config: Config, tls: tls::Acceptor) -> (Self, SocketAddr) {
        let (world, tls) = Self::on_ports(gatekeeper, true, config, Vec::new(), Some(tls), 2);
        (world, tls.unwrap())
    }

    fn on_ports(
        gatekeeper: Box<dyn Gatekeeper>,
        instant: bool,
        config: Config,
        retained: Vec<RetainedMessage>,
        tls: Option<tls::Acceptor>,
        workers: usize,
    ) -> (Self, Option<SocketAddr>) {
        let mut listeners = vec![(Settings { name: "mqtt".into(), ..Settings::default() }, None)];
        listeners.extend(tls.map(|tls| (Settings { name: "mqtts".into(), ..Settings::default() }, Some(tls))));
        let (world, addresses) = Self::on_threads(workers, gatekeeper, instant, config, retained, |bind| {
            let listener = |(settings, tls)| Listener { socket: bind().into(), tls, settings };
            listeners.into_iter().map(listener).collect()
        });
        (world, addresses.get(1).copied())
    }

    /// With listeners of the test; returns the address of each. The first is that of the world.
    pub(crate) fn at(
        gatekeeper: Box<dyn Gatekeeper>,
        instant: bool,
        config: Config,
        retained: Vec<RetainedMessage>,
        listeners: impl FnOnce(&dyn Fn() -> tokio::net::TcpListener) -> Vec<Listener>,
    ) -> (Self, Vec<SocketAddr>) {
        Self::on_threads(2, gatekeeper, instant, config, retained, listeners)
    }

    /// Without the state of earlier starts, which comes later by `restore` of its broker.
    pub(crate) fn awaiting() -> Self {
        let listener = |bind: &dyn Fn() -> tokio::net::TcpListener| {
            vec![Listener {
                socket: bind().into(),
                tls: None,
                settings: Settings { name: "mqtt".into(), ..Settings::default() },
            }]
        };
        Self::on_threads(2, Box::new(ByUser), true, Config::default(), None, listener).0
    }

    /// Gives it the state of earlier starts.
    pub(crate) fn restore(&self, state: Vec<RetainedMessage>) {
        self.runtime.block_on(self.broker.restore(state));
    }

    /// As the next start on the same log, after a kill.
    pub(crate) fn again(&self) -> Self {
        let next = Self::restored(true, Config::default(), self.log.state());
        // What is durable stays so.
        let mut records = next.log.records.lock();
        records.extend(self.log.state().into_iter().map(|record| (0, record)));
        drop(records);
        next
    }

    /// With an archive of what is durable, and the state of an earlier start, which it has.
    pub(crate) fn archived(config: Config, state: Vec<RetainedMessage>) -> (Self, Arc<Shelf>) {
        let earlier = Self::in_archive(&config, &state);
        Self::with_shelf(config, &state, Some(earlier))
    }

    /// As [`World::archived`], with the state of an earlier start in the archive alone for now.
    pub(crate) fn archived_later(config: Config, state: &[RetainedMessage]) -> (Self, Arc<Shelf>) {
        Self::with_shelf(config, state, None)
    }

    /// Gives it the state of earlier starts, which the archive has.
    pub(crate) fn restore_archived(&self, state: &[RetainedMessage]) {
        let earlier = Self::in_archive(&Config::default(), state);
        self.runtime.block_on(async {
            self.broker.restore_part(earlier).await;
            self.broker.restore(Vec::new()).await;
        });
    }

    fn in_archive(config: &Config, state: &[RetainedMessage]) -> Earlier {
        let mut earlier = Earlier::of(&config.node);
        state.iter().for_each(|message| earlier.add(message.clone(), true));
        earlier
    }

    fn with_shelf(config: Config, state: &[RetainedMessage], earlier: Option<Earlier>) -> (Self, Arc<Shelf>) {
        let listener = |bind: &dyn Fn() -> tokio::net::TcpListener| {
            let settings = Settings { name: "mqtt".into(), ..Settings::default() };
            vec![Listener { socket: bind().into(), tls: None, settings }]
        };
        let mut shelf = None;
        let (world, _) = Self::built(2, true, listener, |inbox, metrics| {
            inbox.0.records.lock().extend(state.iter().map(|record| (0, record.clone())));
            let of_log = Arc::clone(shelf.insert(Arc::new(Shelf::of(Arc::clone(&inbox.0)))));
            let broker = Broker::with_gatekeeper(config, inbox, Box::new(ByUser), metrics, None);
            broker.put_away_to(of_log);
            earlier.into_iter().for_each(|earlier| broker.begin_with(earlier));
            broker
        });
        (world, shelf.unwrap())
    }

    /// As a node of a fleet. Everything is durable at once in its log.
    pub(crate) fn in_fleet(fleet: &MemoryFleet, node: &str) -> Self {
        Self::in_fleet_with(fleet, node, Vec::new())
    }

    /// As [`World::in_fleet`], with retained messages of an earlier start.
    pub(crate) fn in_fleet_with(fleet: &MemoryFleet, node: &str, retained: Vec<RetainedMessage>) -> Self {
        let name = node;
        let node = fleet.node(name);
        let ports: Ports = (Arc::clone(&node) as Arc<_>, node as Arc<_>);
        Self::with_ports(ports, name, Config::default(), retained)
    }

    /// A broker that is a node of a fleet, by these ports.
    pub(crate) fn with_ports(ports: Ports, node: &str, config: Config, retained: Vec<RetainedMessage>) -> Self {
        let config = Config { node: node.to_owned(), ..config };
        let listener = |bind: &dyn Fn() -> tokio::net::TcpListener| {
            let settings = Settings { name: "mqtt".into(), ..Settings::default() };
            vec![Listener { socket: bind().into(), tls: None, settings }]
        };
        let (inbox, messages) = (Box::new(ByUser), Some(retained));
        Self::built(2, true, listener, |log, metrics| Broker::in_fleet(config, log, inbox, metrics, messages, ports)).0
    }

    fn on_threads(
        workers: usize,
        gatekeeper: Box<dyn Gatekeeper>,
        instant: bool,
        config: Config,
        retained: impl Into<Option<Vec<RetainedMessage>>>,
        listeners: impl FnOnce(&dyn Fn() -> tokio::net::TcpListener) -> Vec<Listener>,
    ) -> (Self, Vec<SocketAddr>) {
        let retained = retained.into();
        Self::built(workers, instant, listeners, |inbox, metrics| {
            Broker::with_gatekeeper(config, inbox, gatekeeper, metrics, retained)
        })
    }

    fn built(
        workers: usize,
        instant: bool,
        listeners: impl FnOnce(&dyn Fn() -> tokio::net::TcpListener) -> Vec<Listener>,
        broker: impl FnOnce(LogInbox, Arc<Metrics>) -> Arc<Broker<LogInbox>>,
    ) -> (Self, Vec<SocketAddr>) {
        let log = Arc::new(Log::default());
        log.instant.store(instant, Ordering::SeqCst);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap();
        let shutdown = CancellationToken::new();
        let metrics = Arc::<Metrics>::default();
        let (addresses, broker, running) = {
            let _entered = runtime.enter();
            let listeners = listeners(&|| bind("127.0.0.1:0".parse().unwrap()).unwrap());
            let nowhere = SocketAddr::from(([0; 4], 0));
            let addresses: Vec<_> = listeners.iter().map(|l| l.socket.address().unwrap_or(nowhere)).collect();
            let broker = broker(LogInbox(Arc::clone(&log)), Arc::clone(&metrics));
            (addresses, Arc::clone(&broker), runtime.spawn(broker.run(listeners, shutdown.clone())))
        };
        let address = addresses[0];
        (Self { log, address, shutdown, metrics, broker, runtime, running: Some(running) }, addresses)
    }

    pub(crate) fn stop(&mut self) {
        self.shutdown.cancel();
        let running = self.running.take().unwrap();
        self.runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(10), running).await })
            .expect("it stops in time")
            .unwrap()
            .unwrap();
    }

    /// Awaits a call of the broker, within 10 s.
    pub(crate) fn wait_for<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), call).await }).unwrap()
    }

    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(call)
    }

    /// Messages that were not sent to a subscriber, for this reason.
    pub(crate) fn dropped(&self, reason: &'static str) -> u64 {
        self.metrics.dropped(reason).get()
    }

    /// Connections that ended, for this reason.
    pub(crate) fn ended(&self, reason: &'static str) -> u64 {
        self.metrics.disconnects(reason).get()
    }

    /// A connected client with a will of QoS 0 on `wills/{id}`; `own` are its will's MQTT 5
    /// properties.
    pub(crate) fn with_will(&self, id: &str, v5: bool, connect: &[u8], own: &[u8], clean: bool) -> Peer {
        let mut peer = self.client();
        let mut body = b"\0\x04MQTT".to_vec();
        body.extend_from_slice(&[if v5 { 5 } else { 4 }, 4 | u8::from(clean) << 1, 0, 0]);
        if v5 {
            body.push(connect.len() as u8);
            body.extend_from_slice(connect);
        }
        body.extend_from_slice(&text(id));
        if v5 {
            body.push(own.len() as u8);
            body.extend_from_slice(own);
        }
        body.extend_from_slice(&text(&format!("wills/{id}")));
        body.extend_from_slice(&text("gone"));
        peer.send(0x10, &body);
        assert_eq!(peer.packet().0, 0x20);
        peer
    }

    /// A connected MQTT 5 client of a tenant, with CONNECT properties, and a will of QoS 0 when it
    /// has a topic for one.
    pub(crate) fn of(&self, tenant: &str, id: &str, flags: u8, properties: &[u8], will: Option<(&str, &[u8])>) -> Peer {
        let mut peer = self.client();
        let mut body = b"\0\x04MQTT\x05".to_vec();
        body.extend_from_slice(&[0x80 | flags | u8::from(will.is_some()) << 2, 0, 0, properties.len() as u8]);
        body.extend_from_slice(properties);
        body.extend_from_slice(&text(id));
        if let Some((topic, own)) = will {
            body.push(own.len() as u8);
            body.extend_from_slice(own);
            body.extend_from_slice(&text(topic));
            body.extend_from_slice(&text(&format!("will of {tenant}")));
        }
        body.extend_from_slice(&text(tenant));
        peer.send(0x10, &body);
        let (first, body) = peer.packet();
        assert_eq!((first, body[1]), (0x20, 0));
        peer
    }

    pub(crate) fn client(&self) -> Peer {
        let stream = TcpStream::connect(self.address).unwrap();
        // Packets leave when they are written, as with most clients.
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Peer(stream)
    }

    /// A client at 127.0.0.`last`.
    pub(crate) fn client_from(&self, last: u8) -> Peer {
        let stream = from(last, self.address);
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Peer(stream)
    }

    /// A connected 3.1.1 client.
    pub(crate) fn v4(&self, id: &str, flags: u8) -> Peer {
        let mut peer = self.client();
        peer.connect(4, id, flags, 0, &[]);
        assert_eq!(peer.packet().0, 0x20);
        peer
    }

    /// A connected MQTT 5 client with CONNECT properties.
    pub(crate) fn v5(&self, id: &str, flags: u8, properties: &[u8]) -> Peer {
        let mut peer = self.client();
        peer.connect(5, id, flags, 0, properties);
        let (first, body) = peer.packet();
        assert_eq!((first, body[1]), (0x20, 0));
        peer
    }
}
