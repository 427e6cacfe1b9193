//! Bridges: messages from this broker to another one, and back.
//!
//! Receives: a connection to the broker of this process, for each attempt; the address of another
//! broker, and topics that both are to have.
//! Promises: a QoS 2 message arrives on the other side once and a QoS 1 message at least once, in
//! order, as long as both sides keep their sessions; nothing of it depends on this crate's memory.
//! Hands on: packets, with the packet ids that they came with.
//! Never: acknowledges a message before its receiver has, but for one that the receiver can never
//! get, which is counted; keeps a message longer than a connection lasts.
//!
//! A bridge is a client of both brokers, each with a session that lasts. The two exchanges of a
//! message are one: the packet id of the delivery is the packet id of the publication.
//!
//! ```text
//! this broker ── PUBLISH 7 ──▶ bridge ── PUBLISH 7 ──▶ other broker
//!             ◀── PUBREC 7 ──        ◀── PUBREC 7 ──
//!             ── PUBREL 7 ──▶        ── PUBREL 7 ──▶
//!             ◀─ PUBCOMP 7 ──        ◀─ PUBCOMP 7 ──
//! ```
//!
//! The session at this broker is the queue, and remembers what is in flight. After a break, this
//! broker sends again what was not acknowledged, with the same packet ids, and the session at the
//! other broker knows which of it arrived. The way back is the same with the sides exchanged: each
//! direction of a connection has packet ids of its own.

mod bridge;
mod config;
mod end;
mod inbound;
mod local;
mod metrics;
mod outbound;
mod pass;
mod pulse;
mod reach;
mod relay;
mod release;
mod remote;
mod rules;
mod side;
mod websocket;

pub use bridge::{Attach, Bridge, Limits};
pub use config::{Config, Direction, Protocol, Topic};
pub use metrics::Metrics;
pub use reach::Fault;
