//! Public keys and certificates of devices, authorities.

use identity::Role;
use proto::v1::device_credential::Proof;
use proto::v1::{self, Authority, CertificateIdentity, DeviceCredential, PublicKey, SignatureAlgorithm};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::registry::Installation;
use crate::world::assert_status;

const P256: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEy3x9qbbZF4S/ama49RNCs0TL4mwe
QXl04Tyu7uBlIvZiDpFihN99o6W2RUjYPhnVGL9QtDF8fhJmcm5HCuFjYA==
-----END PUBLIC KEY-----
";

fn request(pem: &str, algorithm: i32) -> v1::CreateDeviceCredentialRequest {
    let proof = Some(Proof::PublicKey(PublicKey { pem: pem.into(), algorithm }));
    let device_credential = Some(DeviceCredential { proof, ..Default::default() });
    v1::CreateDeviceCredentialRequest {
        parent: "tenants/-/devices/d1".into(),
        device_credential,
        request_id: "5e1f".into(),
    }
}

#[tokio::test]
async fn a_key_of_a_device_is_registered_listed_audited_and_deleted() {
    let installation = Installation::start().await;
    let mut client = installation.access(Role::Admin);
    let made = client.create_device_credential(request(P256, 0)).await.unwrap().into_inner();
    assert!(made.secret.is_empty() && made.name.starts_with("tenants/acme/devices/d1/credentials/"), "{made:?}");
    let algorithm = SignatureAlgorithm::Es256.into();
    assert_eq!(made.proof, Some(Proof::PublicKey(PublicKey { pem: P256.into(), algorithm })));
    let repeat = client.create_device_credential(request(P256, algorithm)).await.unwrap().into_inner();
    assert_eq!(repeat, made, "a repeat");
    let parent = "tenants/-/devices/d1".to_owned();
    let list = v1::ListDeviceCredentialsRequest { parent, ..Default::default() };
    let listed = client.list_device_credentials(list).await.unwrap().into_inner().device_credentials;
    assert_eq!(listed.as_slice(), std::slice::from_ref(&made));
    let event = installation.audit("acme").await.remove(0);
    let shown = format!("{event:?}");
    assert!(shown.contains("CreateDeviceCredential") && shown.contains("ES256"), "{shown}");
    assert!(shown.contains("BEGIN PUBLIC KEY"), "{shown}");
    client.delete_device_credential(v1::DeleteDeviceCredentialRequest { name: made.name }).await.unwrap();
}

#[tokio::test]
async fn a_key_that_cannot_be_used_is_refused_by_the_name_of_its_field() {
    let installation = Installation::start().await;
    let mut client = installation.access(Role::Admin);
    let (pem, algorithm) = ("device_credential.public_key.pem", "device_credential.public_key.algorithm");
    for (request, field) in [
        (request("", 0), pem),
        (request("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0), pem),
        (request(P256, SignatureAlgorithm::Rs256.into()), algorithm),
        (request(P256, 99), algorithm),
    ] {
        let status = client.create_device_credential(request).await.expect_err(field);
        assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, field, "{status:?}");
    }
}

#[tokio::test]
async fn certificates_and_authorities_that_cannot_be_used_are_refused_by_the_name_of_their_field() {
    let installation = Installation::start().await;
    let mut client = installation.access(Role::Admin);
    let proof = Some(Proof::Certificate(v1::ClientCertificate { pem: P256.into(), ..Default::default() }));
    let mut request = request("", 0);
    request.device_credential = Some(DeviceCredential { proof, ..Default::default() });
    let field = |status: Status, field: &str| {
        assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, field, "{status:?}");
    };
    field(client.create_device_credential(request).await.expect_err("a key"), "device_credential.certificate.pem");
    let mut client = installation.authorities(Role::TenantAdmin);
    let parent = "tenants/-".to_owned();
    let with = |identity: CertificateIdentity, certificate: &str| v1::CreateAuthorityRequest {
        parent: parent.clone(),
        authority: Some(Authority { certificate: certificate.into(), identity: identity.into(), ..Default::default() }),
        ..Default::default()
    };
    let wrong = with(CertificateIdentity::SanUri, P256);
    field(client.create_authority(wrong).await.expect_err("a key"), "authority.certificate");
    let wrong = with(CertificateIdentity::Unspecified, P256);
    field(client.create_authority(wrong).await.expect_err("no identity"), "authority.identity");
    let wrong = v1::RevokeCertificateRequest { parent: parent.clone(), certificate: P256.into() };
    field(client.revoke_certificate(wrong).await.expect_err("a key"), "certificate");
    let list = v1::ListAuthoritiesRequest { parent, ..Default::default() };
    assert!(client.list_authorities(list).await.unwrap().into_inner().authorities.is_empty());
    let name = "tenants/-/authorities/0123456789AB".to_owned();
    let status = client.delete_authority(v1::DeleteAuthorityRequest { name }).await.expect_err("none");
    assert_status(&status, Code::NotFound, "AUTHORITY_NOT_FOUND");
}
