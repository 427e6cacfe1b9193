//! Credentials that were verified, with the token that ends their sessions.
//!
//! A credential is in the table before its first session begins, and leaves it when it is revoked
//! or expires. When the table is full, the credential that was used the longest ago leaves, and its
//! sessions end: they connect again. A session whose credential were not in the table could not be
//! ended.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use door::Grants;
use hashbrown::HashMap;
use ipnet::IpNet;
use model::Nanos;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{CredentialId, Digest, Role};

const SHARDS: usize = 16;
/// Entries that are looked at before the oldest one of them leaves.
const LOOKS: usize = 16;

/// A credential that was verified.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: CredentialId,
    pub(super) tenant: Arc<str>,
    pub(super) digest: Digest,
    pub(super) expires: Option<Nanos>,
    pub(super) subject: Subject,
    /// Cancelled when it leaves the table.
    pub(super) ended: CancellationToken,
    /// Time of its last use.
    pub(super) used: AtomicI64,
    /// Last use that the registry has or will have.
    pub(super) recorded: AtomicI64,
}

/// The client or caller that a credential identifies.
#[derive(Debug)]
pub(super) enum Subject {
    Device { device: Arc<str>, grants: Arc<Grants>, grant_bytes: usize },
    Caller { name: Arc<str>, role: Role, scopes: Option<Arc<[Box<str>]>>, networks: Arc<[IpNet]> },
}

impl Entry {
    pub(super) fn has_expired(&self, now: Nanos) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Its size in memory, with its places in the table.
    fn bytes(&self) -> usize {
        let texts = match &self.subject {
            Subject::Device { device, grant_bytes, .. } => device.len() + grant_bytes,
            Subject::Caller { name, scopes, networks, .. } => {
                let scopes =
                    scopes.iter().flat_map(|scopes| scopes.iter()).map(|scope| scope.len() + 16).sum::<usize>();
                name.len() + scopes + size_of_val(&**networks)
            }
        };
        size_of::<Self>() + 200 + self.tenant.len() + texts
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
    /// Count of revocations: a lookup that began before one of them is repeated.
    epoch: AtomicU64,
    /// For each shard.
    bounds: Bounds,
}

#[derive(Debug)]
struct Shard {
    entries: HashMap<CredentialId, Arc<Entry>>,
    /// In order of the uses, as known when they were put here.
    order: VecDeque<(CredentialId, Nanos)>,
    bytes: usize,
    /// No entry expires before.
    next_expiry: Nanos,
}

impl Default for Shard {
    fn default() -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), bytes: 0, next_expiry: Nanos::MAX }
    }
}

impl Shard {
    fn remove(&mut self, id: &CredentialId) -> Option<Arc<Entry>> {
        let entry = self.entries.remove(id)?;
        self.bytes -= entry.bytes();
        Some(entry)
    }

    fn remove_if(&mut self, leaves: impl Fn(&Entry) -> bool, out: &mut Vec<Arc<Entry>>) {
        let ids: Vec<_> = self.entries.values().filter(|entry| leaves(entry)).map(|entry| entry.id).collect();
        out.extend(ids.iter().filter_map(|id| self.remove(id)));
    }

    /// Removes the entry that was used the longest ago, or nearly so.
    fn remove_oldest(&mut self) -> Option<Arc<Entry>> {
        for look in 0.. {
            let (id, seen) = self.order.pop_front()?;
            let Some(entry) = self.entries.get(&id) else { continue };
            let used = entry.used.load(Ordering::Relaxed);
            if used <= seen || look >= LOOKS {
                return self.remove(&id);
            }
            self.order.push_back((id, used));
        }
        None
    }

    fn add(&mut self, entry: &Arc<Entry>) {
        self.bytes += entry.bytes();
        self.next_expiry = self.next_expiry.min(entry.expires.unwrap_or(Nanos::MAX));
        self.entries.insert(entry.id, Arc::clone(entry));
        self.order.push_back((entry.id, entry.used.load(Ordering::Relaxed)));
        // Removed entries leave their places behind.
        if self.order.len() > 2 * self.entries.len() + 64 {
            let entries = &self.entries;
            let mut kept = hashbrown::HashSet::new();
            self.order.retain(|(id, _)| entries.contains_key(id) && kept.insert(*id));
        }
    }
}

impl Live {
    pub(super) fn new(bounds: Bounds) -> Self {
        let bounds = Bounds { entries: (bounds.entries / SHARDS).max(1), bytes: bounds.bytes / SHARDS };
        Self { shards: Default::default(), epoch: AtomicU64::new(0), bounds }
    }

    fn shard(&self, id: &CredentialId) -> &Mutex<Shard> {
        let at = id.as_str().bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        &self.shards[at % SHARDS]
    }

    pub(super) fn get(&self, id: &CredentialId) -> Option<Arc<Entry>> {
        self.shard(id).lock().entries.get(id).cloned()
    }

    /// Returns the count of revocations, to be read before a lookup in the registry.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Adds an entry, or returns the one that another session has added meanwhile. `None` when
    /// credentials were revoked since `epoch`: the registry has to be asked again.
    pub(super) fn insert(&self, entry: Entry, epoch: u64) -> Option<Arc<Entry>> {
        let entry = Arc::new(entry);
        let mut left = Vec::new();
        {
            let mut shard = self.shard(&entry.id).lock();
            // A revocation counts first and removes then, so one that is not seen here finds the
            // entry.
            if self.epoch() != epoch {
                return None;
            }
            match shard.entries.get(&entry.id) {
                Some(known) if known.digest == entry.digest => return Some(Arc::clone(known)),
                // Its digest moved to another pepper; the sessions go on under the same token.
                Some(known) => {
                    let moved = Entry { ended: known.ended.clone(), ..Arc::into_inner(entry)? };
                    let moved = Arc::new(moved);
                    shard.remove(&moved.id);
                    shard.add(&moved);
                    return Some(moved);
                }
                None => {}
            }
            let bytes = entry.bytes();
            while shard.entries.len() >= self.bounds.entries || shard.bytes + bytes > self.bounds.bytes {
                match shard.remove_oldest() {
                    Some(oldest) => left.push(oldest),
                    None => break,
                }
            }
            shard.add(&entry);
        }
        if !left.is_empty() {
            tracing::warn!(
                "the table of credentials is full: sessions of the credentials that were used the longest ago end; \
                 raise memory.max_bytes"
            );
        }
        end(left);
        Some(entry)
    }

    /// Ends the sessions of a credential.
    pub(super) fn revoke(&self, id: &CredentialId) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        let entry = self.shard(id).lock().remove(id);
        end(entry.into_iter().collect());
    }

    /// Ends the sessions of a tenant.
    pub(super) fn revoke_tenant(&self, tenant: &str) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
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
                shard.next_expiry =
                    shard.entries.values().filter_map(|entry| entry.expires).min().unwrap_or(Nanos::MAX);
            }
        }
        end(left);
    }

    pub(super) fn ids(&self) -> Vec<CredentialId> {
        self.shards.iter().flat_map(|shard| shard.lock().entries.keys().copied().collect::<Vec<_>>()).collect()
    }
}

/// Cancels outside of the locks: sessions are woken.
fn end(left: Vec<Arc<Entry>>) {
    for entry in left {
        entry.ended.cancel();
    }
}
