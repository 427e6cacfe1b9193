//! Admission: the gatekeeper's answer, and the code that a client gets for a refusal.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::Broker;
use crate::codec::connect::Connect;
use crate::codec::{Version, reason};
use door::{Credentials, Identity, Inbox, Refusal, RefusalKind};

/// The reason of a connection that ends with its credential.
pub(super) const REVOKED: &str = "the credential was revoked or has expired";

/// A client that is not admitted.
#[derive(Debug)]
pub(super) struct Refused {
    kind: RefusalKind,
    /// Metric label.
    pub(super) label: &'static str,
    /// For the client and the log.
    pub(super) reason: Arc<str>,
}

impl From<Refusal> for Refused {
    fn from(Refusal { kind, reason }: Refusal) -> Self {
        let label = match kind {
            RefusalKind::BadCredentials => "bad_credentials",
            RefusalKind::NotAuthorized => "not_authorized",
            RefusalKind::ClientId => "client_id",
            RefusalKind::Busy => "busy",
            RefusalKind::Unavailable => "unavailable",
        };
        Self { kind, label, reason }
    }
}

impl Refused {
    /// The code of the CONNACK.
    pub(super) fn code(&self, version: Version) -> u8 {
        let (v4, v5) = match self.kind {
            RefusalKind::BadCredentials => (4, reason::BAD_CREDENTIALS),
            RefusalKind::NotAuthorized => (5, reason::NOT_AUTHORIZED),
            RefusalKind::ClientId => (2, reason::CLIENT_ID_INVALID),
            RefusalKind::Busy => (3, reason::QUOTA_EXCEEDED),
            RefusalKind::Unavailable => (3, reason::SERVER_UNAVAILABLE),
        };
        if version == Version::V5 { v5 } else { v4 }
    }
}

impl<I: Inbox> Broker<I> {
    /// Asks the gatekeeper for the identity of a client. A refusal is counted and logged.
    pub(super) async fn admit(&self, connect: &Connect, peer: SocketAddr) -> Result<Identity, Refused> {
        let credentials = Credentials {
            client: &connect.client,
            user: connect.user.as_deref(),
            password: connect.password.as_deref(),
            peer,
        };
        let admitted = self.gatekeeper.admit(&credentials).await.map_err(Refused::from);
        admitted.and_then(|identity| check(identity, connect)).inspect_err(|refused| {
            self.metrics.denied("connect", refused.label).inc();
            tracing::info!(client = connect.client, %peer, "refused a connection: {}", refused.reason);
        })
    }
}

/// Checks that the identity has not ended meanwhile, and that it may publish the will message.
fn check(identity: Identity, connect: &Connect) -> Result<Identity, Refused> {
    if identity.ended.as_ref().is_some_and(tokio_util::sync::CancellationToken::is_cancelled) {
        return Err(Refusal { kind: RefusalKind::BadCredentials, reason: REVOKED.into() }.into());
    }
    if let Some(will) = &connect.will
        && !identity.grants.may_publish(&will.topic)
    {
        let reason = format!("the topic of the will message is not granted to this client: {:.80?}", will.topic);
        return Err(Refused { kind: RefusalKind::NotAuthorized, label: "will_topic", reason: reason.into() });
    }
    Ok(identity)
}
