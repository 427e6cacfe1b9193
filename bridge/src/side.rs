//! A connection to one of the two brokers.

use std::time::Duration;

use mqtt_client::{Connect, Packet, Value, Version, id, iterate};
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf, split};

use crate::end::{End, Reason};
use crate::inbound::{Arrived, Inbound};
use crate::outbound::Outbound;

/// The byte stream below MQTT.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection to a broker that has accepted it.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) reader: ReadHalf<Box<dyn Stream>>,
    pub(crate) writer: WriteHalf<Box<dyn Stream>>,
    pub(crate) inbound: Inbound,
    pub(crate) outbound: Outbound,
    pub(crate) accepted: Accepted,
}

impl std::fmt::Debug for dyn Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

/// The fields of a CONNACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// The broker has kept the session.
    pub(crate) is_present: bool,
    /// Messages of QoS 1 and 2 that it accepts in flight.
    pub(crate) receive_maximum: u16,
    /// Largest packet that it accepts.
    pub(crate) most_bytes: usize,
    /// Highest QoS that it accepts.
    pub(crate) most_qos: u8,
    /// It keeps retained messages.
    pub(crate) retains: bool,
    /// Keep-alive that it asks for.
    pub(crate) keep_alive: Option<Duration>,
}

impl Accepted {
    fn new(is_present: bool, properties: &[u8]) -> Self {
        let number = |wanted| {
            iterate(properties).find(|property| property.id == wanted).and_then(|property| match property.value {
                Value::Number(number) => Some(number),
                _ => None,
            })
        };
        Self {
            is_present,
            receive_maximum: number(id::RECEIVE_MAXIMUM).and_then(|n| u16::try_from(n).ok()).unwrap_or(u16::MAX).max(1),
            most_bytes: number(id::MAXIMUM_PACKET_SIZE).map_or(usize::MAX, |n| n as usize),
            most_qos: number(id::MAXIMUM_QOS).map_or(2, |n| u8::from(n > 0)),
            retains: number(id::RETAIN_AVAILABLE) != Some(0),
            keep_alive: number(id::SERVER_KEEP_ALIVE).filter(|n| *n > 0).map(|n| Duration::from_secs(n.into())),
        }
    }
}

impl Side {
    /// Sends CONNECT and awaits CONNACK. Packets larger than `most_bytes` are skipped from then on.
    pub(crate) async fn open(stream: Box<dyn Stream>, connect: &Connect<'_>, most_bytes: usize) -> Result<Self, End> {
        let (reader, writer) = split(stream);
        let (inbound, outbound) = (Inbound::new(connect.version, most_bytes), Outbound::default());
        let accepted = Accepted::new(false, &[]);
        let mut side = Self { reader, writer, inbound, outbound, accepted };
        mqtt_client::connect(&mut side.outbound.bytes, connect);
        while !side.outbound.is_done() {
            side.outbound.write(&mut side.writer).await.map_err(End::Broken)?;
        }
        loop {
            match side.inbound.next()? {
                None => {}
                Some(Arrived::Packet(Packet::Connack { session_present, reason: 0, properties }, bytes)) => {
                    side.accepted = Accepted::new(session_present, properties);
                    side.inbound.consume(bytes);
                    return Ok(side);
                }
                Some(Arrived::Packet(Packet::Connack { reason, properties, .. }, _)) => {
                    return Err(End::Refused(Reason::new(reason, properties)));
                }
                Some(_) => return Err(End::Protocol("the first packet is not CONNACK")),
            }
            if side.inbound.read(&mut side.reader).await.map_err(End::Broken)? == 0 {
                return Err(End::Closed);
            }
        }
    }
}

/// The version that the other broker speaks.
pub(crate) fn version(protocol: crate::Protocol) -> Version {
    match protocol {
        crate::Protocol::V5 => Version::V5,
        crate::Protocol::V4 => Version::V4,
    }
}
