//! Issuers of access tokens, and roles of their principals.

use super::{Admin, By, MAX_PAGE, check};
use crate::oauth::Issuer;
use crate::registry::{Class, Created, Credential, CredentialKind, Error, Listed, Origin, Owner, Result, RoleBinding};
use crate::{CredentialId, Role};

impl Admin {
    /// Creates an issuer: its tokens are accepted in the tenant. `max_role` and `is_operated`
    /// follow from the caller: no principal of the issuer has a role above that of its creator.
    ///
    /// # Errors
    /// [`Error::Invalid`], also for a role above that of the caller; [`Error::Exists`] when any
    /// tenant has an issuer with this URL and audience; [`Error::NotFound`] without the tenant;
    /// [`Error::Limit`] when the tenant has 20; [`Error::Unavailable`].
    pub async fn create_issuer(&self, tenant: &str, issuer: Issuer, by: &By) -> Result<Created<Credential>> {
        let origin = self.origin("CreateIssuer", by)?;
        check_role("max_role", issuer.max_role, by)?;
        check::text("display_name", &issuer.display_name)?;
        let issuer = Issuer { is_operated: by.role == Role::Installation, ..issuer }.checked()?;
        let id = Issuer::id(&issuer.url, &issuer.audience);
        self.create_row(tenant, id, CredentialKind::Issuer(issuer), &origin).await
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
        let may = |kind: &CredentialKind| {
            let CredentialKind::Issuer(issuer) = kind else { return false };
            let least = if issuer.tenant_claim.is_some() { Role::Installation } else { issuer.max_role };
            least <= by.role
        };
        self.delete_if(tenant, Class::Issuer, id, may, &origin).await
    }

    /// Gives a principal of an issuer a role in a tenant. It has one binding: delete it to give it
    /// another role.
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
        let id = RoleBinding::id(tenant, &binding.principal);
        self.create_row(tenant, id, CredentialKind::RoleBinding(binding), &origin).await
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

    /// Deletes a role binding. The calls of its principal end.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for a binding of a role above that of the caller;
    /// [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn delete_role_binding(&self, tenant: &str, id: CredentialId, by: &By) -> Result<()> {
        let origin = self.origin("DeleteRoleBinding", by)?;
        let may =
            |kind: &CredentialKind| matches!(kind, CredentialKind::RoleBinding(binding) if binding.role <= by.role);
        self.delete_if(tenant, Class::RoleBinding, id, may, &origin).await
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
