//! The sender of messages.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::quota::DeviceMeter;

/// First part of a client id that a door assigns to a client without one.
pub const ASSIGNED: &str = "weir-assigned-";

/// True for a client id that was assigned: another connection of the same device has another one.
/// The client of a device is assigned one that begins with the device id and a colon.
pub fn is_assigned(client: &str) -> bool {
    let below_a_device = client.rsplit_once(':').is_some_and(|(_, own)| own.starts_with(ASSIGNED));
    client.starts_with(ASSIGNED) || below_a_device
}

/// A client after it has been let in.
#[derive(Debug, Clone)]
pub struct Sender {
    /// From the credential, never from the client's own words.
    pub tenant: Arc<str>,
    /// The device that the client is: readings of others are denied. `None` in an installation
    /// without authentication.
    pub device: Option<Arc<str>>,
    /// The meter of the device, held to the limits of the tenant.
    pub meter: Option<DeviceMeter>,
    /// Client id, given or assigned; unique within the tenant at any one time.
    pub client: Arc<str>,
    /// User name, when given.
    pub user: Option<Arc<str>>,
    /// Address that the client connects from.
    pub peer: SocketAddr,
    /// Name of the protocol as traces show it: `mqtt`.
    pub protocol: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assigned_ids_are_known_with_and_without_a_device() {
        for id in ["weir-assigned-1-2", "d1:weir-assigned-1-2", "a:b:weir-assigned-1-2"] {
            assert!(is_assigned(id), "{id}");
        }
        for id in ["weir", "d1", "d1:weir", "d1/weir-assigned-1-2", "d1:x:y"] {
            assert!(!is_assigned(id), "{id}");
        }
    }
}
