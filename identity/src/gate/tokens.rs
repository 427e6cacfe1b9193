//! Access tokens that were verified, with the token that ends their calls.
//!
//! A token is in the table while calls with it are open, and leaves it when it expires, when its
//! issuer or its role binding is deleted, when the issuer withdraws the key that signed it, or when
//! the tenant is suspended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use door::quota::CallerMeter;
use futures::StreamExt as _;
use hashbrown::HashMap;
use model::time::SECOND;
use model::{Clock, Nanos};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::oauth::{Fetch, TokenIssuer};
use crate::registry::{Credential, Found, Stamp, TenantState};
use crate::{CredentialId, CredentialKind, DeviceReach, Role};

/// Tokens in the table. Beyond, the calls of the token that was verified the longest ago end.
const MAX_ENTRIES: usize = 100_000;
/// A tenant has at most one part of so many of the table. Beyond, the calls of its own token that
/// was verified the longest ago end.
const SHARES: usize = 4;
/// Memory for each, with its places in the table.
const ENTRY_BYTES: usize = 1024;
/// Time without a new token after which the keys of an issuer are no longer read.
const UNUSED: Nanos = 2 * 86_400 * SECOND;
/// Issuers whose keys are read at the same time.
const READS: usize = 8;

/// The hash of a token.
pub(super) type Print = [u8; 32];

/// A token that was verified.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) print: Print,
    pub(super) tenant: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) role: Role,
    pub(super) scopes: Option<Arc<[Box<str>]>>,
    pub(super) expires: Nanos,
    pub(super) issuer: Arc<KnownIssuer>,
    /// The key that signed it.
    pub(super) key: [u8; 32],
    /// Id of the binding of its principal, whether there is one or not.
    pub(super) binding: CredentialId,
    /// The stamp of its row, if there is one.
    pub(super) bound: Option<Stamp>,
    /// The devices of its groups.
    pub(super) reach: DeviceReach,
    /// Shared by all tokens of its principal.
    pub(super) meter: CallerMeter,
    /// Cancelled when it leaves the table.
    pub(super) ended: CancellationToken,
}

/// An issuer of the registry, with its keys.
#[derive(Debug)]
pub(super) struct KnownIssuer {
    pub(super) id: CredentialId,
    pub(super) tenant: Arc<str>,
    /// That of its row.
    stamp: Stamp,
    pub(super) tokens: TokenIssuer,
    /// The keys for which the table was last searched.
    swept: AtomicU64,
    /// Time of the last token that was verified.
    used: AtomicI64,
}

#[derive(Debug)]
pub(super) struct Tokens {
    fetch: OnceLock<Arc<dyn Fetch>>,
    issuers: Mutex<HashMap<CredentialId, Arc<KnownIssuer>>>,
    table: Mutex<Table>,
    bound: usize,
}

#[derive(Debug)]
struct Entry {
    /// Tokens that were verified later have higher ones.
    number: u64,
    access: Arc<Access>,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<Print, Entry>,
    /// The entries by their numbers.
    order: BTreeMap<u64, Print>,
    /// The numbers of the entries of each tenant.
    tenants: HashMap<Arc<str>, BTreeSet<u64>>,
    next_number: u64,
    /// Count of the entries of each issuer and each binding.
    uses: HashMap<CredentialId, usize>,
    /// The meter of each principal, by the id of its binding.
    meters: HashMap<CredentialId, CallerMeter>,
    /// No entry expires before.
    next_expiry: Nanos,
}

impl Table {
    fn add(&mut self, access: &Arc<Access>) {
        let number = self.next_number;
        self.next_number += 1;
        self.entries.insert(access.print, Entry { number, access: Arc::clone(access) });
        self.order.insert(number, access.print);
        self.tenants.entry(Arc::clone(&access.tenant)).or_default().insert(number);
        for id in [access.issuer.id, access.binding] {
            *self.uses.entry(id).or_default() += 1;
        }
        self.next_expiry = if self.entries.len() == 1 { access.expires } else { self.next_expiry.min(access.expires) };
    }

    fn remove(&mut self, print: &Print) -> Option<Arc<Access>> {
        let Entry { number, access } = self.entries.remove(print)?;
        self.order.remove(&number);
        if let Some(numbers) = self.tenants.get_mut(&access.tenant) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.tenants.remove(&access.tenant);
            }
        }
        for id in [access.issuer.id, access.binding] {
            if let Some(count) = self.uses.get_mut(&id) {
                *count -= 1;
                if *count == 0 {
                    self.uses.remove(&id);
                    self.meters.remove(&id);
                }
            }
        }
        Some(access)
    }

    /// Removes the oldest entry of a tenant that has its share, or of all when the table is full.
    fn make_room(&mut self, tenant: &str, bound: usize) -> Option<Arc<Access>> {
        let share = (bound / SHARES).max(1);
        let own = self.tenants.get(tenant).filter(|numbers| numbers.len() >= share);
        let oldest = match own {
            Some(numbers) => *numbers.first()?,
            None if self.entries.len() >= bound => *self.order.first_key_value()?.0,
            None => return None,
        };
        let print = *self.order.get(&oldest)?;
        self.remove(&print)
    }

    fn remove_if(&mut self, leaves: impl Fn(&Access) -> bool) -> Vec<Arc<Access>> {
        let all = self.entries.values().map(|entry| &entry.access);
        let prints: Vec<_> = all.filter(|access| leaves(access)).map(|access| access.print).collect();
        prints.iter().filter_map(|print| self.remove(print)).collect()
    }
}

impl Tokens {
    /// A table within so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        let bound = (bytes / ENTRY_BYTES).clamp(1, MAX_ENTRIES);
        Self { fetch: OnceLock::new(), issuers: Mutex::default(), table: Mutex::default(), bound }
    }

    /// Accepts tokens of issuers whose documents are read with `fetch`.
    pub(super) fn accept(&self, fetch: Arc<dyn Fetch>) {
        // The first one stays.
        self.fetch.set(fetch).ok();
    }

    /// Returns how documents of issuers are read; `None` while no tokens are accepted.
    pub(super) fn fetch(&self) -> Option<&Arc<dyn Fetch>> {
        self.fetch.get()
    }

    /// Returns the issuer of a row, with the keys that were read before; `None` when the row is of
    /// another kind, or tokens are not accepted.
    pub(super) fn issuer(&self, row: &Credential, clock: &Arc<dyn Clock>) -> Option<Arc<KnownIssuer>> {
        let CredentialKind::Issuer(settings) = &row.kind else { return None };
        let fetch = self.fetch()?;
        let mut issuers = self.issuers.lock();
        let stamp = row.stamp();
        let known = issuers.get(&row.id).filter(|known| known.stamp == stamp);
        if let Some(known) = known {
            known.used.store(clock.now(), Ordering::Relaxed);
            return Some(Arc::clone(known));
        }
        let known = Arc::new(KnownIssuer {
            id: row.id,
            tenant: row.tenant.as_str().into(),
            stamp,
            tokens: TokenIssuer::new(settings.clone(), Arc::clone(fetch), Arc::clone(clock)),
            swept: AtomicU64::new(0),
            used: AtomicI64::new(clock.now()),
        });
        issuers.insert(row.id, Arc::clone(&known));
        Some(known)
    }

    pub(super) fn get(&self, print: &Print) -> Option<Arc<Access>> {
        self.table.lock().entries.get(print).map(|entry| Arc::clone(&entry.access))
    }

    /// Adds a token, or returns the entry that another call has added meanwhile. `None` when
    /// credentials were revoked since `epoch`, or the key was withdrawn: it has to be verified
    /// again.
    pub(super) fn insert(&self, access: Access, is_current: impl Fn() -> bool) -> Option<Arc<Access>> {
        let mut left = Vec::new();
        let access = {
            let mut table = self.table.lock();
            // A revocation counts first and removes then, so one that is not seen here finds the
            // entry.
            if !is_current() || !access.issuer.tokens.has_key(&access.key) {
                return None;
            }
            if let Some(Entry { access: known, .. }) = table.entries.get(&access.print)
                && (known.role, &known.scopes, known.bound) == (access.role, &access.scopes, access.bound)
                && known.issuer.stamp == access.issuer.stamp
            {
                return Some(Arc::clone(known));
            }
            let replaced = table.remove(&access.print);
            left.extend(replaced);
            // One leaves for one that comes.
            left.extend(table.make_room(&access.tenant, self.bound));
            let meter = table.meters.entry(access.binding).or_insert_with(|| access.meter.clone()).clone();
            let access = Arc::new(Access { meter, ..access });
            table.add(&access);
            access
        };
        end(left);
        Some(access)
    }

    /// Ends the calls of the tokens of an issuer or a role binding that was deleted.
    pub(super) fn revoke(&self, id: &CredentialId) {
        self.issuers.lock().remove(id);
        self.remove_if(id, |access| access.issuer.id == *id || access.binding == *id);
    }

    /// Ends the calls of a principal that has a role binding now, so that its role is looked up.
    pub(super) fn created(&self, id: &CredentialId) {
        self.remove_if(id, |access| access.binding == *id && access.bound.is_none());
    }

    fn remove_if(&self, id: &CredentialId, leaves: impl Fn(&Access) -> bool) {
        let left = {
            let mut table = self.table.lock();
            if table.uses.contains_key(id) { table.remove_if(leaves) } else { Vec::new() }
        };
        end(left);
    }

    /// Ends the calls of a tenant.
    pub(super) fn revoke_tenant(&self, tenant: &str) {
        let left = self.table.lock().remove_if(|access| *access.tenant == *tenant || *access.issuer.tenant == *tenant);
        end(left);
    }

    /// Returns the ids of all issuers and bindings of the table.
    pub(super) fn ids(&self) -> Vec<CredentialId> {
        self.table.lock().uses.keys().copied().collect()
    }

    /// Returns the tenants of all tokens of the table.
    pub(super) fn tenants(&self) -> Vec<Arc<str>> {
        self.table.lock().tenants.keys().cloned().collect()
    }

    /// Holds up all that needs the table.
    #[cfg(test)]
    pub(super) fn hold(&self) -> impl Sized + '_ {
        self.table.lock()
    }

    /// Ends the calls for which the row of an issuer or a binding is not as it was.
    pub(super) fn check_again(&self, id: &CredentialId, found: Option<&Found>) {
        match found {
            Some(found) if found.tenant == TenantState::Active => {
                // The row of now, not one that had its id before.
                let stamp = found.credential.stamp();
                self.remove_if(id, |access| {
                    (access.issuer.id == *id && access.issuer.stamp != stamp)
                        || (access.binding == *id && access.bound != Some(stamp))
                });
            }
            Some(_) => self.revoke(id),
            None => self
                .remove_if(id, |access| access.issuer.id == *id || (access.binding == *id && access.bound.is_some())),
        }
    }

    /// Ends the calls of tokens that have expired.
    pub(super) fn expire(&self, now: Nanos) {
        let left = {
            let mut table = self.table.lock();
            if table.entries.is_empty() || table.next_expiry > now {
                return;
            }
            let left = table.remove_if(|access| access.expires <= now);
            table.next_expiry = table.entries.values().map(|entry| entry.access.expires).min().unwrap_or(Nanos::MAX);
            left
        };
        end(left);
    }

    /// Reads the keys of issuers that are due, and ends the calls of tokens whose keys were
    /// withdrawn. Issuers without a new token for two days are forgotten until there is one: all of
    /// their tokens have expired.
    pub(super) async fn keep_keys(&self, now: Nanos) {
        let issuers: Vec<_> = {
            let mut issuers = self.issuers.lock();
            issuers.retain(|_, issuer| now < issuer.used.load(Ordering::Relaxed).saturating_add(UNUSED));
            issuers.values().cloned().collect()
        };
        // Keys that a token had read: they wait for no issuer that is due.
        issuers.iter().for_each(|issuer| self.sweep(issuer));
        let due: Vec<_> = issuers.into_iter().filter(|issuer| issuer.tokens.is_due()).collect();
        let reads = due.into_iter().map(|issuer| async move {
            issuer.tokens.refresh().await;
            issuer
        });
        // Each is swept when it answers, so that a slow one holds up no other.
        let mut read = futures::stream::iter(reads).buffer_unordered(READS);
        while let Some(issuer) = read.next().await {
            self.sweep(&issuer);
        }
    }

    /// Ends the calls of tokens whose keys the issuer has withdrawn.
    fn sweep(&self, issuer: &KnownIssuer) {
        let count = issuer.tokens.reads();
        if issuer.swept.swap(count, Ordering::Relaxed) != count {
            self.remove_if(&issuer.id, |access| access.issuer.id == issuer.id && !issuer.tokens.has_key(&access.key));
        }
    }
}

/// Cancels outside of the locks: calls are woken.
fn end(left: Vec<Arc<Access>>) {
    for access in left {
        access.ended.cancel();
    }
}
