//! Credentials of devices.

use model::Nanos;

use super::{Admin, By, CreatedDeviceSecret, MAX_PAGE, NewDeviceKey, check};
use crate::certificate::{self, AuthorityCertificate, Fingerprint};
use crate::registry::{Created, Credential, CredentialKind, Error, Listed, Origin, Owner, Result};
use crate::{CredentialId, Gate, PasswordHash, Role, Secret, TokenKind, password};

/// A certificate of a device to register.
#[derive(Debug, Clone)]
pub struct NewDeviceCertificate {
    /// The certificate, PEM.
    pub certificate: String,
    /// A certification request (PKCS #10, PEM) that the key of the certificate has signed, with the
    /// common name that the error without it names. It shows that the caller has the key. Needed by
    /// administrators of a tenant, unless an authority of the tenant issued the certificate.
    pub proof: String,
    /// Time from which it is no longer valid, if before that of the certificate itself.
    pub expires: Option<Nanos>,
}

/// A chosen password of a device.
#[derive(Debug, Clone)]
pub struct NewDevicePassword {
    /// The password.
    pub password: Secret,
    /// Time from which it is no longer valid.
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
    /// As [`create_device_secret`](Self::create_device_secret); [`Error::Invalid`] without the
    /// proof; [`Error::Exists`] for a certificate that is registered already.
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
        if by.role < Role::Installation && !self.has_issued(tenant, &der, origin.at).await? {
            self.check_possession(tenant, device, &der, &new.proof)?;
        }
        let expires = Some(new.expires.map_or(last, |given| given.min(last)));
        let kind = CredentialKind::DeviceCertificate { device: device.to_owned(), fingerprint: print.hex() };
        self.register(print.id(), tenant, kind, expires, &origin).await.map(|created| created.row)
    }

    /// True when an authority of the tenant has issued a certificate: it showed that it has its
    /// key.
    async fn has_issued(&self, tenant: &str, der: &[u8], now: Nanos) -> Result<bool> {
        check::tenant(tenant)?;
        let Some(id) = certificate::authority_of(der) else { return Ok(false) };
        let found = self.registry.credential(id).await?.map(|found| found.credential);
        let found = found.filter(|row| row.tenant == tenant && !row.has_expired(now));
        let Some(CredentialKind::Authority(authority)) = found.map(|row| row.kind) else { return Ok(false) };
        let authority = AuthorityCertificate::parse(&authority.certificate);
        Ok(authority.is_ok_and(|authority| authority.verify(&[der.to_vec()], now)))
    }

    /// Checks that the caller has the key of a certificate: it is seen by all who watch a
    /// handshake, and a device belongs to the tenant that has registered it.
    fn check_possession(&self, tenant: &str, device: &str, der: &[u8], proof: &str) -> Result<()> {
        let invalid = |reason: String| Error::Invalid { field: "proof", reason };
        let print = Fingerprint::of(der).hex();
        let codes = self.peppers.codes(&["certificate", tenant, device, &print]);
        let wanted = codes.first().map_or("", String::as_str);
        if proof.is_empty() {
            return Err(invalid(format!(
                "sign a certification request for the common name {wanted} with the key of the certificate (openssl req \
                 -new -key KEY -subj /CN={wanted}), and send it"
            )));
        }
        let name = certificate::requested_name(proof, der).map_err(|why| invalid(why.to_owned()))?;
        match name.is_some_and(|name| codes.contains(&name)) {
            true => Ok(()),
            false => Err(invalid(format!("its common name has to be {wanted}"))),
        }
    }

    /// Keeps a password that was chosen for a device which cannot take a generated secret. A device
    /// has one.
    ///
    /// # Errors
    /// As [`create_device_secret`](Self::create_device_secret); [`Error::Invalid`] also for a
    /// password that is short or common, and where they are not accepted; [`Error::Exists`] when
    /// the device has one; [`Error::Unavailable`] also when too many passwords are being checked.
    pub async fn create_device_password(
        &self,
        tenant: &str,
        device: &str,
        new: &NewDevicePassword,
        by: &By,
    ) -> Result<Credential> {
        let origin = self.origin("CreateDeviceCredential", by)?;
        check::tenant(tenant)?;
        check::device(device)?;
        let invalid = |reason: String| Error::Invalid { field: "password", reason };
        let off = "passwords that people choose are not accepted: give the device a secret, or set \
                   `auth.passwords = true` in the configuration of Weir";
        let passwords = self.gate.as_ref().and_then(Gate::passwords).ok_or_else(|| invalid(off.into()))?;
        password::check(new.password.expose(), tenant, device).map_err(invalid)?;
        let id = password::id_of(tenant, device);
        let (pepper, input) = self.peppers.of_new_password(&id, new.password.expose().as_bytes());
        let busy = |_| Error::Unavailable("too many passwords are being checked: try again in a few seconds".into());
        let hash = passwords.hash_new(None, input).await.map_err(busy)?;
        let password = PasswordHash { phc: hash.text(), pepper };
        let kind = CredentialKind::DevicePassword { device: device.to_owned(), password };
        self.register(id, tenant, kind, new.expires, &origin).await.map(|created| created.row)
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
