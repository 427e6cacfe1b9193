//! The connection engine over real sockets, with a log whose durability the test decides.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use weir_broker::inbox::{Client, Failed, Inbox, Intake, Publish, Ticket, Verdict};
use weir_broker::{Broker, Config, bind};

/// What the test controls.
#[derive(Default)]
struct Log {
    taken: Mutex<Vec<(String, Vec<u8>, bool)>>,
    retained: Mutex<Vec<String>>,
    last: AtomicU64,
    durable: AtomicU64,
    /// Everything is durable at once.
    instant: AtomicBool,
    full: AtomicBool,
    failed: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl Log {
    fn release_to(&self, ticket: u64) {
        self.durable.store(ticket, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        self.wakers.lock().iter().for_each(Waker::wake_by_ref);
    }

    fn wait_taken(&self, count: usize) {
        wait(|| self.taken.lock().len() >= count);
    }
}

#[derive(Clone)]
struct Door(Arc<Log>);

struct Way {
    log: Arc<Log>,
}

impl Inbox for Door {
    type Intake = Way;

    fn open(&self, _client: &Client) -> Way {
        Way { log: Arc::clone(&self.0) }
    }
}

impl Intake for Way {
    fn publish(&mut self, publish: &Publish<'_>) -> Verdict {
        if !publish.topic.starts_with("devices/") {
            return Verdict::Plain;
        }
        self.log.taken.lock().push((publish.topic.to_owned(), publish.payload.to_vec(), publish.dup));
        if publish.payload == b"garbage" { Verdict::Quarantined } else { Verdict::Staged }
    }

    fn retain(&mut self, publish: &Publish<'_>) {
        self.log.retained.lock().push(publish.topic.to_owned());
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

fn wait(mut state: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !state() {
        assert!(begun.elapsed() < Duration::from_secs(10), "not within 10 s");
        std::thread::yield_now();
    }
}

/// A broker of its own.
struct World {
    log: Arc<Log>,
    address: SocketAddr,
    shutdown: CancellationToken,
    runtime: tokio::runtime::Runtime,
    running: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
}

impl World {
    fn new(instant: bool) -> Self {
        Self::with(instant, Config::default())
    }

    fn with(instant: bool, config: Config) -> Self {
        let log = Arc::new(Log::default());
        log.instant.store(instant, Ordering::SeqCst);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let shutdown = CancellationToken::new();
        let (address, running) = {
            let _entered = runtime.enter();
            let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let broker = Broker::new(config, Door(Arc::clone(&log)), Arc::default(), []);
            (listener.local_addr().unwrap(), runtime.spawn(broker.run(listener, shutdown.clone())))
        };
        Self { log, address, shutdown, runtime, running: Some(running) }
    }

    fn stop(&mut self) {
        self.shutdown.cancel();
        let running = self.running.take().unwrap();
        self.runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(10), running).await })
            .expect("it stops in time")
            .unwrap()
            .unwrap();
    }

    fn client(&self) -> Peer {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Peer(stream)
    }

    /// A connected 3.1.1 client.
    fn v4(&self, id: &str, flags: u8) -> Peer {
        let mut peer = self.client();
        peer.connect(4, id, flags, 0, &[]);
        assert_eq!(peer.packet().0, 0x20);
        peer
    }

    /// A connected MQTT 5 client with CONNECT properties.
    fn v5(&self, id: &str, flags: u8, properties: &[u8]) -> Peer {
        let mut peer = self.client();
        peer.connect(5, id, flags, 0, properties);
        let (first, body) = peer.packet();
        assert_eq!((first, body[1]), (0x20, 0));
        peer
    }
}

struct Peer(TcpStream);

impl Peer {
    fn send(&mut self, first: u8, body: &[u8]) {
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

    fn connect(&mut self, level: u8, id: &str, flags: u8, keep_alive: u16, properties: &[u8]) {
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

    fn publish(&mut self, topic: &str, payload: &[u8], qos: u8, id: u16, v5: bool) {
        self.publish_with(0x30 | qos << 1, topic, payload, id, v5);
    }

    fn publish_with(&mut self, first: u8, topic: &str, payload: &[u8], id: u16, v5: bool) {
        let mut body = text(topic);
        if first & 6 != 0 {
            body.extend_from_slice(&id.to_be_bytes());
        }
        if v5 {
            body.push(0);
        }
        body.extend_from_slice(payload);
        self.send(first, &body);
    }

    fn subscribe(&mut self, filter: &str, options: u8, v5: bool) -> Vec<u8> {
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

    /// The next packet: first byte and body.
    fn packet(&mut self) -> (u8, Vec<u8>) {
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

    /// True when the broker has closed, whatever it said before.
    fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }

    /// True when nothing comes for a moment.
    fn is_silent(&mut self) -> bool {
        self.0.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
        let silent = self.0.read(&mut [0]).is_err();
        self.0.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        silent
    }
}

fn text(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u16).to_be_bytes().to_vec();
    out.extend_from_slice(text.as_bytes());
    out
}

const CLEAN: u8 = 2;

#[test]
fn no_puback_leaves_before_its_message_is_durable_and_all_leave_in_order() {
    let world = World::new(false);
    let mut peer = world.v4("a", CLEAN);
    for id in 1..=3 {
        peer.publish("devices/a/telemetry", b"1", 1, id, false);
        world.log.wait_taken(usize::from(id));
        wait(|| world.log.last.load(Ordering::SeqCst) == u64::from(id));
    }
    assert!(peer.is_silent());
    world.log.release_to(2);
    assert_eq!(peer.packet(), (0x40, vec![0, 1]));
    assert_eq!(peer.packet(), (0x40, vec![0, 2]));
    assert!(peer.is_silent());
    world.log.release_to(3);
    assert_eq!(peer.packet(), (0x40, vec![0, 3]));
}

#[test]
fn a_plain_message_is_not_acknowledged_ahead_of_telemetry() {
    let world = World::new(false);
    let mut peer = world.v4("a", CLEAN);
    peer.publish("devices/a/telemetry", b"1", 1, 1, false);
    peer.publish("chat", b"hello", 1, 2, false);
    world.log.wait_taken(1);
    assert!(peer.is_silent());
    wait(|| world.log.last.load(Ordering::SeqCst) == 1);
    world.log.release_to(1);
    assert_eq!(peer.packet(), (0x40, vec![0, 1]));
    assert_eq!(peer.packet(), (0x40, vec![0, 2]));
}

#[test]
fn after_a_failed_append_nothing_is_acknowledged_and_the_client_is_told() {
    let world = World::new(false);
    let mut peer = world.v5("a", CLEAN, &[]);
    peer.publish("devices/a/telemetry", b"1", 1, 1, true);
    wait(|| world.log.last.load(Ordering::SeqCst) == 1);
    world.log.failed.store(true, Ordering::SeqCst);
    world.log.wake();
    let (first, body) = peer.packet();
    assert_eq!((first, body[0]), (0xE0, 0x83));
    assert!(peer.is_closed());
}

#[test]
fn a_full_log_stops_the_reading_of_the_socket() {
    let world = World::new(true);
    world.log.full.store(true, Ordering::SeqCst);
    let mut peer = world.v4("a", CLEAN);
    peer.publish("devices/a/telemetry", b"1", 1, 1, false);
    world.log.wait_taken(1);
    peer.0.set_nonblocking(true).unwrap();
    let block = [0x30, 3, 0, 1, b'x'].repeat(20_000);
    // The kernel's buffers fill, then nothing more goes.
    let mut written = 0;
    let begun = Instant::now();
    let mut still = Instant::now();
    while still.elapsed() < Duration::from_millis(500) {
        assert!(begun.elapsed() < Duration::from_secs(20), "it goes on reading: {written} bytes");
        match peer.0.write(&block) {
            Ok(n) => {
                written += n;
                still = Instant::now();
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    peer.0.set_nonblocking(false).unwrap();
    world.log.full.store(false, Ordering::SeqCst);
    world.log.wake();
    assert_eq!(peer.packet(), (0x40, vec![0, 1]));
}

#[test]
fn what_cannot_be_read_is_answered_with_0x99_on_mqtt_5_and_plainly_on_3_1_1() {
    let world = World::new(true);
    let mut five = world.v5("a", CLEAN, &[]);
    five.publish("devices/a/telemetry", b"garbage", 1, 7, true);
    let (first, body) = five.packet();
    assert_eq!((first, &body[..3]), (0x40, &[0, 7, 0x99][..]));
    let mut four = world.v4("b", CLEAN);
    four.publish("devices/a/telemetry", b"garbage", 1, 8, false);
    assert_eq!(four.packet(), (0x40, vec![0, 8]));
}

#[test]
fn a_qos_2_message_is_stored_once_also_when_it_is_sent_again_after_a_reconnect() {
    let world = World::new(true);
    let mut peer = world.v4("a", 0);
    peer.publish("devices/a/telemetry", b"1", 2, 5, false);
    assert_eq!(peer.packet(), (0x50, vec![0, 5]));
    drop(peer);
    let mut peer = world.v4("a", 0);
    peer.publish_with(0x3C, "devices/a/telemetry", b"1", 5, false);
    assert_eq!(peer.packet(), (0x50, vec![0, 5]));
    assert_eq!(world.log.taken.lock().len(), 1);
    peer.send(0x62, &[0, 5]);
    assert_eq!(peer.packet(), (0x70, vec![0, 5]));
    peer.publish("devices/a/telemetry", b"2", 2, 5, false);
    assert_eq!(peer.packet(), (0x50, vec![0, 5]));
    assert_eq!(world.log.taken.lock().len(), 2);
}

#[test]
fn telemetry_reaches_subscribers_only_when_it_is_durable() {
    let world = World::new(false);
    let mut subscriber = world.v4("s", CLEAN);
    assert_eq!(subscriber.subscribe("devices/+/telemetry", 1, false), [0, 9, 1]);
    let mut peer = world.v4("a", CLEAN);
    peer.publish("devices/a/telemetry", b"21.5", 1, 1, false);
    wait(|| world.log.last.load(Ordering::SeqCst) == 1);
    assert!(subscriber.is_silent());
    world.log.release_to(1);
    let (first, body) = subscriber.packet();
    assert_eq!(first, 0x32);
    assert!(body.ends_with(b"21.5"));
}

#[test]
fn overlapping_subscriptions_become_one_message() {
    let world = World::new(true);
    let mut peer = world.v4("s", CLEAN);
    peer.subscribe("a/+", 0, false);
    peer.subscribe("a/#", 1, false);
    peer.publish("a/b", b"x", 1, 1, false);
    let mut firsts = [peer.packet().0, peer.packet().0];
    firsts.sort_unstable();
    assert_eq!(firsts, [0x32, 0x40]);
    assert!(peer.is_silent());
}

#[test]
fn a_session_that_is_kept_gets_what_was_published_meanwhile_and_again_what_it_did_not_acknowledge() {
    let world = World::new(true);
    let mut subscriber = world.v4("s", 0);
    subscriber.subscribe("news", 1, false);
    drop(subscriber);
    let mut peer = world.v4("p", CLEAN);
    peer.publish("news", b"one", 1, 1, false);
    assert_eq!(peer.packet().0, 0x40);
    let mut subscriber = world.client();
    subscriber.connect(4, "s", 0, 0, &[]);
    assert_eq!(subscriber.packet(), (0x20, vec![1, 0]), "session present");
    let (first, body) = subscriber.packet();
    assert_eq!((first, body.ends_with(b"one")), (0x32, true));
    drop(subscriber);
    let mut subscriber = world.v4("s", 0);
    assert_eq!(subscriber.packet().0, 0x3A, "marked DUP");
}

#[test]
fn a_client_that_connects_again_takes_its_session_over() {
    let world = World::new(true);
    let mut old = world.v5("a", CLEAN, &[]);
    let mut new = world.v5("a", CLEAN, &[]);
    let (first, body) = old.packet();
    assert_eq!((first, body[0]), (0xE0, 0x8E));
    assert!(old.is_closed());
    new.send(0xC0, &[]);
    assert_eq!(new.packet(), (0xD0, vec![]));
}

#[test]
fn a_will_is_published_when_the_connection_breaks_and_not_after_disconnect() {
    let world = World::new(true);
    let mut subscriber = world.v4("s", CLEAN);
    subscriber.subscribe("wills/#", 0, false);
    let with_will = |id: &str| {
        let mut peer = world.client();
        let mut body = b"\0\x04MQTT\x04\x06\0\0".to_vec();
        [text(id), text(&format!("wills/{id}")), text("gone")].iter().for_each(|t| body.extend_from_slice(t));
        peer.send(0x10, &body);
        assert_eq!(peer.packet().0, 0x20);
        peer
    };
    let mut polite = with_will("polite");
    polite.send(0xE0, &[]);
    assert!(polite.is_closed());
    drop(with_will("rude"));
    let (first, body) = subscriber.packet();
    assert_eq!(first, 0x30);
    assert!(body.starts_with(&text("wills/rude")) && body.ends_with(b"gone"));
    assert!(subscriber.is_silent());
}

#[test]
fn a_retained_message_is_kept_stored_and_sent_to_later_subscribers() {
    let world = World::new(true);
    let mut peer = world.v4("p", CLEAN);
    peer.publish_with(0x33, "state/a", b"on", 1, false);
    assert_eq!(peer.packet(), (0x40, vec![0, 1]));
    assert_eq!(*world.log.retained.lock(), ["state/a"]);
    peer.subscribe("state/#", 1, false);
    let (first, body) = peer.packet();
    assert_eq!((first, body.ends_with(b"on")), (0x33, true));
}

#[test]
fn a_silent_client_is_closed_after_one_and_a_half_keep_alives() {
    let world = World::new(true);
    let mut peer = world.client();
    peer.connect(5, "a", CLEAN, 1, &[]);
    assert_eq!(peer.packet().0, 0x20);
    let begun = Instant::now();
    let (first, body) = peer.packet();
    assert_eq!((first, body[0]), (0xE0, 0x8D));
    assert!(begun.elapsed() >= Duration::from_millis(1400), "{:?}", begun.elapsed());
}

#[test]
fn garbage_closes_its_own_connection_only() {
    let world = World::new(true);
    let mut good = world.v4("good", CLEAN);
    for garbage in
        [&[0u8, 0][..], &[0x30, 0x80, 0x80, 0x80, 0x80, 1], &[0x36, 5, 0, 1, b'a', 0, 1], &[0x10, 0], &[0x20, 2, 0, 0]]
    {
        let mut bad = world.v4("bad", CLEAN);
        bad.0.write_all(garbage).unwrap();
        assert!(bad.is_closed(), "{garbage:02x?}");
        let mut first = world.client();
        first.0.write_all(garbage).unwrap();
        drop(first);
    }
    good.send(0xC0, &[]);
    assert_eq!(good.packet(), (0xD0, vec![]));
}

#[test]
fn more_in_flight_than_the_receive_maximum_is_refused_on_mqtt_5() {
    let world = World::with(false, Config { receive_maximum: 4, ..Config::default() });
    let mut peer = world.v5("a", CLEAN, &[]);
    for id in 1..=5 {
        peer.publish("devices/a/telemetry", b"1", 1, id, true);
    }
    let (first, body) = peer.packet();
    assert_eq!((first, body[0]), (0xE0, 0x93));
}

#[test]
fn a_topic_alias_stands_for_its_topic() {
    let world = World::new(true);
    let mut peer = world.v5("a", CLEAN, &[]);
    let mut body = text("devices/a/telemetry");
    body.extend_from_slice(&[0, 1, 3, 0x23, 0, 2, b'1']);
    peer.send(0x32, &body);
    peer.send(0x32, &[0, 0, 0, 2, 3, 0x23, 0, 2, b'2']);
    assert_eq!((peer.packet().0, peer.packet().0), (0x40, 0x40));
    let topics: Vec<_> = world.log.taken.lock().iter().map(|(t, ..)| t.clone()).collect();
    assert_eq!(topics, ["devices/a/telemetry"; 2]);
    peer.send(0x32, &[0, 0, 0, 3, 3, 0x23, 0, 9, b'3']);
    let (first, body) = peer.packet();
    assert_eq!((first, body[0]), (0xE0, 0x94), "an alias that was not set");
}

#[test]
fn at_shutdown_what_is_durable_is_acknowledged_and_clients_are_told() {
    let mut world = World::new(false);
    let mut peer = world.v5("a", CLEAN, &[]);
    peer.publish("devices/a/telemetry", b"1", 1, 1, true);
    wait(|| world.log.last.load(Ordering::SeqCst) == 1);
    world.shutdown.cancel();
    world.log.release_to(1);
    assert_eq!(peer.packet(), (0x40, vec![0, 1]));
    let (first, body) = peer.packet();
    assert_eq!((first, body[0]), (0xE0, 0x8B));
    world.stop();
}

#[test]
fn messages_that_come_together_with_connect_are_not_left_behind() {
    let world = World::new(true);
    let mut peer = world.client();
    let mut all = vec![0x10, 13, 0, 4];
    all.extend_from_slice(b"MQTT\x04\x02\0\0\0\x01a");
    all.extend_from_slice(&[0x32, 15, 0, 9]);
    all.extend_from_slice(b"devices/x\0\x01.5");
    peer.0.write_all(&all).unwrap();
    assert_eq!(peer.packet().0, 0x20);
    assert_eq!(peer.packet(), (0x40, vec![0, 1]));
}

#[test]
fn a_client_that_never_says_connect_is_closed() {
    let world = World::with(true, Config { connect_timeout_ms: 200, ..Config::default() });
    assert!(world.client().is_closed());
}

#[test]
fn connections_beyond_the_limit_are_refused_with_a_reason() {
    let world = World::with(true, Config { max_connections: 1, ..Config::default() });
    let _first = world.v4("a", CLEAN);
    let mut second = world.client();
    second.connect(5, "b", CLEAN, 0, &[]);
    let (first, body) = second.packet();
    assert_eq!((first, body[1]), (0x20, 0x97));
    assert!(String::from_utf8_lossy(&body).contains("max_connections"));
}
