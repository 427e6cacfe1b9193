//! The rules that every registry keeps, as tests that take any registry.

mod audit;
mod deletion;
mod devices;
mod groups;

use std::collections::BTreeMap;
use std::net::IpAddr;

use door::quota::Limits;
use model::Nanos;
use model::time::SECOND;

use super::{
    AuditRange, ChangeKind, Checkpoint, Class, Created, Credential, CredentialKind, Denial, DeviceAdmission, Error,
    Fault, INSTALLATION, KeyRights, Origin, Owner, Registry, Rehashed, Result, RoleBinding, Tenant, TenantState,
    TenantUpdate, Use,
};
use crate::{CredentialId, Digest, PasswordHash, Role, Token, TokenKind};
pub(crate) use audit::*;
pub(crate) use deletion::*;
pub(crate) use devices::*;
pub(crate) use groups::*;

/// Makes a test of each rule.
macro_rules! contract {
    ($open:expr) => {
        contract!($open;
            tenants_are_listed_in_pages_in_order,
            a_tenant_is_created_once,
            the_state_of_a_tenant_is_found_with_its_credentials,
            credentials_are_found_together_as_each_is_alone,
            a_tenant_is_changed_in_the_version_that_was_read,
            the_pool_of_a_tenant_is_kept_through_every_change,
            credentials_are_listed_by_class,
            an_id_is_taken_once,
            a_credential_needs_a_tenant,
            a_fourth_secret_is_refused_until_one_has_expired,
            devices_whose_client_ids_clash_do_not_exist_beside_each_other,
            only_its_tenant_and_device_delete_a_credential,
            a_repeat_within_a_day_creates_nothing,
            a_request_id_is_for_one_request,
            a_credential_is_changed_in_the_form_that_was_read,
            a_repeat_shows_nothing_of_another_tenant,
            lists_are_paged_and_hold_one_tenant_only,
            a_use_is_recorded_and_moves_the_digest_to_a_new_pepper,
            a_device_has_one_password_and_a_use_keeps_it_in_its_new_form,
            each_change_has_its_audit_event,
            denials_are_audited,
            actions_are_audited,
            a_chain_contains_its_checkpoints,
            a_part_of_a_chain_is_checked,
            the_ends_of_chains_are_listed,
            the_control_log_numbers_each_change,
            a_tenant_is_deleted_step_by_step_and_its_id_is_not_given_again,
            a_tenant_that_is_to_be_deleted_can_be_restored,
            one_process_at_a_time_removes_the_data_of_a_tenant,
            features_are_changed_with_a_tenant,
            peppers_of_another_registry_are_refused,
            a_group_is_created_once_and_listed_in_its_tenant,
            a_group_is_changed_in_the_version_that_was_read,
            members_are_added_once_and_listed_in_order,
            groups_and_their_members_are_bounded,
            a_group_that_rights_are_bound_to_is_not_deleted,
            each_change_of_a_group_is_audited_and_in_the_control_log,
            a_device_is_registered_once_and_listed_in_its_tenant,
            a_device_in_quarantine_is_found_and_adopted_by_any_registration,
            a_device_is_changed_in_the_version_that_was_read,
            a_deleted_device_keeps_its_row_and_can_be_restored,
            devices_are_found_by_labels_type_and_beginnings_of_words,
            devices_of_a_tenant_are_bounded,
            devices_are_imported_in_one_step_and_change_those_that_are_registered,
            each_change_of_a_device_is_audited_and_in_the_control_log
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
        features: BTreeMap::new(),
        deletion: None,
        pool: None,
        device_admission: DeviceAdmission::default(),
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
        groups: Vec::new(),
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

pub(crate) async fn the_pool_of_a_tenant_is_kept_through_every_change(registry: &dyn Registry) {
    let placed = Tenant { pool: Some("gold".into()), ..tenant("a") };
    assert_eq!(registry.create_tenant(placed.clone(), &origin()).await.unwrap().row, placed);
    let renamed = TenantUpdate { display_name: Some("N".into()), ..Default::default() };
    assert_eq!(registry.update_tenant("a", &renamed, &origin()).await.unwrap().pool, placed.pool);
    registry.set_tenant_state("a", TenantState::Suspended, &origin()).await.unwrap();
    assert_eq!(registry.tenant("a").await.unwrap().unwrap().pool, placed.pool);
    assert_eq!(registry.tenants("", 9).await.unwrap()[0].pool, placed.pool);
    let created = registry.audit("a", None, 9).await.unwrap().pop().unwrap();
    assert!(created.detail.contains("pool \"gold\""), "{}", created.detail);
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

pub(crate) async fn credentials_are_found_together_as_each_is_alone(registry: &dyn Registry) {
    with_tenants(registry, &["a", "b"]).await;
    registry.set_tenant_state("b", TenantState::Suspended, &origin()).await.unwrap();
    let [first, second] = [secret("a", "d"), secret("b", "d")];
    let unknown = secret("a", "other").id;
    let first = create(registry, first).await.unwrap();
    let second = create(registry, second).await.unwrap();
    registry.record_uses(&[Use::at(first, NOW + 5)]).await.unwrap();
    let ids = [second, unknown, first, second];
    let together = registry.credentials(&ids).await;
    for (id, found) in ids.into_iter().zip(&together) {
        assert_eq!(*found, registry.credential(id).await, "{id}");
    }
    let states = together.iter().map(|found| found.as_ref().unwrap().as_ref().map(|found| found.tenant));
    let suspended = Some(TenantState::Suspended);
    assert_eq!(states.collect::<Vec<_>>(), [suspended, None, Some(TenantState::Active), suspended]);
    assert!(registry.credentials(&[]).await.is_empty());
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
    let binding =
        RoleBinding { principal: "oidc:https://login.example.com#1".into(), role: Role::Admin, groups: Vec::new() };
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
    // Rows whose ids follow from their content, and others.
    let binding = |principal: &str, role| Credential {
        id: RoleBinding::id("a", principal),
        kind: CredentialKind::RoleBinding(RoleBinding { principal: principal.into(), role, groups: Vec::new() }),
        digest: None,
        ..key("a")
    };
    let first = binding("oidc:https://login.example.com#1", Role::Viewer);
    registry.create_credential(first.clone(), &request("s", NOW)).await.unwrap();
    let repeat = registry.create_credential(first.clone(), &request("s", NOW)).await.unwrap();
    assert_eq!(repeat, Created { row: first, is_repeat: true });
    let principal = "oidc:https://login.example.com#2";
    refused(registry.create_credential(binding(principal, Role::Viewer), &request("s", NOW)).await);
    let above = binding("oidc:https://login.example.com#1", Role::Admin);
    refused(registry.create_credential(above, &request("s", NOW)).await);
    let wider = KeyRights { scopes: Vec::new(), ..key("a").rights().unwrap().clone() };
    registry.create_credential(key("a"), &request("k", NOW)).await.unwrap();
    let wider = Credential { kind: CredentialKind::ApiKey(wider), ..key("a") };
    refused(registry.create_credential(wider, &request("k", NOW)).await);
    let elsewhere = registry.create_credential(secret("b", "d"), &request("r", NOW)).await.unwrap();
    assert!(!elsewhere.is_repeat, "request ids belong to a tenant");
}

pub(crate) async fn a_credential_is_changed_in_the_form_that_was_read(registry: &dyn Registry) {
    with_tenants(registry, &["a", "b"]).await;
    let row = Credential { digest: None, ..key("a") };
    create(registry, row.clone()).await.unwrap();
    let of =
        |name: &str| CredentialKind::ApiKey(KeyRights { display_name: name.into(), ..row.rights().unwrap().clone() });
    let newest = registry.changes(0, 0).await.unwrap().newest;
    let changed = registry.update_credential("a", row.id, of("one"), Some(&row.etag()), &origin()).await.unwrap();
    assert_eq!(changed, Credential { kind: of("one"), ..row.clone() });
    assert_eq!(registry.credential(row.id).await.unwrap().unwrap().credential, changed);
    assert_ne!(changed.etag(), row.etag());
    let stale = registry.update_credential("a", row.id, of("two"), Some(&row.etag()), &origin()).await;
    assert_eq!(stale, Err(Error::Conflict(row.name())));
    for etag in [None, Some(changed.etag())] {
        let same = registry.update_credential("a", row.id, of("one"), etag.as_deref(), &origin()).await.unwrap();
        assert_eq!(same, changed, "nothing has changed");
    }
    let device = CredentialKind::DeviceSecret { device: "d".into() };
    for (tenant, kind) in [("b", of("x")), ("a", device)] {
        let refused = registry.update_credential(tenant, row.id, kind, None, &origin()).await;
        assert_eq!(refused, Err(Error::NotFound(format!("credential {}", row.id))));
    }
    let changes = registry.changes(newest, 9).await.unwrap().entries;
    let kinds: Vec<_> = changes.iter().map(|change| change.kind).collect();
    assert_eq!(kinds, [ChangeKind::Deleted(row.id), ChangeKind::Created(row.id)], "what it opened ends");
    let events = registry.audit("a", None, 9).await.unwrap();
    assert!(events.len() == 3 && events[0].detail.contains("one") && events[0].resource == row.name(), "{events:?}");
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
    let moved = |id, at, digest| Use { digest, ..Use::at(id, at) };
    let deleted = secret("a", "d").id;
    let uses = [Use::at(credential.id, NOW + 5), moved(deleted, NOW, Some(newer))];
    registry.record_uses(&uses).await.unwrap();
    let found = registry.credential(credential.id).await.unwrap().unwrap();
    assert_eq!((found.last_use, &found.credential), (Some(NOW + 5), &credential));
    assert_eq!(registry.credential(deleted).await.unwrap(), None);
    for digest in [Some(newer), credential.digest] {
        registry.record_uses(&[moved(credential.id, NOW + 6, digest)]).await.unwrap();
    }
    assert_eq!(registry.credential(credential.id).await.unwrap().unwrap().credential.digest, Some(newer));
    assert_eq!(registry.device_credentials("a", None, None, 1).await.unwrap()[0].last_use, Some(NOW + 6));
}

pub(crate) async fn a_device_has_one_password_and_a_use_keeps_it_in_its_new_form(registry: &dyn Registry) {
    with_tenants(registry, &["a", "b"]).await;
    let hash = |text: &str, pepper| PasswordHash { phc: format!("$argon2id$v=19$m=8,t=1,p=1${text}"), pepper };
    let row = |tenant: &str, device: &str, password: PasswordHash| Credential {
        id: crate::password::id_of(tenant, device),
        kind: CredentialKind::DevicePassword { device: device.into(), password },
        digest: None,
        ..secret(tenant, device)
    };
    let first = row("a", "d", hash("1", 1));
    registry.create_credential(first.clone(), &request("r", NOW)).await.unwrap();
    let repeat = registry.create_credential(row("a", "d", hash("salted anew", 1)), &request("r", NOW)).await.unwrap();
    assert_eq!(repeat, Created { row: first.clone(), is_repeat: true });
    assert_eq!(create(registry, row("a", "d", hash("2", 1))).await, Err(Error::Exists(first.name())));
    create(registry, row("b", "d", hash("3", 1))).await.unwrap();
    create(registry, secret("a", "d")).await.unwrap();
    let kept = async || registry.credential(first.id).await.unwrap().unwrap().credential;
    assert_eq!(kept().await, first);
    let rehashed = |from: &str, to: &str| Use {
        rehashed: Some(Box::new(Rehashed { from: hash(from, 1), to: hash(to, 2) })),
        ..Use::at(first.id, NOW + 5)
    };
    registry.record_uses(&[rehashed("other", "x")]).await.unwrap();
    assert_eq!(kept().await, first, "of a password that was changed meanwhile");
    registry.record_uses(&[rehashed("1", "4")]).await.unwrap();
    assert_eq!(kept().await, row("a", "d", hash("4", 2)));
    registry.record_uses(&[rehashed("1", "5")]).await.unwrap();
    assert_eq!(kept().await, row("a", "d", hash("4", 2)), "once");
    registry.delete_credential("a", Owner::Device("d"), first.id, &origin()).await.unwrap();
    let again = row("a", "d", hash("6", 2));
    create(registry, again.clone()).await.unwrap();
    assert_eq!(kept().await, again);
    let events = registry.audit("a", None, 9).await.unwrap();
    assert!(events[0].detail.contains("password") && !events.iter().any(|event| event.detail.contains("argon2")));
    let listed = registry.device_credentials("a", Some("d"), None, 9).await.unwrap();
    assert_eq!(listed.len(), 2);
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
