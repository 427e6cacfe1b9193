//! The negative matrix over every method of the descriptors, with a server that asks an
//! authenticator in memory.

mod cases;
mod client;
mod device_keys;
mod devices;
pub(crate) mod gate;
mod groups;
mod issuers;
mod keys;
mod limits;
mod oauth;
mod passwords;
mod registry;
mod secrecy;
mod streams;

use api::auth::{Rule, Rules, Scope};
use identity::Role;
use prost::Message;
use proto::v1::{self, SeriesSelector};
use tonic::{Code, Status};

use crate::world::{World, assert_status};
use cases::case;
use client::call;
use keys::with_keys;

fn rules() -> Vec<(String, Rule)> {
    let rules = Rules::read(proto::FILE_DESCRIPTOR_SET).expect("every method has a rule");
    rules.iter().map(|(path, rule)| (path.to_owned(), rule.clone())).collect()
}

/// Calls every method with these values of `authorization`, and asserts the answer of each.
async fn every_call(world: &World, authorization: &[&str], assert: impl Fn(&str, &Rule, Status)) {
    for (path, rule) in rules() {
        let request = case(&path).request("tenants/-", "d1");
        assert(&path, &rule, call(world, &path, authorization, request).await);
    }
}

#[tokio::test]
async fn a_valid_credential_of_the_right_role_reaches_every_method() {
    let (world, keys) = with_keys().await;
    for (path, rule) in rules() {
        let token = keys.add(least(&rule.permission), None);
        let request = case(&path).request("tenants/-", "d1");
        let status = call(&world, &path, &[&format!("Bearer {token}")], request).await;
        let refused = matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied | Code::Internal);
        assert!(!refused, "{path}: {status:?}");
    }
}

#[tokio::test]
async fn without_a_credential_every_call_is_refused() {
    let (world, _keys) = with_keys().await;
    every_call(&world, &[], |_, _, status| assert_status(&status, Code::Unauthenticated, "CREDENTIAL_MISSING")).await;
}

#[tokio::test]
async fn malformed_unknown_wrong_expired_and_revoked_credentials_get_one_answer() {
    let (world, keys) = with_keys().await;
    let token = keys.add(Role::Installation, None);
    let (expired, revoked) = (keys.add(Role::Installation, None), keys.add(Role::Installation, None));
    keys.expire(&expired);
    keys.revoke(&revoked);
    let good = format!("Bearer {token}");
    let cases: [&[&str]; 9] = [
        &["Bearer"],
        &["Basic dXNlcjpwYXNz"],
        &[&token],
        &[&good, &good],
        &[&format!("Bearer {}", "x".repeat(9_000))],
        &["Bearer key99.secret99"],
        &[&format!("Bearer {token}x")],
        &[&format!("Bearer {expired}")],
        &[&format!("bearer {revoked}")],
    ];
    let expected = call(&world, "/weir.v1.DeviceService/ListDevices", cases[5], Vec::new()).await;
    for authorization in cases {
        every_call(&world, authorization, |path, _, status| {
            assert_status(&status, Code::Unauthenticated, "CREDENTIAL_INVALID");
            assert_eq!((status.message(), status.details()), (expected.message(), expected.details()), "{path}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_credential_of_another_network_or_a_suspended_tenant_is_refused() {
    let (world, keys) = with_keys().await;
    let (elsewhere, suspended) = (keys.add(Role::Installation, None), keys.add(Role::Installation, None));
    keys.limit_to_other_network(&elsewhere);
    keys.suspend(&suspended);
    let check =
        |reason| move |_: &str, _: &Rule, status: Status| assert_status(&status, Code::PermissionDenied, reason);
    every_call(&world, &[&format!("Bearer {elsewhere}")], check("NETWORK_NOT_ALLOWED")).await;
    every_call(&world, &[&format!("Bearer {suspended}")], check("TENANT_SUSPENDED")).await;
    let text = world.metrics_text();
    for reason in ["Network", "Suspended"] {
        let line = format!("weir_api_calls_refused_total{{reason=\"{reason}\"}} {}\n", rules().len());
        assert!(text.contains(&line), "{line} in\n{text}");
    }
}

#[tokio::test]
async fn a_credential_that_cannot_be_checked_now_is_unavailable_with_a_pause() {
    let (world, keys) = with_keys().await;
    let token = keys.add(Role::Installation, None);
    keys.fail();
    every_call(&world, &[&format!("Bearer {token}")], |path, _, status| {
        assert_status(&status, Code::Unavailable, "AUTHENTICATION_UNAVAILABLE");
        assert!(tonic_types::StatusExt::get_details_retry_info(&status).is_some(), "{path}: {status:?}");
    })
    .await;
}

#[tokio::test]
async fn a_role_that_is_too_low_is_refused() {
    let (world, keys) = with_keys().await;
    for (path, rule) in rules() {
        let Some(lower) = ROLES.into_iter().rfind(|role| !role.has(&rule.permission)) else { continue };
        if rule.scope == Scope::Caller {
            continue;
        }
        let token = keys.add(lower, None);
        let status = call(&world, &path, &[&format!("Bearer {token}")], case(&path).request("tenants/-", "d1")).await;
        assert_status(&status, Code::PermissionDenied, "PERMISSION_DENIED");
        assert!(status.message().contains(&*rule.permission), "{path}: {status:?}");
    }
}

#[tokio::test]
async fn a_credential_limited_to_other_permissions_is_refused() {
    let (world, keys) = with_keys().await;
    let all: Vec<String> = rules().into_iter().map(|(_, rule)| rule.permission.to_string()).collect();
    for (path, rule) in rules() {
        let others: Vec<&str> = all.iter().map(String::as_str).filter(|other| **other != *rule.permission).collect();
        let token = keys.add(Role::Installation, Some(&others));
        let status = call(&world, &path, &[&format!("Bearer {token}")], case(&path).request("tenants/-", "d1")).await;
        if rule.scope == Scope::Caller {
            assert_ne!(status.code(), Code::PermissionDenied, "{path}: {status:?}");
        } else {
            assert_status(&status, Code::PermissionDenied, "PERMISSION_DENIED");
        }
    }
}

/// The request names a resource before anything else is validated: all other fields are missing.
#[tokio::test]
async fn another_tenants_resource_gets_the_same_answer_whether_it_exists_or_not() {
    let (world, keys) = with_keys().await;
    let token = format!("Bearer {}", keys.add(Role::TenantAdmin, None));
    for (path, rule) in rules() {
        if !matches!(rule.scope, Scope::Tenant | Scope::Device) {
            continue;
        }
        let case = case(&path);
        let mut texts = Vec::new();
        for (tenant, id) in [("tenants/other", "d1"), ("tenants/other", "missing"), ("tenants/nowhere", "d1")] {
            let status = call(&world, &path, &[&token], case.request(tenant, id)).await;
            assert_status(&status, Code::PermissionDenied, "PERMISSION_DENIED");
            texts.push(status.message().replace(&case.name(tenant, id), "NAME"));
        }
        let expected = format!("permission `{}` denied on `NAME` (or it does not exist)", rule.permission);
        assert!(texts.iter().all(|text| *text == expected), "{path}: {texts:?}");
    }
}

#[tokio::test]
async fn an_operator_names_any_tenant_and_no_other_caller_does() {
    let (world, keys) = with_keys().await;
    let operator = format!("Bearer {}", keys.add(Role::Installation, None));
    let admin = format!("Bearer {}", keys.add(Role::TenantAdmin, None));
    for (path, rule) in rules().into_iter().filter(|(_, rule)| matches!(rule.scope, Scope::Tenant | Scope::Device)) {
        let named = call(&world, &path, &[&operator], case(&path).request("tenants/other", "d1")).await;
        assert!(!matches!(named.code(), Code::PermissionDenied | Code::Internal), "{path} {rule:?}: {named:?}");
        let named = call(&world, &path, &[&admin], case(&path).request("tenants/other", "d1")).await;
        assert_eq!(named.code(), Code::PermissionDenied, "{path}: {named:?}");
    }
    // `-` is the operator's own, which has no such device.
    let get = "/weir.v1.DeviceService/GetDevice";
    let status = call(&world, get, &[&operator], case(get).request("tenants/other", "d1")).await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    let status = call(&world, get, &[&operator], case(get).request("tenants/-", "theirs")).await;
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
}

#[tokio::test]
async fn an_operator_selects_devices_of_the_parents_tenant_only() {
    let (world, keys) = with_keys().await;
    let operator = format!("Bearer {}", keys.add(Role::Installation, None));
    let parent = || "tenants/other".to_owned();
    let check = async |method: &str, request: Vec<u8>| {
        let status = call(&world, &format!("/weir.v1.TelemetryService/{method}"), &[&operator], request).await;
        assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
        assert!(status.message().starts_with("selector.devices[1]: belongs to another tenant"), "{method}: {status:?}");
    };
    // `-` is the operator's own tenant, also here.
    for other in ["tenants/acme/devices/d1", "tenants/-/devices/d1"] {
        let devices = vec!["tenants/other/devices/d1".to_owned(), other.to_owned()];
        let selector = Some(SeriesSelector { devices, ..Default::default() });
        macro_rules! check {
            ($($method:literal $request:ident),* $(,)?) => {$(
                let request = v1::$request { parent: parent(), selector: selector.clone(), ..Default::default() };
                check($method, request.encode_to_vec()).await;
            )*};
        }
        check!(
            "BatchGetLatest" BatchGetLatestRequest,
            "StreamReadings" StreamReadingsRequest,
            "QueryAggregates" QueryAggregatesRequest,
            "QueryGaps" QueryGapsRequest,
            "Subscribe" SubscribeRequest,
        );
    }
    let devices = ["tenants/other/devices/*", "tenants/acme/devices/*"].map(str::to_owned).to_vec();
    let selector = Some(SeriesSelector { devices, ..Default::default() });
    let request = v1::SubscribeRequest { parent: parent(), selector, ..Default::default() };
    check("Subscribe", request.encode_to_vec()).await;
}

#[tokio::test]
async fn calls_of_the_installation_need_an_operator() {
    let (world, keys) = with_keys().await;
    let token = format!("Bearer {}", keys.add(Role::TenantAdmin, None));
    for (path, _) in rules().into_iter().filter(|(_, rule)| rule.scope == Scope::Installation) {
        let status = call(&world, &path, &[&token], case(&path).request("tenants/-", "d1")).await;
        assert_status(&status, Code::PermissionDenied, "PERMISSION_DENIED");
    }
}

#[tokio::test]
async fn paths_without_a_rule_are_refused_but_for_health() {
    let (world, keys) = with_keys().await;
    let token = format!("Bearer {}", keys.add(Role::Installation, None));
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let older = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
    for path in ["/weir.v1.DeviceService/Drop", "/other.Service/Do", "/", "/weir.v1.", reflection, older] {
        let status = call(&world, path, &[], Vec::new()).await;
        assert_status(&status, Code::Unauthenticated, "CREDENTIAL_MISSING");
    }
    for (path, code) in
        [("/grpc.health.v1.Health/Check", Code::Ok), ("/grpc.health.v1.Health/Drop", Code::Unimplemented)]
    {
        assert_eq!(call(&world, path, &[], Vec::new()).await.code(), code, "{path}");
    }
    for path in ["/other.Service/Do", "/", "/weir.v1.", "/weir.v1.Device/Get", "/grpc.health.v1.Healthy/Check"] {
        let status = call(&world, path, &[&token], Vec::new()).await;
        assert_status(&status, Code::PermissionDenied, "PERMISSION_DENIED");
    }
    for path in ["/weir.v1.DeviceService/Drop", "/grpc.reflection.v1.ServerReflection/Drop"] {
        let status = call(&world, path, &[&token], Vec::new()).await;
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
    }
    for path in [reflection, older] {
        assert_eq!(call(&world, path, &[&token], Vec::new()).await.code(), Code::Ok, "{path}");
    }
    let text = world.metrics_text();
    assert!(!text.contains("Drop") && !text.contains("Healthy"), "labels are bounded:\n{text}");
    assert!(text.contains("method=\"other\",code=\"PermissionDenied\"} 5"), "{text}");
}

#[test]
fn every_permission_is_one_of_a_role() {
    for (path, rule) in rules() {
        assert!(Role::is_permission(&rule.permission), "{path}: {}", rule.permission);
    }
}

const ROLES: [Role; 5] = [Role::Viewer, Role::Operator, Role::Admin, Role::TenantAdmin, Role::Installation];

fn least(permission: &str) -> Role {
    ROLES.into_iter().find(|role| role.has(permission)).expect("some role has it")
}
