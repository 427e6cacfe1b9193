//! Calls and streams over a limit of their tenant.

use std::num::NonZeroU64;
use std::time::Duration;

use identity::Role;
use identity::quota::{Limits, TenantMeter};
use proto::v1;
use proto::v1::tenant_service_client::TenantServiceClient;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::cases::case;
use super::client::{call, open};
use super::gate::{Guarded, with};
use super::keys::with_keys;
use super::{Scope, every_call, rules};
use crate::world::assert_status;

fn limits(pairs: &[(&str, u64)]) -> Limits {
    let mut limits = Limits::default();
    pairs.iter().for_each(|(name, limit)| limits.set(name, NonZeroU64::new(*limit)).unwrap());
    limits
}

/// Asserts all that a client finds in the answer.
fn assert_limited(path: &str, status: &Status, reason: &str, quota: &str, limit: &str, rest: bool) {
    assert_status(status, Code::ResourceExhausted, reason);
    let details = status.get_error_details();
    let metadata = &details.error_info().unwrap().metadata;
    assert_eq!((&*metadata["quota"], &*metadata["limit"]), (quota, limit), "{path}");
    let violation = &details.quota_failure().unwrap().violations[0];
    assert_eq!(violation.subject, "tenants/acme", "{path}");
    assert!(violation.description.contains(&format!("{quota} = {limit}")), "{path}: {violation:?}");
    let pause = details.retry_info().unwrap().retry_delay.unwrap();
    let pushed: u128 = status.metadata().get("grpc-retry-pushback-ms").unwrap().to_str().unwrap().parse().unwrap();
    assert_eq!(pushed, pause.as_millis() + 1, "{path}");
    assert_eq!(pause > Duration::from_secs(1), rest, "{path}: {pause:?}");
}

#[tokio::test]
async fn over_the_limit_every_call_is_refused_with_the_limit_and_a_pause() {
    for (quota, burst) in [("calls_per_second", "call_burst"), ("key_calls_per_second", "key_call_burst")] {
        let (world, keys) = with_keys().await;
        let token = keys.add(Role::Installation, None);
        let tenant = TenantMeter::new(&limits(&[(quota, 1), (burst, 1)]));
        let meter = tenant.caller();
        // The pause of each call is longer than the whole test.
        let spent = identity::quota::Moment::now() + Duration::from_secs(3600);
        meter.call(spent).unwrap();
        keys.meter(&token, meter);
        every_call(&world, &[&format!("Bearer {token}")], |path, _, status| {
            assert_limited(path, &status, "RATE_LIMIT_EXCEEDED", quota, "1", true);
        })
        .await;
        let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        let status = call(&world, reflection, &[&format!("Bearer {token}")], Vec::new()).await;
        assert_limited(reflection, &status, "RATE_LIMIT_EXCEEDED", quota, "1", true);
        let health = call(&world, "/grpc.health.v1.Health/Check", &[], Vec::new()).await;
        assert_eq!(health.code(), Code::Ok, "{health:?}");
        let count = rules().len() + 1;
        let text = world.metrics_text();
        for line in [
            format!("weir_api_calls_refused_total{{reason=\"Limit\"}} {count}\n"),
            format!("weir_api_limited_total{{limit=\"{quota}\"}} {count}\n"),
        ] {
            assert!(text.contains(&line), "{line} in\n{text}");
        }
    }
}

#[tokio::test]
async fn a_flood_of_one_tenant_takes_no_call_of_another() {
    let (world, keys) = with_keys().await;
    let (flood, other) = (keys.add(Role::Viewer, None), keys.add_of("other", Role::Viewer));
    let pairs = [("calls_per_second", 1), ("call_burst", 3)];
    let [acme, second] = [TenantMeter::new(&limits(&pairs)), TenantMeter::new(&limits(&pairs))];
    keys.meter(&flood, acme.caller());
    keys.meter(&other, second.caller());
    let list = "/weir.v1.DeviceService/ListDevices";
    let request = || case(list).request("tenants/-", "d1");
    let mut codes = Vec::new();
    for _ in 0..50 {
        codes.push(call(&world, list, &[&format!("Bearer {flood}")], request()).await.code());
    }
    assert_eq!(codes[..3], [Code::Ok; 3]);
    assert!(codes.contains(&Code::ResourceExhausted), "{codes:?}");
    for _ in 0..3 {
        assert_eq!(call(&world, list, &[&format!("Bearer {other}")], request()).await.code(), Code::Ok);
    }
    assert_eq!(second.usage().calls, 3);
}

#[tokio::test]
async fn changes_of_a_tenant_by_itself_have_a_rate_and_those_of_operators_have_none() {
    let (world, keys) = with_keys().await;
    let tenant = TenantMeter::new(&Limits::default());
    let [admin, viewer, operator] = [Role::TenantAdmin, Role::Viewer, Role::Installation].map(|role| {
        let token = keys.add(role, None);
        keys.meter(&token, tenant.caller());
        format!("Bearer {token}")
    });
    let spent = tenant.caller();
    // The pause of each change is longer than the whole test.
    let later = identity::quota::Moment::now() + Duration::from_secs(3600);
    while spent.change(later).is_ok() {}
    let mut changes = 0;
    for (path, rule) in rules() {
        let status = |token: String| {
            let (world, path) = (&world, path.clone());
            async move { call(world, &path, &[&token], case(&path).request("tenants/-", "d1")).await }
        };
        let verb = rule.permission.rsplit('.').next().unwrap();
        let is_change = ["create", "update", "delete", "revoke", "disconnect", "clear"].contains(&verb)
            && rule.scope != Scope::Installation;
        let answer = status(admin.clone()).await;
        match is_change {
            true => assert_limited(&path, &answer, "RATE_LIMIT_EXCEEDED", "changes_per_minute", "600", true),
            false => assert_ne!(answer.code(), Code::ResourceExhausted, "{path}: {answer:?}"),
        }
        assert_ne!(status(operator.clone()).await.code(), Code::ResourceExhausted, "{path}");
        if is_change {
            changes += 1;
            // Without the permission nothing is changed, and nothing spent.
            assert_eq!(status(viewer.clone()).await.code(), Code::PermissionDenied, "{path}");
        }
    }
    assert!(changes > 15, "{changes}");
}

#[tokio::test]
async fn a_caller_without_the_permission_spends_its_calls_too() {
    let (world, keys) = with_keys().await;
    let token = keys.add(Role::Viewer, None);
    keys.meter(&token, TenantMeter::new(&limits(&[("calls_per_second", 1), ("call_burst", 1)])).caller());
    let path = "/weir.v1.TenantService/ListTenants";
    let request = || case(path).request("tenants/-", "d1");
    let authorization = format!("Bearer {token}");
    assert_eq!(call(&world, path, &[&authorization], request()).await.code(), Code::PermissionDenied);
    assert_eq!(call(&world, path, &[&authorization], request()).await.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_until_one_ends() {
    let (world, keys) = with_keys().await;
    let (token, second) = (keys.add(Role::Viewer, None), keys.add(Role::Viewer, None));
    let tenant = TenantMeter::new(&limits(&[("streams", 1)]));
    keys.meter(&token, tenant.caller());
    keys.meter(&second, tenant.caller());
    let path = "/weir.v1.TelemetryService/Subscribe";
    let request = || case(path).request("tenants/-", "d1");
    let stream = open(&world, path, &[&format!("Bearer {token}")], request()).await.unwrap();
    for (path, _) in rules().into_iter().filter(|(_, rule)| rule.streaming) {
        let request = case(&path).request("tenants/-", "d1");
        let status = call(&world, &path, &[&format!("Bearer {second}")], request).await;
        assert_limited(&path, &status, "QUOTA_EXCEEDED", "streams", "1", false);
    }
    let list = "/weir.v1.DeviceService/ListDevices";
    let status = call(&world, list, &[&format!("Bearer {second}")], case(list).request("tenants/-", "d1")).await;
    assert_eq!(status.code(), Code::Ok, "a call that is not a stream needs none");
    drop(stream);
    let freed = async {
        while tenant.usage().streams > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::world::BOUND, freed).await.expect("the stream has ended");
    open(&world, path, &[&format!("Bearer {second}")], request()).await.unwrap();
}

fn update(tenant: v1::Tenant, paths: &[&str]) -> v1::UpdateTenantRequest {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    v1::UpdateTenantRequest { tenant: Some(tenant), update_mask: Some(prost_types::FieldMask { paths }) }
}

#[tokio::test]
async fn the_mask_names_what_is_changed_and_the_etag_the_version() {
    let guarded = Guarded::start().await;
    let (operator, _) = guarded.key(Role::Installation, &[]).await;
    let mut client = TenantServiceClient::new(guarded.world.channel.clone());
    let given = |connections, streams, etag: &str| v1::Tenant {
        name: "tenants/acme".into(),
        display_name: "Acme".into(),
        limits: Some(v1::Limits { connections, streams, ..Default::default() }),
        etag: etag.into(),
        ..Default::default()
    };
    let mut send = async |tenant: v1::Tenant, paths: &[&str]| {
        client.update_tenant(with(&operator, update(tenant, paths))).await.map(tonic::Response::into_inner)
    };
    let of = |tenant: &v1::Tenant| {
        let limits = tenant.limits.unwrap();
        (limits.connections, limits.streams, tenant.display_name.clone())
    };
    let first = send(given(5, 7, ""), &["limits.connections"]).await.unwrap();
    assert_eq!(of(&first), (5, 0, String::new()), "the mask names no more");
    let second = send(given(9, 7, &first.etag), &["limits.streams", "display_name"]).await.unwrap();
    assert_eq!(of(&second), (5, 7, "Acme".into()));
    let stale = send(given(9, 9, &first.etag), &["limits"]).await.expect_err("it was changed since");
    assert_status(&stale, Code::Aborted, "CONFLICT");
    let stale = send(given(9, 9, &first.etag), &["limits.streams"]).await.expect_err("it was changed since");
    assert_status(&stale, Code::Aborted, "CONFLICT");
    let all = send(given(3, 0, &second.etag), &["limits"]).await.unwrap();
    assert_eq!(of(&all), (3, 0, "Acme".into()));
    for (paths, etag) in [(&[][..], ""), (&["state"], ""), (&["limits.messages"], ""), (&["limits"], "x")] {
        let status = send(given(1, 1, etag), paths).await.expect_err("not a change");
        assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
    }
    let elsewhere = v1::Tenant { name: "tenants/none".into(), ..given(1, 1, "") };
    for path in ["limits", "limits.streams"] {
        let status = send(elsewhere.clone(), &[path]).await.expect_err("no such tenant");
        assert_status(&status, Code::NotFound, "TENANT_NOT_FOUND");
    }
    let audit = guarded.admin.list_audit("acme", None, 100).await.unwrap();
    let changes: Vec<_> = audit.iter().filter(|event| event.method == "UpdateTenant").collect();
    assert_eq!(changes.len(), 3, "{audit:?}");
    assert!(changes[2].detail.contains(r#""connections":5"#), "{changes:?}");
}

#[tokio::test]
async fn limits_hold_from_the_answer_on_and_the_tenant_reads_its_usage() {
    let guarded = Guarded::start().await;
    let (operator, _) = guarded.key(Role::Installation, &[]).await;
    let (admin, _) = guarded.key(Role::TenantAdmin, &[]).await;
    let (viewer, _) = guarded.key(Role::Viewer, &[]).await;
    let mut client = TenantServiceClient::new(guarded.world.channel.clone());
    let limits = v1::Limits { key_calls_per_second: 1, key_call_burst: 2, ..Default::default() };
    let tenant = v1::Tenant { name: "tenants/-".into(), limits: Some(limits), ..Default::default() };
    client.update_tenant(with(&operator, update(tenant, &["limits"]))).await.unwrap();
    let list = "/weir.v1.DeviceService/ListDevices";
    let mut refused = 0;
    for _ in 0..20 {
        let status = call(&guarded.world, list, &[&viewer], case(list).request("tenants/-", "d1")).await;
        if status.code() == Code::ResourceExhausted {
            refused += 1;
        }
    }
    assert!(refused > 0);
    let request = |name: &str| v1::GetTenantUsageRequest { name: name.into() };
    let usage = client.get_tenant_usage(with(&admin, request("tenants/-"))).await.unwrap().into_inner();
    assert_eq!((&*usage.name, usage.limits), ("tenants/acme", Some(limits)));
    assert_eq!(usage.limited, [v1::LimitedCount { limit: "key_calls_per_second".into(), count: refused }]);
    assert_eq!(usage.calls, 1 + 20 - refused + 1);
    let status = client.get_tenant_usage(with(&admin, request("tenants/other"))).await.expect_err("another's");
    assert_status(&status, Code::PermissionDenied, "PERMISSION_DENIED");
}
