//! Groups of devices that callers in use are bound to.
//!
//! A group is read when the first of its callers comes, and again when it is changed: at once when
//! that is made in this process, within a second when it is made in another. It leaves the table
//! with the last of its callers.

use std::sync::{Arc, Weak};

use hashbrown::HashMap;
use model::{Budget, Held};
use parking_lot::Mutex;

use super::live::{SHARDS, shard_of};
use super::lookup::answer;
use super::{Gate, LOOKUPS, Problem};
use crate::CredentialId;
use crate::reach::{DeviceReach, Devices, LiveGroup};
use crate::registry::{Error, Group, MAX_MEMBERS};

/// A tenant has at most one part of so many of the memory for groups.
const SHARES: usize = 4;
/// Entries from which on those without a caller are removed.
const KEPT: usize = 64;

/// Members of a group that is read again at once when it is changed in this process.
const AT_ONCE: usize = 1000;

#[derive(Debug)]
pub(super) struct Groups {
    table: Mutex<Table>,
    memory: Budget,
}

#[derive(Debug, Default)]
struct Table {
    groups: HashMap<CredentialId, Weak<LiveGroup>>,
    /// Counts of changes, each of a part of all groups: a group that was read before one of them is
    /// read again.
    changes: [u64; SHARDS],
    /// Entries at which those without a caller are removed again.
    tidy_at: usize,
}

impl Groups {
    /// Groups of at most so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self { table: Mutex::default(), memory: Budget::new("groups of callers", bytes) }
    }

    fn get(&self, key: &CredentialId) -> Result<Arc<LiveGroup>, u64> {
        let table = self.table.lock();
        table.groups.get(key).and_then(Weak::upgrade).ok_or(table.changes[shard_of(key)])
    }

    /// Adds a group that was read after this count of changes, unless there was another one since.
    fn add(&self, group: Arc<LiveGroup>, changes: u64) -> Option<Arc<LiveGroup>> {
        let mut table = self.table.lock();
        if table.changes[shard_of(&group.key)] != changes {
            return None;
        }
        if let Some(known) = table.groups.get(&group.key).and_then(Weak::upgrade) {
            return Some(known);
        }
        if table.groups.len() >= table.tidy_at {
            table.groups.retain(|_, group| group.strong_count() > 0);
            table.tidy_at = (2 * table.groups.len()).max(KEPT);
        }
        table.groups.insert(group.key, Arc::downgrade(&group));
        Some(group)
    }

    /// Counts a change. Returns the group when it is in the table.
    pub(super) fn changed(&self, key: &CredentialId) -> Option<Arc<LiveGroup>> {
        let mut table = self.table.lock();
        table.changes[shard_of(key)] += 1;
        table.groups.get(key).and_then(Weak::upgrade)
    }

    /// Counts changes that are not known, and returns all groups of the table.
    pub(super) fn all_changed(&self) -> Vec<CredentialId> {
        let mut table = self.table.lock();
        table.changes.iter_mut().for_each(|count| *count += 1);
        table.groups.keys().copied().collect()
    }

    /// Returns the memory of all groups.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.memory.held()
    }

    /// Reserves memory for a group.
    fn acquire(&self, group: &LiveGroup, bytes: usize) -> Result<Held, Error> {
        let others: Vec<_> = self.table.lock().groups.values().filter_map(Weak::upgrade).collect();
        let others = others.iter().filter(|other| other.tenant == group.tenant && other.key != group.key);
        let of_tenant: usize = others.map(|other| other.bytes()).sum();
        let full = || {
            let reason = "the groups of devices that callers are bound to take too much memory: raise \
                          memory.max_bytes, or use patterns in place of members";
            Error::Unavailable(reason.into())
        };
        if of_tenant + bytes > self.memory.capacity() / SHARES {
            return Err(full());
        }
        self.memory.acquire(bytes).map_err(|_| full())
    }
}

impl Gate {
    /// Returns the devices of groups, as they are from now on; of no groups, all devices.
    pub(super) async fn reach(&self, tenant: &Arc<str>, ids: &[String]) -> Result<DeviceReach, Problem> {
        if ids.is_empty() {
            return Ok(DeviceReach::default());
        }
        let mut groups = Vec::with_capacity(ids.len());
        for id in ids {
            groups.push(self.group(tenant, id).await?);
        }
        Ok(DeviceReach::of(groups))
    }

    async fn group(&self, tenant: &Arc<str>, id: &str) -> Result<Arc<LiveGroup>, Problem> {
        let key = Group::key(tenant, id);
        for _ in 0..LOOKUPS {
            let changes = match self.0.groups.get(&key) {
                Ok(known) => {
                    // Without the control log, the registry is asked.
                    if !self.is_fresh(self.0.clock.now()) {
                        answer(self.read_group(&known)).await?;
                    }
                    return Ok(known);
                }
                Err(changes) => changes,
            };
            let group = Arc::new(LiveGroup::new(tenant, id));
            answer(self.read_group(&group)).await?;
            if let Some(group) = self.0.groups.add(group, changes) {
                return Ok(group);
            }
        }
        Err(Problem::Unavailable("groups are being changed".into()))
    }

    /// Reads a group, unless its row is the one that was read before. A group that is not there has
    /// no devices.
    async fn read_group(&self, group: &LiveGroup) -> Result<(), Error> {
        let (registry, tenant, id) = (&self.0.registry, &group.tenant, &group.id);
        let mut read = group.read.lock().await;
        let row = registry.group(tenant, id).await?;
        let version = row.as_ref().map(|row| (row.created, row.version));
        if version.is_some() && *read == version {
            return Ok(());
        }
        let members = match &row {
            Some(row) if row.members > 0 => registry.members(tenant, id, "", MAX_MEMBERS).await?,
            _ => Vec::new(),
        };
        let patterns = row.as_ref().map(|row| row.filter.patterns()).unwrap_or_default();
        let bytes = Devices::size(&members, patterns);
        let held = self.0.groups.acquire(group, bytes).or_else(|_| {
            // It must not keep devices that it has no longer.
            group.set(Devices::default());
            *read = None;
            self.0.groups.acquire(group, bytes)
        })?;
        group.set(Devices::new(&members, patterns, Some(held)));
        *read = version;
        Ok(())
    }

    /// Reads a group again, if a caller in use is bound to it.
    pub(super) async fn read_group_again(&self, key: &CredentialId) -> Result<(), Error> {
        match self.0.groups.changed(key) {
            Some(group) => self.read_group(&group).await,
            None => Ok(()),
        }
    }

    /// Applies the change of a group of so many members at once. Large ones are read once a second:
    /// their members may be added one by one.
    pub(crate) async fn group_changed(&self, tenant: &str, id: &str, members: usize) {
        if members > AT_ONCE {
            return;
        }
        if let Err(error) = self.read_group_again(&Group::key(tenant, id)).await {
            tracing::warn!(tenant, group = id, %error, "the change of a group is applied when it can be read");
        }
    }
}
