//! A fleet of devices, to try a broker with.
//!
//! Receives: a load (connections, messages in flight, rate, time) and the address of any MQTT broker.
//! Promises: what it counts as acknowledged was acknowledged; its own cost per message is a fraction of a broker's.
//! Hands on: rates and latencies, as text or JSON.
//! Never: knows which broker it talks to; goes on past its time.

pub mod bench;
