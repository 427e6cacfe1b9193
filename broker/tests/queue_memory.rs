//! Memory of a session for which many messages wait, with and without an archive that has them.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use door::{Failed, Inbox, Intake, Message, Retained, Sender, Ticket, Verdict};
use mqtt_client::{Connect, Publish, Version};
use tokio_util::sync::CancellationToken;
use weir_broker::{Archive, Broker, Config, Metrics, RetainedMessage, Unreachable, bind};

const MESSAGES: u64 = 100_000;
const PAYLOAD: [u8; 200] = [7; 200];

/// A log that keeps nothing, and says that it has everything.
#[derive(Clone)]
struct Everything;

impl Inbox for Everything {
    type Intake = Self;

    fn open(&self, _sender: &Sender) -> Self {
        Self
    }
}

impl Intake for Everything {
    fn take(&mut self, _message: &Message<'_>) -> Verdict {
        Verdict::Plain
    }

    fn retain(&mut self, _message: &Retained<'_>) {}

    fn poll_submit(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Ticket, Failed>> {
        Poll::Ready(Ok(Ticket(1)))
    }

    fn durable(&self) -> Result<Ticket, Failed> {
        Ok(Ticket(1))
    }
}

#[async_trait]
impl Archive for Everything {
    async fn holds(&self, _: &Arc<str>, topics: &[String]) -> Result<Vec<bool>, Unreachable> {
        Ok(vec![true; topics.len()])
    }

    async fn read(&self, _: &Arc<str>, _: &[String], _: usize) -> Result<Vec<Option<RetainedMessage>>, Unreachable> {
        Err(Unreachable("no client comes back in this test".into()))
    }
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

fn connect(address: SocketAddr, client_id: &str, clean_start: bool) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut out = Vec::new();
    mqtt_client::connect(&mut out, &Connect { client_id, clean_start, ..Connect::default() });
    stream.write_all(&out).unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    stream
}

/// Publishes, and reads every acknowledgement.
fn publish_all(address: SocketAddr) {
    let mut stream = connect(address, "publisher", true);
    let window = 500;
    for begun in (0..MESSAGES).step_by(window) {
        let mut out = Vec::new();
        for n in begun..begun + window as u64 {
            let packet_id = (n % 60_000 + 1) as u16;
            let publish = Publish { topic: "n", payload: &PAYLOAD, qos: 1, packet_id, ..Publish::default() };
            mqtt_client::publish(&mut out, Version::V4, &publish);
        }
        stream.write_all(&out).unwrap();
        stream.read_exact(&mut vec![0; 4 * window]).unwrap();
    }
}

/// Returns the memory that a session takes, in bytes.
fn measure(has_archive: bool) -> usize {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let metrics = Arc::<Metrics>::default();
    let shutdown = CancellationToken::new();
    let (address, running) = {
        let _entered = runtime.enter();
        let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let most = MESSAGES as usize;
        let config = Config { max_queued_messages: most, put_away_ms: 20, ..Config::default() };
        let broker = Broker::new(config, Everything, Arc::clone(&metrics), Some(Vec::new()));
        if has_archive {
            broker.put_away_to(Arc::new(Everything));
        }
        (address, runtime.spawn(broker.run(socket, shutdown.clone())))
    };
    let mut away = connect(address, "away", false);
    away.write_all(b"\x82\x06\0\x01\0\x01n\x01").unwrap();
    away.read_exact(&mut [0; 5]).unwrap();
    drop(away);
    let before = resident_bytes();
    publish_all(address);
    let begun = Instant::now();
    while has_archive && metrics.put_away.get() + 1_000 < MESSAGES {
        assert!(begun.elapsed() < Duration::from_secs(30), "{} are put away", metrics.put_away.get());
        std::thread::yield_now();
    }
    let held = resident_bytes().saturating_sub(before);
    shutdown.cancel();
    runtime.block_on(running).unwrap().unwrap();
    held
}

#[test]
fn messages_that_an_archive_has_take_little_memory() {
    let with = measure(true);
    let without = measure(false);
    println!(
        "{MESSAGES} messages of {} bytes that wait for a session: {with} bytes of memory, {without} without an archive",
        PAYLOAD.len()
    );
    assert!(with < 10 << 20 && with < without / 4, "{with} of {without} bytes");
}
