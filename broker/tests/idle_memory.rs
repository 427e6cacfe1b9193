//! Memory of an idle connection: the bytes that the broker allocates for it, and keeps.
//!
//! They are counted, not measured: an allocator needs more of the system, and the system has the
//! buffers of a socket. The broker runs in the thread that counts, and its clients in another one.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::task::{Context, Poll};

use door::{Failed, Inbox, Intake, Message, Retained, Sender, Ticket, Verdict};
use tokio::sync::oneshot;
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

fn packet(n: usize) -> Vec<u8> {
    format!("\x10\x11\0\x04MQTT\x04\x02\0\x3c\0\x05{n:05}").into_bytes()
}

/// Connects up to the CONNACK.
fn connect(address: SocketAddr, n: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&packet(n)).unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
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
    let packet = packet(n);
    let header = [0x82, 0x80 | packet.len() as u8, 0, 0, 0, 0];
    stream.write_all(&[&header[..], &packet].concat()).unwrap();
    stream.read_exact(&mut [0; 6]).unwrap();
    stream
}

#[test]
fn an_idle_connection_has_few_bytes() {
    check(None, connect, 2_560);
}

#[test]
fn an_idle_connection_over_websocket_has_few_bytes() {
    check(Some(Origins::default()), connect_websocket, 2_816);
}

/// Fails when a connection has more than `most` bytes.
fn check(websocket: Option<Origins>, connect: fn(SocketAddr, usize) -> TcpStream, most: i64) {
    // Both ends are in this process: within the usual limit of 1,024 open files. The first ones are
    // not counted, as they bring what all share.
    const FIRST: usize = 50;
    const COUNT: usize = 300;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
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
    let open = |from: usize, to: usize| {
        let (done, opened) = oneshot::channel();
        let clients = std::thread::spawn(move || {
            let clients: Vec<TcpStream> = (from..to).map(|n| connect(address, n)).collect();
            // The other end waits for it.
            done.send(()).ok();
            clients
        });
        let counted = allocation_counter::measure(|| runtime.block_on(opened).unwrap());
        (clients.join().unwrap(), counted.bytes_current)
    };
    let (first, _) = open(0, FIRST);
    let (idle, bytes) = open(FIRST, FIRST + COUNT);
    assert_eq!(metrics.connections.get(), (FIRST + COUNT) as i64);
    let each = bytes / COUNT as i64;
    println!("{each} bytes for each idle connection");
    assert!(each <= most, "{each} bytes for each idle connection");
    drop((first, idle));
    shutdown.cancel();
    runtime.block_on(running).unwrap().unwrap();
}
