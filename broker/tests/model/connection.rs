//! A client's side of one connection: bytes out, packets in. It never blocks.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use mqtt_client::{Ack, Packet, Value, Version, id};

use crate::Checked;

/// Topic aliases that a client of MQTT 5 accepts.
pub(crate) const ALIASES: u16 = 2;

/// A packet from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Incoming {
    Connack { present: bool, reason: u8 },
    Publish(Delivery),
    Ack { ack: Ack, packet_id: u16, reason: u8 },
    Suback { packet_id: u16, reasons: Vec<u8> },
    Unsuback { packet_id: u16 },
    Pong,
    Disconnect(u8),
}

/// A PUBLISH, its topic alias resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
    pub(crate) packet_id: u16,
}

pub(crate) struct Connection {
    stream: TcpStream,
    version: Version,
    input: Vec<u8>,
    aliases: HashMap<u32, String>,
    pub(crate) is_closed: bool,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr, version: Version) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self { stream, version, input: Vec::new(), aliases: HashMap::new(), is_closed: false }
    }

    /// Writes bytes, unless the broker has closed the connection.
    pub(crate) fn send(&mut self, mut bytes: &[u8]) {
        let begun = Instant::now();
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    assert!(begun.elapsed() < Duration::from_secs(10), "the broker does not read");
                    std::thread::yield_now();
                }
                // Reading finds the end.
                Err(_) => return,
            }
        }
    }

    /// No more bytes follow; the broker's are still read.
    pub(crate) fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).ok();
    }

    /// The next end of the socket is a reset.
    pub(crate) fn reset_at_end(&self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Forgets what has arrived.
    pub(crate) fn skip(&mut self) {
        self.read();
        self.input.clear();
    }

    fn read(&mut self) {
        let mut buffer = [0; 4096];
        while !self.is_closed {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.is_closed = true,
                Ok(n) => self.input.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.is_closed = true,
            }
        }
    }

    /// Returns the packets that have arrived.
    pub(crate) fn receive(&mut self) -> Checked<Vec<Incoming>> {
        self.read();
        let mut packets = Vec::new();
        let mut used = 0;
        while let Some((packet, length)) =
            mqtt_client::decode(&self.input[used..], self.version).map_err(|error| format!("unreadable: {error}"))?
        {
            packets.push(incoming(&packet, &mut self.aliases)?);
            used += length;
        }
        self.input.drain(..used);
        Ok(packets)
    }
}

fn incoming(packet: &Packet<'_>, aliases: &mut HashMap<u32, String>) -> Checked<Incoming> {
    Ok(match *packet {
        Packet::Connack { session_present, reason, .. } => Incoming::Connack { present: session_present, reason },
        Packet::Publish(publish) => {
            let mut topic = publish.topic.to_owned();
            for property in mqtt_client::iterate(publish.properties) {
                if let (id::TOPIC_ALIAS, Value::Number(alias)) = (property.id, property.value) {
                    if alias == 0 || alias > ALIASES.into() {
                        return Err(format!("topic alias {alias}"));
                    }
                    if topic.is_empty() {
                        topic = aliases.get(&alias).ok_or("topic alias was not set")?.clone();
                    } else {
                        aliases.insert(alias, topic.clone());
                    }
                }
            }
            let mqtt_client::Publish { payload, qos, dup, retain, packet_id, .. } = publish;
            Incoming::Publish(Delivery { topic, payload: payload.to_vec(), qos, dup, retain, packet_id })
        }
        Packet::Ack { ack, packet_id, reason, .. } => Incoming::Ack { ack, packet_id, reason },
        Packet::Suback { packet_id, reasons } => Incoming::Suback { packet_id, reasons: reasons.to_vec() },
        Packet::Unsuback { packet_id, .. } => Incoming::Unsuback { packet_id },
        Packet::Pingresp => Incoming::Pong,
        Packet::Disconnect { reason, .. } => Incoming::Disconnect(reason),
        Packet::Auth { .. } => return Err("AUTH without a method".into()),
    })
}
