//! The rules of groups.

use super::{KEYS, NOW, create, key, origin, request, secret, with_tenants};
use crate::registry::group::{MAX_GROUPS, MAX_MEMBERS};
use crate::registry::{
    ChangeKind, Class, Created, Credential, CredentialKind, Error, Group, GroupFilter, GroupUpdate, KeyRights,
    MemberChange, Owner, Registry, RoleBinding,
};
use crate::{CredentialId, Role};

pub(crate) fn group(tenant: &str, id: &str) -> Group {
    Group {
        id: id.into(),
        tenant: tenant.into(),
        display_name: "G".into(),
        filter: GroupFilter::Patterns(vec!["pump-*".into()]),
        members: 0,
        created: NOW,
        version: 1,
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn change(added: &[&str], removed: &[&str]) -> MemberChange {
    MemberChange { added: strings(added), removed: strings(removed) }
}

fn bound(tenant: &str, groups: &[&str]) -> Credential {
    let rights = KeyRights {
        display_name: "bound".into(),
        role: Role::Viewer,
        scopes: Vec::new(),
        allowed_networks: Vec::new(),
        groups: strings(groups),
    };
    Credential { kind: CredentialKind::ApiKey(rights), ..key(tenant) }
}

pub(crate) async fn a_group_is_created_once_and_listed_in_its_tenant(registry: &dyn Registry) {
    with_tenants(registry, &["a", "b"]).await;
    let first = registry.create_group(group("a", "g"), &request("r", NOW)).await.unwrap();
    assert_eq!(first, Created { row: group("a", "g"), is_repeat: false });
    let again = registry.create_group(group("a", "g"), &request("r", NOW + 1)).await.unwrap();
    assert_eq!(again, Created { row: group("a", "g"), is_repeat: true });
    for other in [request("s", NOW), origin()] {
        assert_eq!(registry.create_group(group("a", "g"), &other).await, Err(Error::Exists("groups/g".into())));
    }
    let of_another = registry.create_group(group("a", "h"), &request("r", NOW)).await;
    assert!(matches!(of_another, Err(Error::Invalid { field: "request_id", .. })), "{of_another:?}");
    let without = registry.create_group(group("c", "g"), &origin()).await;
    assert_eq!(without, Err(Error::NotFound("tenants/c".into())));
    for (tenant, id) in [("a", "f"), ("b", "g"), ("a", "h")] {
        registry.create_group(group(tenant, id), &origin()).await.unwrap();
    }
    let ids = |groups: Vec<Group>| groups.into_iter().map(|group| group.id).collect::<Vec<_>>();
    assert_eq!(ids(registry.groups("a", "", 2).await.unwrap()), ["f", "g"]);
    assert_eq!(ids(registry.groups("a", "g", 2).await.unwrap()), ["h"]);
    assert_eq!(ids(registry.groups("b", "", 9).await.unwrap()), ["g"]);
    assert_eq!(registry.group("b", "g").await.unwrap(), Some(group("b", "g")));
    assert_eq!(registry.group("b", "f").await.unwrap(), None);
    registry.delete_group("a", "g", None, &origin()).await.unwrap();
    let gone = registry.create_group(group("a", "g"), &request("r", NOW)).await;
    assert!(matches!(gone, Err(Error::Invalid { field: "request_id", .. })), "{gone:?}");
}

pub(crate) async fn a_group_is_changed_in_the_version_that_was_read(registry: &dyn Registry) {
    with_tenants(registry, &["a"]).await;
    registry.create_group(group("a", "g"), &origin()).await.unwrap();
    let named = |name: &str, version| GroupUpdate { display_name: Some(name.into()), version, ..Default::default() };
    let changed = registry.update_group("a", "g", &named("N", Some(1)), &origin()).await.unwrap();
    assert_eq!((changed.display_name.as_str(), changed.version), ("N", 2));
    assert_eq!(registry.group("a", "g").await.unwrap(), Some(changed.clone()));
    let stale = registry.update_group("a", "g", &named("O", Some(1)), &origin()).await;
    assert_eq!(stale, Err(Error::Conflict("groups/g".into())));
    for same in [named("N", Some(2)), GroupUpdate::default()] {
        assert_eq!(registry.update_group("a", "g", &same, &origin()).await.unwrap(), changed, "nothing has changed");
    }
    let filter = GroupUpdate { filter: Some(GroupFilter::None), ..Default::default() };
    let changed = registry.update_group("a", "g", &filter, &origin()).await.unwrap();
    assert_eq!((changed.filter, changed.version, changed.display_name.as_str()), (GroupFilter::None, 3, "N"));
    let missing = registry.update_group("a", "h", &named("N", None), &origin()).await;
    assert_eq!(missing, Err(Error::NotFound("groups/h".into())));
    let stale = registry.delete_group("a", "g", Some(2), &origin()).await;
    assert_eq!(stale, Err(Error::Conflict("groups/g".into())));
    registry.delete_group("a", "g", Some(3), &origin()).await.unwrap();
    let gone = registry.delete_group("a", "g", None, &origin()).await;
    assert_eq!(gone, Err(Error::NotFound("groups/g".into())));
}

pub(crate) async fn members_are_added_once_and_listed_in_order(registry: &dyn Registry) {
    with_tenants(registry, &["a", "b"]).await;
    for (tenant, id) in [("a", "g"), ("a", "g-2"), ("a", "h"), ("b", "g")] {
        registry.create_group(group(tenant, id), &origin()).await.unwrap();
    }
    let changed = registry.change_members("a", "g", &change(&["d2", "d10", "d1", "é"], &[]), &origin()).await.unwrap();
    assert_eq!((changed.members, changed.version), (4, 2));
    registry.change_members("a", "g-2", &change(&["other"], &[]), &origin()).await.unwrap();
    registry.change_members("b", "g", &change(&["theirs"], &[]), &origin()).await.unwrap();
    let same = registry.change_members("a", "g", &change(&["d1"], &["none"]), &origin()).await.unwrap();
    assert_eq!(same, changed, "nothing has changed");
    assert_eq!(registry.members("a", "g", "", 9).await.unwrap(), ["d1", "d10", "d2", "é"]);
    assert_eq!(registry.members("a", "g", "d1", 2).await.unwrap(), ["d10", "d2"]);
    let both = registry.change_members("a", "g", &change(&["d3", "d2"], &["d2", "d10"]), &origin()).await.unwrap();
    assert_eq!((both.members, both.version), (4, 3), "removals come first");
    assert_eq!(registry.members("a", "g", "", 9).await.unwrap(), ["d1", "d2", "d3", "é"]);
    assert_eq!(registry.group("a", "g").await.unwrap(), Some(both));
    let missing = registry.change_members("a", "x", &change(&["d"], &[]), &origin()).await;
    assert_eq!(missing, Err(Error::NotFound("groups/x".into())));
    registry.delete_group("a", "g", None, &origin()).await.unwrap();
    registry.create_group(group("a", "g"), &origin()).await.unwrap();
    assert!(registry.members("a", "g", "", 9).await.unwrap().is_empty(), "the members left with their group");
    assert_eq!(registry.members("a", "g-2", "", 9).await.unwrap(), ["other"]);
    assert_eq!(registry.members("b", "g", "", 9).await.unwrap(), ["theirs"]);
}

pub(crate) async fn groups_and_their_members_are_bounded(registry: &dyn Registry) {
    with_tenants(registry, &["a"]).await;
    registry.create_group(group("a", "g"), &origin()).await.unwrap();
    let devices: Vec<String> = (0..MAX_MEMBERS).map(|n| format!("d{n:05}")).collect();
    for added in devices.chunks(2500) {
        let change = MemberChange { added: added.to_vec(), ..Default::default() };
        registry.change_members("a", "g", &change, &origin()).await.unwrap();
    }
    let full = registry.change_members("a", "g", &change(&["one-more"], &[]), &origin()).await;
    assert_eq!(full, Err(Error::Limit { what: "members of this group", most: MAX_MEMBERS }));
    assert_eq!(registry.members("a", "g", "", MAX_MEMBERS + 1).await.unwrap(), devices);
    let exchanged = change(&["one-more"], &["d00000"]);
    assert_eq!(registry.change_members("a", "g", &exchanged, &origin()).await.unwrap().members, MAX_MEMBERS);
    registry.delete_group("a", "g", None, &origin()).await.unwrap();
    for n in 0..MAX_GROUPS {
        registry.create_group(group("a", &format!("g{n}")), &origin()).await.unwrap();
    }
    let full = registry.create_group(group("a", "g"), &origin()).await;
    assert_eq!(full, Err(Error::Limit { what: "groups", most: MAX_GROUPS }));
}

pub(crate) async fn a_group_that_rights_are_bound_to_is_not_deleted(registry: &dyn Registry) {
    with_tenants(registry, &["a", "b"]).await;
    for tenant in ["a", "b"] {
        registry.create_group(group(tenant, "g"), &origin()).await.unwrap();
    }
    let unknown = create(registry, bound("a", &["g", "h"])).await;
    let reason = "there is no group \"h\"".to_owned();
    assert_eq!(unknown, Err(Error::Invalid { field: "groups", reason }));
    let key = create(registry, bound("a", &["g"])).await.unwrap();
    let principal = "oidc:https://login.example.com#1".to_owned();
    let id = RoleBinding::id("a", &principal);
    let binding = RoleBinding { principal, role: Role::Viewer, groups: strings(&["g"]) };
    let binding = Credential { id, digest: None, kind: CredentialKind::RoleBinding(binding), ..secret("a", "-") };
    create(registry, binding.clone()).await.unwrap();
    assert_eq!(registry.credential(id).await.unwrap().unwrap().credential, binding);
    let users = |names: &[String]| Error::InUse { name: "groups/g".into(), users: names.to_vec(), more: 0 };
    let names = [format!("apiKeys/{key}"), format!("roleBindings/{id}")];
    let refused = registry.delete_group("a", "g", None, &origin()).await.unwrap_err();
    assert_eq!(refused, users(&names));
    assert_eq!(refused.to_string(), format!("groups/g is used by {}, {}: delete them first", names[0], names[1]));
    registry.delete_group("b", "g", None, &origin()).await.unwrap();
    registry.delete_credential("a", KEYS, key, &origin()).await.unwrap();
    assert_eq!(registry.delete_group("a", "g", None, &origin()).await, Err(users(&names[1..])));
    // A binding that moves to another group is in use of that one.
    registry.create_group(group("a", "h"), &origin()).await.unwrap();
    let of = |groups: &[&str]| match &binding.kind {
        CredentialKind::RoleBinding(known) => {
            CredentialKind::RoleBinding(RoleBinding { groups: strings(groups), ..known.clone() })
        }
        other => panic!("{other:?}"),
    };
    let etag = binding.etag();
    let moved = registry.update_credential("a", id, of(&["h"]), Some(&etag), &origin()).await.unwrap();
    assert_eq!(
        (registry.credential(id).await.unwrap().unwrap().credential, moved.groups()),
        (moved.clone(), &strings(&["h"])[..])
    );
    let stale = registry.update_credential("a", id, of(&["g"]), Some(&etag), &origin()).await;
    assert!(matches!(stale, Err(Error::Conflict(_))), "{stale:?}");
    let unknown = registry.update_credential("a", id, of(&["none"]), Some(&moved.etag()), &origin()).await;
    assert!(matches!(unknown, Err(Error::Invalid { field: "groups", .. })), "{unknown:?}");
    assert!(matches!(registry.delete_group("a", "h", None, &origin()).await, Err(Error::InUse { .. })));
    registry.update_credential("a", id, of(&["g"]), Some(&moved.etag()), &origin()).await.unwrap();
    registry.delete_group("a", "h", None, &origin()).await.unwrap();
    registry.delete_credential("a", Owner::Tenant(Class::RoleBinding), id, &origin()).await.unwrap();
    registry.delete_group("a", "g", None, &origin()).await.unwrap();
    let unknown = create(registry, bound("a", &["g"])).await;
    assert!(matches!(unknown, Err(Error::Invalid { field: "groups", .. })), "{unknown:?}");
}

pub(crate) async fn each_change_of_a_group_is_audited_and_in_the_control_log(registry: &dyn Registry) {
    with_tenants(registry, &["a"]).await;
    registry.create_group(group("a", "g"), &origin()).await.unwrap();
    registry.change_members("a", "g", &change(&["d1", "d2"], &[]), &origin()).await.unwrap();
    registry.change_members("a", "g", &change(&["d2"], &[]), &origin()).await.unwrap();
    registry.change_members("a", "g", &change(&["d3", "d1"], &["d2"]), &origin()).await.unwrap();
    let update = GroupUpdate { display_name: Some("N".into()), ..Default::default() };
    registry.update_group("a", "g", &update, &origin()).await.unwrap();
    registry.delete_group("a", "g", None, &origin()).await.unwrap();
    let events = registry.audit("a", None, 9).await.unwrap();
    let details: Vec<_> = events.iter().rev().map(|event| (&*event.resource, &*event.detail)).collect();
    let created = r#"{"display_name":"G","filter":{"patterns":["pump-*"]}}"#;
    let expected = [
        ("groups/g", created),
        ("groups/g", r#"{"added":["d1","d2"]}"#),
        ("groups/g", r#"{"removed":["d2"],"added":["d3"]}"#),
        ("groups/g", r#"{"display_name":"N"}"#),
        ("groups/g", ""),
    ];
    assert_eq!(details[1..], expected);
    let changes = registry.changes(1, 9).await.unwrap().entries;
    let kinds: Vec<_> = changes.iter().map(|change| change.kind).collect();
    let id: CredentialId = Group::key("a", "g");
    assert_eq!(kinds, [ChangeKind::GroupChanged(id); 5]);
    assert_eq!(registry.verify_audit("a", None).await.unwrap().fault, None);
}
