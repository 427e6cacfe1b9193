//! Groups of devices.

use super::{Admin, By, MAX_PAGE, check};
use crate::registry::{Created, Error, Group, GroupFilter, GroupUpdate, MemberChange, Result};

/// Devices that one call adds and removes: the audit event of the change names each.
const MAX_CHANGED: usize = 1000;

/// A group to be created.
#[derive(Debug, Clone)]
pub struct NewGroup {
    /// Its id.
    pub id: String,
    /// Its name for people.
    pub display_name: String,
    /// The devices that it has beside its members.
    pub filter: GroupFilter,
}

impl Admin {
    /// Creates a group without members.
    ///
    /// # Errors
    /// [`Error::Exists`]; [`Error::NotFound`] without the tenant; [`Error::Limit`] when the tenant
    /// has 1000; [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn create_group(&self, tenant: &str, new: NewGroup, by: &By) -> Result<Created<Group>> {
        let origin = self.origin("CreateGroup", by)?;
        check::tenant(tenant)?;
        check::group("group_id", &new.id)?;
        check::text("display_name", &new.display_name)?;
        let group = Group {
            id: new.id,
            tenant: tenant.to_owned(),
            display_name: new.display_name,
            filter: check::filter(new.filter)?,
            members: 0,
            created: origin.at,
            version: 1,
        };
        let created = self.registry.create_group(group, &origin).await?;
        self.group_changed(&created.row).await;
        Ok(created)
    }

    /// Returns a group.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn get_group(&self, tenant: &str, id: &str) -> Result<Group> {
        check::tenant(tenant)?;
        self.registry.group(tenant, id).await?.ok_or_else(|| Error::NotFound(format!("groups/{id}")))
    }

    /// Returns groups of a tenant in order of their ids, those after `after`; at most 1000.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn list_groups(&self, tenant: &str, after: &str, limit: usize) -> Result<Vec<Group>> {
        check::tenant(tenant)?;
        self.registry.groups(tenant, after, limit.min(MAX_PAGE)).await
    }

    /// Changes a group. The answer is the group as it is then.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`], [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn update_group(&self, tenant: &str, id: &str, update: GroupUpdate, by: &By) -> Result<Group> {
        let origin = self.origin("UpdateGroup", by)?;
        check::tenant(tenant)?;
        update.display_name.as_deref().map(|name| check::text("display_name", name)).transpose()?;
        let update = GroupUpdate { filter: update.filter.map(check::filter).transpose()?, ..update };
        let group = self.registry.update_group(tenant, id, &update, &origin).await?;
        self.group_changed(&group).await;
        Ok(group)
    }

    /// Adds members to a group and removes some, at most 1000 in all. Calls and streams that are
    /// open see the change.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Limit`] when it would have more than 10,000;
    /// [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn change_members(&self, tenant: &str, id: &str, change: MemberChange, by: &By) -> Result<Group> {
        let method = if change.added.is_empty() { "RemoveGroupMembers" } else { "AddGroupMembers" };
        let origin = self.origin(method, by)?;
        check::tenant(tenant)?;
        if change.added.len() + change.removed.len() > MAX_CHANGED {
            let reason = format!("there are more than {MAX_CHANGED}: use several calls");
            return Err(Error::Invalid { field: "devices", reason });
        }
        let change = MemberChange { added: check::members(change.added)?, removed: check::members(change.removed)? };
        let group = self.registry.change_members(tenant, id, &change, &origin).await?;
        self.group_changed(&group).await;
        Ok(group)
    }

    /// Returns members of a group in order of their ids, those after `after`; at most 1000.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn list_members(&self, tenant: &str, id: &str, after: &str, limit: usize) -> Result<Vec<String>> {
        self.get_group(tenant, id).await?;
        self.registry.members(tenant, id, after, limit.min(MAX_PAGE)).await
    }

    /// Deletes a group.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] when it has another version; [`Error::InUse`] when
    /// keys or roles are bound to it; [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn delete_group(&self, tenant: &str, id: &str, version: Option<u64>, by: &By) -> Result<()> {
        let origin = self.origin("DeleteGroup", by)?;
        check::tenant(tenant)?;
        // No caller is bound to it.
        self.registry.delete_group(tenant, id, version, &origin).await
    }

    async fn group_changed(&self, group: &Group) {
        if let Some(gate) = &self.gate {
            gate.group_changed(&group.tenant, &group.id, group.members).await;
        }
    }
}
