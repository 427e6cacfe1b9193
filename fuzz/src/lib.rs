//! The parts that fuzz targets share: a broker over streams in memory, and clients that check its
//! answers.
//!
//! Receives: bytes of clients.
//! Promises: a panic of any task ends the process; a broker that answers what no client may get, or
//! does not come to rest, is a panic here.
//! Hands on: nothing.
//! Never: opens a socket or a file.

pub mod client;
#[expect(dead_code, reason = "the model test of the broker uses more of it")]
#[path = "../../broker/tests/model/log.rs"]
mod log;
pub mod node;
