//! Credentials that end during calls.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::FutureExt;
use identity::{Admin, By, EmbeddedRegistry, Gate, NewApiKey, Peppers, Registry, Role, Topics};
use model::{DeviceKey, SystemClock, Value};
use prost::Message;
use proto::v1;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::cases::case;
use super::client::{call, open};
use super::keys::with_keys;
use super::rules;
use crate::fakes::{block, row};
use crate::world::{BOUND, World, assert_status};

#[tokio::test]
async fn a_stream_ends_when_its_credential_is_revoked_and_those_of_others_go_on() {
    for (path, _) in rules().into_iter().filter(|(_, rule)| rule.streaming) {
        let (world, keys) = with_keys().await;
        let device = DeviceKey::new("acme", "d1").unwrap();
        world.history.put_block(block(&device, 0, &[row(1, "t", 1.0)]));
        // A stream of the history waits for the store, a live one for readings.
        world.history.faults().hangs.store(true, Ordering::SeqCst);
        let (token, other) = (keys.add(Role::Viewer, None), keys.add(Role::Viewer, None));
        let stream = async |token: &str| {
            open(&world, &path, &[&format!("Bearer {token}")], case(&path).request("tenants/-", "d1")).await.unwrap()
        };
        let (mut revoked, mut goes_on) = (stream(&token).await, stream(&other).await);
        let ended = async {
            tokio::task::yield_now().await;
            keys.revoke(&token);
        };
        let (answer, ()) = tokio::join!(tokio::time::timeout(BOUND, revoked.message()), ended);
        let status = answer.expect("it ends at once").expect_err("the credential has ended");
        assert_status(&status, Code::Unauthenticated, "CREDENTIAL_ENDED");
        assert!(goes_on.message().now_or_never().is_none(), "{path}: it waits for data");
        keys.revoke(&other);
        let status = tokio::time::timeout(BOUND, goes_on.message()).await.unwrap().expect_err("ended too");
        assert_status(&status, Code::Unauthenticated, "CREDENTIAL_ENDED");
        let method = path.trim_start_matches("/weir.v1.");
        let text = world.metrics_text();
        assert!(text.contains(&format!("method=\"{method}\",code=\"Unauthenticated\"}} 2")), "{text}");
        assert!(text.contains("weir_api_calls_refused_total{reason=\"Ended\"} 2"), "{text}");
        assert!(text.contains("weir_api_streams_open 0"), "their sources are dropped:\n{text}");
    }
}

#[tokio::test]
async fn a_live_stream_of_another_caller_delivers_after_a_revocation() {
    let (world, keys) = with_keys().await;
    let path = "/weir.v1.TelemetryService/Subscribe";
    let (token, other) = (keys.add(Role::Viewer, None), keys.add_of("default", Role::Viewer));
    let request = || case(path).request("tenants/-", "d1");
    let mut revoked = open(&world, path, &[&format!("Bearer {token}")], request()).await.unwrap();
    let mut goes_on = open(&world, path, &[&format!("Bearer {other}")], request()).await.unwrap();
    keys.revoke(&token);
    assert_eq!(revoked.message().await.expect_err("ended").code(), Code::Unauthenticated);
    world.append("d1", "t", Value::Int(1)).await;
    let message = tokio::time::timeout(BOUND, goes_on.message()).await.unwrap().unwrap().unwrap();
    assert!(!message.is_empty());
}

/// With the real gate and registry: the key that a call deletes opens nothing more, and its stream
/// ends with the call.
#[tokio::test]
async fn a_deleted_key_ends_its_stream_and_refusals_are_in_the_audit() {
    let folder = tempfile::tempdir().unwrap();
    let registry: Arc<dyn Registry> = Arc::new(EmbeddedRegistry::open(folder.path().join("registry")).unwrap());
    let (peppers, clock) = (Arc::new(Peppers::generate().unwrap()), Arc::new(SystemClock));
    let gate = Gate::new(Arc::clone(&registry), Arc::clone(&peppers), Topics::default(), clock.clone()).unwrap();
    let admin = Admin::new(registry, peppers, clock).with_gate(gate.clone());
    admin.create_tenant("acme", "", &By::local()).await.unwrap();
    let key = async |role| {
        let (display_name, scopes, allowed_networks) = (String::new(), Vec::new(), Vec::new());
        let key = NewApiKey { display_name, role, scopes, allowed_networks, expires: None };
        let created = admin.create_api_key("acme", key, &By::local()).await.unwrap();
        (
            format!("Bearer {}", created.secret.unwrap().expose()),
            format!("tenants/acme/apiKeys/{}", created.credential.id),
        )
    };
    let ((viewer, name), (operator, _)) = (key(Role::Viewer).await, key(Role::TenantAdmin).await);
    let world = World::with(|config| {
        config.authenticator = Some(Arc::new(gate.clone()));
        config.admin = Some(admin.clone());
    })
    .await;
    let subscribe = "/weir.v1.TelemetryService/Subscribe";
    let mut stream =
        open(&world, subscribe, &[&viewer], case(subscribe).request("tenants/-", "d1")).await.expect("a valid key");
    let delete = "/weir.v1.AccessService/DeleteApiKey";
    let request = || v1::DeleteApiKeyRequest { name: name.clone() }.encode_to_vec();
    assert_eq!(call(&world, delete, &[&viewer], request()).await.code(), Code::PermissionDenied);
    let list = "/weir.v1.DeviceService/ListDevices";
    let others = case(list).request("tenants/other", "d1");
    assert_eq!(call(&world, list, &[&viewer], others).await.code(), Code::PermissionDenied);
    assert_eq!(call(&world, delete, &[&operator], request()).await.code(), Code::Ok);
    let status = tokio::time::timeout(BOUND, stream.message()).await.unwrap().expect_err("deleted");
    assert_status(&status, Code::Unauthenticated, "CREDENTIAL_ENDED");
    let status = call(&world, list, &[&viewer], case(list).request("tenants/-", "d1")).await;
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

#[tokio::test]
async fn a_call_that_waits_for_a_store_ends_with_its_credential() {
    let (world, keys) = with_keys().await;
    world.history.faults().hangs.store(true, Ordering::SeqCst);
    let token = keys.add(Role::Viewer, None);
    let path = "/weir.v1.TelemetryService/ListReadings";
    let authorization = format!("Bearer {token}");
    let authorization = [&*authorization];
    let called = open(&world, path, &authorization, case(path).request("tenants/-", "d1"));
    let revoked = async {
        while keys.peers.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        keys.revoke(&token);
    };
    let (status, ()) = tokio::join!(tokio::time::timeout(BOUND, called), revoked);
    assert_status(&status.unwrap().expect_err("it waits"), Code::Unauthenticated, "CREDENTIAL_ENDED");
}
