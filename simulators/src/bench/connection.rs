//! One device on one connection, MQTT 3.1.1, QoS 1.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mqtt_client::{Ack, Connect, Packet, Publish, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Barrier, Semaphore, watch};

use super::payload::Payload;
use super::{Load, Shared};
use crate::broker::{Dialer, PATIENCE, Stream};
use crate::credentials::Credentials;

/// Phase of the whole fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Warming,
    Measuring,
    Stopping,
}

/// Result of a connection.
#[derive(Debug)]
pub(super) struct Outcome {
    /// None for a connection that sends nothing, so that an idle fleet takes no memory.
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
    dialer: Dialer,
    phases: watch::Receiver<Phase>,
    payload: Payload,
    topic: String,
    text: Vec<u8>,
    out: Vec<u8>,
    next_id: u16,
    sent: VecDeque<(u16, Instant)>,
    latencies: Option<Histogram<u64>>,
    credentials: Credentials,
}

impl Connection {
    pub(super) fn new(index: usize, load: Arc<Load>, dialer: Dialer, phases: watch::Receiver<Phase>) -> Self {
        let device = load.first_device + index;
        let topic = load.topic.replace("{}", &format!("sim-{device}"));
        Self {
            index: device,
            dialer,
            phases,
            payload: Payload::new(device),
            topic,
            text: Vec::new(),
            out: Vec::new(),
            next_id: 1,
            sent: VecDeque::new(),
            latencies: (load.inflight > 0).then(histogram),
            credentials: Credentials::default(),
            load,
        }
    }

    /// The same connection, which presents the credential of its device.
    pub(super) fn with(self, credentials: Credentials) -> Self {
        Self { credentials, ..self }
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

    async fn connect(&mut self) -> io::Result<Stream> {
        let mut stream = self.dialer.connect().await?;
        let id = format!("sim-{}", self.index);
        let mut packet = Vec::new();
        let login = self.credentials.login(&id).map_err(io::Error::other)?;
        let connect = Connect {
            client_id: &id,
            clean_start: true,
            username: login.as_ref().map(|login| login.username),
            password: login.as_ref().and_then(|login| login.password.as_deref()).map(str::as_bytes),
            ..Connect::default()
        };
        mqtt_client::connect(&mut packet, &connect);
        stream.write_all(&packet).await?;
        stream.flush().await?;
        let mut answer = [0; 4];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no CONNACK within 30 s"))??;
        match mqtt_client::decode(&answer, Version::V4).map_err(io::Error::other)? {
            Some((Packet::Connack { reason: 0, .. }, 4)) => Ok(stream),
            _ => Err(io::Error::other(format!("the answer to CONNECT is {answer:02x?}"))),
        }
    }

    async fn publish(&mut self, mut stream: Stream, shared: &Shared) -> io::Result<()> {
        self.phases.changed().await.map_err(io::Error::other)?;
        if self.load.inflight == 0 {
            return self.stay(&mut stream).await;
        }
        let pace = self.load.rate.map(|rate| Duration::from_secs_f64(self.load.conns as f64 / rate));
        // Spread over the period, so that devices do not send in step.
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

    /// Stays connected and idle until the end.
    async fn stay(&mut self, stream: &mut Stream) -> io::Result<()> {
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

    /// Adds `count` messages to the output.
    fn fill(&mut self, count: usize) {
        for _ in 0..count {
            self.text.clear();
            self.payload.write(&mut self.text);
            let publish = Publish {
                topic: &self.topic,
                payload: &self.text,
                qos: 1,
                packet_id: self.next_id,
                ..Publish::default()
            };
            mqtt_client::publish(&mut self.out, Version::V4, &publish);
            self.sent.push_back((self.next_id, Instant::now()));
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        }
    }

    async fn send(&mut self, stream: &mut Stream) -> io::Result<()> {
        stream.write_all(&self.out).await?;
        stream.flush().await?;
        self.out.clear();
        Ok(())
    }

    /// Reads PUBACKs, which arrive in the order of the messages, and returns their number.
    fn take(&mut self, input: &[u8], partial: &mut Vec<u8>, shared: &Shared) -> io::Result<usize> {
        if input.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the broker"));
        }
        partial.extend_from_slice(input);
        let now = Instant::now();
        let measuring = *self.phases.borrow() == Phase::Measuring;
        let (mut count, mut used) = (0, 0);
        while let Some((packet, length)) =
            mqtt_client::decode(&partial[used..], Version::V4).map_err(io::Error::other)?
        {
            let (expected, at) =
                self.sent.pop_front().ok_or_else(|| io::Error::other(format!("{packet:?} with nothing in flight")))?;
            if !matches!(packet, Packet::Ack { ack: Ack::Puback, packet_id, .. } if packet_id == expected) {
                return Err(io::Error::other(format!("expected PUBACK {expected}, received {packet:?}")));
            }
            if measuring && let Some(latencies) = &mut self.latencies {
                let micros = u64::try_from((now - at).as_micros()).unwrap_or(u64::MAX);
                latencies.saturating_record(micros);
            }
            used += length;
            count += 1;
        }
        partial.drain(..used);
        shared.acknowledged.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
