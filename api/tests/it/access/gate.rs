//! Keys of the gate and the registry of the server.

use std::sync::Arc;

use identity::{Admin, By, EmbeddedRegistry, Gate, NewApiKey, Peppers, Registry, Role, Topics};
use model::SystemClock;
use prost::Message;
use proto::v1;
use proto::v1::access_service_client::AccessServiceClient;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};

use super::cases::case;
use super::client::{call, open};
use crate::world::{BOUND, World, assert_status};

/// A server behind a gate, with the tenant `acme`.
pub(super) struct Guarded {
    pub(super) world: World,
    gate: Gate,
    pub(super) admin: Admin,
    _folder: tempfile::TempDir,
}

impl Guarded {
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let registry: Arc<dyn Registry> = Arc::new(EmbeddedRegistry::open(folder.path().join("registry")).unwrap());
        let (peppers, clock) = (Arc::new(Peppers::generate().unwrap()), Arc::new(SystemClock));
        let gate = Gate::new(Arc::clone(&registry), Arc::clone(&peppers), Topics::default(), clock.clone()).unwrap();
        let admin = Admin::new(registry, peppers, clock).with_gate(gate.clone());
        admin.create_tenant("acme", "", &By::local()).await.unwrap();
        let world = World::with(|config| {
            config.authenticator = Some(Arc::new(gate.clone()));
            config.admin = Some(admin.clone());
        })
        .await;
        Self { world, gate, admin, _folder: folder }
    }

    /// Creates a key; returns the value of its header, and its name.
    pub(super) async fn key(&self, role: Role, networks: &[&str]) -> (String, String) {
        let allowed_networks = networks.iter().map(|network| (*network).to_owned()).collect();
        let (display_name, scopes) = (String::new(), Vec::new());
        let groups = Vec::new();
        let key = NewApiKey { display_name, role, scopes, allowed_networks, groups, expires: None };
        let created = self.admin.create_api_key("acme", key, &By::local()).await.unwrap();
        let name = format!("tenants/acme/apiKeys/{}", created.credential.id);
        (format!("Bearer {}", created.secret.unwrap().expose()), name)
    }
}

/// A request with a credential.
pub(crate) fn with<T>(authorization: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", authorization.parse().unwrap());
    request
}

/// The key that a call deletes opens nothing more, and its stream ends with the call.
#[tokio::test]
async fn a_deleted_key_ends_its_stream_and_refusals_are_in_the_audit() {
    let guarded = Guarded::start().await;
    let Guarded { world, gate, admin, .. } = &guarded;
    let (viewer, name) = guarded.key(Role::Viewer, &[]).await;
    let (operator, _) = guarded.key(Role::TenantAdmin, &[]).await;
    let subscribe = "/weir.v1.TelemetryService/Subscribe";
    let mut stream =
        open(world, subscribe, &[&viewer], case(subscribe).request("tenants/-", "d1")).await.expect("a valid key");
    let delete = "/weir.v1.AccessService/DeleteApiKey";
    let request = || v1::DeleteApiKeyRequest { name: name.clone() }.encode_to_vec();
    assert_eq!(call(world, delete, &[&viewer], request()).await.code(), Code::PermissionDenied);
    let list = "/weir.v1.DeviceService/ListDevices";
    let others = case(list).request("tenants/other", "d1");
    assert_eq!(call(world, list, &[&viewer], others).await.code(), Code::PermissionDenied);
    assert_eq!(call(world, delete, &[&operator], request()).await.code(), Code::Ok);
    let status = tokio::time::timeout(BOUND, stream.message()).await.unwrap().expect_err("deleted");
    assert_status(&status, Code::Unauthenticated, "CREDENTIAL_ENDED");
    let status = call(world, list, &[&viewer], case(list).request("tenants/-", "d1")).await;
    assert_status(&status, Code::Unauthenticated, "CREDENTIAL_INVALID");

    let stop = CancellationToken::new();
    stop.cancel();
    gate.follow(stop).await;
    let events = admin.list_audit("acme", None, 100).await.unwrap();
    let principal = name.trim_start_matches("tenants/acme/");
    for (method, reason) in
        [("DeleteApiKey", "permission apiKeys.delete denied"), ("ListDevices", "permission devices.list denied")]
    {
        let denied = events.iter().find(|event| event.method == method && !event.granted);
        let denied = denied.unwrap_or_else(|| panic!("{method} in {events:?}"));
        assert_eq!((&*denied.principal, &*denied.detail, denied.count), (principal, reason, 1));
    }
}

/// The revocation overtakes the answer of the call that made it.
#[tokio::test]
async fn a_key_that_deletes_itself_is_told_so_and_then_refused() {
    let guarded = Guarded::start().await;
    let (key, name) = guarded.key(Role::TenantAdmin, &[]).await;
    let mut client = AccessServiceClient::new(guarded.world.channel.clone());
    let request = v1::DeleteApiKeyRequest { name };
    client.delete_api_key(with(&key, request.clone())).await.expect("it was deleted");
    let status = client.delete_api_key(with(&key, request)).await.expect_err("it is gone");
    assert_status(&status, Code::Unauthenticated, "CREDENTIAL_INVALID");
}

#[tokio::test]
async fn a_key_of_networks_creates_keys_within_them_only() {
    let guarded = Guarded::start().await;
    let (key, _) = guarded.key(Role::TenantAdmin, &["127.0.0.0/8", "10.1.0.0/16"]).await;
    let mut client = AccessServiceClient::new(guarded.world.channel.clone());
    let mut create = async |networks: &[&str]| {
        let allowed_networks = networks.iter().map(|network| (*network).to_owned()).collect();
        let of = v1::ApiKey { role: v1::Role::Viewer.into(), allowed_networks, ..Default::default() };
        let (parent, request_id) = ("tenants/-".to_owned(), String::new());
        client.create_api_key(with(&key, v1::CreateApiKeyRequest { parent, api_key: Some(of), request_id })).await
    };
    let all_beyond: [&[&str]; 5] = [&[], &["10.1.0.0/24", "10.0.0.0/8"], &["0.0.0.0/0"], &["192.0.2.1"], &["ten"]];
    for beyond in all_beyond {
        let status = create(beyond).await.expect_err("beyond its own");
        assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
        assert!(status.message().starts_with("api_key.allowed_networks: "), "{status:?}");
    }
    let created = create(&["10.1.2.0/24", "127.0.0.1"]).await.unwrap().into_inner();
    assert_eq!(created.allowed_networks, ["10.1.2.0/24", "127.0.0.1/32"]);
}
