//! A device on a small MQTT client: it keeps unacknowledged messages and sends them again with DUP
//! and their packet ids, and it can inject faults.

use std::io;
use std::time::{Duration, Instant};

use mqtt_client::{Ack, Packet, Publish, Subscription};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::flight::Queue;
use super::packet;
use super::stats::{add, subtract};
use super::{Ended, Target};
use crate::broker::{PATIENCE, Stream};
use crate::ledger::Outcome;
use crate::plan::{Message, Trouble};
use crate::scenario::Group;

const SUBSCRIPTION: u16 = u16::MAX;

/// The connections of a device, one after another; [`super::device`] decides when.
#[derive(Debug, Default)]
pub(super) struct Lean {
    input: Vec<u8>,
    output: Vec<u8>,
    /// A connection that a fault leaves open.
    abandoned: Option<Stream>,
}

/// State of a connection.
#[derive(Debug)]
struct Link {
    limit: usize,
    /// The connection is dropped when all output is written.
    drop_when_written: Option<Ended>,
    last_read: Instant,
    last_write: Instant,
    read_after: Instant,
    /// Bytes were written that may not have been sent.
    unsent: bool,
}

impl Lean {
    /// Runs one connection until `until`, until the queue is done, or until it breaks.
    pub(super) async fn connection(&mut self, queue: &mut Queue, target: &Target, until: Instant) -> Ended {
        self.input.clear();
        self.output.clear();
        let mut stream = match target.dialer.connect().await {
            Ok(stream) => stream,
            Err(error) => return Ended::Failed(format!("connect: {error}")),
        };
        let limit = match self.handshake(queue, target, &mut stream).await {
            Ok(limit) => limit,
            Err(error) => return Ended::Failed(error.to_string()),
        };
        let stats = std::sync::Arc::clone(&queue.stats);
        add(&stats.connects, 1);
        add(&stats.connected, 1);
        let ended = self.talk(queue, &mut stream, limit, until).await;
        subtract(&stats.connected, 1);
        match ended {
            Ok(Ended::HalfOpen) => {
                self.abandoned = Some(stream);
                Ended::HalfOpen
            }
            Ok(ended) => ended,
            Err(error) => Ended::Failed(error.to_string()),
        }
    }

    /// Sends CONNECT and reads CONNACK. Returns the maximum number of messages in flight.
    async fn handshake(&mut self, queue: &mut Queue, target: &Target, stream: &mut Stream) -> io::Result<usize> {
        let group = &queue.device.kind.group;
        let login = target.credentials.login(&queue.device.id).map_err(io::Error::other)?;
        packet::connect(&mut self.output, group, &queue.device.id, login.as_ref());
        stream.write_all(&self.output).await?;
        stream.flush().await?;
        self.output.clear();
        let answer = tokio::time::timeout(PATIENCE, self.connack(stream, group)).await;
        let (session_present, receive_maximum) = answer.map_err(|_| io::Error::other("no CONNACK within 30 s"))??;
        if let Some(filter) = &group.subscribe
            && !session_present
        {
            let subscription = Subscription { filter, ..Subscription::default() };
            let version = packet::version(group);
            mqtt_client::subscribe(&mut self.output, version, SUBSCRIPTION, &[], &[subscription]);
        }
        let limit = usize::from(group.in_flight.min(receive_maximum));
        if !session_present {
            // The broker lost the session, but it has accepted these messages.
            while let Some(place) = queue.flights.iter().position(|flight| flight.received) {
                queue.land(place, Outcome::Acknowledged).await;
            }
        }
        self.send_again(queue);
        Ok(limit)
    }

    /// Reads CONNACK. Returns whether the session was resumed, and the server's Receive Maximum.
    async fn connack(&mut self, stream: &mut Stream, group: &Group) -> io::Result<(bool, u16)> {
        loop {
            if let Some((packet, length)) = decode(&self.input, group)? {
                let Packet::Connack { session_present, reason, properties } = packet else {
                    return Err(io::Error::other(format!("the answer to CONNECT is {packet:?}")));
                };
                if reason != 0 {
                    return Err(io::Error::other(format!("the broker refused the connection with code {reason:#04x}")));
                }
                let receive_maximum = packet::receive_maximum(properties);
                self.input.drain(..length);
                return Ok((session_present, receive_maximum));
            }
            if stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the broker"));
            }
        }
    }

    fn send_again(&mut self, queue: &Queue) {
        let group = &queue.device.kind.group;
        for flight in &queue.flights {
            if flight.received {
                mqtt_client::ack(&mut self.output, packet::version(group), Ack::Pubrel, flight.id, 0);
            } else {
                add(&queue.stats.again, 1);
                self.put(group, &flight.message, flight.id, true);
            }
        }
    }

    fn put(&mut self, group: &Group, message: &Message, packet_id: u16, again: bool) {
        let Message { topic, payload, .. } = message;
        let dup = again && group.qos > 0;
        let publish = Publish { topic, payload, qos: group.qos, dup, packet_id, ..Publish::default() };
        mqtt_client::publish(&mut self.output, packet::version(group), &publish);
    }

    async fn talk(
        &mut self,
        queue: &mut Queue,
        stream: &mut Stream,
        limit: usize,
        until: Instant,
    ) -> io::Result<Ended> {
        let now = Instant::now();
        let mut link =
            Link { limit, drop_when_written: None, last_read: now, last_write: now, read_after: now, unsent: false };
        let (mut reader, mut writer) = tokio::io::split(stream);
        loop {
            let now = Instant::now();
            self.fill(queue, &mut link, now).await;
            if self.output.is_empty() && !link.unsent {
                if let Some(ended) = link.drop_when_written {
                    return Ok(ended);
                }
                if now >= until {
                    return Ok(Ended::Away);
                }
                if queue.is_done() {
                    return self.leave(&mut writer).await;
                }
            }
            let wake = self.next_wake(queue, &link, until)?;
            tokio::select! {
                read = read(&mut reader, &mut self.input), if now >= link.read_after => {
                    if read? == 0 {
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the broker"));
                    }
                    link.last_read = Instant::now();
                    link.read_after = link.last_read + queue.device.kind.group.faults.slow_reader;
                    self.take(queue, &mut link).await?;
                }
                sent = send(&mut writer, &self.output), if link.unsent || !self.output.is_empty() => match sent? {
                    Some(written) => {
                        self.output.drain(..written);
                        link.last_write = Instant::now();
                        link.unsent = true;
                    }
                    None => link.unsent = false,
                },
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    /// Adds all due messages to the output, up to the limit in flight.
    async fn fill(&mut self, queue: &mut Queue, link: &mut Link, now: Instant) {
        let kind = std::sync::Arc::clone(&queue.device.kind);
        let group = &kind.group;
        while link.drop_when_written.is_none() && queue.flights.len() < link.limit {
            let Some(message) = queue.next(now) else { break };
            let id = if group.qos == 0 { 0 } else { queue.packet_id() };
            self.put(group, &message, id, false);
            let Trouble { drop_before_ack, half_open, duplicate, .. } = message.trouble;
            if group.qos == 0 {
                queue.sent(&message).await;
            } else {
                let copy = duplicate.then(|| message.clone());
                queue.launch(id, message, false);
                if let Some(copy) = copy {
                    let id = queue.packet_id();
                    self.put(group, &copy, id, false);
                    queue.launch(id, copy, true);
                }
            }
            if drop_before_ack {
                link.drop_when_written = Some(Ended::Dropped);
            } else if half_open {
                link.drop_when_written = Some(Ended::HalfOpen);
            }
        }
        let keep_alive = group.keep_alive;
        if !keep_alive.is_zero() && now >= link.last_write + keep_alive && self.output.is_empty() {
            mqtt_client::pingreq(&mut self.output);
        }
    }

    /// The time of the next wake-up without input.
    ///
    /// # Errors
    /// When the broker has been silent for one and a half keep-alives.
    fn next_wake(&self, queue: &mut Queue, link: &Link, until: Instant) -> io::Result<Instant> {
        let mut wake = until;
        let now = Instant::now();
        if link.read_after > now {
            wake = wake.min(link.read_after);
        }
        if queue.flights.len() < link.limit
            && let Some(due) = queue.due()
        {
            wake = wake.min(due);
        }
        let keep_alive = queue.device.kind.group.keep_alive;
        if !keep_alive.is_zero() {
            let silent = link.last_read.max(link.read_after) + keep_alive.mul_f64(1.5);
            if now >= silent && link.last_write > link.last_read {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the broker is silent"));
            }
            wake = wake.min(link.last_write + keep_alive).max(now + Duration::from_millis(1));
        }
        Ok(wake)
    }

    async fn take(&mut self, queue: &mut Queue, link: &mut Link) -> io::Result<()> {
        let kind = std::sync::Arc::clone(&queue.device.kind);
        let input = std::mem::take(&mut self.input);
        let mut used = 0;
        while let Some((packet, length)) = decode(&input[used..], &kind.group)? {
            used += length;
            match packet {
                Packet::Ack { ack: Ack::Pubrel, .. } => return Err(io::Error::other("the broker sent PUBREL")),
                Packet::Ack { ack, packet_id, reason, .. } => {
                    self.acknowledged(queue, link, ack, packet_id, reason).await?;
                }
                Packet::Publish(_) => add(&queue.stats.received, 1),
                Packet::Disconnect { reason, .. } => {
                    return Err(io::Error::other(format!("the broker disconnected with reason {reason:#04x}")));
                }
                Packet::Connack { .. } => return Err(io::Error::other("the broker sent a second CONNACK")),
                Packet::Auth { .. } => {
                    return Err(io::Error::other("the broker sent AUTH to a client without a method"));
                }
                Packet::Suback { .. } | Packet::Unsuback { .. } | Packet::Pingresp => {}
            }
        }
        self.input = input;
        self.input.drain(..used);
        Ok(())
    }

    async fn acknowledged(
        &mut self,
        queue: &mut Queue,
        link: &mut Link,
        ack: Ack,
        id: u16,
        reason: u8,
    ) -> io::Result<()> {
        let Some(place) = queue.flights.iter().position(|flight| flight.id == id) else {
            return Err(io::Error::other(format!("{ack:?} for packet {id}, which is not in flight")));
        };
        let outcome = match reason {
            // PUBREC has already accepted it, even if the broker lost the packet id since.
            _ if ack == Ack::Pubcomp => Outcome::Acknowledged,
            packet::FORMAT_INVALID => Outcome::Quarantined,
            0x80.. => Outcome::Refused,
            _ => Outcome::Acknowledged,
        };
        if ack == Ack::Pubrec && reason < 0x80 {
            queue.flights[place].received = true;
            let version = packet::version(&queue.device.kind.group);
            mqtt_client::ack(&mut self.output, version, Ack::Pubrel, id, 0);
            return Ok(());
        }
        let first = !queue.flights[place].copy;
        let Some(message) = queue.land(place, outcome).await else { return Ok(()) };
        let Trouble { drop_after_ack, resend, .. } = message.trouble;
        let group = &std::sync::Arc::clone(&queue.device.kind).group;
        if first && resend && group.qos == 1 {
            self.put(group, &message, id, true);
            queue.launch(id, message, true);
        }
        if first && drop_after_ack {
            link.drop_when_written = Some(Ended::Dropped);
        }
        Ok(())
    }

    /// Sends DISCONNECT.
    async fn leave(&mut self, writer: &mut WriteHalf<&mut Stream>) -> io::Result<Ended> {
        mqtt_client::disconnect(&mut self.output, mqtt_client::Version::V4, 0, &[]);
        writer.write_all(&self.output).await?;
        self.output.clear();
        writer.shutdown().await?;
        Ok(Ended::Done)
    }
}

fn decode<'a>(input: &'a [u8], group: &Group) -> io::Result<Option<(Packet<'a>, usize)>> {
    let packet = mqtt_client::decode(input, packet::version(group));
    packet.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("the broker violates MQTT: {error}")))
}

/// A read that is safe to cancel.
async fn read(reader: &mut ReadHalf<&mut Stream>, input: &mut Vec<u8>) -> io::Result<usize> {
    reader.read_buf(input).await
}

/// Writes some of the output; without any, sends what was written before. Safe to cancel.
async fn send(writer: &mut WriteHalf<&mut Stream>, output: &[u8]) -> io::Result<Option<usize>> {
    if output.is_empty() {
        return writer.flush().await.map(|()| None);
    }
    writer.write(output).await.map(Some)
}
