//! MQTT in, PUBACK out.
//!
//! Receives: TCP connections of MQTT 3.1.1 and 5 clients; an [`inbox::Inbox`] for what they publish.
//! Promises: PUBACKs leave a connection in receipt order, each only after the inbox called its message durable.
//! Hands on: every PUBLISH to the inbox; messages to subscribers.
//! Never: knows what a reading is, or what stands behind the inbox; acknowledges from memory what is telemetry.

pub mod inbox;
