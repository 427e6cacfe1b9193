//! TLS and the bounds of connections: certificates from files, handshakes, the certificates of a
//! private authority, and the clients of a port that are not known yet.
//!
//! Receives: accepted TCP connections, and PEM files that the configuration names.
//! Promises: a handshake is bounded in time, and all of them in number; clients of one source that
//! are not known keep none of another source out; changed files are used without a restart, and a
//! fault in them leaves the previous ones in use; an error names the key, the file and the cure.
//! Hands on: encrypted streams, with the certificates that the client presented.
//! Never: decides what a client may do; logs a key.

mod authority;
mod certificate;
mod client;
mod config;
mod connections;
mod connector;
mod create;
mod files;
mod handshake;
mod metrics;
mod places;
mod plain;
mod port_stream;
mod reload;
mod server;
mod strangers;
mod verify;

use std::sync::Arc;

pub use authority::{Authority, Identity, Keys, create_keys};
pub use certificate::Certificate;
pub use client::{Client, ClientFiles, pinned, unverified};
pub use config::Config;
pub use connections::{Connections, GuardedStream, Peer};
pub use connector::{Connector, explain};
pub use create::{CreateError, Created, DAYS, create, create_client};
pub use files::{FileError, Named, check_pair, is_world_readable, read_certificates};
pub use handshake::{Accepted, Acceptor, HandshakeError};
pub use metrics::Metrics;
pub use port_stream::PortStream;
pub use reload::Hangup;
pub use server::{Limits, Port, Server, ServerFiles};
pub use strangers::{Guest, Strangers, network};
/// An encrypted connection that was accepted.
pub type ServerStream = tokio_rustls::server::TlsStream<tokio::net::TcpStream>;
/// An encrypted connection that was opened.
pub type ClientStream = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

/// The one provider of cryptography.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
