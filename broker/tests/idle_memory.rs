//! Memory of an idle connection. Only printed: the figure depends on the allocator.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use door::{Failed, Inbox, Intake, Message, Retained, Sender, Ticket, Verdict};
use tokio_util::sync::CancellationToken;
use weir_broker::{Broker, Config, Listener, Metrics, Origins, Settings, bind};

#[derive(Clone)]
struct Nothing;

impl Inbox for Nothing {
    type Intake = Self;

    fn open(&self, _sender: &Sender) -> Self {
        Self
    }
}

impl Intake for Nothing {
    fn take(&mut self, _message: &Message<'_>) -> Verdict {
        Verdict::Staged
    }

    fn retain(&mut self, _message: &Retained<'_>) {}

    fn poll_submit(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Ticket, Failed>> {
        Poll::Ready(Ok(Ticket(1)))
    }

    fn durable(&self) -> Result<Ticket, Failed> {
        Ok(Ticket(1))
    }
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

const PUBLISH: &[u8] = b"\x32\x1b\0\x13devices/a/telemetry\0\x0121.5";

fn packet(n: usize) -> Vec<u8> {
    format!("\x10\x11\0\x04MQTT\x04\x02\0\x3c\0\x05{n:05}").into_bytes()
}

/// Connects, and publishes once at QoS 1.
fn connect(address: SocketAddr, n: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    for packet in [&packet(n)[..], PUBLISH] {
        stream.write_all(packet).unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
    }
    stream
}

/// The same over WebSocket.
fn connect_websocket(address: SocketAddr, n: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(
            b"GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: \
              dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
        )
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    for packet in [&packet(n)[..], PUBLISH] {
        let header = [0x82, 0x80 | packet.len() as u8, 0, 0, 0, 0];
        stream.write_all(&[&header[..], packet].concat()).unwrap();
        stream.read_exact(&mut [0; 6]).unwrap();
    }
    stream
}

#[test]
fn idle_connections_print_their_memory() {
    print("plain", None, connect);
}

#[test]
fn idle_connections_over_websocket_print_their_memory() {
    print("WebSocket", Some(Origins::default()), connect_websocket);
}

fn print(kind: &str, websocket: Option<Origins>, connect: fn(SocketAddr, usize) -> TcpStream) {
    // Both ends are in this process: within the usual limit of 1,024 open files.
    const COUNT: usize = 400;
    // One after the other: both look at the memory of the process.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let metrics = Arc::<Metrics>::default();
    let shutdown = CancellationToken::new();
    let (address, running) = {
        let _entered = runtime.enter();
        let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let settings = Settings { name: "idle".into(), websocket, ..Settings::default() };
        let listener = Listener { socket: socket.into(), tls: None, settings };
        let broker = Broker::new(Config::default(), Nothing, Arc::clone(&metrics), Some(Vec::new()));
        (address, runtime.spawn(broker.run(vec![listener], shutdown.clone())))
    };
    let mut idle: Vec<_> = (0..50).map(|n| connect(address, n)).collect();
    let before = resident_bytes();
    idle.extend((50..50 + COUNT).map(|n| connect(address, n)));
    let each = resident_bytes().saturating_sub(before) / COUNT;
    assert_eq!(metrics.connections.get(), 50 + COUNT as i64);
    println!("{each} bytes of memory for each idle {kind} connection, without what the system holds for its socket");
    drop(idle);
    shutdown.cancel();
    runtime.block_on(running).unwrap().unwrap();
}
