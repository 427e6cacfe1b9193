//! `GroupService`, and keys and roles of groups.

use identity::Role;
use proto::v1::access_service_client::AccessServiceClient;
use proto::v1::group::Filter;
use proto::v1::group_service_client::GroupServiceClient;
use proto::v1::issuer_service_client::IssuerServiceClient;
use proto::v1::{
    self, AddGroupMembersRequest, ApiKey, CreateApiKeyRequest, CreateGroupRequest, CreateRoleBindingRequest,
    DeleteGroupRequest, DevicePatterns, GetGroupRequest, Group, ListGroupMembersRequest, ListGroupsRequest,
    RemoveGroupMembersRequest, RoleBinding, UpdateGroupRequest, UpdateRoleBindingRequest,
};
use tonic::Code;
use tonic::transport::Channel;

use super::super::gate::with;
use super::{Plant, strings};
use crate::world::{assert_status, device_name, own_device};

struct Client {
    groups: GroupServiceClient<Channel>,
    token: String,
}

impl Client {
    async fn of(plant: &Plant) -> Self {
        let token = plant.key(Role::TenantAdmin, &[]).await;
        Self { groups: GroupServiceClient::new(plant.world().channel.clone()), token }
    }

    async fn create(&mut self, id: &str, patterns: &[&str]) -> Result<Group, tonic::Status> {
        let filter = Some(Filter::Patterns(DevicePatterns { patterns: strings(patterns) }));
        let group = Some(Group { display_name: "Pumps".into(), filter, ..Group::default() });
        let (parent, group_id) = ("tenants/-".into(), id.into());
        let request = CreateGroupRequest { parent, group_id, group, request_id: String::new() };
        Ok(self.groups.create_group(with(&self.token, request)).await?.into_inner())
    }

    async fn add(&mut self, id: &str, devices: &[&str]) -> Result<Group, tonic::Status> {
        let devices = devices.iter().map(|id| own_device(id)).collect();
        let request = AddGroupMembersRequest { name: format!("tenants/-/groups/{id}"), devices };
        Ok(self.groups.add_group_members(with(&self.token, request)).await?.into_inner())
    }
}

#[tokio::test]
async fn a_group_is_created_changed_listed_and_deleted() {
    let plant = Plant::start(&[]).await;
    let mut client = Client::of(&plant).await;
    let made = client.create("pumps", &["pump-*", "p7"]).await.unwrap();
    assert_eq!((&*made.name, &*made.display_name, made.member_count), ("tenants/default/groups/pumps", "Pumps", 0));
    let patterns = |group: &Group| match &group.filter {
        Some(Filter::Patterns(of)) => of.patterns.clone(),
        None => Vec::new(),
    };
    assert_eq!(patterns(&made), ["p7", "pump-*"]);
    assert_status(&client.create("pumps", &[]).await.unwrap_err(), Code::AlreadyExists, "GROUP_EXISTS");
    let status = client.create("a/b", &[]).await.unwrap_err();
    assert!(status.message().starts_with("group_id: "), "{status:?}");
    let status = client.create("x", &[""]).await.unwrap_err();
    assert!(status.message().starts_with("group.patterns: "), "{status:?}");

    let update = |group: Group, paths: &[&str]| {
        let update_mask = Some(prost_types::FieldMask { paths: strings(paths) });
        UpdateGroupRequest { group: Some(group), update_mask }
    };
    let other = Group { display_name: "P".into(), filter: None, ..made.clone() };
    let changed = client.groups.update_group(with(&client.token, update(other.clone(), &["display_name"]))).await;
    let changed = changed.unwrap().into_inner();
    assert_eq!((&*changed.display_name, patterns(&changed).len()), ("P", 2));
    let stale = client.groups.update_group(with(&client.token, update(other.clone(), &["patterns"]))).await;
    assert_status(&stale.unwrap_err(), Code::Aborted, "CONFLICT");
    let other = Group { etag: changed.etag, ..other };
    let changed = client.groups.update_group(with(&client.token, update(other.clone(), &["patterns"]))).await;
    assert!(patterns(&changed.unwrap().into_inner()).is_empty());
    for paths in [&[][..], &["name"], &["member_count"]] {
        let status = client.groups.update_group(with(&client.token, update(other.clone(), paths))).await.unwrap_err();
        assert!(status.message().starts_with("update_mask: "), "{status:?}");
    }

    for id in ["a", "z"] {
        client.create(id, &[]).await.unwrap();
    }
    let mut request = ListGroupsRequest { parent: "tenants/-".into(), page_size: 2, page_token: String::new() };
    let page = client.groups.list_groups(with(&client.token, request.clone())).await.unwrap().into_inner();
    let names = |groups: &[Group]| groups.iter().map(|group| group.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&page.groups), ["tenants/default/groups/a", "tenants/default/groups/pumps"]);
    request.page_token = page.next_page_token;
    let page = client.groups.list_groups(with(&client.token, request)).await.unwrap().into_inner();
    assert_eq!(names(&page.groups), ["tenants/default/groups/z"]);

    let name = "tenants/-/groups/z".to_owned();
    let delete = |etag: &str| DeleteGroupRequest { name: name.clone(), etag: etag.into() };
    let stale = client.groups.delete_group(with(&client.token, delete("7"))).await.unwrap_err();
    assert_status(&stale, Code::Aborted, "CONFLICT");
    client.groups.delete_group(with(&client.token, delete("1"))).await.unwrap();
    let gone = client.groups.delete_group(with(&client.token, delete(""))).await.unwrap_err();
    assert_status(&gone, Code::NotFound, "GROUP_NOT_FOUND");
    let gone = client.groups.get_group(with(&client.token, GetGroupRequest { name })).await.unwrap_err();
    assert_status(&gone, Code::NotFound, "GROUP_NOT_FOUND");
}

#[tokio::test]
async fn members_are_added_listed_in_pages_and_removed() {
    let plant = Plant::start(&[]).await;
    let mut client = Client::of(&plant).await;
    client.create("g", &[]).await.unwrap();
    assert_eq!(client.add("g", &["hall/3", "d2", "d1", "d1"]).await.unwrap().member_count, 3);
    let name = || "tenants/-/groups/g".to_owned();
    let mut request = ListGroupMembersRequest { parent: name(), page_size: 2, page_token: String::new() };
    let page = client.groups.list_group_members(with(&client.token, request.clone())).await.unwrap().into_inner();
    assert_eq!(page.devices, ["d1", "d2"].map(device_name));
    request.page_token = page.next_page_token;
    let page = client.groups.list_group_members(with(&client.token, request)).await.unwrap().into_inner();
    assert_eq!(page.devices, [device_name("hall/3")]);
    let request = RemoveGroupMembersRequest { name: name(), devices: vec![own_device("d2"), own_device("none")] };
    let left = client.groups.remove_group_members(with(&client.token, request)).await.unwrap().into_inner();
    assert_eq!((left.member_count, &*left.etag), (2, "3"));
    for (devices, text) in [
        (Vec::new(), "devices: is required"),
        (vec!["tenants/-/devices/a%2Bb".to_owned()], "devices[0]: "),
        ((0..1001).map(|n| own_device(&format!("d{n}"))).collect(), "devices: there are more than 1000"),
    ] {
        let request = AddGroupMembersRequest { name: name(), devices };
        let status = client.groups.add_group_members(with(&client.token, request)).await.unwrap_err();
        assert!(status.message().starts_with(text), "{status:?}");
    }
    assert_status(&client.add("missing", &["d1"]).await.unwrap_err(), Code::NotFound, "GROUP_NOT_FOUND");
    let request = AddGroupMembersRequest { name: name(), devices: vec!["tenants/other/devices/d1".into()] };
    let status = client.groups.add_group_members(with(&client.token, request)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn keys_and_roles_of_groups_are_shown_with_them_and_keep_them_from_deletion() {
    let plant = Plant::start(&[]).await;
    let mut client = Client::of(&plant).await;
    client.create("g", &[]).await.unwrap();
    let mut access = AccessServiceClient::new(plant.world().channel.clone());
    let key = |role: v1::Role, groups: &[&str]| {
        let api_key = Some(ApiKey { role: role.into(), groups: strings(groups), ..ApiKey::default() });
        CreateApiKeyRequest { parent: "tenants/-".into(), api_key, request_id: String::new() }
    };
    let request = key(v1::Role::Viewer, &["tenants/-/groups/g"]);
    let made = access.create_api_key(with(&client.token, request)).await.unwrap().into_inner();
    assert_eq!(made.groups, ["tenants/default/groups/g"]);
    for (role, group) in [
        (v1::Role::Viewer, "tenants/-/groups/missing"),
        (v1::Role::Viewer, "g"),
        (v1::Role::TenantAdmin, "tenants/-/groups/g"),
    ] {
        let status = access.create_api_key(with(&client.token, key(role, &[group]))).await.unwrap_err();
        assert!(status.message().starts_with("api_key.groups: "), "{status:?}");
    }
    let own = with(&format!("Bearer {}", made.secret), v1::GetCallerIdentityRequest {});
    let identity = access.get_caller_identity(own).await.unwrap().into_inner();
    assert_eq!(identity.groups, ["tenants/default/groups/g"]);

    let binding = RoleBinding {
        principal: "oidc:https://login.example.com#1".into(),
        role: v1::Role::Operator.into(),
        groups: strings(&["tenants/default/groups/g"]),
        ..RoleBinding::default()
    };
    let request =
        CreateRoleBindingRequest { parent: "tenants/-".into(), role_binding: Some(binding), ..Default::default() };
    let mut issuers = IssuerServiceClient::new(plant.world().channel.clone());
    let bound = issuers.create_role_binding(with(&client.token, request)).await.unwrap().into_inner();
    assert_eq!(bound.groups, ["tenants/default/groups/g"]);
    let update = |binding: RoleBinding, paths: &[&str]| UpdateRoleBindingRequest {
        name: bound.name.clone(),
        role_binding: Some(binding),
        update_mask: Some(prost_types::FieldMask { paths: strings(paths) }),
    };
    let viewer = RoleBinding { role: v1::Role::Viewer.into(), ..RoleBinding::default() };
    let changed = issuers.update_role_binding(with(&client.token, update(viewer.clone(), &["role"]))).await;
    let changed = changed.unwrap().into_inner();
    assert_eq!((changed.role(), &changed.groups), (v1::Role::Viewer, &bound.groups));
    assert_eq!(changed.principal, bound.principal);
    assert_ne!(changed.etag, bound.etag);
    let stale = RoleBinding { etag: bound.etag.clone(), ..RoleBinding::default() };
    let status = issuers.update_role_binding(with(&client.token, update(stale, &["groups"]))).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    let whole = RoleBinding { etag: changed.etag, ..RoleBinding::default() };
    let whole =
        issuers.update_role_binding(with(&client.token, update(whole, &["groups"]))).await.unwrap().into_inner();
    assert!(whole.groups.is_empty());
    for (groups, paths, field) in [
        (&["tenants/default/groups/none"][..], &["groups"][..], "role_binding.groups"),
        (&[], &["principal"], "update_mask"),
        (&[], &[], "update_mask"),
        (&[], &["role"], "role_binding.role"),
    ] {
        let binding = RoleBinding { groups: strings(groups), ..RoleBinding::default() };
        let status = issuers.update_role_binding(with(&client.token, update(binding, paths))).await.unwrap_err();
        assert!(status.message().starts_with(field), "{status:?}");
    }
    let again = RoleBinding { groups: strings(&["tenants/default/groups/g"]), ..RoleBinding::default() };
    issuers.update_role_binding(with(&client.token, update(again, &["groups"]))).await.unwrap();

    let request = DeleteGroupRequest { name: "tenants/-/groups/g".into(), etag: String::new() };
    let status = client.groups.delete_group(with(&client.token, request)).await.unwrap_err();
    assert_status(&status, Code::FailedPrecondition, "GROUP_IN_USE");
    for name in [&made.name, &bound.name] {
        assert!(status.message().contains(name.trim_start_matches("tenants/default/")), "{status:?}");
    }
}
