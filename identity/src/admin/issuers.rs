//! Issuers of access tokens, and roles of their principals.

use super::{Admin, By, MAX_PAGE, check};
use crate::oauth::Issuer;
use crate::registry::{Class, Created, Credential, CredentialKind, Error, Listed, Origin, Owner, Result, RoleBinding};
use crate::{CredentialId, Role};

impl Admin {
    /// Creates an issuer: its tokens are accepted in the tenant. `max_role` and `is_operated`
    /// follow from the caller: no principal of the issuer has a role above that of its creator. An
    /// administrator of a tenant creates issuers for the audience `weir:{tenant}` only, so that no
    /// tenant takes the issuer of another one.
    ///
    /// # Errors
    /// [`Error::Invalid`], also for a role above that of the caller and for another audience;
    /// [`Error::Exists`] when any tenant has an issuer with this URL and audience;
    /// [`Error::NotFound`] without the tenant;
    /// [`Error::Limit`] when the tenant has 20; [`Error::Unavailable`].
    pub async fn create_issuer(&self, tenant: &str, issuer: Issuer, by: &By) -> Result<Created<Credential>> {
        let origin = self.origin("CreateIssuer", by)?;
        check_role("max_role", issuer.max_role, by)?;
        check::text("display_name", &issuer.display_name)?;
        let issuer = Issuer { is_operated: by.role == Role::Installation, ..issuer }.checked()?;
        let own = format!("weir:{tenant}");
        if by.role < Role::Installation && issuer.audience != own {
            let reason = format!(
                "an issuer of this tenant has the audience {own:?}: let its tokens have it, or ask an operator of the \
                 installation for another one"
            );
            return Err(Error::Invalid { field: "audience", reason });
        }
        let id = Issuer::id(&issuer.url, &issuer.audience);
        self.create_row(tenant, id, CredentialKind::Issuer(issuer), &origin).await
    }

    /// Returns an issuer.
    ///
    /// # Errors
    /// As [`delete_issuer`](Self::delete_issuer).
    pub async fn get_issuer(&self, tenant: &str, id: CredentialId, by: &By) -> Result<Credential> {
        check::tenant(tenant)?;
        let found = self.registry.credential(id).await?.map(|found| found.credential);
        let is_wanted = |row: &Credential| row.tenant == tenant && may_change(&row.kind, by);
        found.filter(is_wanted).ok_or_else(|| Error::NotFound(format!("credential {id}")))
    }

    /// Changes an issuer; its URL, its audience and its tenant claim stay. The calls of its tokens
    /// end. `etag`: that of the issuer that the change is made for.
    ///
    /// # Errors
    /// As [`create_issuer`](Self::create_issuer) and [`delete_issuer`](Self::delete_issuer);
    /// [`Error::Conflict`] when the issuer has another etag.
    pub async fn update_issuer(
        &self,
        tenant: &str,
        id: CredentialId,
        issuer: Issuer,
        etag: &str,
        by: &By,
    ) -> Result<Credential> {
        let origin = self.origin("UpdateIssuer", by)?;
        let present = self.get_issuer(tenant, id, by).await?;
        let CredentialKind::Issuer(known) = &present.kind else {
            return Err(Error::NotFound(format!("credential {id}")));
        };
        if (&issuer.url, &issuer.audience, &issuer.tenant_claim) != (&known.url, &known.audience, &known.tenant_claim) {
            let reason = "url, audience and tenant claim stay: add another issuer, and delete this one".to_owned();
            return Err(Error::Invalid { field: "url", reason });
        }
        check_role("max_role", issuer.max_role, by)?;
        check::text("display_name", &issuer.display_name)?;
        let issuer = Issuer { is_operated: known.is_operated, ..issuer }.checked()?;
        let kind = CredentialKind::Issuer(issuer);
        let updated = self.registry.update_credential(tenant, id, kind, Some(etag), &origin).await?;
        if let Some(gate) = &self.gate {
            gate.revoke(&id);
        }
        Ok(updated)
    }

    /// Returns issuers of a tenant in order of their ids, those after `after`; at most 1000.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn list_issuers(&self, tenant: &str, after: Option<CredentialId>, limit: usize) -> Result<Vec<Listed>> {
        check::tenant(tenant)?;
        self.registry.tenant_credentials(tenant, Class::Issuer, after, limit.min(MAX_PAGE)).await
    }

    /// Deletes an issuer. The calls of its tokens end.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for an issuer with a highest role above that of the caller, and
    /// for one whose tokens name their tenant unless the caller is an operator of the installation;
    /// [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn delete_issuer(&self, tenant: &str, id: CredentialId, by: &By) -> Result<()> {
        let origin = self.origin("DeleteIssuer", by)?;
        self.delete_if(tenant, Class::Issuer, id, |kind| may_change(kind, by), &origin).await
    }

    /// Gives a principal of an issuer a role in a tenant. It has one binding.
    ///
    /// # Errors
    /// [`Error::Invalid`], also for a role above that of the caller; [`Error::Exists`];
    /// [`Error::NotFound`] without the tenant; [`Error::Limit`] when the tenant has 10,000;
    /// [`Error::Unavailable`].
    pub async fn create_role_binding(
        &self,
        tenant: &str,
        binding: RoleBinding,
        by: &By,
    ) -> Result<Created<Credential>> {
        let origin = self.origin("CreateRoleBinding", by)?;
        check_role("role", binding.role, by)?;
        check_principal(&binding.principal)?;
        let groups = check::groups(binding.role, binding.groups)?;
        let binding = RoleBinding { groups, ..binding };
        let id = RoleBinding::id(tenant, &binding.principal);
        let created = self.create_row(tenant, id, CredentialKind::RoleBinding(binding), &origin).await?;
        if let Some(gate) = &self.gate {
            gate.created(&id);
        }
        Ok(created)
    }

    /// Returns role bindings of a tenant in order of their ids, those after `after`; at most 1000.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn list_role_bindings(
        &self,
        tenant: &str,
        after: Option<CredentialId>,
        limit: usize,
    ) -> Result<Vec<Listed>> {
        check::tenant(tenant)?;
        self.registry.tenant_credentials(tenant, Class::RoleBinding, after, limit.min(MAX_PAGE)).await
    }

    /// Returns a role binding.
    ///
    /// # Errors
    /// As [`delete_role_binding`](Self::delete_role_binding).
    pub async fn get_role_binding(&self, tenant: &str, id: CredentialId, by: &By) -> Result<Credential> {
        check::tenant(tenant)?;
        let found = self.registry.credential(id).await?.map(|found| found.credential);
        let is_wanted = |row: &Credential| row.tenant == tenant && may_unbind(&row.kind, by);
        found.filter(is_wanted).ok_or_else(|| Error::NotFound(format!("credential {id}")))
    }

    /// Changes the role and the groups of a role binding; its principal stays. The calls of the
    /// principal end, and are made again with the new rights. `etag`: that of the binding that the
    /// change is made for.
    ///
    /// # Errors
    /// As [`create_role_binding`](Self::create_role_binding) and
    /// [`delete_role_binding`](Self::delete_role_binding); [`Error::Conflict`] when the binding has
    /// another etag.
    pub async fn update_role_binding(
        &self,
        tenant: &str,
        id: CredentialId,
        binding: RoleBinding,
        etag: &str,
        by: &By,
    ) -> Result<Credential> {
        let origin = self.origin("UpdateRoleBinding", by)?;
        self.get_role_binding(tenant, id, by).await?;
        if RoleBinding::id(tenant, &binding.principal) != id {
            let reason = "the principal stays: give another one a role of its own, and delete this one".to_owned();
            return Err(Error::Invalid { field: "principal", reason });
        }
        check_role("role", binding.role, by)?;
        let groups = check::groups(binding.role, binding.groups)?;
        let kind = CredentialKind::RoleBinding(RoleBinding { groups, ..binding });
        let updated = self.registry.update_credential(tenant, id, kind, Some(etag), &origin).await?;
        if let Some(gate) = &self.gate {
            gate.revoke(&id);
        }
        Ok(updated)
    }

    /// Deletes a role binding. The calls of its principal end.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for a binding of a role above that of the caller;
    /// [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn delete_role_binding(&self, tenant: &str, id: CredentialId, by: &By) -> Result<()> {
        let origin = self.origin("DeleteRoleBinding", by)?;
        self.delete_if(tenant, Class::RoleBinding, id, |kind| may_unbind(kind, by), &origin).await
    }

    async fn create_row(
        &self,
        tenant: &str,
        id: CredentialId,
        kind: CredentialKind,
        origin: &Origin,
    ) -> Result<Created<Credential>> {
        check::tenant(tenant)?;
        let tenant = tenant.to_owned();
        let row = Credential { id, tenant, kind, created: origin.at, expires: None, digest: None };
        self.registry.create_credential(row, origin).await
    }

    async fn delete_if(
        &self,
        tenant: &str,
        class: Class,
        id: CredentialId,
        may: impl Fn(&CredentialKind) -> bool + Send,
        origin: &Origin,
    ) -> Result<()> {
        check::tenant(tenant)?;
        let found = self.registry.credential(id).await?.map(|found| found.credential);
        if !found.is_some_and(|row| row.tenant == tenant && row.class() == class && may(&row.kind)) {
            return Err(Error::NotFound(format!("credential {id}")));
        }
        self.delete(tenant, Owner::Tenant(class), id, origin).await
    }
}

/// True for an issuer that the caller may change.
fn may_change(kind: &CredentialKind, by: &By) -> bool {
    let CredentialKind::Issuer(issuer) = kind else { return false };
    let least = if issuer.tenant_claim.is_some() { Role::Installation } else { issuer.max_role };
    least <= by.role
}

/// True for a role binding that the caller may change.
fn may_unbind(kind: &CredentialKind, by: &By) -> bool {
    matches!(kind, CredentialKind::RoleBinding(binding) if binding.role <= by.role)
}

fn check_role(field: &'static str, role: Role, by: &By) -> Result<()> {
    if role <= by.role {
        return Ok(());
    }
    let reason = format!("{} is above the role of the caller ({})", role.as_str(), by.role.as_str());
    Err(Error::Invalid { field, reason })
}

fn check_principal(name: &str) -> Result<()> {
    check::text("principal", name)?;
    let rest = name.strip_prefix("oidc:").or_else(|| name.strip_prefix("client:"));
    let is_whole =
        rest.and_then(|rest| rest.split_once('#')).is_some_and(|(url, id)| !url.is_empty() && !id.is_empty());
    if is_whole {
        return Ok(());
    }
    let reason = "use oidc:ISSUER#SUBJECT, or client:ISSUER#CLIENT for a client that acts for itself";
    Err(Error::Invalid { field: "principal", reason: reason.into() })
}
