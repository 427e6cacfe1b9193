//! Memory of an idle connection. Only printed: the figure depends on the allocator.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::task::{Context, Poll};

use door::{Failed, Inbox, Intake, Message, Retained, Sender, Ticket, Verdict};
use tokio_util::sync::CancellationToken;
use weir_broker::{Broker, Config, Metrics, bind};

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

/// Connects, and publishes once at QoS 1.
fn connect(address: std::net::SocketAddr, n: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(format!("\x10\x11\0\x04MQTT\x04\x02\0\x3c\0\x05{n:05}").as_bytes()).unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    stream.write_all(b"\x32\x1b\0\x13devices/a/telemetry\0\x0121.5").unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    stream
}

#[test]
fn idle_connections_print_their_memory() {
    // Both ends are in this process: within the usual limit of 1,024 open files.
    const COUNT: usize = 400;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let metrics = Arc::<Metrics>::default();
    let shutdown = CancellationToken::new();
    let (address, running) = {
        let _entered = runtime.enter();
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let broker = Broker::new(Config::default(), Nothing, Arc::clone(&metrics), Some(Vec::new()));
        (listener.local_addr().unwrap(), runtime.spawn(broker.run(listener, shutdown.clone())))
    };
    let mut idle: Vec<_> = (0..50).map(|n| connect(address, n)).collect();
    let before = resident_bytes();
    idle.extend((50..50 + COUNT).map(|n| connect(address, n)));
    let each = resident_bytes().saturating_sub(before) / COUNT;
    assert_eq!(metrics.connections.get(), 50 + COUNT as i64);
    println!("{each} bytes of memory for each idle connection, without what the system holds for its socket");
    drop(idle);
    shutdown.cancel();
    runtime.block_on(running).unwrap().unwrap();
}
