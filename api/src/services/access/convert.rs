//! Credentials and roles as messages.

use identity::{Credential, Principal, Role};
use model::Nanos;
use proto::v1;
use tonic::Status;

use crate::convert::{nanos, timestamp};
use crate::{errors, names};

fn role(role: Role) -> v1::Role {
    match role {
        Role::Viewer => v1::Role::Viewer,
        Role::Operator => v1::Role::Operator,
        Role::Admin => v1::Role::Admin,
        Role::TenantAdmin => v1::Role::TenantAdmin,
        Role::Installation => v1::Role::Installation,
    }
}

/// The role of a new key.
pub(super) fn role_from(given: i32) -> Result<Role, Status> {
    match v1::Role::try_from(given) {
        Ok(v1::Role::Viewer) => Ok(Role::Viewer),
        Ok(v1::Role::Operator) => Ok(Role::Operator),
        Ok(v1::Role::Admin) => Ok(Role::Admin),
        Ok(v1::Role::TenantAdmin) => Ok(Role::TenantAdmin),
        Ok(v1::Role::Installation) => Ok(Role::Installation),
        Ok(v1::Role::Unspecified) => Err(errors::invalid("api_key.role", "is required")),
        Err(_) => Err(errors::invalid("api_key.role", "is not one of Role")),
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
    }
}
