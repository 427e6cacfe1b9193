//! Connections that stay idle, in a process of their own: a process has a limit of open files.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use mqtt_client::Connect;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::process::{Guarded, program};

/// Options of the process.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Address of the broker.
    #[arg(long)]
    pub(crate) broker: SocketAddr,
    /// Connections.
    #[arg(long)]
    pub(crate) connections: usize,
    /// Number of the first device.
    #[arg(long, default_value_t = 0)]
    pub(crate) first_device: usize,
    /// Way to connect.
    #[arg(long, value_enum, default_value = "plain")]
    pub(crate) way: Way,
    /// PEM file with the authority of the broker, whose certificate is for localhost.
    #[arg(long, required_if_eq("way", "tls"))]
    pub(crate) ca: Option<PathBuf>,
}

/// How devices connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Way {
    /// TCP.
    Plain,
    /// TLS, each with a full handshake.
    Tls,
    /// WebSocket.
    Websocket,
}

impl Way {
    /// The name as an option.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "tls",
            Self::Websocket => "websocket",
        }
    }
}

/// Connections that are opened at one time.
const AT_ONCE: usize = 256;
/// Connections of one source address: Weir gives each address a share of the handshakes, and an
/// address has about 28,000 ports.
const PER_SOURCE: usize = 500;
/// Time for a connection with its CONNACK.
const PATIENCE: Duration = Duration::from_secs(60);
const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

/// The lines of the process: when all are connected, and when its standard input has ended.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Seconds until all were connected.
    pub(crate) seconds: f64,
    /// Connections that are open.
    pub(crate) open: usize,
}

trait Idle: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Idle for S {}

/// Connects, prints a report, waits for the end of its standard input, and prints another one.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let begun = Instant::now();
    let mut held = runtime.block_on(connect_all(options))?;
    let seconds = begun.elapsed().as_secs_f64();
    report(Report { seconds, open: held.len() })?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    runtime.block_on(async {
        let mut open = 0;
        for stream in &mut held {
            open += usize::from(is_open(stream).await);
        }
        report(Report { seconds, open })
    })
}

fn report(report: Report) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(&report)?);
    Ok(std::io::stdout().flush()?)
}

/// True when the broker has neither closed the connection nor sent anything.
async fn is_open(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut input = [0; 16];
    tokio::select! {
        biased;
        _ = stream.read(&mut input) => false,
        () = std::future::ready(()) => true,
    }
}

async fn connect_all(options: &Options) -> anyhow::Result<Vec<Box<dyn Idle>>> {
    let tls = match (options.way, &options.ca) {
        (Way::Tls, Some(ca)) => {
            let ca = Some(tls::Named::new("--ca", ca));
            Some(tls::Client::open(tls::ClientFiles { ca, identity: None }, &[])?)
        }
        _ => None,
    };
    let (turns, mut tasks) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    for number in options.first_device..options.first_device + options.connections {
        let (turns, broker, way) = (Arc::clone(&turns), options.broker, options.way);
        // Without sessions of others, so that each handshake is a full one.
        let tls = tls.as_ref().map(|tls| tls.for_device(None)).transpose()?;
        tasks.spawn(async move {
            let _turn = turns.acquire().await?;
            let opened = tokio::time::timeout(PATIENCE, open(broker, number, way, tls)).await;
            opened.context("no CONNACK within 60 s")?.with_context(|| format!("the device hold-{number}"))
        });
    }
    let mut held = Vec::with_capacity(options.connections);
    while let Some(stream) = tasks.join_next().await {
        held.push(stream??);
    }
    Ok(held)
}

/// The source address of a device: 127.0.0.2, 127.0.0.3, ...; the system's choice for a broker that
/// is not on loopback.
fn source(broker: SocketAddr, number: usize) -> Option<Ipv4Addr> {
    let number = u32::try_from(number / PER_SOURCE).ok()?;
    let is_local = broker.is_ipv4() && broker.ip().is_loopback();
    // 127.0.0.1 is left to others.
    is_local.then(|| Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + 1 + number))
}

async fn open(broker: SocketAddr, number: usize, way: Way, tls: Option<tls::Client>) -> anyhow::Result<Box<dyn Idle>> {
    let socket = if broker.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source(broker, number) {
        socket.bind(SocketAddr::new(IpAddr::V4(source), 0))?;
    }
    let mut stream = socket.connect(broker).await.with_context(|| format!("connect to {broker}"))?;
    stream.set_nodelay(true)?;
    let (mut packet, id) = (Vec::new(), format!("hold-{number}"));
    mqtt_client::connect(&mut packet, &Connect { client_id: &id, clean_start: true, ..Connect::default() });
    if let Some(tls) = tls {
        let mut stream = tls.connect("localhost", stream).await?;
        login(&mut stream, &packet, &CONNACK).await?;
        return Ok(Box::new(stream));
    }
    if way == Way::Websocket {
        upgrade(&mut stream, broker).await?;
        login(&mut stream, &frame(&packet)?, &[&[0x82, 4][..], &CONNACK].concat()).await?;
    } else {
        login(&mut stream, &packet, &CONNACK).await?;
    }
    Ok(Box::new(stream))
}

/// Sends the CONNECT, and compares what comes.
async fn login(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    packet: &[u8],
    expected: &[u8],
) -> anyhow::Result<()> {
    stream.write_all(packet).await?;
    stream.flush().await?;
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).await?;
    ensure!(answer == expected, "the answer to CONNECT is {answer:02x?}");
    Ok(())
}

/// Asks for WebSocket (RFC 6455), with the key of the standard's example.
async fn upgrade(stream: &mut TcpStream, broker: SocketAddr) -> anyhow::Result<()> {
    let request = format!(
        "GET /mqtt HTTP/1.1\r\nHost: {broker}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // The server sends nothing behind the answer before it has the CONNECT.
    while !answer.ends_with(b"\r\n\r\n") {
        ensure!(stream.read_buf(&mut answer).await? > 0, "closed by the broker");
    }
    let text = String::from_utf8_lossy(&answer);
    ensure!(text.starts_with("HTTP/1.1 101 "), "the answer to the request for WebSocket is {text}");
    Ok(())
}

/// A binary frame, whose mask changes nothing.
fn frame(payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let length = u8::try_from(payload.len()).ok().filter(|length| *length < 126).context("a short CONNECT")?;
    Ok([&[0x82, 0x80 | length, 0, 0, 0, 0][..], payload].concat())
}

/// The process, as a child.
pub(crate) struct Holder {
    child: Guarded,
    lines: BufReader<std::process::ChildStdout>,
}

impl Holder {
    /// Starts it.
    pub(crate) fn start(options: &Options) -> anyhow::Result<Self> {
        let mut command = Command::new(program("weir-bench")?);
        command.arg("hold").args(["--broker", &options.broker.to_string(), "--way", options.way.name()]);
        command.args(["--connections", &options.connections.to_string()]);
        command.args(["--first-device", &options.first_device.to_string()]);
        if let Some(ca) = &options.ca {
            command.arg("--ca").arg(ca);
        }
        let mut child = Guarded(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
        let lines = BufReader::new(child.0.stdout.take().context("stdout was piped")?);
        Ok(Self { child, lines })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Waits until all are connected.
    ///
    /// # Errors
    /// When one could not connect: the reason is on standard error.
    pub(crate) fn connected(&mut self) -> anyhow::Result<Report> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        serde_json::from_str(&line).context("not all devices could connect")
    }

    /// Returns the number of those that are still open.
    pub(crate) fn end(mut self) -> anyhow::Result<Report> {
        drop(self.child.0.stdin.take());
        self.connected()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_sources_of_500_ports_and_none_is_that_of_other_clients() {
        let broker = "127.0.0.1:1883".parse().unwrap();
        let last_octets: Vec<u8> = [0, 499, 500, 99_999].map(|n| source(broker, n).unwrap().octets()[3]).to_vec();
        assert_eq!(last_octets, [2, 2, 3, 201]);
        assert_eq!(source("192.0.2.1:1883".parse().unwrap(), 0), None);
    }

    #[test]
    fn a_frame_has_a_length_of_one_byte_and_an_empty_mask() {
        assert_eq!(frame(b"ab").unwrap(), [0x82, 0x82, 0, 0, 0, 0, b'a', b'b']);
        assert!(frame(&[0; 126]).is_err());
    }

    #[tokio::test]
    async fn connections_are_held_and_one_that_the_broker_closes_is_counted() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let broker = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let mut accepted = Vec::new();
            for _ in 0..2 {
                let (mut stream, peer) = listener.accept().await.unwrap();
                assert_eq!(peer.ip(), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)));
                let mut connect = [0; 64];
                assert!(stream.read(&mut connect).await.unwrap() > 0);
                stream.write_all(&CONNACK).await.unwrap();
                accepted.push(stream);
            }
            accepted
        });
        let options = Options { broker, connections: 2, first_device: 0, way: Way::Plain, ca: None };
        let mut held = connect_all(&options).await.unwrap();
        let mut accepted = server.await.unwrap();
        assert!(is_open(&mut held[0]).await && is_open(&mut held[1]).await);
        drop(accepted.pop());
        let mut open = 2;
        while open > 1 {
            open = 0;
            for stream in &mut held {
                open += usize::from(is_open(stream).await);
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(open, 1);
    }
}
