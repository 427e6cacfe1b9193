//! Chosen passwords of devices.

use identity::Role;
use proto::v1::device_credential::Proof;
use proto::v1::{self, DeviceCredential};
use tonic::Code;
use tonic_types::StatusExt;

use super::registry::Installation;
use super::secrecy::Logged;
use crate::world::assert_status;

fn request(device: &str, password: &str) -> v1::CreateDeviceCredentialRequest {
    let proof = Some(Proof::Password(password.to_owned()));
    v1::CreateDeviceCredentialRequest {
        parent: format!("tenants/-/devices/{device}"),
        device_credential: Some(DeviceCredential { proof, ..Default::default() }),
        ..Default::default()
    }
}

/// Everything is on one thread, so that its subscriber gets the events of server and client.
#[tokio::test]
async fn a_password_is_kept_and_shown_in_no_answer_no_log_no_error_and_no_audit() {
    let logged = Logged::default();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(logged.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let installation = Installation::with_passwords().await;
    let mut client = installation.access(Role::Admin);
    let made = client.create_device_credential(request("d1", "canary in a mine")).await.unwrap().into_inner();
    assert_eq!(made.proof, Some(Proof::Password(String::new())));
    assert!(made.secret.is_empty() && made.name.starts_with("tenants/acme/devices/d1/credentials/"), "{made:?}");
    let mut errors = String::new();
    for (device, password, code, reason) in [
        ("d1", "canary in a cage", Code::AlreadyExists, "DEVICE_CREDENTIAL_EXISTS"),
        ("d2", "canary", Code::InvalidArgument, "FIELD_INVALID"),
        ("d2", "canary canary canary \u{7}", Code::InvalidArgument, "FIELD_INVALID"),
    ] {
        let status = client.create_device_credential(request(device, password)).await.expect_err(device);
        assert_status(&status, code, reason);
        if code == Code::InvalidArgument {
            let field = &status.get_details_bad_request().unwrap().field_violations[0].field;
            assert_eq!(field, "device_credential.password");
        }
        errors += &format!("{status:?}");
    }
    let parent = "tenants/-/devices/d1".to_owned();
    let list = v1::ListDeviceCredentialsRequest { parent, ..Default::default() };
    let listed = client.list_device_credentials(list).await.unwrap().into_inner().device_credentials;
    assert_eq!(listed.as_slice(), std::slice::from_ref(&made));
    let audit = format!("{:?}", installation.audit("acme").await);
    assert!(audit.contains("CreateDeviceCredential"), "{audit}");
    tracing::info!("the last line");
    let logs = logged.text();
    assert!(logs.contains("the last line") && logs.len() > 5_000, "{}", logs.len());
    for text in [&logs, &audit, &errors, &format!("{listed:?}")] {
        assert_eq!(text.lines().find(|line| line.contains("canary") || line.contains("$argon2")), None);
    }
    client.delete_device_credential(v1::DeleteDeviceCredentialRequest { name: made.name }).await.unwrap();
    client.create_device_credential(request("d1", "canary in a cage")).await.unwrap();
}

#[tokio::test]
async fn where_passwords_are_not_accepted_the_error_names_the_key() {
    let installation = Installation::start().await;
    let mut client = installation.access(Role::Admin);
    let status = client.create_device_credential(request("d1", "correct horse battery")).await.expect_err("off");
    assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
    let violations = &status.get_details_bad_request().unwrap().field_violations;
    assert!(violations[0].description.contains("auth.passwords"), "{violations:?}");
}
