//! Keys, secrets of devices, tenants and the audit, on the embedded registry.

use std::sync::Arc;

use identity::{Admin, By, EmbeddedRegistry, Gate, Passwords, Peppers, Role, Topics};
use model::SystemClock;
use proto::v1::access_service_client::AccessServiceClient;
use proto::v1::audit_service_client::AuditServiceClient;
use proto::v1::authority_service_client::AuthorityServiceClient;
use proto::v1::tenant::{DeviceAdmission, State};
use proto::v1::tenant_service_client::TenantServiceClient;
use proto::v1::{self, ApiKey, AuditEvent, CreateApiKeyRequest, DeviceCredential};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::keys::Keys;
use crate::world::{World, assert_status, timestamp};

/// A server with the registry of a folder of its own, in which there is the tenant `acme`.
pub(super) struct Installation {
    world: World,
    pub(super) keys: Arc<Keys>,
    _folder: tempfile::TempDir,
}

pub(super) type Sent =
    InterceptedService<Channel, Box<dyn Fn(Request<()>) -> Result<Request<()>, Status> + Send + Sync>>;

impl Installation {
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let registry = EmbeddedRegistry::open(folder.path().join("registry")).unwrap();
        let peppers = Arc::new(Peppers::generate().unwrap());
        let admin = Admin::new(Arc::new(registry), peppers, Arc::new(SystemClock));
        admin.create_tenant("acme", "Acme", &By::local()).await.unwrap();
        Self::of(admin, folder).await
    }

    /// One that accepts passwords that people choose.
    pub(super) async fn with_passwords() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let registry = Arc::new(EmbeddedRegistry::open(folder.path().join("registry")).unwrap());
        let peppers = Arc::new(Peppers::generate().unwrap());
        let gate = Gate::new(registry.clone(), peppers.clone(), Topics::default(), Arc::new(SystemClock)).unwrap();
        let gate = gate.with_passwords(Passwords::start(1).unwrap());
        let admin = Admin::new(registry, peppers, Arc::new(SystemClock)).with_gate(gate);
        admin.create_tenant("acme", "Acme", &By::local()).await.unwrap();
        Self::of(admin, folder).await
    }

    async fn of(admin: Admin, folder: tempfile::TempDir) -> Self {
        let keys = Arc::new(Keys::default());
        let world = World::with(|config| {
            config.authenticator = Some(keys.clone());
            config.admin = Some(admin);
        })
        .await;
        Self { world, keys, _folder: folder }
    }

    pub(super) fn send(&self, token: &str) -> Sent {
        let value: tonic::metadata::MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
        let add = move |mut request: Request<()>| {
            request.metadata_mut().insert("authorization", value.clone());
            Ok(request)
        };
        InterceptedService::new(self.world.channel.clone(), Box::new(add))
    }

    pub(super) fn access(&self, role: Role) -> AccessServiceClient<Sent> {
        AccessServiceClient::new(self.send(&self.keys.add(role, None)))
    }

    pub(super) fn authorities(&self, role: Role) -> AuthorityServiceClient<Sent> {
        AuthorityServiceClient::new(self.send(&self.keys.add(role, None)))
    }

    fn limited(&self, role: Role, scopes: &[&str]) -> AccessServiceClient<Sent> {
        AccessServiceClient::new(self.send(&self.keys.add(role, Some(scopes))))
    }

    pub(super) fn tenants(&self) -> TenantServiceClient<Sent> {
        TenantServiceClient::new(self.send(&self.keys.add(Role::Installation, None)))
    }

    pub(super) async fn audit(&self, tenant: &str) -> Vec<AuditEvent> {
        let mut client = AuditServiceClient::new(self.send(&self.keys.add(Role::Installation, None)));
        let request = v1::ListAuditEventsRequest { parent: format!("tenants/{tenant}"), ..Default::default() };
        client.list_audit_events(request).await.unwrap().into_inner().audit_events
    }
}

fn new_key(role: v1::Role, scopes: &[&str]) -> CreateApiKeyRequest {
    let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    let key = ApiKey { role: role.into(), scopes, display_name: "dashboard".into(), ..Default::default() };
    CreateApiKeyRequest { parent: "tenants/-".into(), api_key: Some(key), request_id: String::new() }
}

async fn keys_of(client: &mut AccessServiceClient<Sent>) -> Vec<ApiKey> {
    let request = v1::ListApiKeysRequest { parent: "tenants/-".into(), ..Default::default() };
    client.list_api_keys(request).await.unwrap().into_inner().api_keys
}

#[tokio::test]
async fn an_api_key_is_created_listed_and_deleted_and_its_secret_shown_once() {
    let installation = Installation::start().await;
    let mut client = installation.access(Role::TenantAdmin);
    let mut request = new_key(v1::Role::Admin, &["telemetry.read", "credentials.create"]);
    let key = request.api_key.as_mut().unwrap();
    key.allowed_networks = vec!["10.0.0.0/8".into()];
    key.expire_time = Some(timestamp(crate::world::now() + 3_600_000_000_000));
    let expire_time = key.expire_time;
    let created = client.create_api_key(request).await.unwrap().into_inner();
    assert!(
        created.secret.starts_with("weir_") && created.name.starts_with("tenants/acme/apiKeys/"),
        "{}",
        created.name
    );
    let expected = ApiKey { secret: String::new(), ..created.clone() };
    assert_eq!((expected.role(), expected.expire_time), (v1::Role::Admin, expire_time));
    assert_eq!((expected.scopes.len(), &*expected.allowed_networks), (2, &["10.0.0.0/8".to_owned()][..]));
    assert_eq!(keys_of(&mut client).await, [expected]);

    let own = created.name.replace("acme", "-");
    client.delete_api_key(v1::DeleteApiKeyRequest { name: own.clone() }).await.unwrap();
    assert_eq!(keys_of(&mut client).await, []);
    for name in [own, "tenants/-/apiKeys/none".into()] {
        let status = client.delete_api_key(v1::DeleteApiKeyRequest { name }).await.expect_err("gone");
        assert_status(&status, Code::NotFound, "API_KEY_NOT_FOUND");
    }
}

#[tokio::test]
async fn a_repeated_creation_returns_the_first_one_without_its_secret() {
    let installation = Installation::start().await;
    let mut client = installation.access(Role::TenantAdmin);
    let request = CreateApiKeyRequest { request_id: "r1".into(), ..new_key(v1::Role::Viewer, &[]) };
    let first = client.create_api_key(request.clone()).await.unwrap().into_inner();
    let again = client.create_api_key(request).await.unwrap().into_inner();
    assert!(!first.secret.is_empty());
    assert_eq!(again, ApiKey { secret: String::new(), ..first });
    assert_eq!(keys_of(&mut client).await.len(), 1);
}

#[tokio::test]
async fn no_caller_gives_or_takes_more_than_its_own() {
    let installation = Installation::start().await;
    let mut admin = installation.access(Role::TenantAdmin);
    let invalid = |status: Status, field: &str| {
        assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
        assert!(status.message().starts_with(field), "{status:?}");
    };
    let above = new_key(v1::Role::Installation, &[]);
    invalid(admin.create_api_key(above.clone()).await.expect_err("above"), "api_key.role");
    let mut limited = installation.limited(Role::TenantAdmin, &["apiKeys.create", "telemetry.read"]);
    let all = new_key(v1::Role::Viewer, &[]);
    invalid(limited.create_api_key(all).await.expect_err("without scopes"), "api_key.scopes");
    let other = new_key(v1::Role::Viewer, &["devices.get"]);
    invalid(limited.create_api_key(other).await.expect_err("another scope"), "api_key.scopes");
    let own = new_key(v1::Role::Viewer, &["telemetry.read"]);
    limited.create_api_key(own).await.unwrap();

    let operators = installation.access(Role::Installation).create_api_key(above).await.unwrap().into_inner();
    let request = v1::DeleteApiKeyRequest { name: operators.name };
    let status = admin.delete_api_key(request.clone()).await.expect_err("the operator's");
    assert_status(&status, Code::PermissionDenied, "PERMISSION_DENIED");
    installation.access(Role::Installation).delete_api_key(request).await.unwrap();
}

#[tokio::test]
async fn a_device_has_three_secrets_at_most_and_each_is_deleted_by_its_name() {
    let installation = Installation::start().await;
    let mut client = installation.access(Role::Admin);
    let parent = "tenants/-/devices/hall%201".to_owned();
    let request = v1::CreateDeviceCredentialRequest { parent: parent.clone(), ..Default::default() };
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(client.create_device_credential(request.clone()).await.unwrap().into_inner());
    }
    assert!(made.iter().all(|one| one.secret.starts_with("wd_")));
    let prefix = "tenants/acme/devices/hall%201/credentials/";
    assert!(made.iter().all(|one| one.name.starts_with(prefix) && one.create_time.is_some()), "{}", made[0].name);
    let status = client.create_device_credential(request.clone()).await.expect_err("a fourth");
    assert_status(&status, Code::ResourceExhausted, "TOO_MANY_DEVICE_CREDENTIALS");
    assert_eq!(status.get_details_quota_failure().unwrap().violations.len(), 1);

    let list = v1::ListDeviceCredentialsRequest { parent, ..Default::default() };
    let listed = client.list_device_credentials(list.clone()).await.unwrap().into_inner().device_credentials;
    let mut expected: Vec<DeviceCredential> =
        made.into_iter().map(|one| DeviceCredential { secret: String::new(), ..one }).collect();
    expected.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(listed, expected);

    let name = listed[0].name.clone();
    let others = name.replace("hall%201", "hall%202");
    let status = client.delete_device_credential(v1::DeleteDeviceCredentialRequest { name: others }).await;
    assert_status(&status.expect_err("of another device"), Code::NotFound, "DEVICE_CREDENTIAL_NOT_FOUND");
    client.delete_device_credential(v1::DeleteDeviceCredentialRequest { name }).await.unwrap();
    client.create_device_credential(request).await.unwrap();
}

#[tokio::test]
async fn tenants_are_created_suspended_and_resumed() {
    let installation = Installation::start().await;
    let mut client = installation.tenants();
    let tenant = Some(v1::Tenant { display_name: "Globex".into(), ..Default::default() });
    let request = v1::CreateTenantRequest { tenant_id: "globex".into(), tenant, request_id: "r".into() };
    let made = client.create_tenant(request.clone()).await.unwrap().into_inner();
    assert_eq!((&*made.name, made.state(), &*made.display_name), ("tenants/globex", State::Active, "Globex"));
    assert_eq!(client.create_tenant(request.clone()).await.unwrap().into_inner(), made, "a repeat");
    let again = v1::CreateTenantRequest { request_id: String::new(), ..request };
    let status = client.create_tenant(again).await.expect_err("another request");
    assert_status(&status, Code::AlreadyExists, "TENANT_EXISTS");

    let name = made.name.clone();
    let suspended = client.suspend_tenant(v1::SuspendTenantRequest { name: name.clone() }).await.unwrap().into_inner();
    assert_eq!(suspended.state(), State::Suspended);
    assert_eq!(client.get_tenant(v1::GetTenantRequest { name: name.clone() }).await.unwrap().into_inner(), suspended);
    let resumed = client.resume_tenant(v1::ResumeTenantRequest { name }).await.unwrap().into_inner();
    assert_eq!(resumed.state(), State::Active);
    for name in ["tenants/none", "tenants/-/x", "", "tenants/%zz"] {
        let status = client.get_tenant(v1::GetTenantRequest { name: name.into() }).await.expect_err(name);
        assert!(matches!(status.code(), Code::NotFound | Code::InvalidArgument | Code::PermissionDenied), "{status:?}");
    }
    let own = v1::SuspendTenantRequest { name: "tenants/-".into() };
    let status = client.suspend_tenant(own).await.expect_err("the operator's own");
    assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
    let request = CreateApiKeyRequest { parent: "tenants/none".into(), ..new_key(v1::Role::Viewer, &[]) };
    let status = installation.access(Role::Installation).create_api_key(request).await;
    assert_status(&status.expect_err("no such tenant"), Code::NotFound, "TENANT_NOT_FOUND");
}

#[tokio::test]
async fn a_tenant_is_deleted_and_restored_and_has_features() {
    let installation = Installation::start().await;
    let mut client = installation.tenants();
    let request = v1::CreateTenantRequest { tenant_id: "globex".into(), ..Default::default() };
    let made = client.create_tenant(request).await.unwrap().into_inner();
    let name = made.name.clone();

    let change = |features: &[(&str, bool)], paths: &[&str]| v1::UpdateTenantRequest {
        tenant: Some(v1::Tenant {
            name: name.clone(),
            features: features.iter().map(|(feature, is_on)| ((*feature).to_owned(), *is_on)).collect(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }),
    };
    let both = client.update_tenant(change(&[("x-a", true), ("x-b", false)], &["features"])).await.unwrap();
    assert_eq!(both.into_inner().features.len(), 2);
    let paths = ["features.x-a", "features.x-c"];
    let single = client.update_tenant(change(&[("x-c", true)], &paths)).await.unwrap().into_inner();
    assert_eq!(single.features, [("x-b".to_owned(), false), ("x-c".to_owned(), true)].into(), "one is removed");
    for wrong in ["beta", "x-", "x-A", "x- "] {
        let status = client.update_tenant(change(&[(wrong, true)], &["features"])).await.expect_err(wrong);
        assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
    }

    let admission = |value: i32| {
        let tenant = v1::Tenant { name: name.clone(), device_admission: value, ..Default::default() };
        let update_mask = Some(prost_types::FieldMask { paths: vec!["device_admission".to_owned()] });
        v1::UpdateTenantRequest { tenant: Some(tenant), update_mask }
    };
    assert_eq!(made.device_admission(), DeviceAdmission::Auto);
    for (asked, set) in [
        (DeviceAdmission::Refuse, DeviceAdmission::Refuse),
        (DeviceAdmission::Unspecified, DeviceAdmission::Auto),
        (DeviceAdmission::Quarantine, DeviceAdmission::Quarantine),
        (DeviceAdmission::Refuse, DeviceAdmission::Refuse),
    ] {
        let changed = client.update_tenant(admission(asked.into())).await.unwrap().into_inner();
        assert_eq!((changed.device_admission(), changed.features.len()), (set, 2));
    }
    let status = client.update_tenant(admission(9)).await.expect_err("no such value");
    assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");

    let deletion = v1::GetTenantDeletionRequest { name: name.clone() };
    let status = client.get_tenant_deletion(deletion.clone()).await.expect_err("it is not to be deleted");
    assert_status(&status, Code::NotFound, "TENANT_NOT_FOUND");
    let delete = v1::DeleteTenantRequest { name: name.clone(), reason: "over".into(), ..Default::default() };
    let stale = v1::DeleteTenantRequest { etag: made.etag, ..delete.clone() };
    assert_eq!(client.delete_tenant(stale).await.expect_err("it has changed").code(), Code::Aborted);
    let far = Some(prost_types::Timestamp { seconds: 9_000_000_000, nanos: 0 });
    let far = client.delete_tenant(v1::DeleteTenantRequest { purge_time: far, ..delete.clone() }).await;
    assert_status(&far.expect_err("too far ahead"), Code::InvalidArgument, "FIELD_INVALID");
    let deleting = client.delete_tenant(delete.clone()).await.unwrap().into_inner();
    assert_eq!(deleting.state(), State::Deleting);
    let (asked, purge) = (deleting.delete_time.unwrap(), deleting.purge_time.unwrap());
    assert_eq!(purge.seconds - asked.seconds, 30 * 24 * 3600);
    let found = client.get_tenant_deletion(deletion.clone()).await.unwrap().into_inner();
    assert_eq!((found.state(), &*found.reason, found.end_time), (State::Deleting, "over", None));
    let refused = client.resume_tenant(v1::ResumeTenantRequest { name: name.clone() }).await;
    assert_eq!(refused.expect_err("it is to be deleted").code(), Code::InvalidArgument);
    let undelete = v1::UndeleteTenantRequest { name: name.clone() };
    let restored = client.undelete_tenant(undelete).await.unwrap().into_inner();
    assert_eq!((restored.state(), restored.features.len(), restored.purge_time), (State::Active, 2, None));
    let own = v1::DeleteTenantRequest { name: "tenants/-".into(), ..delete };
    assert_status(
        &client.delete_tenant(own).await.expect_err("the operator's own"),
        Code::InvalidArgument,
        "FIELD_INVALID",
    );
    let events = installation.audit("globex").await;
    for method in ["DeleteTenant", "UndeleteTenant"] {
        assert!(events.iter().any(|event| event.method == method), "{method}");
    }
}

#[tokio::test]
async fn pages_make_the_whole_and_a_token_fits_its_own_list() {
    let installation = Installation::start().await;
    let (mut client, mut tenants) = (installation.access(Role::TenantAdmin), installation.tenants());
    for id in ["b", "c", "d"] {
        let request = v1::CreateTenantRequest { tenant_id: id.into(), ..Default::default() };
        tenants.create_tenant(request).await.unwrap();
        client.create_api_key(new_key(v1::Role::Viewer, &[])).await.unwrap();
        for device in ["c", "d", "e"] {
            let parent = format!("tenants/-/devices/{device}");
            let request = v1::CreateDeviceCredentialRequest { parent, ..Default::default() };
            client.create_device_credential(request).await.unwrap();
        }
    }
    let mut auditor = AuditServiceClient::new(installation.send(&installation.keys.add(Role::TenantAdmin, None)));
    let whole = installation.audit("acme").await;
    assert!(whole.len() >= 12 && whole.windows(2).all(|pair| pair[0].sequence == pair[1].sequence + 1), "{whole:?}");
    let (mut names, mut tokens) = ([const { Vec::new() }; 4], [const { String::new() }; 4]);
    for _ in 0..whole.len() {
        let page_size = 2;
        let (parent, device) = ("tenants/-".to_owned(), "tenants/-/devices/d".to_owned());
        let [of_keys, of_secrets, of_tenants, of_events] = tokens.clone();
        if names[0].is_empty() || !of_keys.is_empty() {
            let request = v1::ListApiKeysRequest { parent: parent.clone(), page_size, page_token: of_keys };
            let page = client.list_api_keys(request).await.unwrap().into_inner();
            names[0].extend(page.api_keys.into_iter().map(|key| key.name));
            tokens[0] = page.next_page_token;
        }
        if names[1].is_empty() || !of_secrets.is_empty() {
            let request = v1::ListDeviceCredentialsRequest { parent: device, page_size, page_token: of_secrets };
            let page = client.list_device_credentials(request).await.unwrap().into_inner();
            names[1].extend(page.device_credentials.into_iter().map(|one| one.name));
            tokens[1] = page.next_page_token;
        }
        if names[2].is_empty() || !of_tenants.is_empty() {
            let request = v1::ListTenantsRequest { page_size, page_token: of_tenants, show_deleted: false };
            let page = tenants.list_tenants(request).await.unwrap().into_inner();
            names[2].extend(page.tenants.into_iter().map(|tenant| tenant.name));
            tokens[2] = page.next_page_token;
        }
        if names[3].is_empty() || !of_events.is_empty() {
            let request = v1::ListAuditEventsRequest { parent, page_size, page_token: of_events };
            let page = auditor.list_audit_events(request).await.unwrap().into_inner();
            names[3].extend(page.audit_events.into_iter().map(|event| event.sequence.to_string()));
            tokens[3] = page.next_page_token;
        }
    }
    assert_eq!(names[2], ["tenants/acme", "tenants/b", "tenants/c", "tenants/d"]);
    let sequences: Vec<String> = whole.iter().map(|event| event.sequence.to_string()).collect();
    assert_eq!((names[0].len(), names[1].len(), &names[3]), (3, 3, &sequences));
    assert!(names[..2].iter().all(|names| names.is_sorted()), "{names:?}");

    let request = v1::ListTenantsRequest { page_size: 1, ..Default::default() };
    let token = tenants.list_tenants(request).await.unwrap().into_inner().next_page_token;
    let request = v1::ListApiKeysRequest { parent: "tenants/-".into(), page_token: token, ..Default::default() };
    let status = client.list_api_keys(request).await.expect_err("a token of another list");
    assert_status(&status, Code::InvalidArgument, "TOKEN_INVALID");
}

#[tokio::test]
async fn each_change_is_audited_with_its_caller_and_without_its_secret() {
    let installation = Installation::start().await;
    let token = installation.keys.add(Role::TenantAdmin, None);
    let mut client = AccessServiceClient::new(installation.send(&token));
    let request = CreateApiKeyRequest { request_id: "r7".into(), ..new_key(v1::Role::Viewer, &[]) };
    let key = client.create_api_key(request).await.unwrap().into_inner();
    client.delete_api_key(v1::DeleteApiKeyRequest { name: key.name.clone() }).await.unwrap();
    let events = installation.audit("acme").await;
    let [deleted, created, ..] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&*deleted.method, &*created.method), ("DeleteApiKey", "CreateApiKey"));
    let principal = format!("apiKeys/{}", token.split_once('.').unwrap().0);
    for event in [deleted, created] {
        assert_eq!((&*event.principal, &*event.client_address, event.granted), (&*principal, "127.0.0.1", true));
        assert!(key.name.ends_with(&event.resource) && event.hash.len() == 32, "{event:?}");
    }
    assert_eq!(created.request_id, "r7");
    let secret = key.secret.rsplit('_').next().unwrap();
    assert!(!format!("{events:?}").contains(&secret[..20]), "{events:?}");
    let mut auditor = AuditServiceClient::new(installation.send(&token));
    let verify = |known_sequence: u64, known_hash: Vec<u8>| v1::VerifyAuditEventsRequest {
        parent: "tenants/-".into(),
        known_sequence,
        known_hash,
        ..Default::default()
    };
    let noted = verify(created.sequence, created.hash.clone());
    let whole = auditor.verify_audit_events(noted).await.unwrap().into_inner();
    assert_eq!((whole.sequence, &*whole.hash, &*whole.fault), (deleted.sequence, &*deleted.hash, ""));
    let other = auditor.verify_audit_events(verify(created.sequence, deleted.hash.clone())).await.unwrap();
    assert!(other.into_inner().fault.contains("written anew"));
    for request in [verify(0, vec![1]), verify(1, vec![1])] {
        let status = auditor.verify_audit_events(request).await.expect_err("half of an event");
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    let point = |event: &v1::AuditEvent| v1::AuditPoint { sequence: event.sequence, hash: event.hash.clone() };
    let wrong = v1::AuditPoint { hash: vec![9; 32], ..point(created) };
    let none = || verify(0, Vec::new());
    for (request, expected) in [
        (v1::VerifyAuditEventsRequest { known_events: vec![point(created), point(deleted)], ..none() }, ""),
        (v1::VerifyAuditEventsRequest { known_events: vec![point(deleted), wrong.clone()], ..none() }, "written anew"),
        (v1::VerifyAuditEventsRequest { from_event: Some(point(created)), ..none() }, ""),
        (v1::VerifyAuditEventsRequest { from_event: Some(wrong), ..none() }, "written anew"),
        (v1::VerifyAuditEventsRequest { to_sequence: created.sequence, ..none() }, ""),
    ] {
        let report = auditor.verify_audit_events(request).await.unwrap().into_inner();
        assert!(report.fault.contains(expected) && report.fault.is_empty() == expected.is_empty(), "{report:?}");
        assert_eq!(report.checkpoint, None, "this installation has no key");
    }
    let short = v1::AuditPoint { sequence: 1, hash: vec![1] };
    let many = vec![point(created); 10_001];
    for known_events in [vec![short], many] {
        let request = v1::VerifyAuditEventsRequest { known_events, ..none() };
        let status = auditor.verify_audit_events(request).await.expect_err("not events");
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    installation.audit("%23installation").await;
}

#[tokio::test]
async fn wrong_requests_name_the_field() {
    let installation = Installation::start().await;
    let mut client = installation.access(Role::TenantAdmin);
    let field = |status: Status, field: &str| {
        assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
        let details = status.get_details_bad_request().unwrap();
        assert_eq!(details.field_violations[0].field, field, "{status:?}");
    };
    let with = |change: fn(&mut ApiKey)| {
        let mut request = new_key(v1::Role::Viewer, &[]);
        change(request.api_key.as_mut().unwrap());
        request
    };
    for (request, expected) in [
        (with(|key| key.role = 0), "api_key.role"),
        (with(|key| key.role = 99), "api_key.role"),
        (with(|key| key.scopes = vec!["everything".into()]), "api_key.scopes"),
        (with(|key| key.scopes = vec!["exports.list".into()]), "api_key.scopes"),
        (with(|key| key.allowed_networks = vec!["10.0.0.1/8".into()]), "api_key.allowed_networks"),
        (with(|key| key.expire_time = Some(timestamp(1))), "api_key.expire_time"),
        (with(|key| key.display_name = "x".repeat(300)), "api_key.display_name"),
        (CreateApiKeyRequest { api_key: None, ..with(|_| {}) }, "api_key"),
        (CreateApiKeyRequest { request_id: "x".repeat(100), ..with(|_| {}) }, "request_id"),
    ] {
        field(client.create_api_key(request).await.expect_err(expected), expected);
    }
    let parent = "tenants/-/devices/$x".to_owned();
    let request = v1::CreateDeviceCredentialRequest { parent, ..Default::default() };
    field(client.create_device_credential(request).await.expect_err("$"), "parent");
    for name in
        ["", "tenants/-/devices/d", "tenants/-/devices/d/credentials/a/b", "tenants/-/devices/%zz/credentials/a"]
    {
        let request = v1::DeleteDeviceCredentialRequest { name: name.into() };
        field(client.delete_device_credential(request).await.expect_err(name), "name");
    }
}

#[tokio::test]
async fn a_caller_reads_its_own_identity() {
    let installation = Installation::start().await;
    let mut client = installation.limited(Role::Operator, &["telemetry.read"]);
    let caller = client.get_caller_identity(v1::GetCallerIdentityRequest {}).await.unwrap().into_inner();
    assert_eq!((&*caller.tenant, caller.role()), ("tenants/acme", v1::Role::Operator));
    assert_eq!((&*caller.principal, &*caller.scopes), ("apiKeys/key0", &["telemetry.read".to_owned()][..]));
    assert!(caller.limited);
}

#[tokio::test]
async fn without_authentication_there_is_nothing_to_change() {
    let world = World::start().await;
    let channel = || world.channel.clone();
    let caller = AccessServiceClient::new(channel()).get_caller_identity(v1::GetCallerIdentityRequest {}).await;
    assert_eq!(caller.unwrap().into_inner().principal, "local");
    let parent = "tenants/-".to_owned();
    let mut statuses = vec![
        AccessServiceClient::new(channel()).create_api_key(new_key(v1::Role::Viewer, &[])).await.err(),
        TenantServiceClient::new(channel()).list_tenants(v1::ListTenantsRequest::default()).await.err(),
        TenantServiceClient::new(channel()).get_tenant(v1::GetTenantRequest { name: parent.clone() }).await.err(),
    ];
    let request = v1::ListAuditEventsRequest { parent, ..Default::default() };
    statuses.push(AuditServiceClient::new(channel()).list_audit_events(request).await.err());
    for status in statuses {
        let status = status.expect("refused");
        assert_status(&status, Code::FailedPrecondition, "AUTH_NOT_REQUIRED");
        assert!(status.message().contains("[auth] required = true"), "{status:?}");
    }
}

/// Logs, audit and errors leave out the fields of this option.
#[test]
fn every_secret_in_the_messages_is_marked_as_sensitive() {
    let pool = prost_reflect::DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    let option = pool.get_extension_by_name("weir.v1.sensitive").unwrap();
    let messages = pool.all_messages().filter(|message| message.package_name() == "weir.v1");
    let fields: Vec<_> = messages.flat_map(|message| message.fields().collect::<Vec<_>>()).collect();
    let named = |name: &str| ["secret", "password", "key_material"].iter().any(|part| name.contains(part));
    let secrets: Vec<_> = fields.iter().filter(|field| named(field.name())).collect();
    assert_eq!(secrets.len(), 3, "{secrets:?}");
    for field in secrets {
        assert!(field.options().get_extension(&option).as_bool().unwrap(), "{}", field.full_name());
    }
}
