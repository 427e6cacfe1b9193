//! The gate: admits devices at the doors and callers at the api, and ends their sessions.
//!
//! A credential is looked up once and kept in a table with the token of its sessions. A revocation
//! removes it there and cancels the token: at once when it is made in this process, within a second
//! when it is made in another ([`Gate::follow`]). A lookup that a revocation overtakes is repeated.

mod access;
mod admit;
mod authenticate;
mod batches;
mod certificates;
mod denials;
mod follow;
mod groups;
mod jwt;
mod live;
mod lookup;
mod pace;
mod passwords;
mod proof;
mod purged;
mod registered;
mod shares;
mod tenants;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use door::{GrantError, Grants};
use model::time::SECOND;
use model::{Clock, DeviceKey, Nanos};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::oauth::TokenFault;
use crate::registry::{Credential, CredentialKind, Found, INSTALLATION, Registry, Tenant, Use};
use crate::{CredentialId, DeviceReach, Passwords, Peppers, Token};
use batches::Batches;
use denials::Denials;
use groups::Groups;
use live::{Bounds, Entry, Live, Subject};
use pace::Failures;
use proof::{Outcome, Presented, Proof};
use purged::PurgedTenants;
use registered::{Registered, Standing};
use tenants::Tenants;
pub use tenants::{NotHere, PlaceError};
use tokens::Tokens;

/// Credentials in the table. A larger fleet connects, but sessions of the devices that connected
/// the longest ago end.
const BOUNDS: Bounds = Bounds { entries: 1_000_000, bytes: 512 << 20 };
/// Wait for the registry.
const LOOKUP: Duration = Duration::from_secs(5);
/// Credentials that are looked up with one request.
const LOOKUP_BATCH: usize = 500;
/// Tenants that are looked up one after another.
const TENANT_BATCH: usize = 32;
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
    lookups: Batches<CredentialId, Option<Found>>,
    tenant_lookups: Batches<Box<str>, Option<Tenant>>,
    device_lookups: Batches<DeviceKey, Standing>,
    tenants: Tenants,
    registered: Registered,
    /// Tenants with devices that were adopted.
    adopted: watch::Sender<BTreeSet<Arc<str>>>,
    purged: PurgedTenants,
    tokens: Tokens,
    passwords: OnceLock<Passwords>,
    groups: Groups,
    failures: Failures<IpAddr>,
    /// Of chosen passwords, by credential.
    guesses: Failures<CredentialId>,
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
    /// An access token that is not valid.
    Token {
        /// The tenant of its issuer.
        tenant: Option<String>,
        fault: TokenFault,
    },
    /// The principal of an access token that is valid has no role.
    NoRole {
        tenant: String,
        principal: String,
    },
    /// As `Wrong`, from an address that has failed too often: seconds to wait.
    Paced(i64),
    /// Too many chosen passwords are being checked.
    Busy,
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
            lookups: Batches::new(LOOKUP_BATCH),
            tenant_lookups: Batches::new(TENANT_BATCH),
            device_lookups: Batches::new(LOOKUP_BATCH),
            tenants: Tenants::default(),
            registered: Registered::default(),
            adopted: watch::Sender::default(),
            purged: PurgedTenants::default(),
            tokens: Tokens::new(bounds.bytes / 8),
            passwords: OnceLock::new(),
            groups: Groups::new(bounds.bytes / 8),
            failures: Failures::default(),
            guesses: Failures::default(),
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

    pub(crate) fn registry_and_clock(&self) -> (Arc<dyn Registry>, Arc<dyn Clock>) {
        (Arc::clone(&self.0.registry), Arc::clone(&self.0.clock))
    }

    /// Ends the sessions of a credential that the registry no longer has.
    pub(crate) fn revoke(&self, id: &CredentialId) {
        self.0.live.revoke(id);
        self.0.tokens.revoke(id);
    }

    /// Ends what is no longer valid beside a credential that the registry has now.
    pub(crate) fn created(&self, id: &CredentialId) {
        self.0.live.created(id);
        self.0.tokens.created(id);
    }

    /// Ends the sessions of a tenant that was suspended.
    pub(crate) fn revoke_tenant(&self, tenant: &str) {
        self.0.live.revoke_tenant(tenant);
        self.0.tokens.revoke_tenant(tenant);
    }

    /// Counts a denial for the audit; equal ones within a minute are one event. `tenant` must
    /// exist; longer texts than 256 bytes are cut.
    pub fn deny(&self, tenant: &str, principal: &str, method: &str, address: Option<IpAddr>, reason: &str) {
        let [principal, method, reason] = [principal, method, reason].map(cut);
        let address = address.map(pace::source);
        self.0.denials.add(tenant, principal, method, address, reason, self.0.clock.now());
    }

    /// True while the control log is followed, so that the table has no credential that was
    /// revoked.
    fn is_fresh(&self, now: Nanos) -> bool {
        let followed = self.0.followed.load(Ordering::Relaxed);
        // A clock that was set back says nothing about the time since.
        followed == 0 || (followed..followed + DEAF).contains(&now)
    }

    /// Checks a generated secret.
    async fn check(&self, token: &Token, now: Nanos) -> Result<Arc<Entry>, Problem> {
        self.check_presented(Presented::Secret(token), now).await.map(|(entry, _)| entry)
    }

    /// Checks what was presented: from the table, or in the registry. Returns also when it expires,
    /// if it does before its credential.
    async fn check_presented(
        &self,
        presented: Presented<'_>,
        now: Nanos,
    ) -> Result<(Arc<Entry>, Option<Nanos>), Problem> {
        let inner = &*self.0;
        let known = inner.live.get(&presented.id()).filter(|_| self.is_fresh(now));
        // Of a digest under an older pepper, the row says where it has moved to.
        if let Some(entry) = known.filter(|entry| entry.proof.is_current(&inner.peppers)) {
            let outcome = presented.compare(Some(&entry.proof), &inner.peppers);
            let ends = outcome.ends(&entry.tenant, entry.device(), now).filter(|_| !entry.has_expired(now));
            let Some(ends) = ends else {
                return Err(Problem::Wrong {
                    tenant: Some(entry.tenant.as_ref().into()),
                    principal: entry.principal(),
                });
            };
            self.touch(&entry, now);
            return Ok((entry, ends));
        }
        for _ in 0..LOOKUPS {
            let epoch = inner.live.epoch_of(&presented.id());
            let found = self.look_up(presented.id()).await?;
            // Of most credentials an empty list.
            let groups = found.as_ref().map(|found| found.credential.groups().to_vec()).unwrap_or_default();
            let (mut entry, ends) = self.verify(presented, found, now)?;
            if let Subject::Caller { reach, .. } = &mut entry.subject {
                *reach = self.reach(&entry.tenant, &groups).await?;
            }
            entry.meter = Some(self.metered(&entry).await?);
            if let Some(entry) = inner.live.insert(entry, epoch) {
                self.touch(&entry, now);
                return Ok((entry, ends));
            }
        }
        Err(Problem::Unavailable("credentials are being revoked".into()))
    }

    /// Compares what was presented with the row; without a row the same work is done.
    fn verify(
        &self,
        presented: Presented<'_>,
        found: Option<Found>,
        now: Nanos,
    ) -> Result<(Entry, Option<Nanos>), Problem> {
        let peppers = &self.0.peppers;
        let proof = found.as_ref().and_then(|found| Proof::of(&found.credential));
        let outcome = presented.compare(proof.as_ref(), peppers);
        let Some(Found { credential, tenant, last_use }) = found else {
            // Perhaps revoked in another process, and not heard of yet. A certificate below an
            // authority never has a row.
            if self.0.live.get(&presented.id()).is_some_and(|entry| entry.authority.is_none()) {
                self.0.live.revoke(&presented.id());
            }
            return Err(Problem::Wrong { tenant: None, principal: String::new() });
        };
        let principal = name(&credential);
        let wrong = |credential: Credential, principal| Problem::Wrong { tenant: Some(credential.tenant), principal };
        let ends = outcome.ends(&credential.tenant, credential.device(), now);
        let (Some(proof), Some(ends)) = (proof, ends) else {
            if let Some(kept) = credential.digest.filter(|kept| !peppers.knows(kept.pepper)) {
                self.lost_pepper(kept.pepper);
            }
            return Err(wrong(credential, principal));
        };
        if credential.has_expired(now) {
            return Err(wrong(credential, principal));
        }
        if !tenant.admits() {
            return Err(Problem::Suspended { tenant: credential.tenant, principal });
        }
        let proof = match outcome {
            Outcome::Secret(digest) => {
                // It moves to the current pepper.
                if credential.digest != Some(digest) {
                    self.record(Use { digest: Some(digest), ..Use::at(credential.id, now) });
                }
                Proof::Digest(digest)
            }
            _ => proof,
        };
        let subject = self.subject(&credential, &principal)?;
        Ok((Entry::of(&credential, last_use, (proof, subject), now), ends))
    }

    /// Reports the first pepper that is not in the file.
    fn lost_pepper(&self, version: u32) {
        if !self.0.has_lost_pepper.swap(true, Ordering::Relaxed) {
            tracing::error!(version, "a credential is kept under a pepper that is not in the file of peppers");
        }
    }

    fn device(&self, device: &str) -> Result<Subject, GrantError> {
        let Topics { publish, subscribe } = &self.0.topics;
        let grants = Grants::of(publish, subscribe, device)?;
        let filters = publish.iter().chain(subscribe);
        let grant_bytes = filters.map(|filter| filter.len() + device.len() + 32).sum();
        Ok(Subject::Device { device: device.into(), grants: Arc::new(grants), grant_bytes })
    }

    fn subject(&self, credential: &Credential, principal: &str) -> Result<Subject, Problem> {
        let unusable = |error: String| {
            tracing::error!(credential = %credential.id, error, "a credential cannot be used");
            Problem::Unavailable("the credential cannot be used: the log of the server has the reason".into())
        };
        match &credential.kind {
            CredentialKind::DeviceSecret { device }
            | CredentialKind::DeviceKey { device, .. }
            | CredentialKind::DeviceCertificate { device, .. }
            | CredentialKind::DevicePassword { device, .. } => {
                self.device(device).map_err(|error| unusable(error.to_string()))
            }
            CredentialKind::ApiKey(rights) => {
                let networks = rights.allowed_networks.iter().map(|network| network.parse()).collect::<Result<_, _>>();
                let scopes: Box<[Box<str>]> = rights.scopes.iter().map(|scope| scope.as_str().into()).collect();
                Ok(Subject::Caller {
                    name: principal.into(),
                    role: rights.role,
                    scopes: (!scopes.is_empty()).then(|| scopes.into()),
                    networks: networks.map_err(|error: ipnet::AddrParseError| unusable(error.to_string()))?,
                    // None until they are read.
                    reach: DeviceReach::of(Vec::new()),
                })
            }
            CredentialKind::Issuer(_)
            | CredentialKind::RoleBinding(_)
            | CredentialKind::Authority(_)
            | CredentialKind::RevokedCertificate { .. } => {
                Err(unusable("it identifies neither a device nor a caller".into()))
            }
        }
    }

    /// Notes a use.
    fn touch(&self, entry: &Entry, now: Nanos) {
        entry.used.fetch_max(now, Ordering::Relaxed);
        let recorded = entry.recorded.load(Ordering::Relaxed);
        let is_due = now >= recorded.saturating_add(USES);
        if is_due && entry.recorded.compare_exchange(recorded, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.record(Use::at(entry.id, now));
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
        let deny = |tenant: &str, principal: &str, reason: &str| {
            self.0.denials.add(tenant, principal, method, address, reason, now);
        };
        let wrong = |tenant: Option<&str>, principal: &str, reason: &str| {
            if let Some(wait) = address.and_then(|address| self.0.failures.wait(address, now)) {
                return Some(Problem::Paced(wait));
            }
            deny(tenant.unwrap_or(INSTALLATION), principal, reason);
            address.inspect(|address| self.0.failures.add(*address, now));
            None
        };
        match &problem {
            Problem::Wrong { tenant, principal } => {
                return wrong(tenant.as_deref(), principal, "the credential is not valid").unwrap_or(problem);
            }
            Problem::Token { tenant, fault } => {
                return wrong(tenant.as_deref(), "", &fault.to_string()).unwrap_or(problem);
            }
            Problem::NoRole { tenant, principal } => deny(tenant, principal, "the principal has no role"),
            Problem::Suspended { tenant, principal } => deny(tenant, principal, "the tenant is suspended or deleted"),
            Problem::Paced(_) | Problem::Busy | Problem::Unavailable(_) => {}
        }
        problem
    }
}

/// Returns the first 256 bytes of a text, without a part of a character.
fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(256)).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

/// Returns the principal of a credential: `devices/d1`, `apiKeys/4ZjQ0kq8yW2a`.
fn name(credential: &Credential) -> String {
    credential.device().map_or_else(|| credential.name(), |device| format!("devices/{device}"))
}
