//! `GroupService`.

use std::sync::Arc;

use identity::{GroupFilter, GroupUpdate, MemberChange, NewGroup};
use proto::v1::group::Filter;
use proto::v1::group_service_server::GroupService;
use proto::v1::{
    AddGroupMembersRequest, CreateGroupRequest, DeleteGroupRequest, DevicePatterns, GetGroupRequest, Group,
    ListGroupMembersRequest, ListGroupMembersResponse, ListGroupsRequest, ListGroupsResponse,
    RemoveGroupMembersRequest, UpdateGroupRequest,
};
use tonic::{Request, Response, Status};

use super::Shared;
use super::registry::{Resource, by, version};
use crate::auth::Caller;
use crate::convert::timestamp;
use crate::select::check_tenant;
use crate::{errors, names};

const COLLECTION: &str = "groups";
const FORM: &str = "must be `tenants/{tenant}/groups/{group}`";

/// Implementation of `GroupService`.
pub(crate) struct GroupApi(pub(crate) Shared);

/// The tenant and the id of the group that a field names.
fn named(caller: &Caller, field: &str, name: &str) -> Result<(Arc<str>, String), Status> {
    let (tenant, id) = caller.child(field, name, COLLECTION, FORM)?;
    let id = names::decode(id).ok_or_else(|| errors::invalid(field, FORM))?;
    Ok((tenant, id))
}

/// The ids of groups of a tenant that a field names.
pub(super) fn ids(caller: &Caller, field: &str, tenant: &str, given: &[String]) -> Result<Vec<String>, Status> {
    let id = |name: &String| {
        let (of, id) = named(caller, field, name)?;
        check_tenant(field, &of, tenant)?;
        Ok(id)
    };
    given.iter().map(id).collect()
}

/// The names of groups of a tenant.
pub(super) fn names_of<'a>(tenant: &str, ids: impl Iterator<Item = &'a str>) -> Vec<String> {
    ids.map(|id| names::child(tenant, COLLECTION, id)).collect()
}

/// The ids of devices of a tenant that a request names.
fn devices(caller: &Caller, tenant: &str, mut given: Vec<String>) -> Result<Vec<String>, Status> {
    if given.is_empty() {
        return Err(errors::invalid("devices", "is required"));
    }
    let id = |(i, name): (usize, &mut String)| {
        let field = format!("devices[{i}]");
        let device = caller.device(&field, name)?;
        check_tenant(&field, &device.tenant, tenant)?;
        Ok(device.id.to_string())
    };
    given.iter_mut().enumerate().map(id).collect()
}

fn filter_from(filter: Option<Filter>) -> GroupFilter {
    match filter {
        None => GroupFilter::None,
        Some(Filter::Patterns(patterns)) => GroupFilter::Patterns(patterns.patterns),
    }
}

fn to_proto(group: &identity::Group) -> Group {
    let filter = match &group.filter {
        GroupFilter::None => None,
        GroupFilter::Patterns(patterns) => Some(Filter::Patterns(DevicePatterns { patterns: patterns.clone() })),
    };
    Group {
        name: names::child(&group.tenant, COLLECTION, &group.id),
        display_name: group.display_name.clone(),
        filter,
        member_count: i32::try_from(group.members).unwrap_or(i32::MAX),
        create_time: Some(timestamp(group.created)),
        etag: group.version.to_string(),
    }
}

fn update_from(group: &Group, paths: &[String]) -> Result<GroupUpdate, Status> {
    const KNOWN: &str = "use `display_name`, `patterns`";
    let mut update = GroupUpdate { version: version("a group", "group.etag", &group.etag)?, ..GroupUpdate::default() };
    if paths.is_empty() {
        return Err(errors::invalid("update_mask", format!("names no field: {KNOWN}")));
    }
    for path in paths {
        match path.as_str() {
            "display_name" => update.display_name = Some(group.display_name.clone()),
            "patterns" => update.filter = Some(filter_from(group.filter.clone())),
            _ => return Err(errors::invalid("update_mask", format!("{path:.80?} cannot be changed: {KNOWN}"))),
        }
    }
    Ok(update)
}

impl GroupApi {
    async fn change_members(
        &self,
        caller: &Caller,
        name: &str,
        given: Vec<String>,
        change: impl FnOnce(Vec<String>) -> MemberChange,
    ) -> Result<Response<Group>, Status> {
        let (tenant, id) = named(caller, "name", name)?;
        let admin = self.0.admin()?;
        let change = change(devices(caller, &tenant, given)?);
        let changed = admin.change_members(&tenant, &id, change, &by(caller, "")).await;
        let changed = changed.map_err(|error| Resource::GroupMember.refused(name, name, error))?;
        Ok(Response::new(to_proto(&changed)))
    }
}

#[tonic::async_trait]
impl GroupService for GroupApi {
    async fn create_group(&self, request: Request<CreateGroupRequest>) -> Result<Response<Group>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        let admin = self.0.admin()?;
        let given = request.group.unwrap_or_default();
        let name = names::child(&tenant, COLLECTION, &request.group_id);
        let new =
            NewGroup { id: request.group_id, display_name: given.display_name, filter: filter_from(given.filter) };
        let created = admin.create_group(&tenant, new, &by(&caller, &request.request_id)).await;
        let created = created.map_err(|error| {
            let name = if matches!(error, identity::Error::NotFound(_)) { "" } else { &*name };
            Resource::Group.refused(&request.parent, name, error)
        })?;
        Ok(Response::new(to_proto(&created.row)))
    }

    async fn get_group(&self, request: Request<GetGroupRequest>) -> Result<Response<Group>, Status> {
        let caller = Caller::of(&request)?;
        let name = request.into_inner().name;
        let (tenant, id) = named(&caller, "name", &name)?;
        let group = self.0.admin()?.get_group(&tenant, &id).await;
        Ok(Response::new(to_proto(&group.map_err(|error| Resource::Group.refused("", &name, error))?)))
    }

    async fn list_groups(&self, request: Request<ListGroupsRequest>) -> Result<Response<ListGroupsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        let admin = self.0.admin()?;
        let page = self.0.page(&mut request)?;
        let groups = admin.list_groups(&tenant, page.from.as_deref().unwrap_or_default(), page.size).await;
        let groups = groups.map_err(|error| Resource::Group.refused(&request.parent, "", error))?;
        Ok(Response::new(ListGroupsResponse {
            next_page_token: page.next_after(&groups, |group| group.id.clone()),
            groups: groups.iter().map(to_proto).collect(),
        }))
    }

    async fn update_group(&self, request: Request<UpdateGroupRequest>) -> Result<Response<Group>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let given = request.group.unwrap_or_default();
        let (tenant, id) = named(&caller, "group.name", &given.name)?;
        let admin = self.0.admin()?;
        let update = update_from(&given, &request.update_mask.unwrap_or_default().paths)?;
        let updated = admin.update_group(&tenant, &id, update, &by(&caller, "")).await;
        Ok(Response::new(to_proto(&updated.map_err(|error| Resource::Group.refused("", &given.name, error))?)))
    }

    async fn delete_group(&self, request: Request<DeleteGroupRequest>) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (tenant, id) = named(&caller, "name", &request.name)?;
        let admin = self.0.admin()?;
        let deleted =
            admin.delete_group(&tenant, &id, version("a group", "etag", &request.etag)?, &by(&caller, "")).await;
        deleted.map_err(|error| Resource::Group.refused("", &request.name, error))?;
        Ok(Response::new(()))
    }

    async fn add_group_members(&self, request: Request<AddGroupMembersRequest>) -> Result<Response<Group>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let change = |added| MemberChange { added, ..MemberChange::default() };
        self.change_members(&caller, &request.name, request.devices, change).await
    }

    async fn remove_group_members(
        &self,
        request: Request<RemoveGroupMembersRequest>,
    ) -> Result<Response<Group>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let change = |removed| MemberChange { removed, ..MemberChange::default() };
        self.change_members(&caller, &request.name, request.devices, change).await
    }

    async fn list_group_members(
        &self,
        request: Request<ListGroupMembersRequest>,
    ) -> Result<Response<ListGroupMembersResponse>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let (tenant, id) = named(&caller, "parent", &request.parent)?;
        let admin = self.0.admin()?;
        let name = request.parent.clone();
        request.parent = names::child(&tenant, COLLECTION, &id);
        let page = self.0.page(&mut request)?;
        let members = admin.list_members(&tenant, &id, page.from.as_deref().unwrap_or_default(), page.size).await;
        let members = members.map_err(|error| Resource::Group.refused("", &name, error))?;
        Ok(Response::new(ListGroupMembersResponse {
            next_page_token: page.next_after(&members, Clone::clone),
            devices: members.iter().map(|device| names::device(&tenant, device)).collect(),
        }))
    }
}
