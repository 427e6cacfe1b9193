//! Credentials, and all else that a tenant lets in by.

use model::Nanos;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Use;
use crate::certificate::Authority;
use crate::oauth::Issuer;
use crate::{CredentialId, Digest, PasswordHash, Role, hex};

/// A credential of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Its id. The part of a token that is not secret, or derived from the content.
    pub id: CredentialId,
    /// Its tenant.
    pub tenant: String,
    /// The client or caller that it identifies.
    pub kind: CredentialKind,
    /// Time of its creation.
    pub created: Nanos,
    /// Time from which it is no longer valid.
    pub expires: Option<Nanos>,
    /// The form in which its secret is kept; `None` when it has no generated secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// The client or caller that a credential identifies, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialKind {
    /// A device, which connects with a generated secret.
    DeviceSecret {
        /// Id of the device.
        device: String,
    },
    /// A device, which connects with tokens (JWT) that it signs itself.
    DeviceKey {
        /// Id of the device.
        device: String,
        /// The algorithm of its signatures: `ES256`.
        algorithm: String,
        /// Its public key, PEM.
        public_key: String,
    },
    /// A device, which connects with this certificate.
    DeviceCertificate {
        /// Id of the device.
        device: String,
        /// SHA-256 of the certificate, hexadecimal.
        fingerprint: String,
    },
    /// A device, which connects with a chosen password.
    DevicePassword {
        /// Id of the device.
        device: String,
        /// The form in which the password is kept.
        password: PasswordHash,
    },
    /// An authority whose certificates identify devices.
    Authority(Authority),
    /// A certificate of an authority that is no longer valid.
    RevokedCertificate {
        /// SHA-256 of the certificate, hexadecimal.
        fingerprint: String,
    },
    /// A caller of the api.
    ApiKey(KeyRights),
    /// An issuer of access tokens for callers of the api.
    Issuer(Issuer),
    /// A role of a principal that an issuer names.
    RoleBinding(RoleBinding),
}

impl CredentialKind {
    /// Returns a hash of the content, by which a request is told apart from another one.
    pub(crate) fn content(&self) -> String {
        let content = match self {
            // The same password has another hash each time.
            Self::DevicePassword { device, .. } => serde_json::to_vec(&("device_password", device)),
            kind => serde_json::to_vec(kind),
        };
        hex::encode(&Sha256::digest(content.expect("plain fields are JSON"))[..16])
    }
}

/// The rights of an API key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRights {
    /// Its name for people.
    pub display_name: String,
    /// Its role.
    pub role: Role,
    /// Permissions that it is limited to; empty is all of its role.
    pub scopes: Vec<String>,
    /// Networks (CIDR) that it is valid from; empty is all.
    pub allowed_networks: Vec<String>,
    /// Groups whose devices it is limited to; empty is the whole tenant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

/// A role of a principal that an issuer names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleBinding {
    /// Name of the principal: `oidc:{issuer}#{subject}`, `client:{issuer}#{client id}`.
    pub principal: String,
    /// Its role.
    pub role: Role,
    /// Groups whose devices it is limited to; empty is the whole tenant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

impl RoleBinding {
    /// Returns the id of the binding of a principal in a tenant: there is one.
    pub fn id(tenant: &str, principal: &str) -> CredentialId {
        CredentialId::derived(&["binding", tenant, principal])
    }
}

/// The class of a credential: credentials of one class are listed and limited together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Credentials of a device.
    Device,
    /// API keys of a tenant.
    ApiKey,
    /// Issuers of a tenant.
    Issuer,
    /// Role bindings of a tenant.
    RoleBinding,
    /// Authorities of certificates of devices.
    Authority,
    /// Certificates that are no longer valid.
    RevokedCertificate,
}

impl Class {
    /// Returns its name in a registry.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::ApiKey => "api_key",
            Self::Issuer => "issuer",
            Self::RoleBinding => "role_binding",
            Self::Authority => "authority",
            Self::RevokedCertificate => "revoked_certificate",
        }
    }

    /// Returns the maximum count of credentials, for each device or tenant.
    pub(crate) fn most(self) -> usize {
        match self {
            Self::Device => 3,
            Self::ApiKey => 1000,
            Self::Issuer => 20,
            Self::RoleBinding | Self::RevokedCertificate => 10_000,
            Self::Authority => 20,
        }
    }

    /// Returns its name in the error of a limit.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Device => "valid credentials of this device",
            Self::ApiKey => "API keys",
            Self::Issuer => "issuers",
            Self::RoleBinding => "role bindings",
            Self::Authority => "authorities of certificates",
            Self::RevokedCertificate => "revoked certificates",
        }
    }
}

/// The owner of a credential. A call that names another one finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner<'a> {
    /// A device.
    Device(&'a str),
    /// The tenant, by class.
    Tenant(Class),
}

/// A hash of a row without the form in which its secret is kept, which moves between peppers. Rows
/// that had one id after each other differ in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stamp([u8; 16]);

impl Credential {
    /// Returns its stamp.
    pub(crate) fn stamp(&self) -> Stamp {
        let Self { id, tenant, kind, created, expires, digest: _ } = self;
        let content = match kind {
            CredentialKind::DevicePassword { device, .. } => {
                serde_json::to_vec(&(id, tenant, device, created, expires))
            }
            kind => serde_json::to_vec(&(id, tenant, kind, created, expires)),
        };
        let content = content.expect("plain fields are JSON");
        let mut stamp = [0; 16];
        stamp.copy_from_slice(&Sha256::digest(content)[..16]);
        Stamp(stamp)
    }

    /// Returns a text that changes with its content.
    pub fn etag(&self) -> String {
        hex::encode(&self.stamp().0)
    }

    /// True when it has expired.
    pub fn has_expired(&self, now: Nanos) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Returns its class.
    pub fn class(&self) -> Class {
        match &self.kind {
            CredentialKind::DeviceSecret { .. }
            | CredentialKind::DeviceKey { .. }
            | CredentialKind::DeviceCertificate { .. }
            | CredentialKind::DevicePassword { .. } => Class::Device,
            CredentialKind::Authority(_) => Class::Authority,
            CredentialKind::RevokedCertificate { .. } => Class::RevokedCertificate,
            CredentialKind::ApiKey(_) => Class::ApiKey,
            CredentialKind::Issuer(_) => Class::Issuer,
            CredentialKind::RoleBinding(_) => Class::RoleBinding,
        }
    }

    /// Returns its device, if it belongs to one.
    pub fn device(&self) -> Option<&str> {
        match &self.kind {
            CredentialKind::DeviceSecret { device }
            | CredentialKind::DeviceKey { device, .. }
            | CredentialKind::DeviceCertificate { device, .. }
            | CredentialKind::DevicePassword { device, .. } => Some(device),
            _ => None,
        }
    }

    /// Returns its owner.
    pub fn owner(&self) -> Owner<'_> {
        self.device().map_or(Owner::Tenant(self.class()), Owner::Device)
    }

    /// Returns its rights, if it is an API key.
    pub fn rights(&self) -> Option<&KeyRights> {
        match &self.kind {
            CredentialKind::ApiKey(rights) => Some(rights),
            _ => None,
        }
    }

    /// Returns the groups that its rights are limited to; none when they are not.
    pub fn groups(&self) -> &[String] {
        match &self.kind {
            CredentialKind::ApiKey(rights) => &rights.groups,
            CredentialKind::RoleBinding(binding) => &binding.groups,
            _ => &[],
        }
    }

    /// Returns its name in the audit: `apiKeys/4ZjQ0kq8yW2a`,
    /// `devices/d1/credentials/4ZjQ0kq8yW2a`.
    pub fn name(&self) -> String {
        match &self.kind {
            CredentialKind::DeviceSecret { device }
            | CredentialKind::DeviceKey { device, .. }
            | CredentialKind::DeviceCertificate { device, .. }
            | CredentialKind::DevicePassword { device, .. } => format!("devices/{device}/credentials/{}", self.id),
            CredentialKind::Authority(_) => format!("authorities/{}", self.id),
            CredentialKind::RevokedCertificate { .. } => format!("revokedCertificates/{}", self.id),
            CredentialKind::ApiKey(_) => format!("apiKeys/{}", self.id),
            CredentialKind::Issuer(_) => format!("issuers/{}", self.id),
            CredentialKind::RoleBinding(_) => format!("roleBindings/{}", self.id),
        }
    }

    /// Returns the credential with its secret or password in the form that a use has found; `None`
    /// when it stays as it is.
    pub(crate) fn moved_by(mut self, used: &Use) -> Option<Self> {
        if let (Some(known), Some(new)) = (&mut self.digest, used.digest)
            && new.pepper > known.pepper
        {
            *known = new;
            return Some(self);
        }
        if let (CredentialKind::DevicePassword { password, .. }, Some(new)) = (&mut self.kind, &used.rehashed)
            && *password == new.from
        {
            *password = new.to.clone();
            return Some(self);
        }
        None
    }

    /// Returns its content as JSON for the audit event of its creation; it has no secret.
    pub(crate) fn detail(&self) -> String {
        let content = match &self.kind {
            CredentialKind::DeviceSecret { .. } => serde_json::json!({}),
            CredentialKind::DevicePassword { .. } => serde_json::json!({ "password": true }),
            CredentialKind::DeviceKey { algorithm, public_key, .. } => {
                serde_json::json!({ "algorithm": algorithm, "public_key": public_key })
            }
            CredentialKind::DeviceCertificate { fingerprint, .. }
            | CredentialKind::RevokedCertificate { fingerprint } => serde_json::json!({ "fingerprint": fingerprint }),
            CredentialKind::Authority(authority) => serde_json::json!({ "authority": authority }),
            CredentialKind::ApiKey(rights) => serde_json::json!({ "rights": rights }),
            CredentialKind::Issuer(issuer) => serde_json::json!({ "issuer": issuer }),
            CredentialKind::RoleBinding(binding) => serde_json::json!({ "binding": binding }),
        };
        let mut detail = serde_json::json!({ "expires": self.expires });
        if let (Some(detail), serde_json::Value::Object(content)) = (detail.as_object_mut(), content) {
            detail.extend(content);
        }
        detail.to_string()
    }
}
