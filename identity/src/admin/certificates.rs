//! Authorities of certificates, and certificates that are revoked.

use model::Nanos;

use super::{Admin, By, MAX_PAGE, check};
use crate::CredentialId;
use crate::certificate::{self, Authority, AuthorityCertificate, CertificateIdentity, Fingerprint};
use crate::registry::{Class, Created, Credential, CredentialKind, Error, Listed, Owner, Result};

/// An authority to register.
#[derive(Debug, Clone)]
pub struct NewAuthority {
    /// Its name for people.
    pub display_name: String,
    /// Its certificate, PEM.
    pub certificate: String,
    /// The part of its certificates that names the device.
    pub identity: CertificateIdentity,
    /// A certificate from this authority, PEM, whose common name is the code that the error without
    /// it names: it shows that the caller has the key of the authority.
    pub proof: String,
    /// Time from which it is no longer valid, if before that of the certificate itself.
    pub expires: Option<Nanos>,
}

/// A certificate to revoke.
#[derive(Debug, Clone)]
pub struct RevokedCertificate {
    /// The certificate, PEM.
    pub certificate: String,
}

impl Admin {
    /// Registers an authority in a tenant; one key is the authority of one tenant.
    ///
    /// # Errors
    /// [`Error::Invalid`], also without the proof; [`Error::Exists`]; [`Error::NotFound`] without
    /// the tenant; [`Error::Limit`] when the tenant has 20; [`Error::Unavailable`].
    pub async fn create_authority(&self, tenant: &str, new: &NewAuthority, by: &By) -> Result<Created<Credential>> {
        let origin = self.origin("CreateAuthority", by)?;
        check::text("display_name", &new.display_name)?;
        check::tenant(tenant)?;
        let invalid = |field, reason: &str| Error::Invalid { field, reason: reason.to_owned() };
        let authority = AuthorityCertificate::parse(&new.certificate).map_err(|why| invalid("certificate", why))?;
        if authority.expires <= origin.at {
            return Err(invalid("certificate", "it has expired"));
        }
        let codes = self.peppers.codes(&["authority", tenant, &authority.fingerprint.hex()]);
        let wanted = codes.first().map_or("", String::as_str);
        if new.proof.is_empty() {
            let reason = format!("sign a certificate for the common name {wanted} with this authority, and send it");
            return Err(invalid("proof", &reason));
        }
        let proof = certificate::read(&new.proof).map_err(|why| invalid("proof", why))?;
        if !certificate::common_name(&proof).is_some_and(|name| codes.contains(&name)) {
            return Err(invalid("proof", &format!("its common name has to be {wanted}")));
        }
        if !authority.verify(&[proof], origin.at) {
            return Err(invalid(
                "proof",
                "this authority did not sign it, or it is not a certificate of version 3 that is valid now",
            ));
        }
        let kind = CredentialKind::Authority(Authority {
            display_name: new.display_name.clone(),
            certificate: new.certificate.trim().to_owned(),
            identity: new.identity,
        });
        let expires = Some(new.expires.map_or(authority.expires, |given| given.min(authority.expires)));
        self.register(authority.id, tenant, kind, expires, &origin).await
    }

    /// Returns authorities of a tenant in order of their ids, those after `after`; at most 1000.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn list_authorities(
        &self,
        tenant: &str,
        after: Option<CredentialId>,
        limit: usize,
    ) -> Result<Vec<Listed>> {
        check::tenant(tenant)?;
        self.registry.tenant_credentials(tenant, Class::Authority, after, limit.min(MAX_PAGE)).await
    }

    /// Deletes an authority. The sessions of its certificates end.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn delete_authority(&self, tenant: &str, id: CredentialId, by: &By) -> Result<()> {
        let origin = self.origin("DeleteAuthority", by)?;
        self.delete(tenant, Owner::Tenant(Class::Authority), id, &origin).await
    }

    /// Revokes one certificate of an authority of the tenant, also where a device of the tenant is
    /// registered with it. Its sessions end.
    ///
    /// # Errors
    /// [`Error::Invalid`], also for one that has expired; [`Error::Exists`] when it is revoked;
    /// [`Error::NotFound`] without the tenant; [`Error::Limit`] when the tenant has 10,000;
    /// [`Error::Unavailable`].
    pub async fn revoke_certificate(
        &self,
        tenant: &str,
        revoked: &RevokedCertificate,
        by: &By,
    ) -> Result<Created<Credential>> {
        let origin = self.origin("RevokeCertificate", by)?;
        check::tenant(tenant)?;
        let invalid = |reason: &str| Error::Invalid { field: "certificate", reason: reason.to_owned() };
        let der = certificate::read(&revoked.certificate).map_err(invalid)?;
        let print = Fingerprint::of(&der);
        let kind = CredentialKind::RevokedCertificate { fingerprint: print.hex() };
        // After the certificate has expired, its row makes room for others.
        let expires = certificate::expires(&der).ok_or_else(|| invalid("its time of expiry cannot be read"))?;
        if expires <= origin.at {
            return Err(invalid("it has expired, so that it is no longer valid anyway"));
        }
        let id = print.revoked_id(tenant);
        // First, so that it holds at once. One that exists may be of a call that ended here.
        let created = self.register(id, tenant, kind, Some(expires), &origin).await;
        if created.as_ref().is_err_and(|error| !matches!(error, Error::Exists(_))) {
            return created;
        }
        if let Some(gate) = &self.gate {
            gate.revoke(&id);
        }
        // If the device is registered with it, that ends too.
        let pinned = self.registry.credential(print.id()).await?.map(|found| found.credential);
        if let Some(pinned) = pinned.filter(|pinned| pinned.tenant == tenant)
            && let Some(device) = pinned.device()
        {
            self.delete(tenant, Owner::Device(device), pinned.id, &origin).await?;
        }
        created
    }
}
