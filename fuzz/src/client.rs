//! A client that sends any bytes, and checks what it gets.

use std::collections::HashSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use mqtt_client::{Ack, Packet, Version};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use weir_broker::fuzzing::{self as codec, acks, connect, framing, packet_type as kind, publish, subscribe};

use crate::node::Node;

/// The client's end of a connection, and what it may get.
pub struct Client {
    stream: DuplexStream,
    version: codec::Version,
    maximum_packet_bytes: usize,
    receive_maximum: usize,
    /// Bytes that were sent and are not a whole packet yet.
    sent: Vec<u8>,
    /// The first packet was sent.
    has_begun: bool,
    /// Bytes that came and are not a whole packet yet.
    got: Vec<u8>,
    /// Packet ids of messages, SUBSCRIBE and UNSUBSCRIBE that were sent, each with its type.
    asked: HashSet<(u8, u16)>,
    /// Packet ids of messages of QoS 1 and 2 that came and were not acknowledged.
    open: HashSet<u16>,
    has_connack: bool,
    is_closed: bool,
    /// Records of the session may contradict each other: two messages may have one number.
    is_of_records: bool,
}

impl Client {
    /// A client of an open connection.
    pub fn new(stream: DuplexStream) -> Self {
        Self {
            stream,
            version: codec::Version::V4,
            maximum_packet_bytes: usize::MAX,
            receive_maximum: usize::MAX,
            sent: Vec::new(),
            has_begun: false,
            got: Vec::new(),
            asked: HashSet::new(),
            open: HashSet::new(),
            has_connack: false,
            is_closed: false,
            is_of_records: false,
        }
    }

    /// A client whose session comes from records that no broker has made.
    pub fn of_records(stream: DuplexStream) -> Self {
        Self { is_of_records: true, ..Self::new(stream) }
    }

    /// Sends bytes, as far as the broker reads them, and reads what comes.
    pub async fn send(&mut self, mut bytes: &[u8], reads: bool) {
        for _ in 0..16 {
            if bytes.is_empty() || self.is_closed {
                break;
            }
            let stream = &mut self.stream;
            let written = poll_fn(|cx| match Pin::new(&mut *stream).poll_write(cx, bytes) {
                Poll::Ready(written) => Poll::Ready(written.unwrap_or(0)),
                Poll::Pending => Poll::Ready(0),
            });
            let (now, rest) = bytes.split_at(written.await);
            bytes = rest;
            self.note(now);
            Node::rest().await;
            if reads {
                self.receive().await;
            }
        }
        Node::rest().await;
        if reads {
            self.receive().await;
        }
    }

    /// Reads what has come, and checks it.
    pub async fn receive(&mut self) {
        let mut part = [0; 4096];
        loop {
            let stream = &mut self.stream;
            let read = poll_fn(|cx| {
                let mut buffer = ReadBuf::new(&mut part);
                match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                    Poll::Ready(Ok(())) => Poll::Ready(Some(buffer.filled().len())),
                    Poll::Ready(Err(_)) => Poll::Ready(Some(0)),
                    Poll::Pending => Poll::Ready(None),
                }
            });
            match read.await {
                None => break,
                Some(0) => {
                    self.is_closed = true;
                    break;
                }
                Some(length) => self.got.extend_from_slice(&part[..length]),
            }
            self.check();
            Node::rest().await;
        }
    }

    /// Notes what the packets that were sent allow the broker to send.
    fn note(&mut self, bytes: &[u8]) {
        self.sent.extend_from_slice(bytes);
        let sent = std::mem::take(&mut self.sent);
        let mut rest = &sent[..];
        while let Ok(Some(found)) = framing(rest, usize::MAX) {
            let Some(body) = rest.get(found.header_bytes..found.total_bytes) else { break };
            if self.has_begun {
                self.note_packet(&found, body);
            } else {
                self.has_begun = true;
                self.note_first(&found, body);
            }
            rest = &rest[found.total_bytes..];
        }
        self.sent = rest.to_vec();
    }

    fn note_first(&mut self, found: &codec::Framing, body: &[u8]) {
        if found.packet_type() != kind::CONNECT {
            return;
        }
        let (version, most) = connect::form(body);
        self.version = version;
        self.maximum_packet_bytes = most.map_or(usize::MAX, |most| most as usize);
        if let Ok(asked) = connect::decode(body) {
            self.version = asked.version;
            self.receive_maximum = asked.receive_maximum.into();
        }
    }

    fn note_packet(&mut self, found: &codec::Framing, body: &[u8]) {
        match found.packet_type() {
            kind::PUBLISH => {
                if let Ok(read) = publish::decode(found, body, self.version) {
                    let answer = if read.qos == 1 { kind::PUBACK } else { kind::PUBREC };
                    self.asked.insert((answer, read.packet_id));
                }
            }
            kind::SUBSCRIBE => {
                if let Ok(asked) = subscribe::decode(body, self.version) {
                    self.asked.insert((kind::SUBACK, asked.packet_id));
                }
            }
            kind::UNSUBSCRIBE => {
                if let Ok(asked) = subscribe::decode_unsubscribe(body, self.version) {
                    self.asked.insert((kind::UNSUBACK, asked.packet_id));
                }
            }
            kind::PUBREL => {
                if let Ok(answer) = acks::decode(body, self.version) {
                    self.asked.insert((kind::PUBCOMP, answer.packet_id));
                }
            }
            kind::PUBACK | kind::PUBCOMP | kind::PUBREC => {
                if let Ok(answer) = acks::decode(body, self.version)
                    && (found.packet_type() != kind::PUBREC || answer.reason >= 0x80)
                {
                    self.open.remove(&answer.packet_id);
                }
            }
            _ => {}
        }
    }

    fn check(&mut self) {
        let version = match self.version {
            codec::Version::V4 => Version::V4,
            codec::Version::V5 => Version::V5,
        };
        let got = std::mem::take(&mut self.got);
        let mut rest = &got[..];
        while let Some((packet, length)) = mqtt_client::decode(rest, version)
            .unwrap_or_else(|error| panic!("{error:?} in an answer: {:02x?}", &rest[..rest.len().min(80)]))
        {
            assert!(length <= self.maximum_packet_bytes, "{length} bytes, of at most {}", self.maximum_packet_bytes);
            self.check_packet(&packet);
            rest = &rest[length..];
        }
        self.got = rest.to_vec();
    }

    fn check_packet(&mut self, packet: &Packet<'_>) {
        if matches!(packet, Packet::Connack { .. }) {
            assert!(!std::mem::replace(&mut self.has_connack, true), "a second CONNACK");
            return;
        }
        let answers = |kind, packet_id| assert!(self.asked.contains(&(kind, packet_id)), "{packet:?} to nothing");
        match packet {
            Packet::Publish(publish) if publish.qos > 0 => {
                let is_new = self.open.insert(publish.packet_id);
                assert!(is_new || self.is_of_records, "packet id {} is in use", publish.packet_id);
                assert!(self.open.len() <= self.receive_maximum, "{} messages in flight", self.open.len());
            }
            Packet::Ack { ack: Ack::Puback, packet_id, .. } => answers(kind::PUBACK, *packet_id),
            Packet::Ack { ack: Ack::Pubrec, packet_id, .. } => answers(kind::PUBREC, *packet_id),
            Packet::Ack { ack: Ack::Pubcomp, packet_id, .. } => answers(kind::PUBCOMP, *packet_id),
            Packet::Suback { packet_id, .. } => answers(kind::SUBACK, *packet_id),
            Packet::Unsuback { packet_id, .. } => answers(kind::UNSUBACK, *packet_id),
            _ => {}
        }
        // A client is answered before it is let in with AUTH, or as one that cannot be let in.
        let is_early = matches!(packet, Packet::Auth { .. } | Packet::Disconnect { .. });
        assert!(self.has_connack || is_early, "{packet:?} before CONNACK");
    }
}
