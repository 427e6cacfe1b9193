//! The vocabulary between a door, which speaks a protocol with devices, and the intake behind it.
//!
//! Receives: nothing; these are types and traits. A door implements the protocol and calls
//! [`Inbox`] and [`Intake`].
//! Promises: a door that knows only this crate can acknowledge each message after it is durable.
//! Hands on: messages with their [`Sender`] to the inbox; a [`Verdict`] for each, and a [`Ticket`]
//! to wait for.
//! Never: knows a protocol, the contents of a payload, or the log.
//!
//! A door calls, for each sender:
//!
//! ```text
//! Gatekeeper::admit(credentials)  ─▶ Identity, Sender
//! Inbox::open(sender)             ─▶ Intake
//!   Intake::take(message)         ─▶ Verdict    once for each message; nothing is stored yet
//!   Intake::poll_submit           ─▶ Ticket     once for all messages since the last submit
//!   Intake::durable               ─▶ Ticket     acknowledge everything up to it
//! ```
//!
//! MQTT submits once for each read of its socket and acknowledges by packet id. A door of requests
//! (HTTP, CoAP, a network server's webhook) takes the items of one request, keeps a verdict for
//! each, and awaits [`store`] before it responds.

mod gatekeeper;
mod grants;
mod inbox;
mod message;
mod owner;
pub mod quota;
mod sender;

pub use gatekeeper::{Credentials, Gatekeeper, Identity, OneTenant, Refusal, RefusalKind};
pub use grants::{GrantError, Grants};
pub use inbox::{Failed, Inbox, Intake, Verdict, store};
pub use message::{Delivery, Message, Retained};
pub use model::Ticket;
pub use owner::{belongs_to, owners};
pub use sender::{ASSIGNED, Sender, is_assigned};
