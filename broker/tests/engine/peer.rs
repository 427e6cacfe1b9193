//! A client that writes packets byte by byte.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub(crate) struct Peer(pub(crate) TcpStream);

impl Peer {
    pub(crate) fn send(&mut self, first: u8, body: &[u8]) {
        let mut out = vec![first];
        let mut length = body.len();
        while length >= 128 {
            out.push((length % 128) as u8 | 128);
            length /= 128;
        }
        out.push(length as u8);
        out.extend_from_slice(body);
        self.0.write_all(&out).unwrap();
    }

    pub(crate) fn connect(&mut self, level: u8, id: &str, flags: u8, keep_alive: u16, properties: &[u8]) {
        let mut body = b"\0\x04MQTT".to_vec();
        body.extend_from_slice(&[level, flags]);
        body.extend_from_slice(&keep_alive.to_be_bytes());
        if level == 5 {
            body.push(properties.len() as u8);
            body.extend_from_slice(properties);
        }
        body.extend_from_slice(&text(id));
        self.send(0x10, &body);
    }

    /// Connects with MQTT 5. Returns the code of the CONNACK; `None` when the connection was closed
    /// without one, as is one that comes before those that would give way to it are known.
    pub(crate) fn answer(&mut self, id: &str) -> Option<u8> {
        self.connect(5, id, CLEAN, 0, &[]);
        let mut first = [0];
        self.0.read_exact(&mut first).ok()?;
        assert_eq!(first[0], 0x20);
        Some(self.rest(first[0]).1[1])
    }

    pub(crate) fn publish(&mut self, topic: &str, payload: &[u8], qos: u8, id: u16, v5: bool) {
        self.publish_with(0x30 | qos << 1, topic, payload, id, v5);
    }

    pub(crate) fn publish_with(&mut self, first: u8, topic: &str, payload: &[u8], id: u16, v5: bool) {
        self.publish_properties(first, topic, payload, id, v5.then_some(&[]));
    }

    /// With properties, on MQTT 5.
    pub(crate) fn publish_properties(
        &mut self,
        first: u8,
        topic: &str,
        payload: &[u8],
        id: u16,
        properties: Option<&[u8]>,
    ) {
        let mut body = text(topic);
        if first & 6 != 0 {
            body.extend_from_slice(&id.to_be_bytes());
        }
        if let Some(properties) = properties {
            body.push(properties.len() as u8);
            body.extend_from_slice(properties);
        }
        body.extend_from_slice(payload);
        self.send(first, &body);
    }

    pub(crate) fn subscribe(&mut self, filter: &str, options: u8, v5: bool) -> Vec<u8> {
        let mut body = vec![0, 9];
        if v5 {
            body.push(0);
        }
        body.extend_from_slice(&text(filter));
        body.push(options);
        self.send(0x82, &body);
        let (first, body) = self.packet();
        assert_eq!(first, 0x90);
        body
    }

    /// A SUBSCRIBE of MQTT 5 with a subscription id.
    pub(crate) fn subscribe_with_id(&mut self, filter: &str, options: u8, id: u8) {
        let mut body = vec![0, 9, 2, 0x0B, id];
        body.extend_from_slice(&text(filter));
        body.push(options);
        self.send(0x82, &body);
        assert_eq!(self.packet().0, 0x90);
    }

    /// Sends a PINGREQ and awaits the answer: all packets sent before have been read by then.
    pub(crate) fn ping(&mut self) {
        self.send(0xC0, &[]);
        assert_eq!(self.packet(), (0xD0, vec![]));
    }

    /// The next packet: first byte and body.
    pub(crate) fn packet(&mut self) -> (u8, Vec<u8>) {
        let mut byte = [0];
        self.0.read_exact(&mut byte).unwrap();
        self.rest(byte[0])
    }

    /// The packet whose first byte was read.
    pub(crate) fn rest(&mut self, first: u8) -> (u8, Vec<u8>) {
        let mut byte = [0];
        let (mut length, mut shift) = (0, 0);
        loop {
            self.0.read_exact(&mut byte).unwrap();
            length |= usize::from(byte[0] & 127) << shift;
            shift += 7;
            if byte[0] & 128 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        (first, body)
    }

    /// True when the broker has closed the connection. Packets before the end are skipped.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }

    /// True when nothing comes for a moment.
    pub(crate) fn is_silent(&mut self) -> bool {
        self.0.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
        let silent = self.0.read(&mut [0]).is_err();
        self.0.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        silent
    }
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u16).to_be_bytes().to_vec();
    out.extend_from_slice(text.as_bytes());
    out
}

pub(crate) const CLEAN: u8 = 2;
