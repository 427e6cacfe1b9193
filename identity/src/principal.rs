//! The identity of a caller of the api.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use door::quota::CallerMeter;
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use crate::{DeviceReach, Role};

/// The credential that a caller presents.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    /// The token of `authorization: Bearer`, when there is one.
    pub bearer: Option<&'a str>,
    /// Address that the call comes from, when it is known.
    pub peer: Option<IpAddr>,
}

impl fmt::Debug for Presented<'_> {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bearer = self.bearer.map(|_| "…");
        f.debug_struct("Presented").field("bearer", &bearer).field("peer", &self.peer).finish()
    }
}

/// The identity of a caller.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The tenant that it belongs to; a caller names no other.
    pub tenant: Arc<str>,
    /// Its name in logs and in the audit: `apiKeys/4ZjQ0kq8yW2a`, `local`.
    pub name: Arc<str>,
    /// Its role in the tenant.
    pub role: Role,
    /// Permissions that its credential is limited to; `None` is all of its role.
    pub scopes: Option<Arc<[Box<str>]>>,
    /// Networks that its credential is limited to; empty is all.
    pub networks: Arc<[IpNet]>,
    /// The devices that it may act on, and with them the tenant unless they are those of groups.
    pub reach: DeviceReach,
    /// Cancelled when the credential is revoked or expires.
    pub ended: CancellationToken,
    /// Holds its calls and streams to the limits of the tenant; `None` without limits.
    pub meter: Option<CallerMeter>,
}

impl Principal {
    /// The caller of an installation without authentication: it belongs to the tenant `default` and
    /// holds every permission.
    pub fn local() -> Self {
        Self {
            tenant: model::DEFAULT_TENANT.into(),
            name: "local".into(),
            role: Role::Installation,
            scopes: None,
            networks: Arc::default(),
            reach: DeviceReach::default(),
            ended: CancellationToken::new(),
            meter: None,
        }
    }

    /// True when its role has the permission, and its credential is not limited to others.
    pub fn holds(&self, permission: &str) -> bool {
        let in_scope = self.scopes.as_ref().is_none_or(|scopes| scopes.iter().any(|scope| **scope == *permission));
        in_scope && self.role.has(permission)
    }

    /// True when its credential is valid from all of a network, or from an address alone. False for
    /// a text that is neither, if the credential is limited to networks.
    pub fn is_valid_from(&self, network: &str) -> bool {
        let parsed = network.parse::<IpNet>().or_else(|_| network.parse::<IpAddr>().map(IpNet::from));
        self.networks.is_empty() || parsed.is_ok_and(|asked| self.networks.iter().any(|own| own.contains(&asked)))
    }
}

/// The reason why a caller is not admitted. Its text is for the caller and names no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No credential was presented.
    #[error(
        "the call has no credential: send `authorization: Bearer` with an API key (weir keys add) or an access token"
    )]
    Missing,
    /// The credential is malformed, unknown, wrong, expired or revoked. One answer for all of them.
    #[error("the credential is not valid: it may be wrong, expired or revoked")]
    Invalid,
    /// The credential is limited to other networks.
    #[error("the credential is not valid from this address")]
    Network,
    /// The access token is valid, and its principal has no role.
    #[error("{0} has no role in the tenant: an administrator of the tenant gives it one (weir roles grant)")]
    NoRole(Arc<str>),
    /// The tenant is suspended.
    #[error("the tenant is suspended")]
    Suspended,
    /// The credential cannot be checked now.
    #[error("the credential cannot be checked now: {0}")]
    Unavailable(Arc<str>),
}

/// Checks the credentials of callers.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// Returns the identity of a caller.
    ///
    /// # Errors
    /// [`Denied`].
    async fn authenticate(&self, presented: &Presented<'_>) -> Result<Principal, Denied>;

    /// Notes for the audit that a caller was refused a call. `method` and `reason` are of a fixed
    /// set.
    fn refused(&self, _principal: &Principal, _method: &str, _peer: Option<IpAddr>, _reason: &str) {}
}

/// Admits every caller as [`Principal::local`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Open;

#[async_trait]
impl Authenticator for Open {
    async fn authenticate(&self, _presented: &Presented<'_>) -> Result<Principal, Denied> {
        Ok(Principal::local())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_of_networks_is_valid_from_their_parts_only() {
        let own = ["10.1.0.0/16", "2001:db8::/32"].map(|network| network.parse::<IpNet>().unwrap());
        let principal = Principal { networks: own.into(), ..Principal::local() };
        for part in ["10.1.0.0/16", "10.1.2.0/24", "10.1.2.3", "2001:db8:1::/48", "2001:db8::1"] {
            assert!(principal.is_valid_from(part), "{part}");
        }
        for beyond in ["10.0.0.0/8", "10.2.0.1", "0.0.0.0/0", "::/0", "::ffff:10.1.2.3", "", "ten"] {
            assert!(!principal.is_valid_from(beyond), "{beyond}");
            assert!(Principal::local().is_valid_from(beyond), "{beyond}");
        }
    }
}
