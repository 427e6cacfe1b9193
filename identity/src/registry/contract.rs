//! The rules that every registry keeps, as tests that take any registry.

use std::net::IpAddr;

use door::quota::Limits;
use model::Nanos;
use model::time::SECOND;

use super::{
    ChangeKind, Checkpoint, Class, Created, Credential, CredentialKind, Denial, Error, Fault, INSTALLATION, KeyRights,
    Origin, Owner, Registry, Result, RoleBinding, Tenant, TenantState, TenantUpdate, Use,
};
use crate::{CredentialId, Digest, Role, Token, TokenKind};

/// Makes a test of each rule.
macro_rules! contract {
    ($open:expr) => {
        contract!($open;
            tenants_are_listed_in_pages_in_order,
            a_tenant_is_created_once,
            the_state_of_a_tenant_is_found_with_its_credentials,
            a_tenant_is_changed_in_the_version_that_was_read,
            credentials_are_listed_by_class,
            an_id_is_taken_once,
            a_credential_needs_a_tenant,
            a_fourth_secret_is_refused_until_one_has_expired,
            devices_whose_client_ids_clash_do_not_exist_beside_each_other,
            only_its_tenant_and_device_delete_a_credential,
            a_repeat_within_a_day_creates_nothing,
            a_request_id_is_for_one_request,
            a_repeat_shows_nothing_of_another_tenant,
            lists_are_paged_and_hold_one_tenant_only,
            a_use_is_recorded_and_moves_the_digest_to_a_new_pepper,
            each_change_has_its_audit_event,
            denials_are_audited,
            a_chain_contains_its_checkpoints,
            the_control_log_numbers_each_change,
            peppers_of_another_registry_are_refused
        );
    };
    ($open:expr; $($rule:ident),*) => {
        $(#[tokio::test]
        async fn $rule() {
            let (_dir, registry) = $open;
            crate::registry::contract::$rule(&registry).await;
        })*
    };
}
pub(crate) use contract;

const KEYS: Owner<'_> = Owner::Tenant(Class::ApiKey);

pub(crate) const NOW: Nanos = 1_700_000_000 * SECOND;

pub(crate) fn origin() -> Origin {
    Origin { by: "local".into(), method: "Test", address: None, request_id: None, at: NOW }
}

fn request(id: &str, at: Nanos) -> Origin {
    Origin { request_id: Some(id.into()), at, ..origin() }
}

pub(crate) fn tenant(id: &str) -> Tenant {
    Tenant {
        id: id.into(),
        display_name: "T".into(),
        state: TenantState::Active,
        created: NOW,
        version: 1,
        limits: Limits::default(),
    }
}

pub(crate) fn secret(tenant: &str, device: &str) -> Credential {
    let token = Token::generate(TokenKind::DeviceSecret).unwrap();
    Credential {
        id: token.id(),
        tenant: tenant.into(),
        kind: CredentialKind::DeviceSecret { device: device.into() },
        created: NOW,
        expires: None,
        digest: Some(Digest { pepper: 1, hmac: [7; 32] }),
    }
}

pub(crate) fn key(tenant: &str) -> Credential {
    let rights = KeyRights {
        display_name: "dashboard".into(),
        role: Role::Viewer,
        scopes: vec!["telemetry.read".into()],
        allowed_networks: vec!["10.0.0.0/8".into()],
    };
    Credential { kind: CredentialKind::ApiKey(rights), ..secret(tenant, "-") }
}

async fn with_tenants(registry: &dyn Registry, ids: &[&str]) {
    for id in ids {
        registry.create_tenant(tenant(id), &origin()).await.unwrap();
    }
}

async fn create(registry: &dyn Registry, credential: Credential) -> Result<CredentialId> {
    registry.create_credential(credential, &origin()).await.map(|created| created.row.id)
}

pub(crate) async fn tenants_are_listed_in_pages_in_order(registry: &dyn Registry) {
    with_tenants(registry, &["c", "a", "b"]).await;
    let ids = |tenants: Vec<Tenant>| tenants.into_iter().map(|tenant| tenant.id).collect::<Vec<_>>();
    assert_eq!(ids(registry.tenants("", 2).await.unwrap()), ["a", "b"]);
    assert_eq!(ids(registry.tenants("b", 2).await.unwrap()), ["c"]);
    assert_eq!(registry.tenant("a").await.unwrap(), Some(tenant("a")));
    assert_eq!(registry.tenant("d").await.unwrap(), None);
}

pub(crate) async fn a_tenant_is_created_once(registry: &dyn Registry) {
    let first = registry.create_tenant(tenant("a"), &request("r", NOW)).await.unwrap();
    assert_eq!(first, Created { row: tenant("a"), is_repeat: false });
    let again = registry.create_tenant(tenant("a"), &request("r", NOW + SECOND)).await.unwrap();
    assert_eq!(again, Created { row: tenant("a"), is_repeat: true });
    let other = registry.create_tenant(tenant("a"), &request("s", NOW)).await;
    assert_eq!(other, Err(Error::Exists("tenants/a".into())));
    assert_eq!(registry.audit("a", None, 9).await.unwrap().len(), 1);
}

pub(crate) async fn the_state_of_a_tenant_is_found_with_its_credentials(registry: &dyn Registry) {
    with_tenants(registry, &["a"]).await;
    let id = create(registry, secret("a", "d")).await.unwrap();
    let state = async || registry.credential(id).await.unwrap().unwrap().tenant;
    assert_eq!(state().await, TenantState::Active);
    let suspended = registry.set_tenant_state("a", TenantState::Suspended, &origin()).await.unwrap();
    assert_eq!((suspended.state, suspended.version), (TenantState::Suspended, 2));
    assert_eq!(state().await, TenantState::Suspended);
    let same = registry.set_tenant_state("a", TenantState::Suspended, &origin()).await.unwrap();
    assert_eq!(same.version, 2, "nothing has changed");
    registry.set_tenant_state("a", TenantState::Active, &origin()).await.unwrap();
    assert_eq!(state().await, TenantState::Active);
    let missing = registry.set_tenant_state("b", TenantState::Active, &origin()).await;
    assert_eq!(missing, Err(Error::NotFound("tenants/b".into())));
}

pub(crate) async fn a_tenant_is_changed_in_the_version_that_was_read(registry: &dyn Registry) {
    with_tenants(registry, &["a"]).await;
    let named = |name: &str, version| TenantUpdate { display_name: Some(name.into()), version, ..Default::default() };
    let changed = registry.update_tenant("a", &named("N", Some(1)), &origin()).await.unwrap();
    assert_eq!((changed.display_name.as_str(), changed.version), ("N", 2));
    assert_eq!(registry.tenant("a").await.unwrap(), Some(changed.clone()));
    let stale = registry.update_tenant("a", &named("O", Some(1)), &origin()).await;
    assert_eq!(stale, Err(Error::Conflict("tenants/a".into())));
    for same in [named("N", None), named("N", Some(2)), TenantUpdate::default()] {
        assert_eq!(registry.update_tenant("a", &same, &origin()).await.unwrap(), changed, "nothing has changed");
    }
    assert_eq!(registry.update_tenant("a", &named("O", None), &origin()).await.unwrap().version, 3);
    let limits = Limits { connections: std::num::NonZeroU64::new(5), ..Limits::default() };
    let limited = TenantUpdate { limits: Some(limits), ..Default::default() };
    let limited = registry.update_tenant("a", &limited, &origin()).await.unwrap();
    assert_eq!((limited.limits, limited.version, limited.display_name.as_str()), (limits, 4, "O"));
    assert_eq!(registry.tenant("a").await.unwrap(), Some(limited));
    let missing = registry.update_tenant("b", &named("N", None), &origin()).await;
    assert_eq!(missing, Err(Error::NotFound("tenants/b".into())));
    let events = registry.audit("a", None, 9).await.unwrap();
    let details: Vec<_> = events.iter().map(|event| event.detail.as_str()).collect();
    let wanted = [r#"{"limits":{"connections":5}}"#, r#"{"display_name":"O"}"#, r#"{"display_name":"N"}"#];
    assert_eq!(details[..3], wanted);
    let changes = registry.changes(1, 9).await.unwrap().entries;
    assert_eq!(changes.iter().map(|change| change.kind).collect::<Vec<_>>(), [ChangeKind::TenantUpdated; 3]);
}

pub(crate) async fn credentials_are_listed_by_class(registry: &dyn Registry) {
    with_tenants(registry, &["a"]).await;
    let of = |kind: CredentialKind| Credential { kind, digest: None, ..secret("a", "-") };
    let url = "https://login.example.com".to_owned();
    let issuer =
        crate::Issuer { display_name: "login".into(), url, audience: "weir".into(), ..crate::Issuer::default() };
    let binding = RoleBinding { principal: "oidc:https://login.example.com#1".into(), role: Role::Admin };
    let (algorithm, public_key) = ("ES256".into(), "-----BEGIN PUBLIC KEY-----".into());
    let rows = [
        of(CredentialKind::Issuer(issuer)),
        of(CredentialKind::RoleBinding(binding)),
        of(CredentialKind::DeviceKey { device: "d".into(), algorithm, public_key }),
        key("a"),
        secret("a", "d"),
    ];
    for row in &rows {
        create(registry, row.clone()).await.unwrap();
        assert_eq!(registry.credential(row.id).await.unwrap().unwrap().credential, *row, "as it was created");
    }
    for (class, row) in [(Class::Issuer, &rows[0]), (Class::RoleBinding, &rows[1]), (Class::ApiKey, &rows[3])] {
        let listed = registry.tenant_credentials("a", class, None, 9).await.unwrap();
        assert_eq!(listed.iter().map(|listed| &listed.credential).collect::<Vec<_>>(), [row]);
    }
    assert!(registry.tenant_credentials("a", Class::Device, None, 9).await.unwrap().is_empty());
    assert_eq!(registry.device_credentials("a", Some("d"), None, 9).await.unwrap().len(), 2);
    for row in &rows {
        registry.delete_credential("a", row.owner(), row.id, &origin()).await.unwrap();
        assert_eq!(registry.credential(row.id).await.unwrap(), None);
    }
    assert!(registry.device_credentials("a", None, None, 9).await.unwrap().is_empty());
}

pub(crate) async fn an_id_is_taken_once(registry: &dyn Registry) {
    with_tenants(registry, &["a", "b"]).await;
    let first = key("a");
    create(registry, first.clone()).await.unwrap();
    let second = Credential { tenant: "b".into(), ..first.clone() };
    assert_eq!(create(registry, second).await, Err(Error::Exists(first.name())));
    assert_eq!(registry.credential(first.id).await.unwrap().unwrap().credential, first);
    assert_eq!(registry.verify_audit("b", None).await.unwrap().verified.sequence, 1);
}

pub(crate) async fn a_credential_needs_a_tenant(registry: &dyn Registry) {
    for credential in [secret("a", "d"), key("a")] {
        let id = credential.id;
        assert_eq!(create(registry, credential).await, Err(Error::NotFound("tenants/a".into())));
        assert_eq!(registry.credential(id).await.unwrap(), None);
    }
    assert_eq!(registry.changes(0, 9).await.unwrap().newest, 0);
    assert!(registry.audit("a", None, 9).await.unwrap().is_empty());
}

pub(crate) async fn a_fourth_secret_is_refused_until_one_has_expired(registry: &dyn Registry) {
    with_tenants(registry, &["a"]).await;
    let expiring = Credential { expires: Some(NOW + SECOND), ..secret("a", "d") };
    create(registry, expiring.clone()).await.unwrap();
    create(registry, secret("a", "d")).await.unwrap();
    create(registry, secret("a", "d")).await.unwrap();
    create(registry, secret("a", "d2")).await.unwrap();
    let fourth = create(registry, secret("a", "d")).await;
    assert!(matches!(fourth, Err(Error::Limit { most: 3, .. })), "{fourth:?}");
    let later = Origin { at: NOW + SECOND, ..origin() };
    let newest = registry.changes(0, 0).await.unwrap().newest;
    let new = registry.create_credential(secret("a", "d"), &later).await.unwrap().row;
    assert_eq!(registry.credential(expiring.id).await.unwrap(), None);
    assert_eq!(registry.device_credentials("a", Some("d"), None, 9).await.unwrap().len(), 3);
    let changes = registry.changes(newest, 9).await.unwrap().entries;
    let kinds: Vec<_> = changes.iter().map(|change| change.kind).collect();
    assert_eq!(kinds, [ChangeKind::Deleted(expiring.id), ChangeKind::Created(new.id)]);
    let events = registry.audit("a", None, 2).await.unwrap();
    assert_eq!([&events[0].resource, &events[1].resource], [&new.name(), &expiring.name()]);
    assert!(events[1].granted && events[1].detail.contains("expired"), "{:?}", events[1]);
    assert_eq!(registry.verify_audit("a", None).await.unwrap().fault, None);
}

pub(crate) async fn devices_whose_client_ids_clash_do_not_exist_beside_each_other(registry: &dyn Registry) {
    with_tenants(registry, &["a", "b"]).await;
    let clashes = async |tenant: &str, device: &str| match create(registry, secret(tenant, device)).await {
        Err(Error::Invalid { field: "device", .. }) => true,
        outcome => {
            outcome.unwrap();
            false
        }
    };
    assert!(!clashes("a", "x:y:z").await && !clashes("a", "x:y:z").await);
    assert!(clashes("a", "x").await && clashes("a", "x:y").await && clashes("a", "x:y:z:1").await);
    assert!(!clashes("a", "x:z").await);
    assert!(!clashes("a", "x;").await && !clashes("a", "xx").await && !clashes("b", "x").await);
    assert!(clashes("b", "x:y").await);
}

pub(crate) async fn only_its_tenant_and_device_delete_a_credential(registry: &dyn Registry) {
    with_tenants(registry, &["a", "b"]).await;
    let device = create(registry, secret("a", "d")).await.unwrap();
    let caller = create(registry, key("a")).await.unwrap();
    let others = [
        ("b", Owner::Device("d"), device),
        ("a", Owner::Device("e"), device),
        ("a", Owner::Tenant(Class::Device), device),
        ("a", KEYS, device),
        ("b", KEYS, caller),
        ("a", Owner::Tenant(Class::Issuer), caller),
        ("a", Owner::Device("-"), caller),
    ];
    for (tenant, owner, id) in others {
        let refused = registry.delete_credential(tenant, owner, id, &origin()).await;
        assert_eq!(refused, Err(Error::NotFound(format!("credential {id}"))), "the answer for one that is missing");
    }
    registry.delete_credential("a", Owner::Device("d"), device, &origin()).await.unwrap();
    registry.delete_credential("a", KEYS, caller, &origin()).await.unwrap();
    for id in [device, caller] {
        assert_eq!(registry.credential(id).await.unwrap(), None);
    }
    assert!(registry.device_credentials("a", None, None, 9).await.unwrap().is_empty());
    assert!(registry.tenant_credentials("a", Class::ApiKey, None, 9).await.unwrap().is_empty());
}

pub(crate) async fn a_repeat_within_a_day_creates_nothing(registry: &dyn Registry) {
    with_tenants(registry, &["a"]).await;
    let first = registry.create_credential(key("a"), &request("r", NOW)).await.unwrap();
    assert!(!first.is_repeat);
    let day = 24 * 3600 * SECOND;
    let repeat = registry.create_credential(key("a"), &request("r", NOW + day - 1)).await.unwrap();
    assert_eq!(repeat, Created { row: first.row.clone(), is_repeat: true });
    assert_eq!(registry.tenant_credentials("a", Class::ApiKey, None, 9).await.unwrap().len(), 1);
    let next = registry.create_credential(key("a"), &request("r", NOW + day)).await.unwrap();
    assert!(!next.is_repeat && next.row.id != first.row.id);
    registry.delete_credential("a", KEYS, next.row.id, &origin()).await.unwrap();
    let gone = registry.create_credential(key("a"), &request("r", NOW + day)).await;
    let Err(Error::Invalid { field: "request_id", reason }) = gone else { panic!("{gone:?}") };
    assert!(reason.contains("deleted") && reason.contains("another request id"), "{reason}");
}

pub(crate) async fn a_request_id_is_for_one_request(registry: &dyn Registry) {
    with_tenants(registry, &["a", "b"]).await;
    registry.create_credential(secret("a", "d"), &request("r", NOW)).await.unwrap();
    let refused = |outcome: Result<Created<Credential>>| {
        assert!(matches!(outcome, Err(Error::Invalid { field: "request_id", .. })), "{outcome:?}");
    };
    refused(registry.create_credential(secret("a", "e"), &request("r", NOW)).await);
    refused(registry.create_credential(key("a"), &request("r", NOW)).await);
    let another = Origin { by: "apiKeys/x".into(), ..request("r", NOW) };
    refused(registry.create_credential(secret("a", "d"), &another).await);
    let elsewhere = registry.create_credential(secret("b", "d"), &request("r", NOW)).await.unwrap();
    assert!(!elsewhere.is_repeat, "request ids belong to a tenant");
}

pub(crate) async fn a_repeat_shows_nothing_of_another_tenant(registry: &dyn Registry) {
    with_tenants(registry, &["a", "b"]).await;
    // Ids of some classes are derived from the content: another tenant may have the same one later.
    let first = registry.create_credential(key("a"), &request("r", NOW)).await.unwrap().row;
    registry.delete_credential("a", KEYS, first.id, &origin()).await.unwrap();
    create(registry, Credential { tenant: "b".into(), ..first.clone() }).await.unwrap();
    let repeat = registry.create_credential(first, &request("r", NOW)).await;
    assert!(matches!(repeat, Err(Error::Invalid { field: "request_id", .. })), "{repeat:?}");
}

pub(crate) async fn lists_are_paged_and_hold_one_tenant_only(registry: &dyn Registry) {
    with_tenants(registry, &["a", "a2"]).await;
    for device in ["d1", "d1", "d10", "d2"] {
        create(registry, secret("a", device)).await.unwrap();
    }
    for tenant in ["a2", "a", "a"] {
        create(registry, key(tenant)).await.unwrap();
    }
    create(registry, secret("a2", "d1")).await.unwrap();
    let mut devices = Vec::new();
    let mut after: Option<(String, CredentialId)> = None;
    loop {
        let from = after.as_ref().map(|(device, id)| (device.as_str(), *id));
        let page = registry.device_credentials("a", None, from, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some((last.credential.device().unwrap().to_owned(), last.credential.id));
        devices.extend(page.iter().map(|listed| listed.credential.device().unwrap().to_owned()));
    }
    assert_eq!(devices, ["d1", "d1", "d10", "d2"]);
    let one = registry.device_credentials("a", Some("d1"), None, 9).await.unwrap();
    assert_eq!(one.len(), 2);
    let rest = registry.device_credentials("a", Some("d1"), Some(("d1", one[0].credential.id)), 9).await.unwrap();
    assert_eq!(rest, one[1..]);
    let keys = registry.tenant_credentials("a", Class::ApiKey, None, 9).await.unwrap();
    assert_eq!(keys.len(), 2);
    assert!(keys.is_sorted_by_key(|listed| listed.credential.id));
    assert_eq!(
        registry.tenant_credentials("a", Class::ApiKey, Some(keys[0].credential.id), 9).await.unwrap(),
        keys[1..]
    );
}

pub(crate) async fn a_use_is_recorded_and_moves_the_digest_to_a_new_pepper(registry: &dyn Registry) {
    with_tenants(registry, &["a"]).await;
    let credential = secret("a", "d");
    create(registry, credential.clone()).await.unwrap();
    let newer = Digest { pepper: 2, hmac: [9; 32] };
    let deleted = Use { id: secret("a", "d").id, at: NOW, digest: Some(newer) };
    let uses = [Use { id: credential.id, at: NOW + 5, digest: None }, deleted];
    registry.record_uses(&uses).await.unwrap();
    let found = registry.credential(credential.id).await.unwrap().unwrap();
    assert_eq!((found.last_use, &found.credential), (Some(NOW + 5), &credential));
    assert_eq!(registry.credential(deleted.id).await.unwrap(), None);
    registry.record_uses(&[Use { id: credential.id, at: NOW + 6, digest: Some(newer) }]).await.unwrap();
    let older = Use { id: credential.id, at: NOW + 6, digest: credential.digest };
    registry.record_uses(&[older]).await.unwrap();
    assert_eq!(registry.credential(credential.id).await.unwrap().unwrap().credential.digest, Some(newer));
    assert_eq!(registry.device_credentials("a", None, None, 1).await.unwrap()[0].last_use, Some(NOW + 6));
}

pub(crate) async fn each_change_has_its_audit_event(registry: &dyn Registry) {
    let address: IpAddr = [10, 0, 0, 1].into();
    let by = Origin { address: Some(address), request_id: Some("r".into()), by: "apiKeys/x".into(), ..origin() };
    with_tenants(registry, &["a"]).await;
    let id = registry.create_credential(key("a"), &by).await.unwrap().row.id;
    registry.delete_credential("a", KEYS, id, &origin()).await.unwrap();
    registry.delete_credential("a", KEYS, id, &origin()).await.unwrap_err();
    registry.set_tenant_state("a", TenantState::Suspended, &origin()).await.unwrap();
    registry.set_tenant_state("a", TenantState::Suspended, &origin()).await.unwrap();
    let events = registry.audit("a", None, 9).await.unwrap();
    let seen: Vec<_> = events.iter().map(|event| (event.sequence, event.resource.as_str())).collect();
    let name = format!("apiKeys/{id}");
    assert_eq!(seen, [(4, "tenants/a"), (3, &name), (2, &name), (1, "tenants/a")]);
    let created = &events[2];
    assert!(created.granted && created.count == 1 && created.at == NOW && created.method == "Test");
    assert_eq!((created.principal.as_str(), created.address.as_deref()), ("apiKeys/x", Some("10.0.0.1")));
    assert_eq!(created.request_id.as_deref(), Some("r"));
    assert!(created.detail.contains("telemetry.read") && created.detail.contains("10.0.0.0/8"));
    assert_eq!(registry.audit("a", Some(3), 1).await.unwrap(), events[2..3]);
    let report = registry.verify_audit("a", None).await.unwrap();
    assert_eq!((report.verified.sequence, report.fault), (4, None));
    assert_eq!(report.verified.hash, events[0].hash);
}

pub(crate) async fn denials_are_audited(registry: &dyn Registry) {
    let denial = |tenant: &str, count| Denial {
        tenant: tenant.into(),
        principal: "devices/d".into(),
        method: "Connect".into(),
        address: Some([10, 0, 0, 1].into()),
        reason: "wrong".into(),
        at: NOW,
        count,
    };
    registry.record_denials(&[denial(INSTALLATION, 1), denial("a", 40), denial("a", 2)]).await.unwrap();
    let events = registry.audit("a", None, 9).await.unwrap();
    let counts: Vec<_> = events.iter().map(|event| (event.sequence, event.count, event.granted)).collect();
    assert_eq!(counts, [(2, 2, false), (1, 40, false)]);
    assert_eq!(registry.audit(INSTALLATION, None, 9).await.unwrap().len(), 1);
    assert_eq!(registry.verify_audit("a", None).await.unwrap().fault, None);
}

pub(crate) async fn a_chain_contains_its_checkpoints(registry: &dyn Registry) {
    with_tenants(registry, &["a"]).await;
    let noted = registry.verify_audit("a", None).await.unwrap().verified;
    assert_eq!(noted.sequence, 1);
    create(registry, secret("a", "d")).await.unwrap();
    assert_eq!(registry.verify_audit("a", Some(noted)).await.unwrap().fault, None);
    let other = Checkpoint { hash: [1; 32], ..noted };
    assert_eq!(registry.verify_audit("a", Some(other)).await.unwrap().fault, Some(Fault::Checkpoint(1)));
    let beyond = Checkpoint { sequence: 3, ..noted };
    let report = registry.verify_audit("a", Some(beyond)).await.unwrap();
    assert_eq!(report.fault, Some(Fault::End { ends: 2, head: 3 }));
    let empty = registry.verify_audit("b", None).await.unwrap();
    assert_eq!((empty.verified, empty.fault), (Checkpoint::default(), None));
}

pub(crate) async fn the_control_log_numbers_each_change(registry: &dyn Registry) {
    with_tenants(registry, &["a"]).await;
    let id = create(registry, secret("a", "d")).await.unwrap();
    registry.set_tenant_state("a", TenantState::Suspended, &origin()).await.unwrap();
    registry.delete_credential("a", Owner::Device("d"), id, &origin()).await.unwrap();
    let all = registry.changes(0, 9).await.unwrap();
    let kinds: Vec<_> = all.entries.iter().map(|change| (change.number, change.kind)).collect();
    let expected =
        [ChangeKind::TenantActive, ChangeKind::Created(id), ChangeKind::TenantSuspended, ChangeKind::Deleted(id)];
    assert_eq!(kinds, [(1, expected[0]), (2, expected[1]), (3, expected[2]), (4, expected[3])]);
    assert!(all.entries.iter().all(|change| change.tenant == "a") && all.newest == 4 && !all.has_gap);
    let part = registry.changes(1, 2).await.unwrap();
    assert_eq!((part.entries.as_slice(), part.newest), (&all.entries[1..3], 4));
    let end = registry.changes(4, 9).await.unwrap();
    assert!(end.entries.is_empty() && !end.has_gap);
    assert!(registry.changes(5, 9).await.unwrap().has_gap, "a log that was set back");
}

pub(crate) async fn peppers_of_another_registry_are_refused(registry: &dyn Registry) {
    registry.match_peppers(vec![(1, [1; 32])]).await.unwrap();
    registry.match_peppers(vec![(2, [2; 32]), (1, [1; 32])]).await.unwrap();
    let refused = registry.match_peppers(vec![(1, [3; 32])]).await;
    assert!(matches!(refused, Err(Error::NeedsOperator(_))), "{refused:?}");
    registry.match_peppers(vec![(2, [2; 32])]).await.unwrap();
}
