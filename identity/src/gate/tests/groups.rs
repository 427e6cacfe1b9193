//! Callers that are bound to groups of devices.

use std::time::Instant;

use super::tokens::{ALICE, Issued, issuer};
use super::*;
use crate::oauth::{Issuer, RoleOfClaim};
use crate::registry::{Error, GroupFilter, MemberChange, RoleBinding};
use crate::{Denied, GroupUpdate, NewGroup, Presented, Principal};

impl World {
    async fn group(&self, id: &str, patterns: &[&str], members: &[&str]) {
        let filter = GroupFilter::Patterns(strings(patterns));
        let new = NewGroup { id: id.into(), display_name: String::new(), filter };
        self.admin.create_group("t", new, &By::local()).await.unwrap();
        self.members(&self.admin, id, members, &[]).await;
    }

    async fn members(&self, admin: &Admin, group: &str, added: &[&str], removed: &[&str]) {
        let change = MemberChange { added: strings(added), removed: strings(removed) };
        admin.change_members("t", group, change, &By::local()).await.unwrap();
    }

    async fn bound(&self, groups: &[&str]) -> (CredentialId, Secret) {
        self.key(NewApiKey { role: Role::Admin, groups: strings(groups), ..viewer() }).await
    }

    async fn call(&self, key: &Secret) -> Result<Principal, Denied> {
        self.gate.authenticate(&Presented { bearer: Some(key.expose()), peer: None }).await
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[tokio::test]
async fn a_key_reaches_the_devices_of_its_groups_and_one_without_groups_all() {
    let world = World::new().await;
    world.group("pumps", &["pump-*"], &["d1"]).await;
    world.group("other", &[], &["d2"]).await;
    let (_, key) = world.bound(&["pumps"]).await;
    let reach = world.call(&key).await.unwrap().reach;
    assert!(reach.has("d1") && reach.has("pump-7") && !reach.has("d2") && !reach.is_everything());
    assert_eq!(reach.groups().collect::<Vec<_>>(), ["pumps"]);
    let (_, both) = world.bound(&["pumps", "other", "pumps"]).await;
    let reach = world.call(&both).await.unwrap().reach;
    assert!(reach.has("d1") && reach.has("d2") && !reach.has("d3"));
    let (_, all) = world.key(viewer()).await;
    let reach = world.call(&all).await.unwrap().reach;
    assert!(reach.has("d3") && reach.is_everything());
}

#[tokio::test]
async fn a_change_is_seen_at_once_here_and_with_the_control_log_elsewhere() {
    let world = World::new().await;
    world.group("g", &[], &["d1", "d2"]).await;
    let (_, key) = world.bound(&["g"]).await;
    let mut position = Position::default();
    world.gate.step(&mut position).await;
    let principal = world.call(&key).await.unwrap();
    let mut changes = principal.reach.changes();
    world.members(&world.admin, "g", &[], &["d1"]).await;
    assert!(changes.happened() && !principal.reach.has("d1") && principal.reach.has("d2"));
    world.members(&world.remote, "g", &["d3"], &["d2"]).await;
    assert!(principal.reach.has("d2"));
    world.gate.step(&mut position).await;
    assert!(changes.happened() && !principal.reach.has("d2") && principal.reach.has("d3"));
    let update = GroupUpdate { filter: Some(GroupFilter::Patterns(strings(&["x-*"]))), ..GroupUpdate::default() };
    world.remote.update_group("t", "g", update, &By::local()).await.unwrap();
    world.gate.step(&mut position).await;
    assert!(principal.reach.has("x-1") && principal.reach.has("d3"));
    assert!(!principal.ended.is_cancelled(), "its calls go on");
    // A gate that lost its place in the log reads all groups again.
    world.members(&world.remote, "g", &[], &["d3"]).await;
    world.gate.step(&mut Position::default()).await;
    assert!(!principal.reach.has("d3"));
}

#[tokio::test]
async fn a_group_that_is_changed_while_it_is_read_is_read_again() {
    let world = World::new().await;
    world.group("g", &[], &["d1"]).await;
    let (_, key) = world.bound(&["g"]).await;
    let mut position = Position::default();
    world.gate.step(&mut position).await;
    world.registry.pause_group();
    let gate = world.gate.clone();
    let call =
        tokio::spawn(async move { gate.authenticate(&Presented { bearer: Some(key.expose()), peer: None }).await });
    world.registry.arrived().await;
    let update = GroupUpdate { filter: Some(GroupFilter::Patterns(strings(&["x-*"]))), ..GroupUpdate::default() };
    world.remote.update_group("t", "g", update, &By::local()).await.unwrap();
    world.gate.step(&mut position).await;
    world.registry.release();
    assert!(call.await.unwrap().unwrap().reach.has("x-1"), "it was read before the change");
}

#[tokio::test]
async fn a_group_is_read_once_for_all_its_callers_and_left_with_the_last_one() {
    let world = World::new().await;
    world.group("g", &[], &["d1"]).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        let (id, key) = world.bound(&["g"]).await;
        for _ in 0..3 {
            assert!(world.call(&key).await.unwrap().reach.has("d1"));
        }
        ids.push(id);
    }
    assert_eq!(world.registry.member_lists(), 1);
    assert!(world.gate.0.groups.bytes() > 0);
    for id in ids {
        world.admin.delete_api_key("t", id, &By::local()).await.unwrap();
    }
    assert_eq!(world.gate.0.groups.bytes(), 0);
    world.admin.delete_group("t", "g", None, &By::local()).await.unwrap();
}

#[tokio::test]
async fn without_the_control_log_and_the_registry_a_bound_key_is_not_admitted() {
    let world = World::new().await;
    world.group("g", &[], &["d1", "d2"]).await;
    let (_, key) = world.bound(&["g"]).await;
    world.gate.step(&mut Position::default()).await;
    let principal = world.call(&key).await.unwrap();
    world.members(&world.remote, "g", &[], &["d1"]).await;
    world.pass(31);
    let lists = world.registry.member_lists();
    assert!(!world.call(&key).await.unwrap().reach.has("d1"), "the registry was asked");
    assert!(!principal.reach.has("d1") && principal.reach.has("d2"));
    world.call(&key).await.unwrap();
    assert_eq!(world.registry.member_lists(), lists + 1, "the second time the row alone");
    world.registry.damage(&["g"]);
    assert!(matches!(world.call(&key).await, Err(Denied::Unavailable(_))));
}

#[tokio::test]
async fn a_group_that_cannot_be_read_is_tried_again_and_holds_up_nothing_else() {
    let world = World::new().await;
    world.group("g", &[], &["d1"]).await;
    world.group("h", &[], &["d1"]).await;
    let (_, key) = world.bound(&["g", "h"]).await;
    let mut position = Position::default();
    world.gate.step(&mut position).await;
    let reach = world.call(&key).await.unwrap().reach;
    world.registry.damage(&["g"]);
    world.members(&world.remote, "g", &["d2"], &[]).await;
    world.members(&world.remote, "h", &["d3"], &[]).await;
    world.gate.step(&mut position).await;
    assert!(reach.has("d3") && !reach.has("d2"));
    world.registry.damage(&[]);
    world.gate.step(&mut position).await;
    assert!(reach.has("d2"));
}

#[tokio::test]
async fn groups_that_take_too_much_memory_reach_nothing() {
    let world = World::bounded(Bounds { entries: 100, bytes: 128 << 10 }).await;
    let long: Vec<String> = (0..100).map(|n| format!("{n:0100}")).collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    world.group("small", &[], &["d1"]).await;
    world.group("large", &[], &long).await;
    let (_, small) = world.bound(&["small"]).await;
    let (_, large) = world.bound(&["large"]).await;
    let reach = world.call(&small).await.unwrap().reach;
    assert!(matches!(world.call(&large).await, Err(Denied::Unavailable(_))));
    // One in use that grows too large fails closed.
    world.members(&world.remote, "small", &long, &[]).await;
    let mut position = Position::default();
    world.gate.step(&mut position).await;
    assert!(!reach.has("d1"));
    world.members(&world.remote, "small", &[], &long).await;
    world.gate.step(&mut position).await;
    assert!(reach.has("d1"));
}

#[tokio::test]
async fn a_binding_of_groups_limits_the_role_of_the_token_too() {
    let issued = Issued::without_issuer().await;
    let roles = vec![RoleOfClaim { value: "ops".into(), role: Role::Operator }];
    issued.create(Issuer { role_claim: Some("roles".into()), roles, ..issuer() }).await;
    issued.world.group("g", &[], &["d1"]).await;
    let mut claims = issued.claims();
    claims["roles"] = "ops".into();
    let token = issued.key.token(&claims);
    let before = issued.call(&token).await.unwrap();
    assert!(before.reach.is_everything());
    let mut position = Position::default();
    issued.follow(&mut position).await;
    let bind = async |role| {
        let binding = RoleBinding { principal: ALICE.into(), role, groups: strings(&["g"]) };
        issued.world.remote.create_role_binding("t", binding, &By::local()).await.unwrap().row.id
    };
    let id = bind(Role::Viewer).await;
    issued.follow(&mut position).await;
    assert!(before.ended.is_cancelled(), "its rights are others");
    let principal = issued.call(&token).await.unwrap();
    assert_eq!(principal.role, Role::Operator);
    assert!(principal.reach.has("d1") && !principal.reach.has("d2"));
    // A binding that was exchanged while the gate did not look.
    issued.world.remote.delete_role_binding("t", id, &By::local()).await.unwrap();
    bind(Role::Admin).await;
    issued.follow(&mut Position::default()).await;
    assert!(principal.ended.is_cancelled());
    assert_eq!(issued.call(&token).await.unwrap().role, Role::Admin);
}

#[tokio::test]
async fn roles_of_a_tenant_and_unknown_groups_are_refused() {
    let world = World::new().await;
    world.group("g", &[], &["d1"]).await;
    let field = async |new: NewApiKey| match world.admin.create_api_key("t", new, &By::local()).await {
        Err(Error::Invalid { field, reason }) => (field, reason),
        other => panic!("{other:?}"),
    };
    for role in [Role::TenantAdmin, Role::Installation] {
        let (name, reason) = field(NewApiKey { role, groups: strings(&["g"]), ..viewer() }).await;
        assert!(name == "groups" && reason.contains("whole tenant"), "{reason}");
    }
    let many: Vec<String> = (0..17).map(|n| format!("g{n}")).collect();
    for groups in [strings(&["h"]), strings(&["g", "a/b"]), strings(&[""]), many] {
        assert_eq!(field(NewApiKey { groups, ..viewer() }).await.0, "groups");
    }
    let new = |id: &str, patterns: Vec<String>| NewGroup {
        id: id.into(),
        display_name: String::new(),
        filter: GroupFilter::Patterns(patterns),
    };
    let bad = [
        (new("a b", Vec::new()), "group_id"),
        (new("x", vec![String::new()]), "patterns"),
        (new("x", (0..33).map(|n| format!("p{n}*")).collect()), "patterns"),
    ];
    for (group, expected) in bad {
        match world.admin.create_group("t", group, &By::local()).await {
            Err(Error::Invalid { field, .. }) => assert_eq!(field, expected),
            other => panic!("{other:?}"),
        }
    }
}

/// `cargo test --release -p weir-identity figures_of_a_group -- --nocapture`.
#[tokio::test]
async fn figures_of_a_group_of_10000_members() {
    let world = World::new().await;
    world.group("g", &["pump-*"], &[]).await;
    let members: Vec<String> = (0..10_000).map(|n| format!("plant-7/sensor-{n:05}")).collect();
    for some in members.chunks(1000) {
        world.members(&world.remote, "g", &some.iter().map(String::as_str).collect::<Vec<_>>(), &[]).await;
    }
    let (_, bound) = world.bound(&["g"]).await;
    let (_, all) = world.key(viewer()).await;
    let began = Instant::now();
    let reach = world.call(&bound).await.unwrap().reach;
    println!("a group of 10,000 members: {:?} to read, {} bytes", began.elapsed(), world.gate.0.groups.bytes());
    let everything = world.call(&all).await.unwrap().reach;
    let rounds = 100;
    let of = |reach: &crate::DeviceReach, ids: &[String]| {
        let began = Instant::now();
        let mut found = 0;
        for _ in 0..rounds {
            found += ids.iter().filter(|id| reach.has(id)).count();
        }
        (found / rounds, began.elapsed() / u32::try_from(rounds * ids.len()).unwrap())
    };
    let outside: Vec<String> = (0..10_000).map(|n| format!("plant-8/sensor-{n:05}")).collect();
    let (inside, not) = (of(&reach, &members), of(&reach, &outside));
    println!("a check: {:?} of a member, {:?} of another, {:?} unbound", inside.1, not.1, of(&everything, &members).1);
    assert_eq!((inside.0, not.0), (10_000, 0));
    assert!(world.gate.0.groups.bytes() < 1 << 20);
}
