//! Bytes that a broker sent, read as packets.

use std::io;

use mqtt_client::{DecodeError, Framing, Packet, Version, packet_type};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes that are read at once.
const READ_BYTES: usize = 32 << 10;
/// Bytes that the buffer keeps while it is empty.
const KEEP_BYTES: usize = 64 << 10;

/// Bytes that a broker sent.
#[derive(Debug)]
pub(crate) struct Inbound {
    bytes: Vec<u8>,
    at: usize,
    version: Version,
    /// Largest packet that is kept.
    most: usize,
    /// Bytes of a larger one that are still to come.
    skip: usize,
}

/// A packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrived<'a> {
    /// A packet of this length: [`Inbound::consume`] removes it.
    Packet(Packet<'a>, usize),
    /// A PUBLISH larger than the largest packet. It is skipped.
    Oversized { qos: u8, packet_id: u16 },
}

impl Inbound {
    pub(crate) fn new(version: Version, most: usize) -> Self {
        Self { bytes: Vec::new(), at: 0, version, most, skip: 0 }
    }

    /// Reads once. Returns the number of bytes, 0 at the end. Cancelling it loses no byte.
    pub(crate) async fn read(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        self.compact();
        self.bytes.reserve(READ_BYTES);
        stream.read_buf(&mut self.bytes).await
    }

    fn compact(&mut self) {
        self.bytes.drain(..self.at);
        self.at = 0;
        if self.bytes.is_empty() {
            self.bytes.shrink_to(KEEP_BYTES);
        }
    }

    /// Returns the next packet, when it is whole.
    pub(crate) fn next(&mut self) -> Result<Option<Arrived<'_>>, DecodeError> {
        let skipped = self.skip.min(self.bytes.len() - self.at);
        self.at += skipped;
        self.skip -= skipped;
        if self.skip > 0 {
            return Ok(None);
        }
        let pending = &self.bytes[self.at..];
        let Some(framing) = mqtt_client::framing(pending)? else { return Ok(None) };
        if framing.total_bytes > self.most {
            return self.skip_one(&framing);
        }
        let pending = &self.bytes[self.at..];
        let decoded = mqtt_client::decode(pending, self.version)?;
        Ok(decoded.map(|(packet, bytes)| Arrived::Packet(packet, bytes)))
    }

    /// Removes a packet of this length.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.at += bytes;
    }

    /// Skips a PUBLISH, as soon as its packet id is known.
    fn skip_one(&mut self, framing: &Framing) -> Result<Option<Arrived<'_>>, DecodeError> {
        let pending = &self.bytes[self.at..];
        if pending[0] >> 4 != packet_type::PUBLISH {
            return Err(DecodeError("a packet other than PUBLISH is larger than the largest packet"));
        }
        let qos = pending[0] >> 1 & 3;
        let body = &pending[framing.header_bytes..];
        let Some((length, rest)) = body.split_first_chunk() else { return Ok(None) };
        let topic_bytes = usize::from(u16::from_be_bytes(*length));
        let packet_id = match (qos, rest.get(topic_bytes..topic_bytes + 2)) {
            (0, _) => 0,
            (_, Some(id)) => u16::from_be_bytes([id[0], id[1]]),
            (_, None) => return Ok(None),
        };
        self.skip = framing.total_bytes;
        Ok(Some(Arrived::Oversized { qos, packet_id }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mqtt_client::Publish;

    #[test]
    fn packets_are_read_with_every_cut_of_the_bytes_and_large_ones_are_skipped() {
        let mut bytes = Vec::new();
        let small = Publish { topic: "a", payload: b"x", qos: 1, packet_id: 7, ..Publish::default() };
        let large = Publish { payload: &[0; 300], qos: 2, packet_id: 8, ..small };
        for publish in [&small, &large, &small] {
            mqtt_client::publish(&mut bytes, Version::V4, publish);
        }
        for step in 1..bytes.len() {
            let mut inbound = Inbound::new(Version::V4, 100);
            let mut found = Vec::new();
            for part in bytes.chunks(step) {
                inbound.compact();
                inbound.bytes.extend_from_slice(part);
                loop {
                    let (what, used) = match inbound.next().unwrap() {
                        None => break,
                        Some(Arrived::Packet(Packet::Publish(publish), used)) => ((publish.packet_id, false), used),
                        Some(Arrived::Oversized { qos: 2, packet_id }) => ((packet_id, true), 0),
                        Some(other) => panic!("{other:?}"),
                    };
                    found.push(what);
                    inbound.consume(used);
                }
            }
            assert_eq!(found, [(7, false), (8, true), (7, false)], "in parts of {step} bytes");
        }
    }

    #[test]
    fn a_large_packet_that_cannot_be_skipped_is_an_error() {
        let mut inbound = Inbound::new(Version::V4, 100);
        inbound.bytes.extend_from_slice(&[0x90, 0xFF, 0x7F]);
        assert!(inbound.next().is_err());
    }
}
