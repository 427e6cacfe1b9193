//! The rules of the deletion of tenants, and of their features.

use std::collections::BTreeMap;

use model::time::SECOND;

use super::{NOW, device, group, key, origin, secret, tenant};
use crate::registry::{
    ChangeKind, DeletionStep, DeviceAdmission, Error, INSTALLATION, MemberChange, Origin, PlaceCount, Registry,
    Residual, TenantState, TenantUpdate, Worker,
};

fn at(seconds: i64) -> Origin {
    Origin { at: NOW + seconds * SECOND, ..origin() }
}

fn asked_for(purge: i64) -> DeletionStep {
    DeletionStep::Request { version: None, reason: "contract ended".into(), purge: NOW + purge * SECOND }
}

fn claim(name: &str, until: i64) -> DeletionStep {
    DeletionStep::Claim(worker(name, until))
}

fn worker(name: &str, until: i64) -> Worker {
    Worker { name: name.into(), until: NOW + until * SECOND }
}

fn end(worker: &str) -> DeletionStep {
    let residual = Residual { place: "log".into(), reason: "until it is trimmed".into(), expires: None };
    DeletionStep::End { worker: worker.into(), residuals: vec![residual] }
}

async fn kinds(registry: &dyn Registry) -> Vec<ChangeKind> {
    registry.changes(0, 99).await.unwrap().entries.iter().map(|change| change.kind).collect()
}

pub(crate) async fn a_tenant_is_deleted_step_by_step_and_its_id_is_not_given_again(registry: &dyn Registry) {
    for id in ["a", "b"] {
        registry.create_tenant(tenant(id), &Origin { request_id: Some("r".into()), ..origin() }).await.unwrap();
        for device in ["d1", "d2", "d3"] {
            registry.create_credential(secret(id, device), &origin()).await.unwrap();
        }
        registry.create_credential(key(id), &origin()).await.unwrap();
        registry.create_group(group(id, "g"), &origin()).await.unwrap();
        let members = MemberChange { added: vec!["d1".into()], removed: Vec::new() };
        registry.change_members(id, "g", &members, &origin()).await.unwrap();
        registry.create_device(device(id, "d1"), &origin()).await.unwrap();
    }
    let early = registry.delete_tenant("a", &claim("p1", 60), &at(0)).await;
    assert!(matches!(early, Err(Error::Invalid { .. })), "{early:?}");
    let deleting = registry.delete_tenant("a", &asked_for(10), &at(0)).await.unwrap();
    assert_eq!((deleting.state, deleting.version), (TenantState::Deleting, 2));
    let again = registry.delete_tenant("a", &asked_for(20), &at(1)).await.unwrap();
    assert_eq!(again, deleting, "the earlier time counts");
    let credential = secret("a", "d4");
    let refused = registry.create_credential(credential, &at(2)).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    let resumed = registry.set_tenant_state("a", TenantState::Active, &at(2)).await;
    assert!(matches!(resumed, Err(Error::Invalid { .. })), "{resumed:?}");
    let named = TenantUpdate { display_name: Some("N".into()), ..Default::default() };
    assert!(matches!(registry.update_tenant("a", &named, &at(2)).await, Err(Error::Invalid { .. })));
    assert!(matches!(registry.remove_rows("a", 2).await, Err(Error::Invalid { .. })));
    assert_eq!(
        registry.delete_tenant("a", &claim("p1", 60), &at(9)).await,
        Err(Error::Conflict("tenants/a".into())),
        "its time has not come"
    );
    let purging = registry.delete_tenant("a", &claim("p1", 60), &at(10)).await.unwrap();
    assert_eq!(purging.state, TenantState::Purging);
    assert_eq!(purging.deletion.as_ref().unwrap().started, Some(NOW + 10 * SECOND));
    assert!(matches!(registry.delete_tenant("a", &DeletionStep::Cancel, &at(11)).await, Err(Error::Invalid { .. })));
    assert_eq!(registry.count_rows("a").await.unwrap(), 6);
    let mut slices = Vec::new();
    loop {
        slices.push(registry.remove_rows("a", 3).await.unwrap());
        if slices.last() == Some(&0) {
            break;
        }
    }
    // Credentials, the last of them, the device, the group, the request, nothing.
    assert_eq!(slices, [3, 1, 1, 1, 1, 0]);
    assert_eq!((registry.count_rows("a").await.unwrap(), registry.count_rows("b").await.unwrap()), (0, 6));
    assert!(registry.members("a", "g", "", 9).await.unwrap().is_empty());
    assert_eq!(registry.members("b", "g", "", 9).await.unwrap(), ["d1"]);
    assert!(registry.device_credentials("a", None, None, 9).await.unwrap().is_empty());
    let deleted = registry.delete_tenant("a", &end("p1"), &at(20)).await.unwrap();
    assert_eq!((deleted.state, deleted.display_name.as_str()), (TenantState::Deleted, ""));
    assert_eq!(registry.delete_tenant("a", &end("p1"), &at(21)).await.unwrap(), deleted, "nothing has changed");
    assert_eq!(registry.tenant("a").await.unwrap(), Some(deleted.clone()));
    let deletion = deleted.deletion.unwrap();
    assert_eq!((deletion.ended, deletion.residuals.len()), (Some(NOW + 20 * SECOND), 1));
    let exists = registry.create_tenant(tenant("a"), &at(30)).await;
    assert_eq!(exists, Err(Error::Exists("tenants/a".into())));
    for chain in ["a", INSTALLATION] {
        let events = registry.audit(chain, None, 1).await.unwrap();
        assert_eq!((events[0].resource.as_str(), events[0].principal.as_str()), ("tenants/a", "local"));
        for part in ["DELETED", "contract ended", "until it is trimmed"] {
            assert!(events[0].detail.contains(part), "{part} is not in {}", events[0].detail);
        }
        assert_eq!(registry.verify_audit(chain, None).await.unwrap().fault, None);
    }
    assert!(kinds(registry).await.ends_with(&[ChangeKind::TenantSuspended, ChangeKind::TenantPurging]));
}

pub(crate) async fn a_tenant_that_is_to_be_deleted_can_be_restored(registry: &dyn Registry) {
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    let id = registry.create_credential(secret("a", "d"), &origin()).await.unwrap().row.id;
    let stale = DeletionStep::Request { version: Some(7), reason: String::new(), purge: NOW };
    assert_eq!(registry.delete_tenant("a", &stale, &at(0)).await, Err(Error::Conflict("tenants/a".into())));
    registry.set_tenant_state("a", TenantState::Suspended, &at(0)).await.unwrap();
    registry.delete_tenant("a", &asked_for(10), &at(0)).await.unwrap();
    let restored = registry.delete_tenant("a", &DeletionStep::Cancel, &at(1)).await.unwrap();
    assert_eq!((restored.state, restored.deletion.is_none()), (TenantState::Suspended, true), "as it was");
    registry.set_tenant_state("a", TenantState::Active, &at(2)).await.unwrap();
    registry.delete_tenant("a", &asked_for(10), &at(3)).await.unwrap();
    assert_eq!(registry.credential(id).await.unwrap().unwrap().tenant, TenantState::Deleting);
    let restored = registry.delete_tenant("a", &DeletionStep::Cancel, &at(4)).await.unwrap();
    assert_eq!(restored.state, TenantState::Active);
    assert_eq!(registry.delete_tenant("a", &DeletionStep::Cancel, &at(5)).await.unwrap(), restored);
    assert_eq!(registry.credential(id).await.unwrap().unwrap().tenant, TenantState::Active);
    assert_eq!(kinds(registry).await.last(), Some(&ChangeKind::TenantActive));
    let missing = registry.delete_tenant("z", &asked_for(1), &at(0)).await;
    assert_eq!(missing, Err(Error::NotFound("tenants/z".into())));
}

pub(crate) async fn one_process_at_a_time_removes_the_data_of_a_tenant(registry: &dyn Registry) {
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    registry.delete_tenant("a", &asked_for(0), &at(0)).await.unwrap();
    registry.delete_tenant("a", &claim("p1", 60), &at(1)).await.unwrap();
    let taken = || Err(Error::Conflict("tenants/a".into()));
    assert_eq!(registry.delete_tenant("a", &claim("p2", 90), &at(30)).await, taken());
    let counts = vec![PlaceCount { place: "store".into(), kind: "readings".into(), count: 7 }];
    let progress = |worker: Worker| DeletionStep::Progress { worker, counts: None, trouble: Some("away".into()) };
    let counted = DeletionStep::Progress { worker: worker("p1", 61), counts: Some(counts.clone()), trouble: None };
    registry.delete_tenant("a", &counted, &at(31)).await.unwrap();
    assert_eq!(registry.delete_tenant("a", &progress(worker("p2", 99)), &at(32)).await, taken());
    // The first one has shown nothing for too long.
    registry.delete_tenant("a", &claim("p2", 120), &at(62)).await.unwrap();
    for late in [progress(worker("p1", 200)), end("p1"), claim("p1", 200)] {
        assert_eq!(registry.delete_tenant("a", &late, &at(63)).await, taken());
    }
    // The same process, which was started again, goes on at once.
    registry.delete_tenant("a", &claim("p2", 130), &at(64)).await.unwrap();
    let known = registry.delete_tenant("a", &progress(worker("p2", 140)), &at(65)).await.unwrap().deletion.unwrap();
    assert_eq!((known.counts, known.trouble.as_deref()), (Some(counts), Some("away")), "counts are kept");
    assert_eq!(registry.audit("a", None, 99).await.unwrap().len(), 3, "progress is not audited");
}

pub(crate) async fn features_are_changed_with_a_tenant(registry: &dyn Registry) {
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    let features: BTreeMap<String, bool> = [("x-beta".to_owned(), true), ("x-old".to_owned(), false)].into();
    let update = TenantUpdate { features: Some(features.clone()), ..Default::default() };
    let changed = registry.update_tenant("a", &update, &origin()).await.unwrap();
    assert_eq!((&changed.features, changed.version), (&features, 2));
    assert_eq!(registry.update_tenant("a", &update, &origin()).await.unwrap(), changed);
    assert_eq!(registry.tenant("a").await.unwrap(), Some(changed));
    let events = registry.audit("a", None, 9).await.unwrap();
    assert_eq!(events[0].detail, r#"{"features":{"x-beta":true,"x-old":false}}"#);
    let update = TenantUpdate { device_admission: Some(DeviceAdmission::Refuse), ..Default::default() };
    let changed = registry.update_tenant("a", &update, &origin()).await.unwrap();
    assert_eq!((changed.device_admission, changed.version), (DeviceAdmission::Refuse, 3));
    assert_eq!(registry.tenant("a").await.unwrap().unwrap(), changed);
}
