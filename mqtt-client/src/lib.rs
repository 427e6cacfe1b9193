//! The client's side of MQTT 3.1.1 and 5.0: packets written into and read from byte buffers.
//!
//! Receives: fields of a packet to write; bytes that a server sent.
//! Promises: written packets conform to the standard when their fields do; a packet is read without
//! an allocation and only when it is whole and well formed.
//! Hands on: nothing; callers own their sockets, buffers and sessions.
//! Never: reads or writes a socket, keeps state between two calls, or shares code with `broker`:
//! tests compare the two.
//!
//! ```
//! use weir_mqtt_client::{self as mqtt_client, Packet, Publish, Version};
//!
//! let mut out = Vec::new();
//! let publish = Publish { topic: "devices/a", payload: b"21.5", qos: 1, packet_id: 7, ..Publish::default() };
//! mqtt_client::publish(&mut out, Version::V4, &publish);
//!
//! let (packet, length) = mqtt_client::decode(&[0x40, 2, 0, 7], Version::V4)?.expect("a whole packet");
//! assert!(matches!(packet, Packet::Ack { packet_id: 7, reason: 0, .. }));
//! assert_eq!(length, 4);
//! # Ok::<(), mqtt_client::DecodeError>(())
//! ```

mod decode;
mod encode;
mod properties;

pub use decode::{DecodeError, Framing, Packet, decode, framing};
pub use encode::{ack, auth, connect, disconnect, pingreq, publish, subscribe, unsubscribe};
pub use properties::{Property, PropertyList, Value, id, iterate};

/// Protocol version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// MQTT 3.1.1.
    #[default]
    V4,
    /// MQTT 5.0.
    V5,
}

/// A CONNECT packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connect<'a> {
    /// Protocol version to request.
    pub version: Version,
    /// The client is a broker that bridges: bit 7 of the protocol level of 3.1.1 is set. Not sent
    /// with 5.0.
    pub is_bridge: bool,
    /// Client id; empty requests one from the server.
    pub client_id: &'a str,
    /// Clean session (3.1.1) or clean start (5.0).
    pub clean_start: bool,
    /// Keep-alive in seconds; 0 turns it off.
    pub keep_alive_secs: u16,
    /// Message that the server publishes when the connection breaks.
    pub will: Option<Will<'a>>,
    /// User name.
    pub username: Option<&'a str>,
    /// Password; 3.1.1 allows it only with a user name.
    pub password: Option<&'a [u8]>,
    /// Encoded properties; not sent with 3.1.1.
    pub properties: &'a [u8],
}

/// A will message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Will<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Payload.
    pub payload: &'a [u8],
    /// QoS: 0, 1 or 2.
    pub qos: u8,
    /// Published as a retained message.
    pub retain: bool,
    /// Encoded properties; not sent with 3.1.1.
    pub properties: &'a [u8],
}

/// A PUBLISH packet, in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Publish<'a> {
    /// Topic name; empty when a topic alias replaces it.
    pub topic: &'a str,
    /// Payload.
    pub payload: &'a [u8],
    /// QoS: 0, 1 or 2.
    pub qos: u8,
    /// Set on a message that is sent again.
    pub dup: bool,
    /// A message to retain, or one that was retained.
    pub retain: bool,
    /// Packet id; 0 at QoS 0.
    pub packet_id: u16,
    /// Encoded properties; empty with 3.1.1.
    pub properties: &'a [u8],
}

/// A topic filter in a SUBSCRIBE with its options. 3.1.1 sends only the QoS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Subscription<'a> {
    /// Topic filter.
    pub filter: &'a str,
    /// Highest QoS of deliveries.
    pub qos: u8,
    /// Excludes messages that this client published.
    pub no_local: bool,
    /// Forwards the retain flag as it was published.
    pub retain_as_published: bool,
    /// When the server sends retained messages.
    pub retain_handling: RetainHandling,
}

/// When retained messages are sent to a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetainHandling {
    /// At each SUBSCRIBE.
    #[default]
    Always = 0,
    /// At a SUBSCRIBE that adds the subscription.
    IfNew = 1,
    /// Never.
    Never = 2,
}

/// Acknowledgements of a PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// Answer at QoS 1.
    Puback = 4,
    /// First answer at QoS 2, by the receiver.
    Pubrec = 5,
    /// Second answer at QoS 2, by the sender.
    Pubrel = 6,
    /// Last answer at QoS 2, by the receiver.
    Pubcomp = 7,
}

/// Packet types: the high half of a packet's first byte.
pub mod packet_type {
    #![expect(missing_docs, reason = "the standard's own names")]
    pub const CONNECT: u8 = 1;
    pub const CONNACK: u8 = 2;
    pub const PUBLISH: u8 = 3;
    pub const PUBACK: u8 = 4;
    pub const PUBREC: u8 = 5;
    pub const PUBREL: u8 = 6;
    pub const PUBCOMP: u8 = 7;
    pub const SUBSCRIBE: u8 = 8;
    pub const SUBACK: u8 = 9;
    pub const UNSUBSCRIBE: u8 = 10;
    pub const UNSUBACK: u8 = 11;
    pub const PINGREQ: u8 = 12;
    pub const PINGRESP: u8 = 13;
    pub const DISCONNECT: u8 = 14;
    pub const AUTH: u8 = 15;
}
