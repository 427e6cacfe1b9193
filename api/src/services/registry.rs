//! The registry of tenants and credentials, as its services use it.

use identity::{Admin, By, CredentialId, Error};
use tonic::Status;

use super::Shared;
use crate::auth::Caller;
use crate::{errors, names};

impl Shared {
    /// The changes of tenants and credentials.
    ///
    /// # Errors
    /// FAILED_PRECONDITION without authentication.
    pub(super) fn admin(&self) -> Result<&Admin, Status> {
        self.config.admin.as_ref().ok_or_else(errors::auth_not_required)
    }
}

/// The caller, as the origin of a change.
pub(super) fn by(caller: &Caller, request_id: &str) -> By {
    let principal = caller.principal();
    By {
        principal: principal.name.clone(),
        role: principal.role,
        address: caller.peer(),
        request_id: (!request_id.is_empty()).then(|| request_id.to_owned()),
    }
}

/// Reads the version that is the etag `of` a tenant, a group or a device; None without one.
pub(super) fn version(of: &str, field: &str, etag: &str) -> Result<Option<u64>, Status> {
    match etag {
        "" => Ok(None),
        etag => etag.parse().map(Some).map_err(|_| errors::invalid(field, format!("is not one of {of}"))),
    }
}

/// The id of a credential, an authority, an issuer or a role binding in a name.
pub(super) fn id_of(name: &str, segment: &str, resource: &Resource) -> Result<CredentialId, Status> {
    // Another text is the id of none.
    CredentialId::parse(segment).ok_or_else(|| resource.refused("", name, Error::NotFound(name.to_owned())))
}

/// The kind of resource that a call concerns.
pub(super) enum Resource {
    ApiKey,
    Device,
    DeviceCredential,
    Authority,
    Group,
    GroupMember,
    Issuer,
    RevokedCertificate,
    RoleBinding,
    Tenant,
}

impl Resource {
    /// Converts an error of the registry. `parent` names the tenant or the device, `name` the
    /// resource.
    pub(super) fn refused(&self, parent: &str, name: &str, error: Error) -> Status {
        match error {
            // The tenant of a creation, which has no name yet.
            Error::NotFound(_) if name.is_empty() => errors::not_found("TENANT_NOT_FOUND", &tenant_of(parent)),
            Error::NotFound(_) => errors::not_found(self.reason(), name),
            Error::Exists(_) => errors::exists(self.exists(), name),
            Error::Conflict(_) => errors::conflict(name, error.to_string()),
            Error::InUse { .. } => errors::in_use(name, error.to_string()),
            Error::Limit { most, .. } => errors::quota(self.too_many(), parent, most, error.to_string()),
            Error::Invalid { field, reason } => errors::invalid(self.field(field), reason),
            Error::Unavailable(_) | Error::NeedsOperator(_) => {
                // The text of the error names files: it is for the log.
                tracing::warn!(%error, "a call needs the registry of credentials");
                let message = "the registry of tenants and credentials is unavailable: try again later";
                errors::unavailable("REGISTRY_UNAVAILABLE", message)
            }
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::ApiKey => "API_KEY_NOT_FOUND",
            Self::Device => "DEVICE_NOT_FOUND",
            Self::DeviceCredential => "DEVICE_CREDENTIAL_NOT_FOUND",
            Self::Authority => "AUTHORITY_NOT_FOUND",
            Self::Group | Self::GroupMember => "GROUP_NOT_FOUND",
            Self::Issuer => "ISSUER_NOT_FOUND",
            Self::RevokedCertificate => "CERTIFICATE_NOT_FOUND",
            Self::RoleBinding => "ROLE_BINDING_NOT_FOUND",
            Self::Tenant => "TENANT_NOT_FOUND",
        }
    }

    fn exists(&self) -> &'static str {
        match self {
            Self::ApiKey => "API_KEY_EXISTS",
            Self::Device => "DEVICE_EXISTS",
            Self::DeviceCredential => "DEVICE_CREDENTIAL_EXISTS",
            Self::Authority => "AUTHORITY_EXISTS",
            Self::Group | Self::GroupMember => "GROUP_EXISTS",
            Self::Issuer => "ISSUER_EXISTS",
            Self::RevokedCertificate => "CERTIFICATE_REVOKED",
            Self::RoleBinding => "ROLE_BINDING_EXISTS",
            Self::Tenant => "TENANT_EXISTS",
        }
    }

    fn too_many(&self) -> &'static str {
        match self {
            Self::ApiKey => "TOO_MANY_API_KEYS",
            Self::Device => "TOO_MANY_DEVICES",
            Self::DeviceCredential => "TOO_MANY_DEVICE_CREDENTIALS",
            Self::Authority => "TOO_MANY_AUTHORITIES",
            Self::Group => "TOO_MANY_GROUPS",
            Self::GroupMember => "TOO_MANY_GROUP_MEMBERS",
            Self::Issuer => "TOO_MANY_ISSUERS",
            Self::RevokedCertificate => "TOO_MANY_REVOKED_CERTIFICATES",
            Self::RoleBinding => "TOO_MANY_ROLE_BINDINGS",
            Self::Tenant => "TOO_MANY_TENANTS",
        }
    }

    /// The field of the request.
    fn field(&self, field: &'static str) -> &'static str {
        match (self, field) {
            (Self::Tenant, "tenant") => "tenant_id",
            (Self::Tenant, "display_name") => "tenant.display_name",
            (Self::Tenant, "features") => "tenant.features",
            (Self::Tenant, "limits") => "tenant.limits",
            (Self::Tenant, "pool") => "tenant.pool",
            (Self::DeviceCredential, "expire_time") => "device_credential.expire_time",
            (Self::DeviceCredential, "certificate") => "device_credential.certificate.pem",
            (Self::DeviceCredential, "proof") => "device_credential.certificate.proof",
            (Self::DeviceCredential, "password") => "device_credential.password",
            (Self::Authority, "display_name") => "authority.display_name",
            (Self::Authority, "certificate") => "authority.certificate",
            (Self::Authority, "expire_time") => "authority.expire_time",
            (Self::DeviceCredential, "public_key") => "device_credential.public_key.pem",
            (Self::DeviceCredential, "algorithm") => "device_credential.public_key.algorithm",
            (Self::Device, "device") => "device_id",
            (Self::Device, "display_name") => "device.display_name",
            (Self::Device, "labels") => "device.labels",
            (Self::Device, "device_type") => "device.device_type",
            (Self::Device, "expected_interval") => "device.expected_interval",
            (_, "tenant" | "device") => "parent",
            (Self::Issuer, "display_name") => "issuer.display_name",
            (Self::Issuer, "url") => "issuer.url",
            (Self::Issuer, "audience") => "issuer.audience",
            (Self::Issuer, "role_claim") => "issuer.role_claim",
            (Self::Issuer, "roles") => "issuer.claim_roles",
            (Self::Issuer, "max_role") => "issuer.max_role",
            (Self::Issuer, "tenant_claim") => "issuer.tenant_claim",
            (Self::Issuer, "max_lifetime") => "issuer.max_lifetime",
            (Self::RoleBinding, "principal") => "role_binding.principal",
            (Self::RoleBinding, "role") => "role_binding.role",
            (Self::RoleBinding, "groups") => "role_binding.groups",
            (Self::Group, "display_name") => "group.display_name",
            (Self::Group, "patterns") => "group.patterns",
            (_, "display_name") => "api_key.display_name",
            (_, "role") => "api_key.role",
            (_, "scopes") => "api_key.scopes",
            (_, "groups") => "api_key.groups",
            (_, "allowed_networks") => "api_key.allowed_networks",
            (_, "expire_time") => "api_key.expire_time",
            (_, other) => other,
        }
    }
}

/// The name of the tenant in a name.
fn tenant_of(name: &str) -> String {
    let tenant = names::split_device(name).map(|(tenant, _)| tenant).or_else(|| names::split_tenant(name));
    format!("tenants/{}", tenant.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::StatusExt;

    use super::*;

    #[test]
    fn a_fault_of_the_registry_names_no_file_to_the_caller() {
        let error = || Error::Unavailable("/data/registry.redb: No space left on device (os error 28)".into());
        for resource in [Resource::ApiKey, Resource::DeviceCredential, Resource::Tenant] {
            let status = resource.refused("tenants/acme", "", error());
            assert_eq!(status.code(), Code::Unavailable);
            assert_eq!(status.get_details_error_info().unwrap().reason, "REGISTRY_UNAVAILABLE");
            assert!(status.get_details_retry_info().is_some(), "{status:?}");
            let all = format!("{} {:?}", status.message(), status.get_error_details());
            assert!(!all.contains("/data") && !all.contains("device"), "{all}");
        }
    }
}
