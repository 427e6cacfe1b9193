//! Credentials that end during calls.

use std::sync::atomic::Ordering;

use futures::FutureExt;
use identity::Role;
use model::{DeviceKey, Value};
use tonic::Code;

use super::cases::case;
use super::client::open;
use super::keys::with_keys;
use super::rules;
use crate::fakes::{block, row};
use crate::world::{BOUND, assert_status};

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
