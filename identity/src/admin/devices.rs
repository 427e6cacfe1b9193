//! Credentials of devices.

use model::Nanos;

use super::{Admin, By, CreatedDeviceSecret, MAX_PAGE, NewDeviceKey, check};
use crate::certificate::{self, Fingerprint};
use crate::registry::{Created, Credential, CredentialKind, Error, Listed, Origin, Owner, Result};
use crate::{CredentialId, TokenKind};

/// A certificate of a device to register.
#[derive(Debug, Clone)]
pub struct NewDeviceCertificate {
    /// The certificate, PEM.
    pub certificate: String,
    /// Time from which it is no longer valid, if before that of the certificate itself.
    pub expires: Option<Nanos>,
}

impl Admin {
    /// Creates a secret of a device; the device need not have connected before.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::NotFound`] without the tenant; [`Error::Limit`] when the device
    /// has 3 secrets that are valid; [`Error::Unavailable`].
    pub async fn create_device_secret(
        &self,
        tenant: &str,
        device: &str,
        expires: Option<Nanos>,
        by: &By,
    ) -> Result<CreatedDeviceSecret> {
        let origin = self.origin("CreateDeviceCredential", by)?;
        check::device(device)?;
        let kind = CredentialKind::DeviceSecret { device: device.to_owned() };
        let (credential, secret) = self.create(TokenKind::DeviceSecret, tenant, kind, expires, &origin).await?;
        Ok(CreatedDeviceSecret { credential, secret })
    }

    /// Registers a public key of a device, whose passwords are tokens (JWT) that it signs. An
    /// algorithm that is given has to be that of the key.
    ///
    /// # Errors
    /// As [`create_device_secret`](Self::create_device_secret).
    pub async fn create_device_key(
        &self,
        tenant: &str,
        device: &str,
        key: &NewDeviceKey,
        by: &By,
    ) -> Result<Credential> {
        let origin = self.origin("CreateDeviceCredential", by)?;
        check::device(device)?;
        let public_key = check::public_key(&key.public_key, key.algorithm)?;
        let kind = CredentialKind::DeviceKey {
            device: device.to_owned(),
            algorithm: public_key.algorithm.as_str().to_owned(),
            public_key: public_key.pem(),
        };
        let id = CredentialId::generate().map_err(|error| Error::Unavailable(error.to_string()))?;
        self.register(id, tenant, kind, key.expires, &origin).await.map(|created| created.row)
    }

    /// Registers a certificate of a device. Its key is shown by the handshake of a connection.
    ///
    /// # Errors
    /// As [`create_device_secret`](Self::create_device_secret); [`Error::Exists`] for a certificate
    /// that is registered already.
    pub async fn create_device_certificate(
        &self,
        tenant: &str,
        device: &str,
        new: &NewDeviceCertificate,
        by: &By,
    ) -> Result<Credential> {
        let origin = self.origin("CreateDeviceCredential", by)?;
        check::device(device)?;
        let invalid = |reason: &str| Error::Invalid { field: "certificate", reason: reason.to_owned() };
        let der = certificate::read(&new.certificate).map_err(invalid)?;
        let print = Fingerprint::of(&der);
        let last = certificate::expires(&der).ok_or_else(|| invalid("its time of expiry cannot be read"))?;
        if last <= origin.at {
            return Err(invalid("it has expired"));
        }
        let expires = Some(new.expires.map_or(last, |given| given.min(last)));
        let kind = CredentialKind::DeviceCertificate { device: device.to_owned(), fingerprint: print.hex() };
        self.register(print.id(), tenant, kind, expires, &origin).await.map(|created| created.row)
    }

    /// Returns credentials of a device, or of all devices of the tenant in order of device and id,
    /// those after `after`; at most 1000.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn list_device_credentials(
        &self,
        tenant: &str,
        device: Option<&str>,
        after: Option<(&str, CredentialId)>,
        limit: usize,
    ) -> Result<Vec<Listed>> {
        check::tenant(tenant)?;
        device.map(check::device).transpose()?;
        self.registry.device_credentials(tenant, device, after, limit.min(MAX_PAGE)).await
    }

    /// Deletes a credential of a device. Its sessions end.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn delete_device_credential(&self, tenant: &str, device: &str, id: CredentialId, by: &By) -> Result<()> {
        let origin = self.origin("DeleteDeviceCredential", by)?;
        check::device(device)?;
        self.delete(tenant, Owner::Device(device), id, &origin).await
    }

    /// Creates a credential without a generated secret.
    pub(super) async fn register(
        &self,
        id: CredentialId,
        tenant: &str,
        kind: CredentialKind,
        expires: Option<Nanos>,
        origin: &Origin,
    ) -> Result<Created<Credential>> {
        check::tenant(tenant)?;
        check::expires(expires, origin.at)?;
        let (tenant, created) = (tenant.to_owned(), origin.at);
        let credential = Credential { id, tenant, kind, created, expires, digest: None };
        self.registry.create_credential(credential, origin).await
    }
}
