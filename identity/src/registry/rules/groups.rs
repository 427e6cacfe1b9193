//! The rules of groups.

use async_trait::async_trait;

use super::deletion::check_kept;
use super::{entered, record, remember, repeated};
use crate::registry::group::{MAX_GROUPS, MAX_MEMBERS, check_version};
use crate::registry::transaction::{Outcome, Rows, Work};
use crate::registry::{ChangeKind, Class, Created, Credential, Error, Group, GroupUpdate, MemberChange, Origin, Owner};

/// Bound rights that the error of a deletion names.
const NAMED_USERS: usize = 10;

/// [`RegistryWrites::create_group`](crate::registry::RegistryWrites::create_group).
pub(in crate::registry) struct CreateGroup(pub(in crate::registry) Group, pub(in crate::registry) Origin);

#[async_trait]
impl Work for CreateGroup {
    type Output = Created<Group>;

    async fn run<R: Rows>(&self, rows: &mut R, in_doubt: bool) -> Outcome<Self::Output> {
        let Self(group, origin) = self;
        check_kept(&entered(rows, &group.tenant).await?)?;
        let known = rows.group(&group.tenant, &group.id).await?;
        if let Some(known) = known.as_ref().filter(|known| in_doubt && *known == group) {
            return Ok(Created { row: known.clone(), is_repeat: false });
        }
        let is_repeat = repeated(rows, &group.tenant, (&group.id, ""), origin).await?.is_some();
        match known {
            Some(known) if is_repeat => return Ok(Created { row: known, is_repeat }),
            Some(_) => return Err(Error::Exists(group.name()).into()),
            None if is_repeat => {
                let reason = "its group has been deleted: use another request id".to_owned();
                return Err(Error::Invalid { field: "request_id", reason }.into());
            }
            None => {}
        }
        if rows.count_groups(&group.tenant).await? >= MAX_GROUPS {
            return Err(Error::Limit { what: "groups", most: MAX_GROUPS }.into());
        }
        rows.put_group(group).await?;
        remember(rows, &group.tenant, (&group.id, ""), &group.id, origin).await?;
        let update = GroupUpdate {
            display_name: Some(group.display_name.clone()),
            filter: Some(group.filter.clone()),
            version: None,
        };
        recorded(rows, group, update.detail(), origin).await?;
        Ok(Created { row: group.clone(), is_repeat: false })
    }
}

/// [`RegistryWrites::update_group`](crate::registry::RegistryWrites::update_group).
pub(in crate::registry) struct UpdateGroup {
    pub(in crate::registry) tenant: String,
    pub(in crate::registry) id: String,
    pub(in crate::registry) update: GroupUpdate,
    pub(in crate::registry) origin: Origin,
}

#[async_trait]
impl Work for UpdateGroup {
    type Output = Group;

    async fn run<R: Rows>(&self, rows: &mut R, in_doubt: bool) -> Outcome<Group> {
        let mut group = entered_group(rows, &self.tenant, &self.id).await?;
        let before = GroupUpdate { version: None, ..self.update.clone() };
        if in_doubt && !before.apply(&mut group.clone())? {
            return Ok(group);
        }
        if self.update.apply(&mut group)? {
            rows.put_group(&group).await?;
            recorded(rows, &group, self.update.detail(), &self.origin).await?;
        }
        Ok(group)
    }
}

/// [`RegistryWrites::change_members`](crate::registry::RegistryWrites::change_members).
pub(in crate::registry) struct ChangeMembers {
    pub(in crate::registry) tenant: String,
    pub(in crate::registry) id: String,
    pub(in crate::registry) change: MemberChange,
    pub(in crate::registry) origin: Origin,
}

#[async_trait]
impl Work for ChangeMembers {
    type Output = Group;

    async fn run<R: Rows>(&self, rows: &mut R, _in_doubt: bool) -> Outcome<Group> {
        let mut group = entered_group(rows, &self.tenant, &self.id).await?;
        let removed = rows.remove_members(&group, &self.change.removed).await?;
        let added = rows.add_members(&group, &self.change.added).await?;
        if removed.is_empty() && added.is_empty() {
            return Ok(group);
        }
        group.members = (group.members + added.len()).saturating_sub(removed.len());
        if group.members > MAX_MEMBERS {
            return Err(Error::Limit { what: "members of this group", most: MAX_MEMBERS }.into());
        }
        group.version += 1;
        rows.put_group(&group).await?;
        let made = MemberChange { removed, added };
        let detail = serde_json::to_string(&made).expect("plain fields are JSON");
        recorded(rows, &group, detail, &self.origin).await?;
        Ok(group)
    }
}

/// [`RegistryWrites::delete_group`](crate::registry::RegistryWrites::delete_group).
pub(in crate::registry) struct DeleteGroup {
    pub(in crate::registry) tenant: String,
    pub(in crate::registry) id: String,
    pub(in crate::registry) version: Option<u64>,
    pub(in crate::registry) origin: Origin,
}

#[async_trait]
impl Work for DeleteGroup {
    type Output = ();

    async fn run<R: Rows>(&self, rows: &mut R, in_doubt: bool) -> Outcome<()> {
        check_kept(&entered(rows, &self.tenant).await?)?;
        let Some(group) = rows.group(&self.tenant, &self.id).await? else {
            // The first time it was there.
            return if in_doubt { Ok(()) } else { Err(missing(&self.id).into()) };
        };
        check_version(&group, self.version)?;
        // A right that lost its group would have to be one to nothing, or, worse, to everything.
        let mut users = Vec::new();
        for class in [Class::ApiKey, Class::RoleBinding] {
            let all = rows.credentials(&self.tenant, Owner::Tenant(class)).await?;
            users.extend(all.iter().filter(|row| row.groups().contains(&self.id)).map(Credential::name));
        }
        if !users.is_empty() {
            let more = users.len().saturating_sub(NAMED_USERS);
            users.truncate(NAMED_USERS);
            return Err(Error::InUse { name: group.name(), users, more }.into());
        }
        rows.remove_group(&group).await?;
        recorded(rows, &group, String::new(), &self.origin).await
    }
}

/// Refuses a credential that is bound to a group which is not there.
pub(super) async fn check_groups<R: Rows>(rows: &mut R, row: &Credential) -> Outcome<()> {
    for id in row.groups() {
        if rows.group(&row.tenant, id).await?.is_none() {
            return Err(Error::Invalid { field: "groups", reason: format!("there is no group {id:?}") }.into());
        }
    }
    Ok(())
}

async fn entered_group<R: Rows>(rows: &mut R, tenant: &str, id: &str) -> Outcome<Group> {
    check_kept(&entered(rows, tenant).await?)?;
    rows.group(tenant, id).await?.ok_or_else(|| missing(id).into())
}

fn missing(id: &str) -> Error {
    Error::NotFound(format!("groups/{id}"))
}

async fn recorded<R: Rows>(rows: &mut R, group: &Group, detail: String, origin: &Origin) -> Outcome<()> {
    let kind = ChangeKind::GroupChanged(Group::key(&group.tenant, &group.id));
    record(rows, &group.tenant, group.name(), detail, origin, kind).await
}
