//! Credentials and roles as messages.

use identity::{Credential, CredentialKind, KeyAlgorithm, NewDeviceKey, Principal, Role};
use model::Nanos;
use proto::v1::device_credential::Proof;
use proto::v1::{self, SignatureAlgorithm};
use tonic::Status;

use crate::convert::{nanos, timestamp};
use crate::services::groups::names_of;
use crate::{errors, names};

pub(in crate::services) fn role(role: Role) -> v1::Role {
    match role {
        Role::Viewer => v1::Role::Viewer,
        Role::Operator => v1::Role::Operator,
        Role::Admin => v1::Role::Admin,
        Role::TenantAdmin => v1::Role::TenantAdmin,
        Role::Installation => v1::Role::Installation,
    }
}

/// The role that a field names.
pub(in crate::services) fn role_from(field: &str, given: i32) -> Result<Role, Status> {
    match v1::Role::try_from(given) {
        Ok(v1::Role::Viewer) => Ok(Role::Viewer),
        Ok(v1::Role::Operator) => Ok(Role::Operator),
        Ok(v1::Role::Admin) => Ok(Role::Admin),
        Ok(v1::Role::TenantAdmin) => Ok(Role::TenantAdmin),
        Ok(v1::Role::Installation) => Ok(Role::Installation),
        Ok(v1::Role::Unspecified) => Err(errors::invalid(field, "is required")),
        Err(_) => Err(errors::invalid(field, "is not one of Role")),
    }
}

/// The end of a new credential.
pub(super) fn expires(field: &str, given: Option<&prost_types::Timestamp>) -> Result<Option<Nanos>, Status> {
    given.map(|time| nanos(field, time)).transpose()
}

pub(super) fn caller(principal: &Principal) -> v1::CallerIdentity {
    v1::CallerIdentity {
        principal: principal.name.to_string(),
        tenant: names::tenant(&principal.tenant),
        role: role(principal.role).into(),
        scopes: principal.scopes.iter().flat_map(|scopes| scopes.iter()).map(ToString::to_string).collect(),
        limited: principal.scopes.is_some(),
        groups: names_of(&principal.tenant, principal.reach.groups()),
    }
}

/// An API key without its secret.
pub(super) fn api_key(credential: &Credential, last_use: Option<Nanos>) -> v1::ApiKey {
    let mut key = v1::ApiKey {
        name: names::api_key(&credential.tenant, credential.id.as_str()),
        expire_time: credential.expires.map(timestamp),
        create_time: Some(timestamp(credential.created)),
        last_use_time: last_use.map(timestamp),
        ..Default::default()
    };
    if let Some(rights) = credential.rights() {
        key.display_name.clone_from(&rights.display_name);
        key.role = role(rights.role).into();
        key.scopes.clone_from(&rights.scopes);
        key.allowed_networks.clone_from(&rights.allowed_networks);
        key.groups = names_of(&credential.tenant, rights.groups.iter().map(String::as_str));
    }
    key
}

/// A credential of a device without its secret.
pub(super) fn device_credential(credential: &Credential, last_use: Option<Nanos>) -> v1::DeviceCredential {
    let device = credential.device().unwrap_or_default();
    v1::DeviceCredential {
        name: names::device_credential(&credential.tenant, device, credential.id.as_str()),
        secret: String::new(),
        expire_time: credential.expires.map(timestamp),
        create_time: Some(timestamp(credential.created)),
        last_use_time: last_use.map(timestamp),
        proof: proof(&credential.kind),
    }
}

fn proof(kind: &CredentialKind) -> Option<Proof> {
    match kind {
        CredentialKind::DeviceKey { algorithm, public_key, .. } => {
            let algorithm = KeyAlgorithm::parse(algorithm).map_or(SignatureAlgorithm::Unspecified, |it| match it {
                KeyAlgorithm::Es256 => SignatureAlgorithm::Es256,
                KeyAlgorithm::EdDsa => SignatureAlgorithm::Eddsa,
                KeyAlgorithm::Rs256 => SignatureAlgorithm::Rs256,
            });
            Some(Proof::PublicKey(v1::PublicKey { pem: public_key.clone(), algorithm: algorithm.into() }))
        }
        CredentialKind::DeviceCertificate { fingerprint, .. } => {
            let fingerprint = fingerprint.clone();
            Some(Proof::Certificate(v1::ClientCertificate { fingerprint, ..Default::default() }))
        }
        CredentialKind::DevicePassword { .. } => Some(Proof::Password(String::new())),
        _ => None,
    }
}

/// The key of a new credential.
pub(super) fn public_key(given: v1::PublicKey, expires: Option<Nanos>) -> Result<NewDeviceKey, Status> {
    let algorithm = match SignatureAlgorithm::try_from(given.algorithm) {
        Ok(SignatureAlgorithm::Unspecified) => None,
        Ok(SignatureAlgorithm::Es256) => Some(KeyAlgorithm::Es256),
        Ok(SignatureAlgorithm::Eddsa) => Some(KeyAlgorithm::EdDsa),
        Ok(SignatureAlgorithm::Rs256) => Some(KeyAlgorithm::Rs256),
        Err(_) => {
            let field = "device_credential.public_key.algorithm";
            return Err(errors::invalid(field, "is not one of SignatureAlgorithm"));
        }
    };
    Ok(NewDeviceKey { public_key: given.pem, algorithm, expires })
}
