//! A broker over real sockets, a log whose durability the test controls, and a client that writes
//! packets byte by byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use door::{Credentials, Failed, Gatekeeper, Inbox, Intake, Message, Retained, Sender, Ticket, Verdict};
use model::trace::{Carried, Span, TraceContext};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use weir_broker::{Broker, Config, Metrics, RetainedMessage, bind};

/// A log that the test controls.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) taken: Mutex<Vec<(String, Vec<u8>, bool)>>,
    pub(crate) retained: Mutex<Vec<String>>,
    /// Retained messages of Weir's own: topic and payload, empty when it is cleared.
    pub(crate) own: Mutex<Vec<(String, Vec<u8>)>>,
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

    pub(crate) fn wait_taken(&self, count: usize) {
        wait(|| self.taken.lock().len() >= count);
    }
}

#[derive(Clone)]
pub(crate) struct LogInbox(Arc<Log>);

pub(crate) struct LogIntake {
    log: Arc<Log>,
    traced: Option<Box<Span>>,
}

impl Inbox for LogInbox {
    type Intake = LogIntake;

    fn open(&self, sender: &Sender) -> LogIntake {
        self.0.senders.lock().push((sender.tenant.to_string(), sender.client.to_string()));
        LogIntake { log: Arc::clone(&self.0), traced: None }
    }
}

impl Intake for LogIntake {
    fn take(&mut self, message: &Message<'_>) -> Verdict {
        if !message.topic.starts_with("devices/") {
            return Verdict::Plain;
        }
        if self.log.traced.load(Ordering::SeqCst) {
            let own = TraceContext { trace_id: [1; 16], span_id: [1; 8], flags: 1 };
            let context = message.delivery.trace.and_then(Carried::read).unwrap_or(own);
            self.traced = Some(Box::new(Span::new(context, None, "publish", 0)));
        }
        self.log.in_flight.lock().push(message.delivery.in_flight);
        self.log.taken.lock().push((message.topic.to_owned(), message.payload.to_vec(), message.delivery.resent));
        if message.payload == b"garbage" { Verdict::Quarantined } else { Verdict::Staged }
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
        if message.topic.starts_with("$weir/") {
            self.log.own.lock().push((message.topic.to_owned(), message.payload.to_vec()));
        } else {
            self.log.retained.lock().push(message.topic.to_owned());
        }
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
        let ticket = self.log.last.fetch_add(1, Ordering::SeqCst) + 1;
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

/// Admits every client; the user name is the tenant.
struct ByUser;

impl Gatekeeper for ByUser {
    fn tenant(&self, credentials: &Credentials<'_>) -> Arc<str> {
        credentials.user.unwrap_or("default").into()
    }
}

pub(crate) fn wait(mut state: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !state() {
        assert!(begun.elapsed() < Duration::from_secs(10), "not within 10 s");
        std::thread::yield_now();
    }
}

/// A broker of its own.
pub(crate) struct World {
    pub(crate) log: Arc<Log>,
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) metrics: Arc<Metrics>,
    runtime: tokio::runtime::Runtime,
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
        let log = Arc::new(Log::default());
        log.instant.store(instant, Ordering::SeqCst);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let shutdown = CancellationToken::new();
        let metrics = Arc::<Metrics>::default();
        let (address, running) = {
            let _entered = runtime.enter();
            let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let inbox = LogInbox(Arc::clone(&log));
            let gatekeeper = Box::new(ByUser);
            let broker = Broker::with_gatekeeper(config, inbox, gatekeeper, Arc::clone(&metrics), Some(retained));
            (listener.local_addr().unwrap(), runtime.spawn(broker.run(listener, shutdown.clone())))
        };
        Self { log, address, shutdown, metrics, runtime, running: Some(running) }
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

pub(crate) struct Peer(pub(crate) TcpStream);

impl Peer {
    pub(crate) fn send(&mut self, first: u8, body: &[u8]) {
        let mut out = vec![first];
        let mut length = body.len();
        while length >= 128 {
            out.push((length % 128) as u8 | 128);
            length /= 128;
        }
        out.push(length as u8);
        out.extend_from_slice(body);
        self.0.write_all(&out).unwrap();
    }

    pub(crate) fn connect(&mut self, level: u8, id: &str, flags: u8, keep_alive: u16, properties: &[u8]) {
        let mut body = b"\0\x04MQTT".to_vec();
        body.extend_from_slice(&[level, flags]);
        body.extend_from_slice(&keep_alive.to_be_bytes());
        if level == 5 {
            body.push(properties.len() as u8);
            body.extend_from_slice(properties);
        }
        body.extend_from_slice(&text(id));
        self.send(0x10, &body);
    }

    pub(crate) fn publish(&mut self, topic: &str, payload: &[u8], qos: u8, id: u16, v5: bool) {
        self.publish_with(0x30 | qos << 1, topic, payload, id, v5);
    }

    pub(crate) fn publish_with(&mut self, first: u8, topic: &str, payload: &[u8], id: u16, v5: bool) {
        self.publish_properties(first, topic, payload, id, v5.then_some(&[]));
    }

    /// With properties, on MQTT 5.
    pub(crate) fn publish_properties(
        &mut self,
        first: u8,
        topic: &str,
        payload: &[u8],
        id: u16,
        properties: Option<&[u8]>,
    ) {
        let mut body = text(topic);
        if first & 6 != 0 {
            body.extend_from_slice(&id.to_be_bytes());
        }
        if let Some(properties) = properties {
            body.push(properties.len() as u8);
            body.extend_from_slice(properties);
        }
        body.extend_from_slice(payload);
        self.send(first, &body);
    }

    pub(crate) fn subscribe(&mut self, filter: &str, options: u8, v5: bool) -> Vec<u8> {
        let mut body = vec![0, 9];
        if v5 {
            body.push(0);
        }
        body.extend_from_slice(&text(filter));
        body.push(options);
        self.send(0x82, &body);
        let (first, body) = self.packet();
        assert_eq!(first, 0x90);
        body
    }

    /// A SUBSCRIBE of MQTT 5 with a subscription id.
    pub(crate) fn subscribe_with_id(&mut self, filter: &str, options: u8, id: u8) {
        let mut body = vec![0, 9, 2, 0x0B, id];
        body.extend_from_slice(&text(filter));
        body.push(options);
        self.send(0x82, &body);
        assert_eq!(self.packet().0, 0x90);
    }

    /// Sends a PINGREQ and awaits the answer: all packets sent before have been read by then.
    pub(crate) fn ping(&mut self) {
        self.send(0xC0, &[]);
        assert_eq!(self.packet(), (0xD0, vec![]));
    }

    /// The next packet: first byte and body.
    pub(crate) fn packet(&mut self) -> (u8, Vec<u8>) {
        let mut byte = [0];
        self.0.read_exact(&mut byte).unwrap();
        let first = byte[0];
        let (mut length, mut shift) = (0, 0);
        loop {
            self.0.read_exact(&mut byte).unwrap();
            length |= usize::from(byte[0] & 127) << shift;
            shift += 7;
            if byte[0] & 128 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        (first, body)
    }

    /// True when the broker has closed the connection. Packets before the end are skipped.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }

    /// True when nothing comes for a moment.
    pub(crate) fn is_silent(&mut self) -> bool {
        self.0.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
        let silent = self.0.read(&mut [0]).is_err();
        self.0.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        silent
    }
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u16).to_be_bytes().to_vec();
    out.extend_from_slice(text.as_bytes());
    out
}

pub(crate) const CLEAN: u8 = 2;
