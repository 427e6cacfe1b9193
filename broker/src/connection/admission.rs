//! Admission: the gatekeeper's answer, and the code that a client gets for a refusal.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::Broker;
use crate::codec::connect::Connect;
use crate::codec::{Version, reason};
use crate::tenant::Tenant;
use door::quota::{ConnectionPermit, Exceeded, Kept, Moment, Quota};
use door::{Credentials, Identity, Inbox, Refusal, RefusalKind};

/// The reason of a connection that ends with its credential.
pub(super) const REVOKED: &str = "the credential was revoked or has expired";
/// The reason of a connection that ends with the token that it was opened with.
pub(super) const EXPIRED: &str = "the token has expired: connect with a new one";

/// The reason of a client with a client id of this process.
const RESERVED: &str = "client ids that begin with $weir/ are those of the server itself: use another";

/// First part of the client ids of clients inside of this process, which no other client may have.
pub(crate) const INTERNAL: &str = "$weir/";

/// The proof of an identity.
pub(crate) enum Proof {
    /// Certificates that the client presented in DER, its own first. Others are in its CONNECT.
    Certificates(Vec<Vec<u8>>),
    /// The client is inside of this process.
    Internal(Identity),
}

impl Proof {
    /// Bytes of the certificates.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Certificates(chain) => chain.iter().map(Vec::len).sum(),
            Self::Internal(_) => 0,
        }
    }
}

/// A client that is not admitted.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) kind: RefusalKind,
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

impl From<Exceeded> for Refused {
    fn from(exceeded: Exceeded) -> Self {
        Self { kind: RefusalKind::Busy, label: exceeded.quota.name(), reason: exceeded.to_string().into() }
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
    pub(super) async fn admit(&self, connect: &Connect, proof: &Proof, peer: SocketAddr) -> Result<Identity, Refused> {
        let certificates = match proof {
            Proof::Internal(identity) => return check(identity.clone(), connect),
            Proof::Certificates(certificates) => certificates,
        };
        let credentials = Credentials {
            client: &connect.client,
            user: connect.user.as_deref(),
            password: connect.password.as_deref(),
            token: connect
                .authentication_method
                .as_ref()
                .map(|_| connect.authentication_data.as_deref().unwrap_or_default()),
            certificates,
            peer,
        };
        let admitted = match connect.client.starts_with(INTERNAL) {
            true => Err(Refused { kind: RefusalKind::ClientId, label: "client_id", reason: RESERVED.into() }),
            false => self.gatekeeper.admit(&credentials).await.map_err(Refused::from),
        };
        admitted.and_then(|identity| check(identity, connect)).inspect_err(|refused| {
            self.metrics.denied("connect", refused.label).inc();
            tracing::info!(client = connect.client, %peer, "refused a connection: {}", refused.reason);
        })
    }

    /// Counts a connection for the limits of its tenant. One that takes over the session of another
    /// connection comes in its place.
    pub(super) fn count_in(
        &self,
        identity: &Identity,
        connect: &Connect,
        peer: SocketAddr,
    ) -> Result<Option<ConnectionPermit>, Refused> {
        let Some(meter) = &identity.meter else { return Ok(None) };
        let takes_over =
            !connect.client.is_empty() && self.is_connected(&self.tenants.get(&identity.tenant), &connect.client);
        let permit = meter.connect(takes_over, Moment::now()).map_err(Refused::from);
        permit.map(Some).inspect_err(|refused| {
            self.metrics.denied("connect", refused.label).inc();
            self.metrics.limited(refused.label).inc();
            tracing::info!(client = connect.client, %peer, "refused a connection: {}", refused.reason);
        })
    }

    /// True when the tenant may have the session that was made last.
    pub(super) fn may_keep_session(&self, identity: &Identity, tenant: &Tenant) -> bool {
        let others = tenant.sessions.len().saturating_sub(1);
        let may = identity.meter.as_ref().is_none_or(|meter| meter.has_room(Kept::Sessions, others));
        if !may {
            self.metrics.limited(Quota::Sessions.name()).inc();
        }
        may
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
