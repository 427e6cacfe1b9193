//! Credentials that were verified, with the token that ends their sessions.
//!
//! A credential is in the table before its first session begins, and leaves it when it is revoked
//! or expires. When the table is full, the credential that was used the longest ago leaves, and its
//! sessions end: they connect again. It is one of the tenant that adds a credential when that
//! tenant has more than a quarter of the table, or else of another tenant that has, or else of all
//! tenants. A session whose credential were not in the table could not be ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use door::Grants;
use hashbrown::HashMap;
use ipnet::IpNet;
use model::Nanos;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::certificates::Rules;
use super::proof::Proof;
use super::tenants::Metered;
use crate::registry::{Credential, Stamp};
use crate::{CredentialId, DeviceReach, Role};

pub(super) const SHARDS: usize = 16;
/// Entries that are looked at before the oldest one of them leaves.
const LOOKS: usize = 16;
/// A tenant with more than one part of so many of a shard makes the room when the shard is full.
const SHARES: usize = 4;

/// A credential that was verified.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: CredentialId,
    pub(super) tenant: Arc<str>,
    /// That of its row, or of the row of its authority.
    pub(super) stamp: Stamp,
    pub(super) proof: Proof,
    pub(super) expires: Option<Nanos>,
    pub(super) subject: Subject,
    /// The authority of a certificate: the registry has no row of it, unless it is revoked.
    pub(super) authority: Option<CredentialId>,
    /// Set before it comes into the table.
    pub(super) meter: Option<Metered>,
    /// Cancelled when it leaves the table.
    pub(super) ended: CancellationToken,
    /// Time of its last use.
    pub(super) used: AtomicI64,
    /// Last use that the registry has or will have.
    pub(super) recorded: AtomicI64,
    /// Its device is registered, as far as is known.
    pub(super) is_registered: AtomicBool,
}

/// The client or caller that a credential identifies.
#[derive(Debug)]
pub(super) enum Subject {
    Device { device: Arc<str>, grants: Arc<Grants>, grant_bytes: usize },
    Authority { name: Box<str>, rules: Rules },
    Caller { name: Arc<str>, role: Role, scopes: Option<Arc<[Box<str>]>>, networks: Arc<[IpNet]>, reach: DeviceReach },
}

impl Entry {
    /// The entry of a row, with what proves it and what it identifies.
    pub(super) fn of(
        credential: &Credential,
        last_use: Option<Nanos>,
        (proof, subject): (Proof, Subject),
        now: Nanos,
    ) -> Self {
        Self {
            id: credential.id,
            tenant: credential.tenant.as_str().into(),
            stamp: credential.stamp(),
            proof,
            expires: credential.expires,
            subject,
            authority: None,
            meter: None,
            ended: CancellationToken::new(),
            used: AtomicI64::new(now),
            recorded: AtomicI64::new(last_use.unwrap_or(Nanos::MIN)),
            is_registered: AtomicBool::new(false),
        }
    }

    /// Returns its device, if it identifies one.
    pub(super) fn device(&self) -> Option<&str> {
        match &self.subject {
            Subject::Device { device, .. } => Some(device),
            Subject::Caller { .. } | Subject::Authority { .. } => None,
        }
    }

    /// Returns its name in the audit.
    pub(super) fn principal(&self) -> String {
        match &self.subject {
            Subject::Device { device, .. } => format!("devices/{device}"),
            Subject::Caller { name, .. } => name.as_ref().to_owned(),
            Subject::Authority { name, .. } => name.as_ref().to_owned(),
        }
    }

    pub(super) fn has_expired(&self, now: Nanos) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Its size in memory, with its places in the table.
    fn bytes(&self) -> usize {
        let texts = match &self.subject {
            Subject::Device { device, grant_bytes, .. } => device.len() + grant_bytes,
            Subject::Authority { name, rules } => name.len() + rules.bytes(),
            Subject::Caller { name, scopes, networks, reach, .. } => {
                let scopes =
                    scopes.iter().flat_map(|scopes| scopes.iter()).map(|scope| scope.len() + 16).sum::<usize>();
                name.len() + scopes + size_of_val(&**networks) + reach.groups().count() * 16
            }
        };
        size_of::<Self>() + 400 + self.tenant.len() + self.proof.bytes() + texts
    }
}

/// The bounds of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct Live {
    shards: [Mutex<Shard>; SHARDS],
    /// Counts of revocations for each shard: a lookup that began before one of its own is repeated.
    /// One count for all would let a tenant that creates and deletes without end repeat the lookups
    /// of all others.
    epochs: [AtomicU64; SHARDS],
}

#[derive(Debug)]
struct Shard {
    entries: HashMap<CredentialId, Place>,
    /// The entries by their numbers.
    order: BTreeMap<u64, CredentialId>,
    tenants: HashMap<Arc<str>, Part>,
    /// Tenants that have more than their share, and some that had.
    large: Vec<Arc<str>>,
    next_number: u64,
    bytes: usize,
    bounds: Bounds,
    /// No entry expires before.
    next_expiry: Nanos,
}

/// An entry in its shard.
#[derive(Debug)]
struct Place {
    entry: Arc<Entry>,
    /// Lower ones leave first.
    number: u64,
    /// Time of the last use, as known when it got its number.
    seen: Nanos,
}

/// The part of a shard that a tenant has.
#[derive(Debug, Default)]
struct Part {
    /// The numbers of its entries.
    numbers: BTreeSet<u64>,
    bytes: usize,
}

impl Part {
    /// True when it is more than the share of a tenant.
    fn is_large(&self, bounds: &Bounds) -> bool {
        self.numbers.len() > (bounds.entries / SHARES).max(1) || self.bytes > bounds.bytes / SHARES
    }
}

impl Shard {
    fn new(bounds: Bounds) -> Self {
        Self {
            entries: HashMap::new(),
            order: BTreeMap::new(),
            tenants: HashMap::new(),
            large: Vec::new(),
            next_number: 0,
            bytes: 0,
            bounds,
            next_expiry: Nanos::MAX,
        }
    }

    fn get(&self, id: &CredentialId) -> Option<&Arc<Entry>> {
        self.entries.get(id).map(|place| &place.entry)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values().map(|place| &place.entry)
    }

    fn add(&mut self, entry: &Arc<Entry>) {
        let (bytes, number) = (entry.bytes(), self.next_number);
        self.next_number += 1;
        self.bytes += bytes;
        self.next_expiry = self.next_expiry.min(entry.expires.unwrap_or(Nanos::MAX));
        let seen = entry.used.load(Ordering::Relaxed);
        self.entries.insert(entry.id, Place { entry: Arc::clone(entry), number, seen });
        self.order.insert(number, entry.id);
        let part = self.tenants.entry(Arc::clone(&entry.tenant)).or_default();
        part.numbers.insert(number);
        part.bytes += bytes;
        if part.is_large(&self.bounds) && !self.large.contains(&entry.tenant) {
            let (tenants, bounds) = (&self.tenants, &self.bounds);
            self.large.retain(|tenant| tenants.get(tenant).is_some_and(|part| part.is_large(bounds)));
            self.large.push(Arc::clone(&entry.tenant));
        }
    }

    fn remove(&mut self, id: &CredentialId) -> Option<Arc<Entry>> {
        let Place { entry, number, .. } = self.entries.remove(id)?;
        let bytes = entry.bytes();
        self.bytes -= bytes;
        self.order.remove(&number);
        if let Some(part) = self.tenants.get_mut(&entry.tenant) {
            part.numbers.remove(&number);
            part.bytes -= bytes;
            if part.numbers.is_empty() {
                self.tenants.remove(&entry.tenant);
            }
        }
        Some(entry)
    }

    fn remove_if(&mut self, leaves: impl Fn(&Entry) -> bool, out: &mut Vec<Arc<Entry>>) {
        let ids: Vec<_> = self.all().filter(|entry| leaves(entry)).map(|entry| entry.id).collect();
        out.extend(ids.iter().filter_map(|id| self.remove(id)));
    }

    /// Removes entries until there is room for one of a tenant.
    fn make_room(&mut self, tenant: &str, bytes: usize, out: &mut Vec<Arc<Entry>>) {
        while self.entries.len() >= self.bounds.entries || self.bytes + bytes > self.bounds.bytes {
            let large = self.large_tenant(tenant);
            match self.remove_oldest(large.as_deref()) {
                Some(oldest) => out.push(oldest),
                None => break,
            }
        }
    }

    /// Returns the tenant whose entries leave for one of `tenant`: itself when it has more than its
    /// share, or the largest of the others that have. Without this, a tenant that connects with
    /// many credentials would end the long sessions of all others.
    fn large_tenant(&self, tenant: &str) -> Option<Arc<str>> {
        let bytes =
            |name: &Arc<str>| self.tenants.get(name).filter(|part| part.is_large(&self.bounds)).map(|part| part.bytes);
        let large = self.large.iter().filter_map(|name| Some((**name == *tenant, bytes(name)?, name)));
        large.max_by_key(|(is_own, bytes, _)| (*is_own, *bytes)).map(|(.., name)| Arc::clone(name))
    }

    /// Removes the entry of a tenant, or of all, that was used the longest ago, or nearly so.
    fn remove_oldest(&mut self, tenant: Option<&str>) -> Option<Arc<Entry>> {
        for look in 0.. {
            let number = match tenant {
                Some(tenant) => *self.tenants.get(tenant)?.numbers.first()?,
                None => *self.order.first_key_value()?.0,
            };
            let id = *self.order.get(&number)?;
            let Place { entry, seen, .. } = self.entries.get(&id)?;
            let is_used = entry.used.load(Ordering::Relaxed) > *seen;
            // The sessions of all its certificates would end.
            let stays = is_used || matches!(entry.subject, Subject::Authority { .. });
            let removed = self.remove(&id)?;
            // Those of a certificate have ended when its authority has left.
            if !stays || look >= LOOKS || removed.ended.is_cancelled() {
                return Some(removed);
            }
            // It gets a new number.
            self.add(&removed);
        }
        None
    }
}

/// Returns the place of the shard of a credential.
pub(super) fn shard_of(id: &CredentialId) -> usize {
    id.as_str().bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % SHARDS
}

impl Live {
    pub(super) fn new(bounds: Bounds) -> Self {
        let bounds = Bounds { entries: (bounds.entries / SHARDS).max(1), bytes: bounds.bytes / SHARDS };
        Self { shards: std::array::from_fn(|_| Mutex::new(Shard::new(bounds))), epochs: Default::default() }
    }

    fn shard(&self, id: &CredentialId) -> &Mutex<Shard> {
        &self.shards[shard_of(id)]
    }

    pub(super) fn get(&self, id: &CredentialId) -> Option<Arc<Entry>> {
        self.shard(id).lock().get(id).cloned()
    }

    /// Returns the count of revocations that concern a credential, to be read before a lookup in
    /// the registry.
    pub(super) fn epoch_of(&self, id: &CredentialId) -> u64 {
        self.epochs[shard_of(id)].load(Ordering::SeqCst)
    }

    /// Returns the count of all revocations.
    pub(super) fn epoch(&self) -> u64 {
        self.epochs.iter().map(|epoch| epoch.load(Ordering::SeqCst)).sum()
    }

    fn count(&self, id: &CredentialId) {
        self.epochs[shard_of(id)].fetch_add(1, Ordering::SeqCst);
    }

    /// Lets the lookups that go on be repeated: the changes that overtake them are not known.
    pub(super) fn overtake(&self) {
        for epoch in &self.epochs {
            epoch.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Adds an entry, or returns the one that another session has added meanwhile. `None` when
    /// credentials were revoked since `epoch`: the registry has to be asked again.
    pub(super) fn insert(&self, entry: Entry, epoch: u64) -> Option<Arc<Entry>> {
        let entry = Arc::new(entry);
        let (mut left, mut replaced) = (Vec::new(), None);
        {
            let mut shard = self.shard(&entry.id).lock();
            // A revocation counts first and removes then, so one that is not seen here finds the
            // entry.
            if self.epoch_of(&entry.id) != epoch {
                return None;
            }
            // Its authority was deleted, and perhaps registered anew.
            if shard.get(&entry.id).is_some_and(|known| known.ended.is_cancelled()) {
                shard.remove(&entry.id);
            }
            // Its row was deleted and made anew, and its control log entries are not known yet.
            if shard.get(&entry.id).is_some_and(|known| known.stamp != entry.stamp) {
                replaced = shard.remove(&entry.id);
            }
            match shard.get(&entry.id) {
                Some(known) if known.proof.is_same(&entry.proof) => return Some(Arc::clone(known)),
                // Its digest moved to another pepper; the sessions go on under the same token.
                Some(known) => {
                    let moved =
                        Entry { ended: known.ended.clone(), meter: known.meter.clone(), ..Arc::into_inner(entry)? };
                    let moved = Arc::new(moved);
                    shard.remove(&moved.id);
                    shard.add(&moved);
                    return Some(moved);
                }
                None => {}
            }
            shard.make_room(&entry.tenant, entry.bytes(), &mut left);
            shard.add(&entry);
        }
        end(replaced.into_iter().collect());
        if let Some(oldest) = left.first() {
            tracing::warn!(
                tenant = %oldest.tenant,
                "the table of credentials is full: sessions of the tenant's credentials that were used the longest \
                 ago end; raise memory.max_bytes"
            );
        }
        end(left);
        Some(entry)
    }

    /// Ends the sessions of a credential.
    pub(super) fn revoke(&self, id: &CredentialId) {
        self.count(id);
        let entry = self.shard(id).lock().remove(id);
        end(entry.into_iter().collect());
    }

    /// Ends the sessions of a certificate whose revocation was created: only such a row has the id
    /// of an entry that has no row. Entries of other rows are of this row, or newer.
    pub(super) fn created(&self, id: &CredentialId) {
        self.count(id);
        let mut shard = self.shard(id).lock();
        let is_certificate = shard.get(id).is_some_and(|entry| entry.authority.is_some());
        let entry = if is_certificate { shard.remove(id) } else { None };
        drop(shard);
        end(entry.into_iter().collect());
    }

    /// Ends the sessions of a tenant.
    pub(super) fn revoke_tenant(&self, tenant: &str) {
        self.overtake();
        let mut left = Vec::new();
        for shard in &self.shards {
            shard.lock().remove_if(|entry| *entry.tenant == *tenant, &mut left);
        }
        end(left);
    }

    /// Ends the sessions of credentials that have expired.
    pub(super) fn expire(&self, now: Nanos) {
        let mut left = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock();
            if shard.next_expiry <= now {
                shard.remove_if(|entry| entry.has_expired(now), &mut left);
                shard.next_expiry = shard.all().filter_map(|entry| entry.expires).min().unwrap_or(Nanos::MAX);
            }
        }
        end(left);
    }

    /// Returns the ids of a tenant's credentials.
    pub(super) fn ids_of(&self, tenant: &str) -> Vec<CredentialId> {
        let of_tenant = |entry: &&Arc<Entry>| *entry.tenant == *tenant;
        let ids = |shard: &Shard| shard.all().filter(of_tenant).map(|entry| entry.id).collect::<Vec<_>>();
        self.shards.iter().flat_map(|shard| ids(&shard.lock())).collect()
    }

    /// Returns the ids, and whether the registry has a row of each.
    pub(super) fn ids(&self) -> Vec<(CredentialId, bool)> {
        let of = |entry: &Arc<Entry>| (entry.id, entry.authority.is_none());
        self.shards.iter().flat_map(|shard| shard.lock().all().map(of).collect::<Vec<_>>()).collect()
    }
}

/// Cancels outside of the locks: sessions are woken.
fn end(left: Vec<Arc<Entry>>) {
    for entry in left {
        entry.ended.cancel();
    }
}
