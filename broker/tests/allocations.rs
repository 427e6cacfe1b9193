//! A PUBLISH costs no allocation in the broker once its connection is established.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use door::quota::{Limits, TenantMeter};
use door::{
    Credentials, Failed, Gatekeeper, Grants, Identity, Inbox, Intake, Message, OneTenant, Refusal, Retained, Sender,
    Ticket, Verdict,
};
use tokio_util::sync::CancellationToken;
use weir_broker::{Broker, Config, Metrics, bind};

/// A log that is durable at once, and allocates nothing itself.
#[derive(Clone, Default)]
struct Instantly(Arc<AtomicU64>);

impl Inbox for Instantly {
    type Intake = Self;

    fn open(&self, _sender: &Sender) -> Self {
        self.clone()
    }
}

impl Intake for Instantly {
    fn take(&mut self, message: &Message<'_>) -> Verdict {
        assert_eq!((message.topic, message.payload), ("devices/a/telemetry", &b"21.5"[..]));
        Verdict::Staged
    }

    fn retain(&mut self, _message: &Retained<'_>) {}

    fn poll_submit(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Ticket, Failed>> {
        Poll::Ready(Ok(Ticket(self.0.fetch_add(1, Ordering::Relaxed) + 1)))
    }

    fn durable(&self) -> Result<Ticket, Failed> {
        Ok(Ticket(self.0.load(Ordering::Relaxed)))
    }
}

/// Admits every client as a device that may publish to its own topics, within limits.
struct Device(Limits);

#[async_trait]
impl Gatekeeper for Device {
    async fn admit(&self, _credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        let own = ["tele/{device}/SENSOR", "stat/{device}/+", "devices/{device}/#"].map(str::to_owned);
        let grants = Arc::new(Grants::of(&own, &own, "a").unwrap());
        let meter = Some(TenantMeter::new(&self.0).device("a"));
        Ok(Identity {
            tenant: "t".into(),
            device: Some("a".into()),
            grants,
            ended: Some(CancellationToken::new()),
            meter,
            expires: None,
        })
    }
}

const WINDOW: usize = 50;

/// Publishes windows of messages until `stop`, in pieces that split packets anywhere.
fn publish_on(address: SocketAddr, connect: &[u8], packet: &[u8], id_at: usize, stop: &AtomicBool) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(connect).unwrap();
    let mut connack = [0; 2];
    stream.read_exact(&mut connack).unwrap();
    stream.read_exact(&mut vec![0; usize::from(connack[1])]).unwrap();
    let mut block = packet.repeat(WINDOW);
    for (n, one) in block.chunks_mut(packet.len()).enumerate() {
        one[id_at..id_at + 2].copy_from_slice(&(n as u16 + 1).to_be_bytes());
    }
    let mut answers = [0; 4 * WINDOW];
    while !stop.load(Ordering::Relaxed) {
        for piece in block.chunks(97) {
            stream.write_all(piece).unwrap();
        }
        stream.read_exact(&mut answers).unwrap();
        assert_eq!(answers[196..], [0x40, 2, 0, 50]);
    }
}

fn allocations_per_message(gatekeeper: impl Gatekeeper, connect: &'static [u8], packet: Vec<u8>, id_at: usize) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let metrics = Arc::<Metrics>::default();
    let shutdown = CancellationToken::new();
    let _entered = runtime.enter();
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let (config, inbox, gatekeeper) = (Config::default(), Instantly::default(), Box::new(gatekeeper));
    let broker = Broker::with_gatekeeper(config, inbox, gatekeeper, Arc::clone(&metrics), Some(Vec::new()));
    let running = runtime.spawn(broker.run(listener, shutdown.clone()));
    let stop = Arc::<AtomicBool>::default();
    let publisher = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || publish_on(address, connect, &packet, id_at, &stop)
    });
    let until = |count: u64| {
        runtime.block_on(async {
            while metrics.acknowledgements.get() < count {
                tokio::task::yield_now().await;
            }
        });
    };
    until(5_000);
    let from = metrics.acknowledgements.get();
    let counted = allocation_counter::measure(|| until(from + 20_000));
    let messages = metrics.acknowledgements.get() - from;
    println!("{} allocations for {messages} messages", counted.count_total);
    stop.store(true, Ordering::Relaxed);
    runtime.block_on(async {
        while !publisher.is_finished() {
            tokio::task::yield_now().await;
        }
        shutdown.cancel();
        running.await.unwrap().unwrap();
    });
    publisher.join().unwrap();
    counted.count_total as f64 / messages as f64
}

#[test]
fn a_publish_at_qos_1_allocates_nothing() {
    let mut packet = vec![0x32, 2 + 19 + 2 + 4, 0, 19];
    packet.extend_from_slice(b"devices/a/telemetry\0\x0021.5");
    let each = allocations_per_message(OneTenant::default(), b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01a", packet, 23);
    assert!(each < 0.000_5, "{each} allocations per message");
}

#[test]
fn a_publish_with_a_topic_alias_allocates_nothing() {
    // Topic and alias: the alias stands for the same topic again.
    let mut packet = vec![0x32, 2 + 19 + 2 + 4 + 4, 0, 19];
    packet.extend_from_slice(b"devices/a/telemetry\0\0\x03\x23\0\x0121.5");
    let each = allocations_per_message(OneTenant::default(), b"\x10\x0e\0\x04MQTT\x05\x02\0\0\0\0\x01a", packet, 23);
    assert!(each < 0.000_5, "{each} allocations per message");
}

#[test]
fn a_publish_of_a_device_to_its_own_topic_allocates_nothing() {
    let mut packet = vec![0x32, 2 + 19 + 2 + 4, 0, 19];
    packet.extend_from_slice(b"devices/a/telemetry\0\x0021.5");
    let each = allocations_per_message(Device(Limits::default()), b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01a", packet, 23);
    assert!(each < 0.000_5, "{each} allocations per message");
}

#[test]
fn a_publish_that_is_paced_allocates_nothing() {
    let mut packet = vec![0x32, 2 + 19 + 2 + 4, 0, 19];
    packet.extend_from_slice(b"devices/a/telemetry\0\x0021.5");
    let limits = Limits {
        messages_per_second: NonZeroU64::new(20_000),
        message_burst: NonZeroU64::new(100),
        device_bytes_per_second: NonZeroU64::new(1 << 30),
        ..Limits::default()
    };
    let begun = Instant::now();
    let connect = b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01a";
    let each = allocations_per_message(Device(limits), connect, packet, 23);
    assert!(each < 0.000_5, "{each} allocations per message");
    assert!(begun.elapsed() > Duration::from_millis(1200), "25,000 messages at 20,000/s: {:?}", begun.elapsed());
}
