//! Callers that are bound to groups of devices.

mod brokers;
mod filtered;
mod service;
mod streams;

use api::auth::{DeviceScope, Scope};
use identity::{By, GroupFilter, MemberChange, NewApiKey, NewGroup, Role};
use proto::v1::telemetry_service_client::TelemetryServiceClient;
use stores::contract::DeadLetters as _;
use tonic::Code;
use tonic::transport::Channel;

use super::cases::case;
use super::client::call;
use super::gate::Guarded;
use super::rules;
use crate::brokers::session;
use crate::dead_letters::letter;
use crate::fakes::{block, row};
use crate::paged::{SECOND, START};
use crate::world::{World, assert_status, key};

/// The tenant of the readings of these tests.
pub(super) const TENANT: &str = "default";

/// A server behind a gate with devices, readings and dead letters of a tenant.
pub(super) struct Plant(pub(super) Guarded);

pub(super) fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

impl Plant {
    pub(super) async fn start(devices: &[&str]) -> Self {
        let plant = Self(Guarded::start().await);
        plant.0.admin.create_tenant(TENANT, "", &By::local()).await.unwrap();
        for id in devices {
            plant.device(id).await;
        }
        plant
    }

    pub(super) fn world(&self) -> &World {
        &self.0.world
    }

    /// A device with readings, a session, and a dead letter in a log of its name.
    pub(super) async fn device(&self, id: &str) {
        let rows = [row(START, "t", 1.0), row(START + 600 * SECOND, "t", 2.0)];
        self.world().history.put_block(block(&key(id), 0, &rows));
        self.world().device(id, START, 2, &["t"]);
        self.world().brokers.sessions.lock().push(session(id, id, true));
        let mut of_device = letter(1, "x");
        of_device.device = Some(id.into());
        of_device.log = id.into();
        self.world().letters.put(vec![of_device]).await.unwrap();
    }

    pub(super) async fn group(&self, id: &str, patterns: &[&str], members: &[&str]) {
        let filter = GroupFilter::Patterns(strings(patterns));
        let new = NewGroup { id: id.into(), display_name: String::new(), filter };
        self.0.admin.create_group(TENANT, new, &By::local()).await.unwrap();
        self.members(id, members, &[]).await;
    }

    pub(super) async fn members(&self, group: &str, added: &[&str], removed: &[&str]) {
        let change = MemberChange { added: strings(added), removed: strings(removed) };
        self.0.admin.change_members(TENANT, group, change, &By::local()).await.unwrap();
    }

    /// The value of the header of a key; without groups it is one of the whole tenant.
    pub(super) async fn key(&self, role: Role, groups: &[&str]) -> String {
        let (scopes, allowed_networks, groups) = (Vec::new(), Vec::new(), strings(groups));
        let key = NewApiKey { display_name: String::new(), role, scopes, allowed_networks, groups, expires: None };
        let created = self.0.admin.create_api_key(TENANT, key, &By::local()).await.unwrap();
        format!("Bearer {}", created.secret.unwrap().expose())
    }

    pub(super) fn telemetry(&self) -> TelemetryServiceClient<Channel> {
        self.world().telemetry()
    }
}

/// The row "out of group" of the negative matrix.
#[tokio::test]
async fn a_device_out_of_group_gets_the_same_answer_whether_it_exists_or_not() {
    let plant = Plant::start(&["mine", "theirs", "d1"]).await;
    plant.group("g", &[], &["mine"]).await;
    let token = plant.key(Role::Admin, &["g"]).await;
    let secret = plant.0.admin.create_device_secret(TENANT, "d1", None, &By::local()).await.unwrap();
    let secret = secret.credential.id.to_string();
    let mut named = 0;
    for (path, rule) in rules() {
        let case = case(&path);
        let of_device =
            ["/devices/", "/deadLetters/", "/sessions/"].iter().any(|part| case.name("t", "d").contains(part));
        if !of_device {
            assert_ne!(rule.scope, Scope::Device, "{path}: the case names no device");
            continue;
        }
        named += 1;
        assert_ne!(rule.devices, DeviceScope::TenantWide, "{path} names a device: make it FILTERED");
        let mut texts = Vec::new();
        // The template of a credential has a device of its own, which is out of group too.
        for id in ["theirs", "missing", &*secret, "4ZjQ0kq8yW2a"] {
            let status = call(plant.world(), &path, &[&token], case.request("tenants/-", id)).await;
            assert_status(&status, Code::PermissionDenied, "PERMISSION_DENIED");
            texts.push(status.message().replace(&case.name("tenants/-", id), "NAME"));
        }
        let expected = format!("permission `{}` denied on `NAME` (or it does not exist)", rule.permission);
        assert!(texts.iter().all(|text| *text == expected), "{path}: {texts:?}");
        if !case.name("t", "d").contains("/credentials/") {
            let status = call(plant.world(), &path, &[&token], case.request("tenants/-", "mine")).await;
            assert!(!matches!(status.code(), Code::PermissionDenied | Code::Internal), "{path}: {status:?}");
        }
    }
    assert!(named >= 6, "{named} methods name devices");
}

#[tokio::test]
async fn methods_of_a_whole_tenant_are_refused_and_those_that_range_over_devices_are_not() {
    let plant = Plant::start(&["mine", "theirs"]).await;
    plant.group("g", &[], &["mine"]).await;
    let token = plant.key(Role::Admin, &["g"]).await;
    let undecided: Vec<_> = rules().into_iter().filter(|(_, rule)| rule.devices == DeviceScope::Undecided).collect();
    assert!(undecided.is_empty(), "set `devices` in the option weir.v1.auth of {undecided:?}");
    let mut ranging = 0;
    for (path, rule) in rules().into_iter().filter(|(_, rule)| Role::Admin.has(&rule.permission)) {
        let case = case(&path);
        let status = call(plant.world(), &path, &[&token], case.request("tenants/-", "mine")).await;
        match (rule.scope, rule.devices) {
            (Scope::Tenant, DeviceScope::Filtered) if case.name("t", "") == "t" => {
                ranging += 1;
                assert!(!matches!(status.code(), Code::PermissionDenied | Code::Internal), "{path}: {status:?}");
            }
            (Scope::Tenant | Scope::Installation, DeviceScope::TenantWide) => {
                assert_status(&status, Code::PermissionDenied, "PERMISSION_DENIED");
            }
            _ => {}
        }
    }
    assert!(ranging >= 8, "{ranging} methods range over devices");
}
