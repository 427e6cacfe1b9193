//! MQTT clients of a measurement: messages with the time of their sending, and latencies.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use mqtt_client::{Ack, Connect, Packet, Publish, Subscription, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes of a message: its time, and a filling.
pub(crate) const BYTES: usize = 64;
/// Time for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection of MQTT 3.1.1 with a clean session.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    input: Vec<u8>,
}

impl Client {
    /// Connects, and waits for CONNACK.
    pub(crate) async fn connect(broker: SocketAddr, id: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(broker).await.with_context(|| format!("connect to {broker}"))?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, input: Vec::new() };
        let mut out = Vec::new();
        mqtt_client::connect(&mut out, &Connect { client_id: id, clean_start: true, ..Connect::default() });
        client.stream.write_all(&out).await?;
        let first = client.first().await.with_context(|| format!("the CONNACK of {id}"))?;
        ensure!(first == [0x20, 2, 0, 0], "the answer to the CONNECT of {id} is {first:02x?}");
        Ok(client)
    }

    /// Subscribes, and waits for SUBACK.
    pub(crate) async fn subscribe(&mut self, filter: &str, qos: u8) -> anyhow::Result<()> {
        let mut out = Vec::new();
        let wanted = [Subscription { filter, qos, ..Subscription::default() }];
        mqtt_client::subscribe(&mut out, Version::V4, 1, &[], &wanted);
        self.stream.write_all(&out).await?;
        let first = self.first().await?;
        ensure!(first == [0x90, 3, 0, 1, qos], "the answer to SUBSCRIBE is {first:02x?}");
        Ok(())
    }

    /// The bytes of the next packet.
    async fn first(&mut self) -> anyhow::Result<Vec<u8>> {
        let read = async {
            loop {
                if let Some((_, length)) = mqtt_client::decode(&self.input, Version::V4)? {
                    return Ok(self.input.drain(..length).collect());
                }
                ensure!(self.stream.read_buf(&mut self.input).await? > 0, "closed by the broker");
            }
        };
        tokio::time::timeout(PATIENCE, read).await.context("no answer within 30 s")?
    }

    /// Sends messages at a pace that does not depend on the broker, as long as it reads. Returns
    /// their number, after the acknowledgements of QoS 1.
    ///
    /// # Errors
    /// When the connection ends, or an acknowledgement is missing.
    pub(crate) async fn publish(mut self, pace: Pace) -> anyhow::Result<u64> {
        let Pace { topic, qos, per_second, begin, end, base } = pace;
        let (mut sent, mut acknowledged) = (0_u64, 0_u64);
        let mut out = Vec::new();
        loop {
            let due = begin + Duration::from_secs_f64(sent as f64 / per_second);
            if due >= end {
                break;
            }
            if due > Instant::now() {
                tokio::select! {
                    () = tokio::time::sleep_until(due.into()) => {}
                    read = self.stream.read_buf(&mut self.input) => acknowledged += self.answered(read?)?,
                }
                continue;
            }
            sent += 1;
            out.clear();
            // 16 bits of the number, without 0.
            let packet_id = (sent % u64::from(u16::MAX)) as u16 + 1;
            message(&mut out, topic, qos, packet_id, base);
            self.stream.write_all(&out).await?;
        }
        while qos > 0 && acknowledged < sent {
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await;
            let read = read.with_context(|| format!("{acknowledged} of {sent} messages were acknowledged"))?;
            acknowledged += self.answered(read?)?;
        }
        Ok(sent)
    }

    /// Counts the acknowledgements that have arrived.
    fn answered(&mut self, read: usize) -> anyhow::Result<u64> {
        ensure!(read > 0, "closed by the broker");
        let (mut used, mut count) = (0, 0);
        while let Some((packet, length)) = mqtt_client::decode(&self.input[used..], Version::V4)? {
            used += length;
            count += u64::from(matches!(packet, Packet::Ack { ack: Ack::Puback, .. }));
        }
        self.input.drain(..used);
        Ok(count)
    }

    /// Takes messages and acknowledges QoS 1, until the connection ends.
    pub(crate) async fn listen(mut self, base: Instant, samples: Samples) -> anyhow::Result<()> {
        let mut out = Vec::new();
        loop {
            ensure!(self.stream.read_buf(&mut self.input).await? > 0, "closed by the broker");
            let mut used = 0;
            out.clear();
            while let Some((packet, length)) = mqtt_client::decode(&self.input[used..], Version::V4)? {
                used += length;
                let Packet::Publish(publish) = packet else { continue };
                let latency = latency(&publish, base).context("a message without its time")?;
                samples.lock().expect("no thread panics with it").push(latency);
                if publish.qos == 1 {
                    mqtt_client::ack(&mut out, Version::V4, Ack::Puback, publish.packet_id, 0);
                }
            }
            self.input.drain(..used);
            self.stream.write_all(&out).await?;
        }
    }
}

/// Latencies in microseconds.
pub(crate) type Samples = Arc<Mutex<Vec<u32>>>;

/// The messages of a publisher.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) topic: &'static str,
    pub(crate) qos: u8,
    pub(crate) per_second: f64,
    pub(crate) begin: Instant,
    pub(crate) end: Instant,
    /// Messages have the time since then.
    pub(crate) base: Instant,
}

/// Writes a message with the time since `base`.
fn message(out: &mut Vec<u8>, topic: &str, qos: u8, packet_id: u16, base: Instant) {
    let mut payload = [b'x'; BYTES];
    let nanos = u64::try_from(base.elapsed().as_nanos()).unwrap_or(u64::MAX);
    payload[..8].copy_from_slice(&nanos.to_le_bytes());
    let publish = Publish { topic, payload: &payload, qos, packet_id, ..Publish::default() };
    mqtt_client::publish(out, Version::V4, &publish);
}

/// Microseconds since the sending of a message.
fn latency(publish: &Publish<'_>, base: Instant) -> Option<u32> {
    let sent = u64::from_le_bytes(publish.payload.get(..8)?.try_into().ok()?);
    let now = u64::try_from(base.elapsed().as_nanos()).ok()?;
    u32::try_from(now.checked_sub(sent)? / 1000).ok()
}

/// The value below which this share of sorted values is, in milliseconds.
pub(crate) fn percentile(sorted: &[u32], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).map_or(f64::NAN, |micros| f64::from(*micros) / 1000.0)
}
