//! The limits of tenants.

use std::num::NonZeroU64;

use door::quota::{Exceeded, Limits, Moment, Quota};

use super::*;
use crate::TenantUpdate;

fn devices(most: u64) -> TenantUpdate {
    let limits = Limits { device_connections: NonZeroU64::new(most), ..Limits::default() };
    TenantUpdate { limits: Some(limits), ..TenantUpdate::default() }
}

/// Connections that a device may have besides those that are open.
async fn room(gate: &Gate, secret: &Secret) -> u64 {
    let meter = connect(gate, "d1", secret.expose()).await.unwrap().meter.unwrap();
    let mut held = Vec::new();
    while let Ok(permit) = meter.connect(false, Moment::now()) {
        held.push(permit);
    }
    held.len() as u64
}

#[tokio::test]
async fn a_change_of_limits_holds_at_once_here_and_within_a_step_elsewhere() {
    let world = World::new().await;
    let (_, secret) = world.device("d1", None).await;
    let mut position = Position::default();
    world.gate.step(&mut position).await;
    assert_eq!(room(&world.gate, &secret).await, 8);
    world.admin.update_tenant("t", &devices(3), &By::local()).await.unwrap();
    assert_eq!(room(&world.gate, &secret).await, 3);
    world.remote.update_tenant("t", &devices(5), &By::local()).await.unwrap();
    assert_eq!(room(&world.gate, &secret).await, 3, "not heard of yet");
    world.gate.step(&mut position).await;
    assert_eq!(room(&world.gate, &secret).await, 5);
    let (tenant, usage) = world.admin.tenant_usage("t").await.unwrap();
    assert_eq!(tenant.limits, devices(5).limits.unwrap());
    let refused = usage.unwrap().limited.iter().find(|(quota, _)| *quota == Quota::DeviceConnections).unwrap().1;
    assert_eq!(refused, 4);
    assert_eq!(world.remote.tenant_usage("t").await.unwrap().1, None, "another process");
}

#[tokio::test]
async fn limits_that_were_set_before_the_first_connection_hold_for_it() {
    let world = World::new().await;
    let (_, secret) = world.device("d1", None).await;
    world.remote.update_tenant("t", &devices(2), &By::local()).await.unwrap();
    assert_eq!(room(&world.gate, &secret).await, 2);
}

#[tokio::test]
async fn limits_are_read_again_after_a_gap_of_the_control_log() {
    let world = World::new().await;
    let (_, secret) = world.device("d1", None).await;
    assert_eq!(room(&world.gate, &secret).await, 8);
    world.remote.update_tenant("t", &devices(2), &By::local()).await.unwrap();
    // The first step knows no place in the log.
    world.gate.step(&mut Position::default()).await;
    assert_eq!(room(&world.gate, &secret).await, 2);
}

#[tokio::test]
async fn the_secrets_of_a_device_share_its_limits_and_keys_have_their_own() {
    let world = World::new().await;
    let (_, one) = world.device("d1", None).await;
    let (_, two) = world.device("d1", None).await;
    let one = connect(&world.gate, "d1", one.expose()).await.unwrap().meter.unwrap();
    let two = connect(&world.gate, "d1", two.expose()).await.unwrap().meter.unwrap();
    let held: Vec<_> = (0..8).map(|_| one.connect(false, Moment::now()).unwrap()).collect();
    let refused = two.connect(false, Moment::now()).unwrap_err();
    assert_eq!(refused, Exceeded { quota: Quota::DeviceConnections, limit: 8, retry_after: None });
    drop(held);
    let limits =
        Limits { key_calls_per_second: NonZeroU64::new(1), key_call_burst: NonZeroU64::new(1), ..Limits::default() };
    let update = TenantUpdate { limits: Some(limits), ..TenantUpdate::default() };
    world.admin.update_tenant("t", &update, &By::local()).await.unwrap();
    for _ in 0..2 {
        let (_, key) = world.key(viewer()).await;
        let caller = async || {
            let presented = crate::Presented { bearer: Some(key.expose()), peer: None };
            world.gate.authenticate(&presented).await.unwrap().meter.unwrap()
        };
        let now = Moment::now();
        assert!(caller().await.call(now).is_ok());
        assert_eq!(caller().await.call(now).unwrap_err().quota, Quota::KeyCalls, "calls of a key are counted together");
    }
}

#[tokio::test]
async fn a_tenant_whose_limits_cannot_be_read_is_not_admitted_without_them() {
    let world = World::new().await;
    let (_, secret) = world.device("d1", None).await;
    world.registry.set_tenants_away(true);
    assert_eq!(refused(&world.gate, "d1", &secret).await, RefusalKind::Unavailable);
    world.registry.set_tenants_away(false);
    admitted(&world.gate, "d1", &secret).await;
}

#[tokio::test]
async fn limits_that_cannot_be_read_hold_up_no_revocation_and_are_read_later() {
    let world = World::new().await;
    let (id, revoked) = world.device("d1", None).await;
    let (_, secret) = world.device("d1", None).await;
    let mut position = Position::default();
    world.gate.step(&mut position).await;
    let ended = admitted(&world.gate, "d1", &revoked).await;
    world.remote.update_tenant("t", &devices(2), &By::local()).await.unwrap();
    world.remote.delete_device_credential("t", "d1", id, &By::local()).await.unwrap();
    world.registry.set_tenants_away(true);
    world.gate.step(&mut position).await;
    assert!(ended.is_cancelled());
    world.registry.set_tenants_away(false);
    assert_eq!(room(&world.gate, &secret).await, 8, "not read yet");
    world.gate.step(&mut position).await;
    assert_eq!(room(&world.gate, &secret).await, 2);
}

#[tokio::test]
async fn gates_that_tell_each_other_hold_a_limit_together_also_for_a_tenant_that_comes_into_use_later() {
    let world = World::new().await;
    let other = world.gate.clone().within(1 << 20);
    let (_, secret) = world.device("d1", None).await;
    let limits =
        Limits { connections: NonZeroU64::new(10), device_connections: NonZeroU64::new(99), ..Limits::default() };
    let update = TenantUpdate { limits: Some(limits), ..TenantUpdate::default() };
    world.admin.update_tenant("t", &update, &By::local()).await.unwrap();
    let meter = connect(&world.gate, "d1", secret.expose()).await.unwrap().meter.unwrap();
    let held: Vec<_> = (0..7).map(|_| meter.connect(false, Moment::now()).unwrap()).collect();
    let (told, left_out) = world.gate.tell_use(|_| (0, 0));
    assert_eq!((other.hear_use(&[told]), left_out), (0, 0));
    assert_eq!(room(&other, &secret).await, 3, "the tenant comes into use here");
    let usage = world.remote.clone().with_gate(other.clone()).tenant_usage("t").await.unwrap().1.unwrap();
    assert_eq!((usage.processes, usage.connections), (2, 7));
    drop(held);
    other.hear_use(&[world.gate.tell_use(|_| (0, 0)).0]);
    assert_eq!(room(&other, &secret).await, 10);
    assert_eq!(other.hear_use(&[b"of another release".to_vec()]), 1);
}
