//! The tenant of a client.

use std::net::SocketAddr;
use std::sync::Arc;

/// The credentials that a client presented when it connected.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// Client id; empty when one is to be assigned.
    pub client: &'a str,
    /// User name, when given.
    pub user: Option<&'a str>,
    /// Password, when given.
    pub password: Option<&'a [u8]>,
    /// Address that the client connects from.
    pub peer: SocketAddr,
}

/// Decides which tenant a client belongs to, once for each connection.
pub trait Gatekeeper: Send + Sync + 'static {
    /// Returns the tenant of the client.
    fn tenant(&self, credentials: &Credentials<'_>) -> Arc<str>;
}

/// Admits every client, as one tenant.
#[derive(Debug, Clone)]
pub struct OneTenant(Arc<str>);

impl Default for OneTenant {
    /// The tenant `default`.
    fn default() -> Self {
        Self(model::DEFAULT_TENANT.into())
    }
}

impl Gatekeeper for OneTenant {
    fn tenant(&self, _credentials: &Credentials<'_>) -> Arc<str> {
        Arc::clone(&self.0)
    }
}
