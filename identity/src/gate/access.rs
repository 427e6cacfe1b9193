//! Callers with access tokens of an issuer.

use std::sync::Arc;

use model::Nanos;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::tokens::{Access, KnownIssuer};
use super::{Gate, LOOKUPS, Problem};
use crate::oauth::{Fetch, Issuer, TokenError, TokenFault, UnverifiedToken, ValidToken};
use crate::registry::{CredentialKind, RoleBinding, Stamp, TenantState};
use crate::{CredentialId, Role};

impl Gate {
    /// Accepts access tokens of the issuers of the registry; their documents are read with `fetch`.
    #[must_use]
    pub fn with_issuers(self, fetch: Arc<dyn Fetch>) -> Self {
        self.0.tokens.accept(fetch);
        self
    }

    /// Checks an access token: from the table, or with the keys of its issuer.
    pub(super) async fn check_access(&self, bearer: &str, now: Nanos) -> Result<Arc<Access>, Problem> {
        let inner = &*self.0;
        let print = Sha256::digest(bearer).into();
        if let Some(access) = inner.tokens.get(&print).filter(|_| self.is_fresh(now)) {
            if access.expires <= now {
                return Err(bad(&access.issuer.tenant, TokenFault::Expired));
            }
            return Ok(access);
        }
        let token = UnverifiedToken::parse(bearer).map_err(|fault| Problem::Token { tenant: None, fault })?;
        for _ in 0..LOOKUPS {
            let epoch = inner.live.epoch();
            let (issuer, tenant) = self.issuer_of(&token).await?;
            let valid = issuer.tokens.check(&token, now).await.map_err(|error| match error {
                TokenError::Invalid(fault) => bad(&issuer.tenant, fault),
                TokenError::Unavailable(_) => {
                    Problem::Unavailable("the keys of the issuer of the token cannot be read".into())
                }
            })?;
            // Not before: the state of a tenant is for those whom its issuer knows.
            if !tenant.admits() {
                let tenant = issuer.tenant.as_ref().into();
                return Err(Problem::Suspended { tenant, principal: valid.claims.principal });
            }
            let access = self.access(print, issuer, valid).await?;
            if let Some(access) = inner.tokens.insert(access, || inner.live.epoch() == epoch) {
                return Ok(access);
            }
        }
        Err(Problem::Unavailable("credentials are being revoked".into()))
    }

    /// Returns the issuer that a token names, for one of its audiences, and the state of its
    /// tenant.
    async fn issuer_of(&self, token: &UnverifiedToken<'_>) -> Result<(Arc<KnownIssuer>, TenantState), Problem> {
        let unknown = Problem::Token { tenant: None, fault: TokenFault::Issuer };
        if self.0.tokens.fetch().is_none() {
            return Err(unknown);
        }
        for audience in token.audiences() {
            let Some(found) = self.look_up(Issuer::id(token.issuer(), audience)).await? else { continue };
            let CredentialKind::Issuer(settings) = &found.credential.kind else { continue };
            if settings.url != token.issuer() || settings.audience != audience {
                continue;
            }
            let issuer = self.0.tokens.issuer(&found.credential, &self.0.clock).ok_or(unknown)?;
            return Ok((issuer, found.tenant));
        }
        Err(unknown)
    }

    /// Returns the rights of a token that is valid.
    async fn access(
        &self,
        print: [u8; 32],
        issuer: Arc<KnownIssuer>,
        ValidToken { claims, key }: ValidToken,
    ) -> Result<Access, Problem> {
        let settings = issuer.tokens.settings();
        let tenant: Arc<str> = match claims.tenant {
            Some(tenant) => {
                self.check_tenant(&issuer, &tenant, &claims.principal).await?;
                tenant.into()
            }
            None => Arc::clone(&issuer.tenant),
        };
        let binding = RoleBinding::id(&tenant, &claims.principal);
        let bound = self.bound_role(binding, &tenant, &claims.principal).await?;
        let role = bound.as_ref().map(|(bound, _)| bound.role).max(claims.role);
        // An operator of the installation is not of one tenant, and so of no group.
        let is_bound = bound.as_ref().is_some_and(|(bound, _)| !bound.groups.is_empty());
        let most = if is_bound { settings.max_role.min(Role::Admin) } else { settings.max_role };
        let Some(role) = role.map(|role| role.min(most)) else {
            return Err(Problem::NoRole { tenant: tenant.as_ref().into(), principal: claims.principal });
        };
        // The groups of a binding limit its principal whole, also the role of its token.
        let groups = bound.as_ref().map(|(bound, _)| &*bound.groups).unwrap_or_default();
        Ok(Access {
            print,
            reach: self.reach(&tenant, groups).await?,
            meter: self.tenant_meter(&tenant).await?.caller(),
            tenant,
            name: claims.principal.into(),
            role,
            scopes: claims.scopes.map(Into::into),
            expires: claims.expires,
            issuer,
            key,
            binding,
            bound: bound.map(|(_, stamp)| stamp),
            ended: CancellationToken::new(),
        })
    }

    /// Checks that the tenant that a token names exists, and is not suspended.
    async fn check_tenant(&self, issuer: &KnownIssuer, tenant: &str, principal: &str) -> Result<(), Problem> {
        if model::device::check_id(tenant).is_err() {
            return Err(bad(&issuer.tenant, TokenFault::Tenant));
        }
        match self.look_up_tenant(tenant).await? {
            Some(found) if found.state == TenantState::Active => Ok(()),
            // Its own chain has ended.
            Some(found) if found.state.is_purged() => Err(bad(&issuer.tenant, TokenFault::Tenant)),
            Some(_) => Err(Problem::Suspended { tenant: tenant.into(), principal: principal.into() }),
            None => Err(bad(&issuer.tenant, TokenFault::Tenant)),
        }
    }

    /// Returns a binding, and the stamp of its row.
    async fn bound_role(
        &self,
        id: CredentialId,
        tenant: &str,
        principal: &str,
    ) -> Result<Option<(RoleBinding, Stamp)>, Problem> {
        let found = self.look_up(id).await?;
        Ok(found.and_then(|found| match &found.credential.kind {
            CredentialKind::RoleBinding(binding)
                if found.credential.tenant == tenant
                    && binding.principal == principal
                    && !found.credential.has_expired(self.0.clock.now()) =>
            {
                Some((binding.clone(), found.credential.stamp()))
            }
            _ => None,
        }))
    }
}

fn bad(tenant: &str, fault: TokenFault) -> Problem {
    Problem::Token { tenant: Some(tenant.into()), fault }
}
