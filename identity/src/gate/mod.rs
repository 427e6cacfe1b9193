//! The gate: admits devices at the doors and callers at the api, and ends their sessions.
//!
//! A credential is looked up once and kept in a table with the token of its sessions. A revocation
//! removes it there and cancels the token: at once when it is made in this process, within a second
//! when it is made in another ([`Gate::follow`]). A lookup that a revocation overtakes is repeated.

mod admit;
mod authenticate;
mod denials;
mod follow;
mod live;
mod pace;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use door::{GrantError, Grants};
use model::time::SECOND;
use model::{Clock, Nanos};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::registry::{Credential, CredentialKind, Found, INSTALLATION, Registry, TenantState, Use};
use crate::secret::Verdict;
use crate::{CredentialId, Peppers, Token};
use denials::Denials;
use live::{Bounds, Entry, Live, Subject};
use pace::Failures;

/// Credentials in the table. A larger fleet connects, but sessions of the devices that connected
/// the longest ago end.
const BOUNDS: Bounds = Bounds { entries: 1_000_000, bytes: 512 << 20 };
/// Wait for the registry.
const LOOKUP: Duration = Duration::from_secs(5);
/// Lookups of one check that revocations may overtake.
const LOOKUPS: usize = 16;
/// Time between two records of the use of a credential.
const USES: Nanos = 300 * SECOND;
/// Uses that wait to be recorded; further ones are left out.
const MAX_USES: usize = 100_000;
/// Time without the control log after which the registry is asked for each credential.
const DEAF: Nanos = 30 * SECOND;

/// Topics of a device: filters in which `{device}` stands for its id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topics {
    /// Topics that it publishes to.
    pub publish: Vec<String>,
    /// Topics that it subscribes to.
    pub subscribe: Vec<String>,
}

/// Admits devices and callers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Arc<dyn Registry>,
    peppers: Arc<Peppers>,
    topics: Topics,
    clock: Arc<dyn Clock>,
    live: Live,
    failures: Failures,
    denials: Denials,
    uses: Mutex<Vec<Use>>,
    /// Time at which the control log was last read; 0 while it is not followed.
    followed: AtomicI64,
    /// True once a credential under an unknown pepper was reported.
    has_lost_pepper: AtomicBool,
}

/// The reason why a credential is not valid.
#[derive(Debug)]
enum Problem {
    /// Malformed, unknown, wrong or expired.
    Wrong {
        tenant: Option<String>,
        principal: String,
    },
    Suspended {
        tenant: String,
        principal: String,
    },
    /// As `Wrong`, from an address that has failed too often: seconds to wait.
    Paced(i64),
    Unavailable(String),
}

impl Gate {
    /// A gate that is open to the credentials of a registry. Run [`Gate::follow`] beside it.
    ///
    /// # Errors
    /// [`GrantError`] when a topic cannot be used.
    pub fn new(
        registry: Arc<dyn Registry>,
        peppers: Arc<Peppers>,
        topics: Topics,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, GrantError> {
        Grants::of(&topics.publish, &topics.subscribe, "device")?;
        Ok(Self::bounded(registry, peppers, topics, clock, BOUNDS))
    }

    fn bounded(
        registry: Arc<dyn Registry>,
        peppers: Arc<Peppers>,
        topics: Topics,
        clock: Arc<dyn Clock>,
        bounds: Bounds,
    ) -> Self {
        Self(Arc::new(Inner {
            registry,
            peppers,
            topics,
            clock,
            live: Live::new(bounds),
            failures: Failures::default(),
            denials: Denials::default(),
            uses: Mutex::default(),
            followed: AtomicI64::new(0),
            has_lost_pepper: AtomicBool::new(false),
        }))
    }

    /// The same gate with a table of at most so many bytes; a new gate has none yet.
    #[must_use]
    pub fn within(self, bytes: usize) -> Self {
        let inner = &*self.0;
        let (registry, peppers) = (Arc::clone(&inner.registry), Arc::clone(&inner.peppers));
        let bounds = Bounds { bytes: bytes.min(BOUNDS.bytes), ..BOUNDS };
        Self::bounded(registry, peppers, inner.topics.clone(), Arc::clone(&inner.clock), bounds)
    }

    /// Ends the sessions of a credential that the registry no longer has.
    pub(crate) fn revoke(&self, id: &CredentialId) {
        self.0.live.revoke(id);
    }

    /// Ends the sessions of a tenant that was suspended.
    pub(crate) fn revoke_tenant(&self, tenant: &str) {
        self.0.live.revoke_tenant(tenant);
    }

    /// Counts a denial for the audit; equal ones within a minute are one event. `tenant` must
    /// exist; longer texts than 256 bytes are cut.
    pub fn deny(&self, tenant: &str, principal: &str, method: &str, address: Option<IpAddr>, reason: &str) {
        let [principal, method, reason] = [principal, method, reason].map(cut);
        let address = address.map(pace::source);
        self.0.denials.add(tenant, principal, method, address, reason, self.0.clock.now());
    }

    /// Checks a token: from the table, or in the registry.
    async fn check(&self, token: &Token, now: Nanos) -> Result<Arc<Entry>, Problem> {
        let inner = &*self.0;
        let followed = inner.followed.load(Ordering::Relaxed);
        // A clock that was set back says nothing about the time since.
        let is_fresh = followed == 0 || (followed..followed + DEAF).contains(&now);
        let known = inner.live.get(&token.id()).filter(|_| is_fresh);
        if let Some(entry) = known {
            let is_right = inner.peppers.verify(token, Some(&entry.digest)) != Verdict::Wrong;
            if !is_right || entry.has_expired(now) {
                return Err(Problem::Wrong {
                    tenant: Some(entry.tenant.as_ref().into()),
                    principal: entry.principal(),
                });
            }
            self.touch(&entry, now);
            return Ok(entry);
        }
        for _ in 0..LOOKUPS {
            let epoch = inner.live.epoch();
            let found = self.look_up(token.id()).await?;
            let entry = self.verify(token, found, now)?;
            if let Some(entry) = inner.live.insert(entry, epoch) {
                self.touch(&entry, now);
                return Ok(entry);
            }
        }
        Err(Problem::Unavailable("credentials are being revoked".into()))
    }

    async fn look_up(&self, id: CredentialId) -> Result<Option<Found>, Problem> {
        match tokio::time::timeout(LOOKUP, self.0.registry.credential(id)).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => {
                tracing::warn!(%error, "a credential cannot be checked");
                // The text of the error names files: it is for the log.
                Err(Problem::Unavailable("the registry of credentials does not answer".into()))
            }
            Err(_) => Err(Problem::Unavailable("the registry of credentials does not answer in time".into())),
        }
    }

    /// Compares a token with the row; without a row the same work is done.
    fn verify(&self, token: &Token, found: Option<Found>, now: Nanos) -> Result<Entry, Problem> {
        let peppers = &self.0.peppers;
        let verdict = peppers.verify(token, found.as_ref().map(|found| &found.credential.digest));
        let Some(Found { credential, tenant, last_use }) = found else {
            // Perhaps revoked in another process, and not heard of yet.
            if self.0.live.get(&token.id()).is_some() {
                self.0.live.revoke(&token.id());
            }
            return Err(Problem::Wrong { tenant: None, principal: String::new() });
        };
        let principal = name(&credential);
        let wrong = |credential: Credential, principal| Problem::Wrong { tenant: Some(credential.tenant), principal };
        if verdict == Verdict::Wrong {
            let version = credential.digest.pepper;
            if !peppers.knows(version) && !self.0.has_lost_pepper.swap(true, Ordering::Relaxed) {
                tracing::error!(version, "a credential is kept under a pepper that is not in the file of peppers");
            }
            return Err(wrong(credential, principal));
        }
        if credential.has_expired(now) {
            return Err(wrong(credential, principal));
        }
        if tenant == TenantState::Suspended {
            return Err(Problem::Suspended { tenant: credential.tenant, principal });
        }
        let digest = if verdict == Verdict::Old { peppers.digest(token) } else { credential.digest };
        if verdict == Verdict::Old {
            self.record(Use { id: credential.id, at: now, digest: Some(digest) });
        }
        let entry = Entry {
            id: credential.id,
            tenant: credential.tenant.as_str().into(),
            digest,
            expires: credential.expires,
            subject: self.subject(&credential, &principal)?,
            ended: CancellationToken::new(),
            used: AtomicI64::new(now),
            recorded: AtomicI64::new(last_use.unwrap_or(Nanos::MIN)),
        };
        Ok(entry)
    }

    fn subject(&self, credential: &Credential, principal: &str) -> Result<Subject, Problem> {
        let unusable = |error: String| {
            tracing::error!(credential = %credential.id, error, "a credential cannot be used");
            Problem::Unavailable("the credential cannot be used: the log of the server has the reason".into())
        };
        match &credential.kind {
            CredentialKind::DeviceSecret { device } => {
                let Topics { publish, subscribe } = &self.0.topics;
                let grants = Grants::of(publish, subscribe, device).map_err(|error| unusable(error.to_string()))?;
                let filters = publish.iter().chain(subscribe);
                let grant_bytes = filters.map(|filter| filter.len() + device.len() + 32).sum();
                Ok(Subject::Device { device: device.as_str().into(), grants: Arc::new(grants), grant_bytes })
            }
            CredentialKind::ApiKey(rights) => {
                let networks = rights.allowed_networks.iter().map(|network| network.parse()).collect::<Result<_, _>>();
                let scopes: Box<[Box<str>]> = rights.scopes.iter().map(|scope| scope.as_str().into()).collect();
                Ok(Subject::Caller {
                    name: principal.into(),
                    role: rights.role,
                    scopes: (!scopes.is_empty()).then(|| scopes.into()),
                    networks: networks.map_err(|error: ipnet::AddrParseError| unusable(error.to_string()))?,
                })
            }
        }
    }

    /// Notes a use.
    fn touch(&self, entry: &Entry, now: Nanos) {
        entry.used.fetch_max(now, Ordering::Relaxed);
        let recorded = entry.recorded.load(Ordering::Relaxed);
        let is_due = now >= recorded.saturating_add(USES);
        if is_due && entry.recorded.compare_exchange(recorded, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.record(Use { id: entry.id, at: now, digest: None });
        }
    }

    fn record(&self, used: Use) {
        let mut uses = self.0.uses.lock();
        if uses.len() < MAX_USES {
            uses.push(used);
        }
    }

    /// Counts a failure for its address and the audit, and returns what to answer. A valid
    /// credential does not come here, so that nothing which others do behind its address holds it
    /// up.
    fn failed(&self, problem: Problem, method: &str, address: Option<IpAddr>, now: Nanos) -> Problem {
        let deny = |tenant: &str, principal: &str, reason| {
            self.0.denials.add(tenant, principal, method, address, reason, now);
        };
        match &problem {
            Problem::Wrong { tenant, principal } => {
                if let Some(wait) = address.and_then(|address| self.0.failures.wait(address, now)) {
                    return Problem::Paced(wait);
                }
                deny(tenant.as_deref().unwrap_or(INSTALLATION), principal, "the credential is not valid");
                if let Some(address) = address {
                    self.0.failures.add(address, now);
                }
            }
            Problem::Suspended { tenant, principal } => deny(tenant, principal, "the tenant is suspended"),
            Problem::Paced(_) | Problem::Unavailable(_) => {}
        }
        problem
    }
}

impl Entry {
    fn principal(&self) -> String {
        match &self.subject {
            Subject::Device { device, .. } => format!("devices/{device}"),
            Subject::Caller { name, .. } => name.as_ref().to_owned(),
        }
    }
}

/// Returns the first 256 bytes of a text, without a part of a character.
fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(256)).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

/// Returns the principal of a credential: `devices/d1`, `apiKeys/4ZjQ0kq8yW2a`.
fn name(credential: &Credential) -> String {
    match &credential.kind {
        CredentialKind::DeviceSecret { device } => format!("devices/{device}"),
        CredentialKind::ApiKey(_) => format!("apiKeys/{}", credential.id),
    }
}
