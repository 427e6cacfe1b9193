//! Admission of clients.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use model::Nanos;
use tokio_util::sync::CancellationToken;

use crate::quota::DeviceMeter;
use crate::{Grants, Sender};

/// The credentials that a client presented when it connected.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// Client id; empty when one is to be assigned.
    pub client: &'a str,
    /// User name, when given.
    pub user: Option<&'a str>,
    /// Password, when given.
    pub password: Option<&'a [u8]>,
    /// Token that the client signed and presented in place of a password, by an exchange that the
    /// protocol has for it; see [`Gatekeeper::takes_tokens`].
    pub token: Option<&'a [u8]>,
    /// Certificates that the client presented over TLS, in DER, its own first; empty without. The
    /// client has the key of the first one. A gatekeeper that derives an identity from them
    /// verifies the chain, the dates and the revocation itself.
    pub certificates: &'a [Vec<u8>],
    /// Address that the client connects from.
    pub peer: SocketAddr,
}

impl std::fmt::Debug for Credentials<'_> {
    /// Without the password and the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { client, user, peer, .. } = self;
        f.debug_struct("Credentials")
            .field("client", client)
            .field("user", user)
            .field("peer", peer)
            .finish_non_exhaustive()
    }
}

/// The identity of a client that was admitted.
#[derive(Debug, Clone)]
pub struct Identity {
    /// From the credential, never from the client's own words.
    pub tenant: Arc<str>,
    /// The device that the client is: readings of others are refused. `None` in an installation
    /// without authentication.
    pub device: Option<Arc<str>>,
    /// Topics that it may publish and subscribe to.
    pub grants: Arc<Grants>,
    /// Cancelled when the credential is revoked or expires: the session ends.
    pub ended: Option<CancellationToken>,
    /// Holds its connections and messages to the limits of the tenant; `None` without limits.
    pub meter: Option<DeviceMeter>,
    /// Time at which what the client presented expires: the connection ends, its session is kept.
    pub expires: Option<Nanos>,
}

/// The reason why a client is not admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The kind, from which a protocol derives its code.
    pub kind: RefusalKind,
    /// A sentence for the client and the log; it names no secret.
    pub reason: Arc<str>,
}

/// The kind of a [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The credentials are missing, unknown, wrong, expired or revoked.
    BadCredentials,
    /// The client is known and may not connect: suspended, or from another network.
    NotAuthorized,
    /// The client id does not belong to the device of the credential.
    ClientId,
    /// Too many checks wait.
    Busy,
    /// The credentials cannot be checked now.
    Unavailable,
}

/// Decides who a client is, once for each connection, and again for each further token that the
/// client presents.
///
/// A door compares nothing of its own with the device of an identity: a client id belongs to a
/// device when the gatekeeper says so. For an identity with a device, every other client id than
/// those that [belong to it](crate::belongs_to) is refused with [`RefusalKind::ClientId`], since
/// the owner of a client id takes over its session. Without a client id, the door assigns one.
#[async_trait]
pub trait Gatekeeper: Send + Sync + 'static {
    /// Returns the identity of the client. A door waits for it as long as for a CONNECT, and delays
    /// no other client meanwhile.
    ///
    /// # Errors
    /// [`Refusal`].
    async fn admit(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal>;

    /// True when a client may present a token by an exchange of its protocol. It can present
    /// another one later, and stays connected ([`Gatekeeper::admit_again`]).
    fn takes_tokens(&self) -> bool {
        false
    }

    /// True when a client may see the figures of the whole process, rather than of its tenant.
    fn shows_installation(&self) -> bool {
        false
    }

    /// Checks the next token of a client that is connected as `known`, which is not a connection
    /// more. The identity is that of the same device, with the end of the new token.
    ///
    /// # Errors
    /// [`Refusal`], also for a token of another device or tenant: the connection ends.
    async fn admit_again(&self, credentials: &Credentials<'_>, known: &Sender) -> Result<Identity, Refusal> {
        let (_, _) = (credentials, known);
        Err(Refusal { kind: RefusalKind::NotAuthorized, reason: "tokens are not accepted".into() })
    }
}

#[async_trait]
impl<G: Gatekeeper + ?Sized> Gatekeeper for Arc<G> {
    async fn admit(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        (**self).admit(credentials).await
    }

    fn takes_tokens(&self) -> bool {
        (**self).takes_tokens()
    }

    fn shows_installation(&self) -> bool {
        (**self).shows_installation()
    }

    async fn admit_again(&self, credentials: &Credentials<'_>, known: &Sender) -> Result<Identity, Refusal> {
        (**self).admit_again(credentials, known).await
    }
}

/// Admits every client to one tenant, with every topic.
#[derive(Debug, Clone)]
pub struct OneTenant {
    tenant: Arc<str>,
    /// Of all clients.
    grants: Arc<Grants>,
}

impl Default for OneTenant {
    /// The tenant `default`.
    fn default() -> Self {
        Self { tenant: model::DEFAULT_TENANT.into(), grants: Arc::default() }
    }
}

#[async_trait]
impl Gatekeeper for OneTenant {
    async fn admit(&self, _credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        Ok(Identity {
            tenant: Arc::clone(&self.tenant),
            device: None,
            grants: Arc::clone(&self.grants),
            ended: None,
            meter: None,
            expires: None,
        })
    }

    fn shows_installation(&self) -> bool {
        true
    }
}
