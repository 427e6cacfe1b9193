//! Groups of devices, to which the rights of callers are bound.

use async_trait::async_trait;
use model::Nanos;
use serde::{Deserialize, Serialize};

use super::{Error, Result};
use crate::CredentialId;

/// Groups of a tenant.
pub(crate) const MAX_GROUPS: usize = 1000;
/// Devices that a group lists.
pub(crate) const MAX_MEMBERS: usize = 10_000;

/// A group of devices of a tenant: the members that it lists, and the devices that its filter
/// selects. The list is kept in rows of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its id.
    pub id: String,
    /// Its tenant.
    pub tenant: String,
    /// Its name for people.
    pub display_name: String,
    /// The devices that it has beside its members.
    #[serde(default)]
    pub filter: GroupFilter,
    /// Count of its members.
    pub members: usize,
    /// Time of its creation.
    pub created: Nanos,
    /// Count of its changes, 1 at first.
    pub version: u64,
}

impl Group {
    /// Returns the id of a group among those of all tenants.
    pub(crate) fn key(tenant: &str, id: &str) -> CredentialId {
        CredentialId::derived(&["group", tenant, id])
    }

    /// Returns its name in the audit: `groups/pumps`.
    pub fn name(&self) -> String {
        format!("groups/{}", self.id)
    }
}

/// The devices that a group has beside its members.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupFilter {
    /// None.
    #[default]
    None,
    /// Devices whose id matches one of these patterns, in which `*` matches any characters.
    Patterns(Vec<String>),
}

impl GroupFilter {
    /// Returns its patterns.
    pub fn patterns(&self) -> &[String] {
        match self {
            Self::None => &[],
            Self::Patterns(patterns) => patterns,
        }
    }
}

/// A change of a group; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GroupUpdate {
    /// Its name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The devices that it has beside its members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<GroupFilter>,
    /// The version that the change is made for; `None` is any.
    #[serde(skip)]
    pub version: Option<u64>,
}

impl GroupUpdate {
    /// Makes the change, and returns true when there was something to change.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the group has another version.
    pub(crate) fn apply(&self, group: &mut Group) -> Result<bool> {
        check_version(group, self.version)?;
        let mut changed = group.clone();
        if let Some(name) = &self.display_name {
            changed.display_name.clone_from(name);
        }
        if let Some(filter) = &self.filter {
            changed.filter.clone_from(filter);
        }
        if changed == *group {
            return Ok(false);
        }
        changed.version += 1;
        *group = changed;
        Ok(true)
    }

    /// Returns the change as JSON, for its audit event.
    pub(crate) fn detail(&self) -> String {
        serde_json::to_string(self).expect("plain fields are JSON")
    }
}

/// Refuses a change that was made for another version of a group.
pub(super) fn check_version(group: &Group, version: Option<u64>) -> Result<()> {
    match version {
        Some(version) if version != group.version => Err(Error::Conflict(group.name())),
        _ => Ok(()),
    }
}

/// A change of the members of a group. Removals come first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MemberChange {
    /// Devices to remove; those that are not members change nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
    /// Devices to add; those that are members change nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<String>,
}

/// Reads groups of devices.
#[async_trait]
pub trait GroupRegistry: Send + Sync {
    /// Returns a group.
    async fn group(&self, tenant: &str, id: &str) -> Result<Option<Group>>;

    /// Returns groups of a tenant in order of their ids, those after `after`.
    async fn groups(&self, tenant: &str, after: &str, limit: usize) -> Result<Vec<Group>>;

    /// Returns members of a group in order of their ids, those after `after`.
    async fn members(&self, tenant: &str, group: &str, after: &str, limit: usize) -> Result<Vec<String>>;
}
