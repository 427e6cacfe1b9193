//! The sender of messages.

use std::net::SocketAddr;
use std::sync::Arc;

/// First part of a client id that a door assigns to a client without one.
pub const ASSIGNED: &str = "weir-assigned-";

/// True for a client id that was assigned: another connection of the same device has another one.
pub fn is_assigned(client: &str) -> bool {
    client.starts_with(ASSIGNED)
}

/// A client after it has been let in.
#[derive(Debug, Clone)]
pub struct Sender {
    /// From the credential, never from the client's own words.
    pub tenant: Arc<str>,
    /// Client id, given or assigned; unique within the tenant at any one time.
    pub client: Arc<str>,
    /// User name, when given.
    pub user: Option<Arc<str>>,
    /// Address that the client connects from.
    pub peer: SocketAddr,
    /// Name of the protocol as traces show it: `mqtt`.
    pub protocol: &'static str,
}
