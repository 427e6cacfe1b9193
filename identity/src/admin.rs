//! Changes of tenants and credentials, as the api and the command line make them.

mod certificates;
mod check;
mod deletion;
mod device_credentials;
mod devices;
mod groups;
mod issuers;
#[cfg(test)]
mod tests;

pub use certificates::{NewAuthority, RevokedCertificate};
pub use device_credentials::{NewDeviceCertificate, NewDevicePassword};
pub use devices::NewDevice;
pub use groups::NewGroup;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use door::quota::{Limits, Usage};
use model::{Clock, Nanos};
use tokio::sync::Semaphore;

use crate::registry::{
    AuditEvent, AuditRange, AuditReport, Checkpoint, Class, Created, Credential, CredentialKind, DeviceAdmission,
    Error, KeyRights, Listed, Origin, Owner, Registry, Result, Tenant, TenantState, TenantUpdate,
};
use crate::{Checkpoints, CredentialId, Gate, KeyAlgorithm, Peppers, Role, Secret, SignedCheckpoint, Token, TokenKind};

/// Checks of audit chains at one time. Each reads a whole chain: more of them would hold up the
/// lookups of credentials of all tenants.
const CHECKS: usize = 2;
/// Maximum entries of one page.
const MAX_PAGE: usize = 1000;

/// The caller of a change.
#[derive(Debug, Clone)]
pub struct By {
    /// Name of the principal: `apiKeys/4ZjQ0kq8yW2a`, `local`.
    pub principal: Arc<str>,
    /// Its role: it creates no API key of a higher one.
    pub role: Role,
    /// Address that it calls from.
    pub address: Option<IpAddr>,
    /// Id of the request: a creation with the same one within 24 hours is a repeat.
    pub request_id: Option<String>,
}

impl By {
    /// The operator at the command line.
    pub fn local() -> Self {
        Self { principal: "local".into(), role: Role::Installation, address: None, request_id: None }
    }
}

/// An API key to be created.
#[derive(Debug, Clone)]
pub struct NewApiKey {
    /// Its name for people.
    pub display_name: String,
    /// Its role.
    pub role: Role,
    /// Permissions that it is limited to; empty is all of its role.
    pub scopes: Vec<String>,
    /// Networks (CIDR) that it is valid from; empty is all.
    pub allowed_networks: Vec<String>,
    /// Groups whose devices it is limited to; empty is the whole tenant.
    pub groups: Vec<String>,
    /// Time from which it is no longer valid.
    pub expires: Option<Nanos>,
}

/// A public key of a device to register.
#[derive(Debug, Clone)]
pub struct NewDeviceKey {
    /// The key, PEM.
    pub public_key: String,
    /// The algorithm that it has to be for.
    pub algorithm: Option<KeyAlgorithm>,
    /// Time from which it is no longer valid.
    pub expires: Option<Nanos>,
}

/// A device secret that was created.
#[derive(Debug, Clone)]
pub struct CreatedDeviceSecret {
    /// The credential.
    pub credential: Credential,
    /// The password of the device, shown this once; `None` when the request is a repeat.
    pub secret: Option<Secret>,
}

/// An API key that was created.
#[derive(Debug, Clone)]
pub struct CreatedApiKey {
    /// The credential.
    pub credential: Credential,
    /// The key, shown this once; `None` when the request is a repeat.
    pub secret: Option<Secret>,
}

/// A tenant that was created.
#[derive(Debug, Clone)]
pub struct CreatedTenant {
    /// The tenant.
    pub tenant: Tenant,
    /// True when the request is a repeat.
    pub is_repeat: bool,
}

/// Makes changes of tenants and credentials. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admin {
    registry: Arc<dyn Registry>,
    peppers: Arc<Peppers>,
    clock: Arc<dyn Clock>,
    gate: Option<Gate>,
    checkpoints: Option<Arc<Checkpoints>>,
    checks: Arc<Semaphore>,
}

impl Admin {
    /// Changes of a registry.
    pub fn new(registry: Arc<dyn Registry>, peppers: Arc<Peppers>, clock: Arc<dyn Clock>) -> Self {
        let checks = Arc::new(Semaphore::new(CHECKS));
        Self { registry, peppers, clock, gate: None, checkpoints: None, checks }
    }

    /// Ends sessions at a gate of this process at once, not only when it reads of the change.
    #[must_use]
    pub fn with_gate(self, gate: Gate) -> Self {
        Self { gate: Some(gate), ..self }
    }

    /// Signs the ends of audit chains that were checked.
    #[must_use]
    pub fn with_checkpoints(self, checkpoints: Arc<Checkpoints>) -> Self {
        Self { checkpoints: Some(checkpoints), ..self }
    }

    /// Creates an API key.
    ///
    /// # Errors
    /// [`Error::Invalid`], also for a role above that of the caller and for a group that is not
    /// there; [`Error::NotFound`] without the tenant; [`Error::Limit`] when the tenant has 1000;
    /// [`Error::Unavailable`].
    pub async fn create_api_key(&self, tenant: &str, key: NewApiKey, by: &By) -> Result<CreatedApiKey> {
        let origin = self.origin("CreateApiKey", by)?;
        if key.role > by.role {
            let reason = format!("{} is above the role of the caller ({})", key.role.as_str(), by.role.as_str());
            return Err(Error::Invalid { field: "role", reason });
        }
        check::text("display_name", &key.display_name)?;
        let rights = KeyRights {
            display_name: key.display_name,
            role: key.role,
            scopes: check::scopes(key.role, key.scopes)?,
            allowed_networks: check::networks(&key.allowed_networks)?,
            groups: check::groups(key.role, key.groups)?,
        };
        let kind = CredentialKind::ApiKey(rights);
        let (credential, secret) = self.create(TokenKind::ApiKey, tenant, kind, key.expires, &origin).await?;
        Ok(CreatedApiKey { credential, secret })
    }

    /// Returns API keys of a tenant in order of their ids, those after `after`; at most 1000.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn list_api_keys(&self, tenant: &str, after: Option<CredentialId>, limit: usize) -> Result<Vec<Listed>> {
        check::tenant(tenant)?;
        self.registry.tenant_credentials(tenant, Class::ApiKey, after, limit.min(MAX_PAGE)).await
    }

    /// Returns an API key.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn get_api_key(&self, tenant: &str, id: CredentialId) -> Result<Listed> {
        check::tenant(tenant)?;
        let found = self.registry.credential(id).await?;
        let found = found.filter(|found| found.credential.tenant == tenant && found.credential.rights().is_some());
        let found = found.ok_or_else(|| Error::NotFound(format!("credential {id}")))?;
        Ok(Listed { credential: found.credential, last_use: found.last_use })
    }

    /// Deletes an API key. Its streams end.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for a key with a role above that of the caller;
    /// [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn delete_api_key(&self, tenant: &str, id: CredentialId, by: &By) -> Result<()> {
        let origin = self.origin("DeleteApiKey", by)?;
        let key = self.get_api_key(tenant, id).await?;
        if key.credential.rights().is_some_and(|rights| rights.role > by.role) {
            return Err(Error::NotFound(format!("credential {id}")));
        }
        self.delete(tenant, Owner::Tenant(Class::ApiKey), id, &origin).await
    }

    /// Returns the tenant that has a credential, an issuer or an authority, for an operator of the
    /// installation.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn holder(&self, id: CredentialId, by: &By) -> Result<Option<String>> {
        if by.role < Role::Installation {
            return Ok(None);
        }
        Ok(self.registry.credential(id).await?.map(|found| found.credential.tenant))
    }

    /// Creates a tenant in the shared pool.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn create_tenant(&self, id: &str, display_name: &str, by: &By) -> Result<CreatedTenant> {
        self.create_tenant_in(id, display_name, None, by).await
    }

    /// Creates a tenant in a pool of the gate of this process, or in the shared one.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Invalid`], also for a pool that the process does not have;
    /// [`Error::Unavailable`].
    pub async fn create_tenant_in(
        &self,
        id: &str,
        display_name: &str,
        pool: Option<&str>,
        by: &By,
    ) -> Result<CreatedTenant> {
        let origin = self.origin("CreateTenant", by)?;
        check::tenant(id)?;
        check::text("display_name", display_name)?;
        if let Some(pool) = pool
            && let Some(pools) = self.gate.as_ref().map(Gate::pools)
            && !pools.iter().any(|known| known == pool)
        {
            let known = if pools.is_empty() { "none".to_owned() } else { pools.join(", ") };
            let reason =
                format!("there is no pool {pool:.80?}: add it as [[pool]] to the configuration (it has {known})");
            return Err(Error::Invalid { field: "pool", reason });
        }
        let tenant = Tenant {
            id: id.to_owned(),
            display_name: display_name.to_owned(),
            state: TenantState::Active,
            created: origin.at,
            version: 1,
            limits: Limits::default(),
            features: BTreeMap::new(),
            deletion: None,
            pool: pool.map(str::to_owned),
            device_admission: DeviceAdmission::default(),
        };
        let Created { row, is_repeat } = self.registry.create_tenant(tenant, &origin).await?;
        Ok(CreatedTenant { tenant: row, is_repeat })
    }

    /// Returns a tenant.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn get_tenant(&self, id: &str) -> Result<Tenant> {
        check::tenant(id)?;
        self.registry.tenant(id).await?.ok_or_else(|| Error::NotFound(format!("tenants/{id}")))
    }

    /// Returns tenants in order of their ids, those after `after`; at most 1000.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn list_tenants(&self, after: &str, limit: usize) -> Result<Vec<Tenant>> {
        self.registry.tenants(after, limit.min(MAX_PAGE)).await
    }

    /// Changes a tenant. The answer is the tenant as it is then.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`], [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn update_tenant(&self, id: &str, update: &TenantUpdate, by: &By) -> Result<Tenant> {
        let origin = self.origin("UpdateTenant", by)?;
        check::tenant(id)?;
        update.display_name.as_deref().map(|name| check::text("display_name", name)).transpose()?;
        if let Some(name) = update.limits.and_then(|limits| limits.uncountable()) {
            let reason = format!("{name} can be limited to at most {}", door::quota::MAX_COUNTED);
            return Err(Error::Invalid { field: "limits", reason });
        }
        update.features.as_ref().map(check::features).transpose()?;
        let tenant = self.registry.update_tenant(id, update, &origin).await?;
        if let Some(gate) = &self.gate {
            gate.limit(id, tenant.limits);
            gate.admit_devices(id, tenant.device_admission);
        }
        Ok(tenant)
    }

    /// Returns the use that a tenant has made since the start of this process, with that of the
    /// other processes of a fleet if it has limits; `None` when none of its credentials was used.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn tenant_usage(&self, id: &str) -> Result<(Tenant, Option<Usage>)> {
        let tenant = self.get_tenant(id).await?;
        Ok((tenant, self.gate.as_ref().and_then(|gate| gate.usage(id))))
    }

    /// Suspends a tenant. Its sessions and streams end, its data is kept.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn suspend_tenant(&self, id: &str, by: &By) -> Result<Tenant> {
        let origin = self.origin("SuspendTenant", by)?;
        check::tenant(id)?;
        let tenant = self.registry.set_tenant_state(id, TenantState::Suspended, &origin).await?;
        if let Some(gate) = &self.gate {
            gate.revoke_tenant(id);
        }
        Ok(tenant)
    }

    /// Resumes a tenant that was suspended.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn resume_tenant(&self, id: &str, by: &By) -> Result<Tenant> {
        let origin = self.origin("ResumeTenant", by)?;
        check::tenant(id)?;
        self.registry.set_tenant_state(id, TenantState::Active, &origin).await
    }

    /// Records in the audit of a tenant that a caller is about to act on a resource: something that
    /// is not in the registry. `method` and `detail` describe the action.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Unavailable`]: the action is not to be taken then.
    pub async fn record_action(
        &self,
        tenant: &str,
        method: &'static str,
        resource: &str,
        detail: &str,
        by: &By,
    ) -> Result<()> {
        let origin = self.origin(method, by)?;
        check::tenant(tenant)?;
        self.registry.record_action(tenant, resource, detail, &origin).await
    }

    /// Returns audit events of a tenant, or of [`INSTALLATION`](crate::INSTALLATION), the newest
    /// first, those before sequence `before`; at most 1000.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn list_audit(&self, tenant: &str, before: Option<u64>, limit: usize) -> Result<Vec<AuditEvent>> {
        self.registry.audit(tenant, before, limit.min(MAX_PAGE)).await
    }

    /// Checks a part of the audit chain of a tenant. Two checks run at one time.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn check_audit(&self, tenant: &str, range: &AuditRange) -> Result<AuditReport> {
        let permit = self.checks.acquire().await;
        let _permit = permit.map_err(|error| Error::Unavailable(error.to_string()))?;
        self.registry.check_audit(tenant, range).await
    }

    /// Signs the end of a chain that was checked, and returns it with the public key; `None`
    /// without a key.
    pub fn sign_audit(&self, tenant: &str, end: Checkpoint) -> Option<(SignedCheckpoint, [u8; 32])> {
        let signed = self.checkpoints.as_ref()?.sign(tenant, end);
        signed.inspect_err(|error| tracing::warn!(%error, "the end of an audit is not signed")).ok()
    }

    /// Returns the newest checkpoint of a tenant that each target of this process was given.
    pub fn handed_out(&self, tenant: &str) -> Vec<SignedCheckpoint> {
        self.checkpoints.as_ref().map(|checkpoints| checkpoints.newest(tenant)).unwrap_or_default()
    }

    async fn create(
        &self,
        token: TokenKind,
        tenant: &str,
        kind: CredentialKind,
        expires: Option<Nanos>,
        origin: &Origin,
    ) -> Result<(Credential, Option<Secret>)> {
        check::tenant(tenant)?;
        check::expires(expires, origin.at)?;
        let token = Token::generate(token).map_err(|error| Error::Unavailable(error.to_string()))?;
        let credential = Credential {
            id: token.id(),
            tenant: tenant.to_owned(),
            kind,
            created: origin.at,
            expires,
            digest: Some(self.peppers.digest(&token)),
        };
        let Created { row, is_repeat } = self.registry.create_credential(credential, origin).await?;
        Ok((row, (!is_repeat).then(|| token.text())))
    }

    async fn delete(&self, tenant: &str, owner: Owner<'_>, id: CredentialId, origin: &Origin) -> Result<()> {
        check::tenant(tenant)?;
        self.registry.delete_credential(tenant, owner, id, origin).await?;
        if let Some(gate) = &self.gate {
            gate.revoke(&id);
        }
        Ok(())
    }

    fn origin(&self, method: &'static str, by: &By) -> Result<Origin> {
        check::text("principal", &by.principal)?;
        by.request_id.as_deref().map(check::request_id).transpose()?;
        Ok(Origin {
            by: by.principal.as_ref().to_owned(),
            method,
            address: by.address,
            request_id: by.request_id.clone(),
            at: self.clock.now(),
        })
    }
}
