//! One device on one TCP connection, MQTT 3.1.1, QoS 1.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Barrier, Semaphore, watch};

use super::payload::Payload;
use super::{Load, Shared};

/// What the whole fleet is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Warming,
    Measuring,
    Stopping,
}

/// What became of a connection.
#[derive(Debug)]
pub(super) struct Outcome {
    /// None when it sent nothing: a silent fleet should cost no memory.
    pub(super) latencies: Option<Histogram<u64>>,
    pub(super) failure: Option<String>,
}

/// Microseconds up to a minute, two digits.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 2).expect("the bounds are in order")
}

pub(super) struct Connection {
    index: usize,
    load: Arc<Load>,
    source: Option<Ipv4Addr>,
    phases: watch::Receiver<Phase>,
    payload: Payload,
    topic: String,
    text: Vec<u8>,
    out: Vec<u8>,
    next_id: u16,
    sent: VecDeque<(u16, Instant)>,
    latencies: Option<Histogram<u64>>,
}

impl Connection {
    pub(super) fn new(index: usize, load: Arc<Load>, source: Option<Ipv4Addr>, phases: watch::Receiver<Phase>) -> Self {
        let device = load.first_device + index;
        let topic = load.topic.replace("{}", &format!("sim-{device}"));
        Self {
            index: device,
            source,
            phases,
            payload: Payload::new(device),
            topic,
            text: Vec::new(),
            out: Vec::new(),
            next_id: 1,
            sent: VecDeque::new(),
            latencies: (load.inflight > 0).then(histogram),
            load,
        }
    }

    pub(super) async fn play(mut self, shared: &Shared, barrier: &Barrier, connecting: &Semaphore) -> Outcome {
        let connected = {
            let _permit = connecting.acquire().await.expect("never closed");
            self.connect().await
        };
        shared.connected.fetch_add(u64::from(connected.is_ok()), Ordering::Relaxed);
        barrier.wait().await;
        let end = match connected {
            Ok(stream) => self.publish(stream, shared).await,
            Err(error) => Err(error),
        };
        let failure = match end {
            Err(error) if !shared.stop.load(Ordering::Relaxed) => Some(format!("sim-{}: {error}", self.index)),
            _ => None,
        };
        Outcome { latencies: self.latencies, failure }
    }

    async fn connect(&mut self) -> io::Result<TcpStream> {
        let socket = if self.load.broker.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = self.source {
            socket.bind(SocketAddr::new(IpAddr::V4(source), 0))?;
        }
        let mut stream = socket.connect(self.load.broker).await?;
        stream.set_nodelay(true)?;
        let id = format!("sim-{}", self.index);
        let length = u8::try_from(12 + id.len()).map_err(io::Error::other)?;
        let mut packet = vec![0x10, length, 0, 4];
        packet.extend_from_slice(b"MQTT\x04\x02\0\0\0");
        packet.push(length - 12);
        packet.extend_from_slice(id.as_bytes());
        stream.write_all(&packet).await?;
        let mut answer = [0; 4];
        tokio::time::timeout(Duration::from_secs(30), stream.read_exact(&mut answer))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no CONNACK for 30 s"))??;
        match answer {
            [0x20, 2, _, 0] => Ok(stream),
            _ => Err(io::Error::other(format!("CONNECT was answered with {answer:02x?}"))),
        }
    }

    async fn publish(&mut self, mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
        self.phases.changed().await.map_err(io::Error::other)?;
        if self.load.inflight == 0 {
            return self.stay(&mut stream).await;
        }
        let pace = self.load.rate.map(|rate| Duration::from_secs_f64(self.load.conns as f64 / rate));
        // Spread over the period, so that the fleet does not beat as one.
        let mut due = pace.map(|p| Instant::now() + p.mul_f64(self.index as f64 % 1000.0 / 1000.0));
        let mut input = [0; 1024];
        let mut partial = Vec::new();
        if pace.is_none() {
            self.fill(self.load.inflight);
            self.send(&mut stream).await?;
        }
        while !shared.stop.load(Ordering::Relaxed) {
            if let (Some(at), Some(pace)) = (due, pace)
                && self.sent.len() < self.load.inflight
            {
                let wait = at.saturating_duration_since(Instant::now());
                if wait.is_zero() {
                    self.fill(1);
                    self.send(&mut stream).await?;
                    due = Some(at + pace);
                    continue;
                }
                tokio::select! {
                    () = tokio::time::sleep(wait) => continue,
                    read = stream.read(&mut input) => self.take(&input[..read?], &mut partial, shared)?,
                    _ = self.phases.changed() => continue,
                };
                continue;
            }
            let read = tokio::select! {
                read = stream.read(&mut input) => read?,
                _ = self.phases.changed() => continue,
            };
            let acknowledged = self.take(&input[..read], &mut partial, shared)?;
            if pace.is_none() {
                self.fill(acknowledged);
                self.send(&mut stream).await?;
            }
        }
        Ok(())
    }

    /// Connected and silent, until the end.
    async fn stay(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        let mut input = [0; 16];
        loop {
            tokio::select! {
                read = stream.read(&mut input) => match read? {
                    0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the broker")),
                    _ => continue,
                },
                changed = self.phases.changed() => {
                    if changed.is_err() || *self.phases.borrow() == Phase::Stopping {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Puts `count` messages into the output.
    fn fill(&mut self, count: usize) {
        for _ in 0..count {
            self.text.clear();
            self.payload.write(&mut self.text);
            let mut length = 2 + self.topic.len() + 2 + self.text.len();
            self.out.push(0x32);
            while length >= 128 {
                self.out.push((length % 128) as u8 | 128);
                length /= 128;
            }
            self.out.push(length as u8);
            self.out.extend_from_slice(&(self.topic.len() as u16).to_be_bytes());
            self.out.extend_from_slice(self.topic.as_bytes());
            self.out.extend_from_slice(&self.next_id.to_be_bytes());
            self.out.extend_from_slice(&self.text);
            self.sent.push_back((self.next_id, Instant::now()));
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        }
    }

    async fn send(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        stream.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    /// Takes PUBACKs, which come in the order of the messages. Returns how many.
    fn take(&mut self, input: &[u8], partial: &mut Vec<u8>, shared: &Shared) -> io::Result<usize> {
        if input.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the broker"));
        }
        partial.extend_from_slice(input);
        let now = Instant::now();
        let measuring = *self.phases.borrow() == Phase::Measuring;
        let mut count = 0;
        for packet in partial.chunks_exact(4) {
            let id = u16::from_be_bytes([packet[2], packet[3]]);
            let (expected, at) = self.sent.pop_front().ok_or_else(|| io::Error::other("PUBACK for nothing sent"))?;
            if packet[..2] != [0x40, 2] || id != expected {
                return Err(io::Error::other(format!("expected PUBACK {expected}, got {packet:02x?}")));
            }
            if measuring && let Some(latencies) = &mut self.latencies {
                let micros = u64::try_from((now - at).as_micros()).unwrap_or(u64::MAX);
                latencies.saturating_record(micros);
            }
            count += 1;
        }
        partial.drain(..count * 4);
        shared.acknowledged.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
