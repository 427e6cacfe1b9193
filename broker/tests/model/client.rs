//! A client: what it has sent and not got acknowledged, and what it has to acknowledge.

use std::collections::{BTreeSet, VecDeque};

use mqtt_client::{Ack, Publish, Version};

use crate::connection::Connection;
use crate::model::Number;

/// A message at QoS 1 or 2 that the client has sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outgoing {
    pub(crate) packet_id: u16,
    /// None for a marker, which shows that all before it was handled.
    pub(crate) number: Option<Number>,
    pub(crate) qos: u8,
    /// PUBREC has arrived.
    pub(crate) is_recorded: bool,
}

pub(crate) struct Client {
    pub(crate) name: String,
    pub(crate) version: Version,
    pub(crate) connection: Option<Connection>,
    /// Node of its connection.
    pub(crate) node: usize,
    /// Number of its connection.
    pub(crate) number: u32,
    /// The session outlives the connection.
    pub(crate) keeps: bool,
    /// Messages in flight that it accepts.
    pub(crate) receive_maximum: Option<u16>,
    /// Packet ids that it has got over this connection and not acknowledged to the end.
    pub(crate) open: BTreeSet<u16>,
    /// Acknowledgements that it will send.
    pub(crate) answers: VecDeque<(Ack, u16)>,
    /// It acknowledges nothing for now.
    pub(crate) holds: bool,
    /// It reads nothing for now.
    pub(crate) is_deaf: bool,
    pub(crate) out: Vec<Outgoing>,
    next_id: u16,
    /// QoS 0 messages of this connection that the broker may not have handled.
    pub(crate) unsettled: Vec<Number>,
    pub(crate) will: Option<Number>,
    /// The connection, or the one before, has a will message.
    pub(crate) had_will: bool,
    /// Reason of the broker's DISCONNECT.
    pub(crate) farewell: Option<u8>,
    /// Takeovers: the broker slows them down beyond some.
    pub(crate) takeovers: u32,
}

impl Client {
    pub(crate) fn new(name: String, version: Version) -> Self {
        Self {
            name,
            version,
            connection: None,
            node: 0,
            number: 0,
            keeps: false,
            receive_maximum: None,
            open: BTreeSet::new(),
            answers: VecDeque::new(),
            holds: false,
            is_deaf: false,
            out: Vec::new(),
            next_id: 0,
            unsettled: Vec::new(),
            will: None,
            had_will: false,
            farewell: None,
            takeovers: 0,
        }
    }

    pub(crate) fn send(&mut self, write: impl FnOnce(&mut Vec<u8>, Version)) {
        let mut bytes = Vec::new();
        write(&mut bytes, self.version);
        if let Some(connection) = &mut self.connection {
            connection.send(&bytes);
        }
    }

    pub(crate) fn publish(&mut self, publish: &Publish<'_>) {
        self.send(|out, version| mqtt_client::publish(out, version, publish));
    }

    pub(crate) fn next_id(&mut self) -> u16 {
        self.next_id += 1;
        self.next_id
    }

    /// Sends a message of QoS 1 that no client gets. Its acknowledgement shows that the broker has
    /// handled everything before it.
    pub(crate) fn mark(&mut self) -> u16 {
        let packet_id = self.next_id();
        self.out.push(Outgoing { packet_id, number: None, qos: 1, is_recorded: false });
        self.publish(&Publish { topic: "markers", payload: b"m", qos: 1, packet_id, ..Publish::default() });
        packet_id
    }

    pub(crate) fn is_unacknowledged(&self, packet_id: u16) -> bool {
        self.out.iter().any(|out| out.packet_id == packet_id && !out.is_recorded)
    }
}
