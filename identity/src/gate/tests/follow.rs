//! Following the control log past what cannot be read, and from the start.

use std::num::NonZeroU64;
use std::time::Instant;

use door::quota::{Limits, Moment};

use super::tokens::{ALICE, Issued, issuer};
use super::*;
use crate::oauth::{Issuer, RoleOfClaim};
use crate::{GroupFilter, NewGroup, RoleBinding, TenantUpdate};

#[tokio::test]
async fn a_lookup_that_the_first_reading_of_the_log_overtakes_is_repeated() {
    let world = World::new().await;
    let (id, secret) = world.device("d1", None).await;
    world.registry.pause();
    let (gate, password) = (world.gate.clone(), secret.clone());
    let admission = tokio::spawn(async move { connect(&gate, "d1", password.expose()).await });
    world.registry.arrived().await;
    world.remote.delete_device_credential("t", "d1", id, &By::local()).await.unwrap();
    world.gate.step(&mut Position::default()).await;
    world.registry.release();
    assert_eq!(admission.await.unwrap().unwrap_err().kind, RefusalKind::BadCredentials);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creation_counts_before_the_tokens_that_did_not_see_it_leave() {
    let world = World::new().await;
    let mut position = Position::default();
    world.gate.step(&mut position).await;
    world.device("d1", None).await;
    let before = world.gate.0.live.epoch();
    let held = world.gate.0.tokens.hold();
    let gate = world.gate.clone();
    let step = tokio::spawn(async move { gate.catch_up(&mut position).await });
    let since = Instant::now();
    while world.gate.0.live.epoch() == before {
        assert!(since.elapsed() < Duration::from_secs(20), "the tokens come first");
        std::thread::yield_now();
    }
    drop(held);
    step.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_tenant_that_only_a_token_names_ends_its_calls_after_a_gap() {
    let issued = Issued::without_issuer().await;
    // No row of a binding has the tenant either.
    let roles = vec![RoleOfClaim { value: "ops".into(), role: Role::Viewer }];
    let tenant_claim = Some("tenant".into());
    issued.create(Issuer { tenant_claim, role_claim: Some("groups".into()), roles, ..issuer() }).await;
    let mut calls = Vec::new();
    for tenant in ["u", "v"] {
        issued.world.admin.create_tenant(tenant, "", &By::local()).await.unwrap();
        let mut claims = issued.claims();
        claims["tenant"] = tenant.into();
        claims["groups"] = "ops".into();
        calls.push(issued.call(&issued.key.token(&claims)).await.unwrap().ended);
    }
    issued.world.remote.suspend_tenant("u", &By::local()).await.unwrap();
    let mut position = Position::default();
    issued.world.registry.damage(&["u"]);
    issued.world.gate.step(&mut position).await;
    assert!(!calls[0].is_cancelled(), "its row cannot be read");
    issued.world.registry.damage(&[]);
    issued.world.gate.step(&mut position).await;
    assert!(calls[0].is_cancelled() && !calls[1].is_cancelled());
}

#[tokio::test]
async fn a_row_that_cannot_be_read_holds_up_no_other_and_is_read_later() {
    let world = World::new().await;
    let mut sessions = Vec::new();
    for n in 0..100 {
        let device = format!("d{n}");
        let (id, secret) = world.device(&device, None).await;
        let ended = admitted(&world.gate, &device, &secret).await;
        world.remote.delete_device_credential("t", &device, id, &By::local()).await.unwrap();
        sessions.push((id, ended));
    }
    let (_, valid) = world.device("d", None).await;
    let valid = admitted(&world.gate, "d", &valid).await;
    // More than may fail at one step.
    let damaged: Vec<&str> = sessions[..40].iter().map(|(id, _)| id.as_str()).collect();
    world.registry.damage(&damaged);
    let mut position = Position::default();
    for _ in 0..10 {
        world.gate.step(&mut position).await;
    }
    assert!(sessions[..40].iter().all(|(_, ended)| !ended.is_cancelled()));
    assert!(sessions[40..].iter().all(|(_, ended)| ended.is_cancelled()));
    assert_eq!(world.gate.0.followed.load(Ordering::SeqCst), 0, "the table is not known to be true");
    let (id, later) = world.device("later", None).await;
    let later = admitted(&world.gate, "later", &later).await;
    world.remote.delete_device_credential("t", "later", id, &By::local()).await.unwrap();
    world.gate.step(&mut position).await;
    assert!(later.is_cancelled(), "the log is followed");
    world.registry.damage(&[]);
    world.gate.step(&mut position).await;
    assert!(sessions.iter().all(|(_, ended)| ended.is_cancelled()) && !valid.is_cancelled());
    assert_eq!(world.gate.0.followed.load(Ordering::SeqCst), world.clock.now());
}

#[tokio::test]
async fn limits_that_cannot_be_read_hold_up_neither_the_log_nor_other_tenants() {
    let world = World::new().await;
    let mut meters = Vec::new();
    for tenant in ["a", "b"] {
        world.admin.create_tenant(tenant, "", &By::local()).await.unwrap();
        let created = world.admin.create_device_secret(tenant, "d1", None, &By::local()).await.unwrap();
        meters.push(connect(&world.gate, "d1", created.secret.unwrap().expose()).await.unwrap().meter.unwrap());
    }
    let room = |n: usize| {
        let meter = &meters[n];
        let held: Vec<_> = std::iter::from_fn(|| meter.connect(false, Moment::now()).ok()).collect();
        held.len()
    };
    let mut position = Position::default();
    world.gate.step(&mut position).await;
    let limits = Limits { device_connections: NonZeroU64::new(2), ..Limits::default() };
    let update = TenantUpdate { limits: Some(limits), ..TenantUpdate::default() };
    world.registry.damage(&["a"]);
    for tenant in ["a", "b"] {
        world.remote.update_tenant(tenant, &update, &By::local()).await.unwrap_or_else(|error| panic!("{error}"));
    }
    world.gate.step(&mut position).await;
    assert_eq!([room(0), room(1)], [8, 2]);
    // The part of the log is not applied again, so a later one is.
    let (id, secret) = world.device("d1", None).await;
    let ended = admitted(&world.gate, "d1", &secret).await;
    world.remote.delete_device_credential("t", "d1", id, &By::local()).await.unwrap();
    world.pass(20);
    world.gate.step(&mut position).await;
    assert!(ended.is_cancelled());
    assert_eq!(world.gate.0.followed.load(Ordering::SeqCst), world.clock.now());
    let epoch = world.gate.0.live.epoch();
    world.gate.step(&mut position).await;
    assert_eq!(world.gate.0.live.epoch(), epoch, "no revocation is applied twice");
    world.registry.damage(&[]);
    world.gate.step(&mut position).await;
    assert_eq!([room(0), room(1)], [2, 2]);
}

#[tokio::test]
async fn a_change_before_the_control_log_was_first_read_is_not_missed() {
    let issued = Issued::new().await;
    let binding = issued.bind("t", ALICE, Role::Viewer).await;
    let bob = "oidc:https://login.example#bob";
    issued.bind("t", bob, Role::Viewer).await;
    let principal = issued.call(&issued.token()).await.unwrap();
    let mut claims = issued.claims();
    claims["sub"] = "bob".into();
    let goes_on = issued.call(&issued.key.token(&claims)).await.unwrap();
    issued.world.remote.delete_role_binding("t", binding, &By::local()).await.unwrap();
    issued.follow(&mut Position::default()).await;
    assert!(principal.ended.is_cancelled() && !goes_on.ended.is_cancelled());
}

#[tokio::test]
async fn an_issuer_or_a_binding_that_was_made_anew_has_its_new_content_after_a_gap() {
    let issued = Issued::new().await;
    let by = By::local();
    let binding = issued.bind("t", ALICE, Role::Admin).await;
    let first = issued.call(&issued.token()).await.unwrap();
    assert_eq!(first.role, Role::Admin);
    issued.world.remote.delete_role_binding("t", binding, &by).await.unwrap();
    issued.world.pass(1);
    assert_eq!(issued.bind("t", ALICE, Role::Viewer).await, binding);
    issued.follow(&mut Position::default()).await;
    assert!(first.ended.is_cancelled());
    let second = issued.call(&issued.token()).await.unwrap();
    assert_eq!(second.role, Role::Viewer);
    let id = Issuer::id(&issuer().url, &issuer().audience);
    issued.world.remote.delete_issuer("t", id, &by).await.unwrap();
    issued.world.pass(1);
    let other = Issuer { display_name: "new".into(), ..issuer() };
    issued.world.remote.create_issuer("t", other, &by).await.unwrap();
    issued.follow(&mut Position::default()).await;
    assert!(second.ended.is_cancelled());
    let third = issued.call(&issued.token()).await.unwrap();
    issued.follow(&mut Position::default()).await;
    assert!(!third.ended.is_cancelled());
}

#[tokio::test]
async fn an_issuer_that_is_changed_ends_its_calls_and_is_read_anew() {
    let issued = Issued::new().await;
    let by = By::local();
    issued.bind("t", ALICE, Role::Admin).await;
    let mut position = Position::default();
    issued.follow(&mut position).await;
    let before = issued.call(&issued.token()).await.unwrap();
    let id = Issuer::id(&issuer().url, &issuer().audience);
    let admin = &issued.world.remote;
    let known = admin.get_issuer("t", id, &by).await.unwrap();
    let lower = Issuer { max_role: Role::Viewer, ..issuer() };
    admin.update_issuer("t", id, lower.clone(), &known.etag(), &by).await.unwrap();
    issued.follow(&mut position).await;
    assert!(before.ended.is_cancelled());
    assert_eq!(issued.call(&issued.token()).await.unwrap().role, Role::Viewer);
    let stale = admin.update_issuer("t", id, issuer(), &known.etag(), &by).await;
    assert!(matches!(stale, Err(crate::Error::Conflict(_))), "{stale:?}");
    let elsewhere = Issuer { audience: "other".into(), ..lower };
    let moved = admin.update_issuer("t", id, elsewhere, &known.etag(), &by).await;
    assert!(matches!(moved, Err(crate::Error::Invalid { .. })), "{moved:?}");
}

#[tokio::test]
async fn a_role_binding_that_is_changed_ends_its_calls_and_its_principal_has_the_new_rights_at_once() {
    let issued = Issued::new().await;
    let by = By::local();
    issued.bind("t", ALICE, Role::Operator).await;
    for group in ["pumps", "valves"] {
        let group = NewGroup { id: group.into(), display_name: String::new(), filter: GroupFilter::None };
        issued.world.remote.create_group("t", group, &by).await.unwrap();
    }
    let mut position = Position::default();
    issued.follow(&mut position).await;
    let before = issued.call(&issued.token()).await.unwrap();
    let id = RoleBinding::id("t", ALICE);
    let admin = &issued.world.remote;
    let known = admin.get_role_binding("t", id, &by).await.unwrap();
    let groups = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    let narrow = RoleBinding { principal: ALICE.into(), role: Role::Viewer, groups: groups(&["pumps"]) };
    admin.update_role_binding("t", id, narrow.clone(), &known.etag(), &by).await.unwrap();
    issued.follow(&mut position).await;
    assert!(before.ended.is_cancelled());
    let after = issued.call(&issued.token()).await.unwrap();
    assert_eq!(after.role, Role::Viewer);
    assert!(!after.reach.is_everything());
    let stale = admin.update_role_binding("t", id, narrow.clone(), &known.etag(), &by).await;
    assert!(matches!(stale, Err(crate::Error::Conflict(_))), "{stale:?}");
    let etag = admin.get_role_binding("t", id, &by).await.unwrap().etag();
    for (binding, field) in [
        (RoleBinding { principal: "oidc:https://login.example.com#bob".into(), ..narrow.clone() }, "principal"),
        (RoleBinding { role: Role::TenantAdmin, ..narrow.clone() }, "groups"),
        (RoleBinding { groups: groups(&["none"]), ..narrow.clone() }, "groups"),
    ] {
        let refused = admin.update_role_binding("t", id, binding, &etag, &by).await;
        assert!(matches!(&refused, Err(crate::Error::Invalid { field: at, .. }) if *at == field), "{refused:?}");
    }
    // A binding above the caller is not found, and a role above it is not given.
    let lower = By { role: Role::Operator, ..By::local() };
    let raised = RoleBinding { role: Role::Admin, ..narrow.clone() };
    let refused = admin.update_role_binding("t", id, raised.clone(), &etag, &lower).await;
    assert!(matches!(&refused, Err(crate::Error::Invalid { field: "role", .. })), "{refused:?}");
    let raised = admin.update_role_binding("t", id, raised, &etag, &by).await.unwrap();
    let refused = admin.update_role_binding("t", id, narrow, &raised.etag(), &lower).await;
    assert!(matches!(refused, Err(crate::Error::NotFound(_))), "{refused:?}");
}
