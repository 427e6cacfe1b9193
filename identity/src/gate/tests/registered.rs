//! Devices of tenants that admit registered ones only.

use super::*;
use crate::{DeviceAdmission, NewDevice, TenantUpdate};

fn admits(admission: DeviceAdmission) -> TenantUpdate {
    TenantUpdate { device_admission: Some(admission), ..TenantUpdate::default() }
}

impl World {
    async fn refuses(&self, admin: &Admin) {
        admin.update_tenant("t", &admits(DeviceAdmission::Refuse), &By::local()).await.unwrap();
    }

    async fn register(&self, device: &str) {
        let new = NewDevice { id: device.into(), ..NewDevice::default() };
        self.admin.create_device("t", new, &By::local()).await.unwrap();
    }
}

#[tokio::test]
async fn a_device_that_is_not_registered_is_refused_until_it_is() {
    let world = World::new().await;
    let (_, secret) = world.device("d1", None).await;
    world.refuses(&world.admin).await;
    let refusal = connect(&world.gate, "d1", secret.expose()).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::NotAuthorized);
    assert_eq!(&*refusal.reason, "the device is not registered");
    world.gate.write_denials(true).await;
    let events = world.registry.audit("t", None, 1).await.unwrap();
    assert!(events[0].detail.contains("the device is not registered"), "{events:?}");
    world.register("d1").await;
    admitted(&world.gate, "d1", &secret).await;
    let lookups = world.registry.device_lookups();
    admitted(&world.gate, "d1", &secret).await;
    assert_eq!(world.registry.device_lookups(), lookups, "it is known to be");
    // Of another tenant, devices need not be registered.
    world.admin.create_tenant("u", "", &By::local()).await.unwrap();
    let other = world.admin.create_device_secret("u", "d2", None, &By::local()).await.unwrap().secret.unwrap();
    admitted(&world.gate, "d2", &other).await;
}

#[tokio::test]
async fn a_deleted_device_is_disconnected_at_once_here_and_within_a_step_elsewhere() {
    let world = World::new().await;
    world.refuses(&world.admin).await;
    let (_, one) = world.device("d1", None).await;
    let (_, two) = world.device("d2", None).await;
    world.register("d1").await;
    world.register("d2").await;
    let mut position = Position::default();
    world.gate.step(&mut position).await;
    let (first, second) = (admitted(&world.gate, "d1", &one).await, admitted(&world.gate, "d2", &two).await);
    world.admin.delete_device("t", "d1", None, &By::local()).await.unwrap();
    assert!(first.is_cancelled() && !second.is_cancelled());
    assert_eq!(refused(&world.gate, "d1", &one).await, RefusalKind::NotAuthorized);
    world.remote.delete_device("t", "d2", None, &By::local()).await.unwrap();
    assert!(!second.is_cancelled(), "not heard of yet");
    world.gate.step(&mut position).await;
    assert!(second.is_cancelled());
    world.remote.undelete_device("t", "d2", &By::local()).await.unwrap();
    admitted(&world.gate, "d2", &two).await;
}

#[tokio::test]
async fn sessions_end_of_devices_that_are_not_registered_when_their_tenant_comes_to_refuse_them() {
    for is_here in [true, false] {
        let world = World::new().await;
        let (_, one) = world.device("d1", None).await;
        let (_, two) = world.device("d2", None).await;
        world.register("d1").await;
        let (first, second) = (admitted(&world.gate, "d1", &one).await, admitted(&world.gate, "d2", &two).await);
        let mut position = Position::default();
        world.gate.step(&mut position).await;
        world.refuses(if is_here { &world.admin } else { &world.remote }).await;
        // One reads the change, the next one the devices.
        world.gate.step(&mut position).await;
        world.gate.step(&mut position).await;
        assert!(!first.is_cancelled() && second.is_cancelled());
        assert_eq!(refused(&world.gate, "d2", &two).await, RefusalKind::NotAuthorized);
        world.remote.delete_device("t", "d1", None, &By::local()).await.unwrap();
        world.gate.step(&mut position).await;
        assert!(first.is_cancelled(), "it is followed, too");
        world.admin.update_tenant("t", &admits(DeviceAdmission::Auto), &By::local()).await.unwrap();
        admitted(&world.gate, "d2", &two).await;
    }
}

#[tokio::test]
async fn a_deletion_is_applied_after_a_gap_and_when_the_registry_is_back() {
    let world = World::new().await;
    world.refuses(&world.admin).await;
    let (_, secret) = world.device("d1", None).await;
    world.register("d1").await;
    let ended = admitted(&world.gate, "d1", &secret).await;
    let mut position = Position::default();
    world.gate.step(&mut position).await;
    world.registry.damage(&["d1", "d2"]);
    world.remote.delete_device("t", "d1", None, &By::local()).await.unwrap();
    world.gate.step(&mut position).await;
    assert!(!ended.is_cancelled(), "nothing is known");
    admitted(&world.gate, "d1", &secret).await;
    let (_, other) = world.device("d2", None).await;
    assert_eq!(refused(&world.gate, "d2", &other).await, RefusalKind::Unavailable);
    world.registry.damage(&[]);
    world.gate.step(&mut position).await;
    assert!(ended.is_cancelled());
    world.remote.undelete_device("t", "d1", &By::local()).await.unwrap();
    let ended = admitted(&world.gate, "d1", &secret).await;
    world.remote.delete_device("t", "d1", None, &By::local()).await.unwrap();
    // It knows no place in the log.
    world.gate.step(&mut Position::default()).await;
    assert!(ended.is_cancelled());
}

#[tokio::test]
async fn devices_that_are_gone_leave_the_table() {
    let world = World::bounded(Bounds { entries: 16, ..BOUNDS }).await;
    world.refuses(&world.admin).await;
    for device in 0..300 {
        let device = format!("d{device}");
        let (_, secret) = world.device(&device, None).await;
        assert_eq!(refused(&world.gate, &device, &secret).await, RefusalKind::NotAuthorized);
    }
    assert!(world.gate.0.registered.len() <= 128, "{}", world.gate.0.registered.len());
}
