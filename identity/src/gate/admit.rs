//! Devices at the doors.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use door::{Credentials, Gatekeeper, Identity, Refusal, RefusalKind, Sender};
use model::Nanos;

use super::jwt::SignedToken;
use super::live::{Entry, Subject};
use super::proof::Presented;
use super::tenants::{Metered, PlaceError};
use super::{Gate, Problem, pace};
use crate::{Token, TokenKind};

const CONNECT: &str = "Connect";
const REAUTHENTICATE: &str = "Reauthenticate";
pub(super) const BUSY: &str = "too many passwords are being checked: try again in a few seconds";

#[async_trait]
impl Gatekeeper for Gate {
    /// The password is the secret of a device, a token that it signed, or a chosen one; without
    /// a password, the certificate of the connection counts. The user name, or the client id
    /// without one, is the device; the client id is the device, `{device}:…`, or empty.
    async fn admit(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        self.admit_as(credentials, CONNECT, None).await
    }

    fn takes_tokens(&self) -> bool {
        true
    }

    /// The token may be of another key of the same device.
    async fn admit_again(&self, credentials: &Credentials<'_>, known: &Sender) -> Result<Identity, Refusal> {
        self.admit_as(credentials, REAUTHENTICATE, Some(known)).await
    }
}

impl Gate {
    /// Admits a device; one that is known has to be the same one.
    async fn admit_as(
        &self,
        credentials: &Credentials<'_>,
        method: &str,
        known: Option<&Sender>,
    ) -> Result<Identity, Refusal> {
        let now = self.0.clock.now();
        let source = pace::source(credentials.peer.ip());
        let checked = self.check_device(credentials, source, now).await.and_then(|(entry, expires)| match known {
            Some(known) if !is_same(&entry, known) => Err(wrong(&entry)),
            _ => Ok((entry, expires)),
        });
        let (entry, expires) = checked.map_err(|problem| refusal(self.failed(problem, method, Some(source), now)))?;
        let Subject::Device { device, grants, .. } = &entry.subject else { return Err(refusal(wrong(&entry))) };
        // A device of an authority is not in the registry, which keeps client ids from clashing.
        let is_exact = entry.authority.is_none() || credentials.client.len() <= device.len();
        if !is_exact || !is_own(credentials.client, device) {
            let reason = "the client id does not belong to the device";
            self.0.denials.add(&entry.tenant, &entry.principal(), method, Some(source), reason, now);
            return Err(Refusal {
                kind: RefusalKind::ClientId,
                reason: format!("the client id has to be {device:?}, begin with \"{device}:\", or be empty").into(),
            });
        }
        // Nothing of a tenant may come into another pool than its own.
        let placed = self.registered_pool(&entry.tenant).await;
        if !matches!(placed, Ok(Some(_))) {
            if let Err(PlaceError::NotHere(error)) = &placed {
                tracing::error!(tenant = error.tenant, pool = &*error.pool, "a device is refused: {error}");
            }
            let reason = "the pool of the tenant is not available here";
            return Err(Refusal { kind: RefusalKind::Unavailable, reason: reason.into() });
        }
        if let Some(reason) = self.unregistered(&entry, device, now).await.map_err(refusal)? {
            self.0.denials.add(&entry.tenant, &entry.principal(), method, Some(source), reason, now);
            return Err(Refusal { kind: RefusalKind::NotAuthorized, reason: reason.into() });
        }
        Ok(Identity {
            tenant: Arc::clone(&entry.tenant),
            device: Some(Arc::clone(device)),
            grants: Arc::clone(grants),
            ended: Some(entry.ended.clone()),
            meter: match &entry.meter {
                Some(Metered::Device(meter)) => Some(meter.clone()),
                _ => None,
            },
            expires,
        })
    }

    /// Returns also when the connection ends, if it does before the credential.
    async fn check_device(
        &self,
        credentials: &Credentials<'_>,
        source: IpAddr,
        now: Nanos,
    ) -> Result<(Arc<Entry>, Option<Nanos>), Problem> {
        let unknown = || Problem::Wrong { tenant: None, principal: String::new() };
        let password = credentials.password.unwrap_or_default();
        let (entry, ends) = if let Some(token) = credentials.token {
            let token = SignedToken::parse(token).filter(|_| password.is_empty()).ok_or_else(unknown)?;
            self.check_presented(Presented::Signed(&token), now).await?
        } else if let Some(token) = Token::parse(TokenKind::DeviceSecret, password) {
            self.check_presented(Presented::Secret(&token), now).await?
        } else if let Some(token) = SignedToken::parse(password) {
            self.check_presented(Presented::Signed(&token), now).await?
        } else if password.is_empty() && !credentials.certificates.is_empty() {
            self.check_certificates(credentials.certificates, now).await?
        } else if let Some(passwords) = self.passwords() {
            // The user name has found it.
            return self.check_chosen(passwords, credentials, source, now).await.map(|entry| (entry, None));
        } else {
            return Err(unknown());
        };
        match entry.device() {
            Some(device) if names(credentials, device) => Ok((entry, ends)),
            _ => Err(wrong(&entry)),
        }
    }
}

fn is_same(entry: &Entry, known: &Sender) -> bool {
    entry.tenant == known.tenant && entry.device() == known.device.as_deref()
}

fn wrong(entry: &Entry) -> Problem {
    Problem::Wrong { tenant: Some(entry.tenant.as_ref().into()), principal: entry.principal() }
}

/// True when the client says that it is the device. Without a user name the client id says so; the
/// rule for client ids is checked apart.
fn names(credentials: &Credentials<'_>, device: &str) -> bool {
    match credentials.user.filter(|user| !user.is_empty()) {
        Some(user) => user == device,
        None => is_own(credentials.client, device),
    }
}

/// True when a client of the device may have the client id; an empty one is to be assigned.
fn is_own(client: &str, device: &str) -> bool {
    client.is_empty() || door::belongs_to(client, device)
}

fn refusal(problem: Problem) -> Refusal {
    let (kind, reason) = match problem {
        Problem::Wrong { .. } | Problem::Token { .. } | Problem::NoRole { .. } => (
            RefusalKind::BadCredentials,
            "user name or password is not valid: it may be wrong, expired or revoked".into(),
        ),
        Problem::Suspended { .. } => (RefusalKind::NotAuthorized, "the tenant is suspended".into()),
        Problem::Paced(wait) => (RefusalKind::Busy, paced(wait).into()),
        Problem::Busy => (RefusalKind::Busy, BUSY.into()),
        Problem::Unavailable(reason) => (RefusalKind::Unavailable, reason.into()),
    };
    Refusal { kind, reason }
}

pub(super) fn paced(wait: i64) -> String {
    format!("too many attempts with wrong credentials from this address: wait {wait} s")
}
