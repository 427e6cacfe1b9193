//! Issuers and role bindings as messages.

use identity::{Algorithm, Credential, CredentialKind, Issuer, Role, RoleBinding, RoleOfClaim};
use proto::v1;
use proto::v1::issuer::ClaimRole;
use tonic::Status;

use crate::auth::Caller;
use crate::convert::timestamp;
use crate::services::access::{role, role_from};
use crate::services::groups;
use crate::{errors, names};

fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// The settings of a new issuer.
pub(super) fn issuer_from(issuer: v1::Issuer, caller: Role) -> Result<Issuer, Status> {
    let algorithm = |name: &String| {
        let shown: String = name.chars().take(20).collect();
        let hint = format!("{shown:?} is not one of ES256, EdDSA, RS256, PS256");
        Algorithm::parse(name).ok_or_else(|| errors::invalid("issuer.algorithms", hint))
    };
    let claim_role =
        |of: ClaimRole| Ok(RoleOfClaim { role: role_from("issuer.claim_roles.role", of.role)?, value: of.value });
    let max_role = match issuer.max_role {
        0 => Role::TenantAdmin.min(caller),
        named => role_from("issuer.max_role", named)?,
    };
    let lifetime = issuer.max_lifetime.map_or(Ok(0), |lifetime| u32::try_from(lifetime.seconds));
    Ok(Issuer {
        display_name: issuer.display_name,
        url: issuer.url,
        audience: issuer.audience,
        algorithms: issuer.algorithms.iter().map(algorithm).collect::<Result<_, _>>()?,
        any_type: issuer.any_type,
        ignores_scopes: issuer.ignore_scopes,
        role_claim: given(issuer.role_claim),
        roles: issuer.claim_roles.into_iter().map(claim_role).collect::<Result<_, Status>>()?,
        max_role,
        tenant_claim: given(issuer.tenant_claim),
        max_lifetime_secs: lifetime.map_err(|_| errors::invalid("issuer.max_lifetime", "use 60 s to 86400 s"))?,
        // The registry decides it.
        is_operated: false,
    })
}

/// Returns the issuer with the fields of a mask from another one.
pub(super) fn changed(mut issuer: v1::Issuer, given: &v1::Issuer, paths: &[String]) -> Result<v1::Issuer, Status> {
    const KNOWN: &str = "`display_name`, `algorithms`, `any_type`, `role_claim`, `claim_roles`, `max_role`, \
                         `max_lifetime`, `ignore_scopes`";
    if paths.is_empty() {
        return Err(errors::invalid("update_mask", format!("names no field: use {KNOWN}")));
    }
    for path in paths {
        match path.as_str() {
            "display_name" => issuer.display_name.clone_from(&given.display_name),
            "algorithms" => issuer.algorithms.clone_from(&given.algorithms),
            "any_type" => issuer.any_type = given.any_type,
            "role_claim" => issuer.role_claim.clone_from(&given.role_claim),
            "claim_roles" => issuer.claim_roles.clone_from(&given.claim_roles),
            "max_role" => issuer.max_role = given.max_role,
            "max_lifetime" => issuer.max_lifetime = given.max_lifetime,
            "ignore_scopes" => issuer.ignore_scopes = given.ignore_scopes,
            _ => {
                let reason = format!("{path:.80?} cannot be changed: use {KNOWN}");
                return Err(errors::invalid("update_mask", reason));
            }
        }
    }
    Ok(issuer)
}

pub(super) fn issuer(row: &Credential) -> v1::Issuer {
    let mut message = v1::Issuer {
        name: names::child(&row.tenant, "issuers", row.id.as_str()),
        create_time: Some(timestamp(row.created)),
        etag: row.etag(),
        ..Default::default()
    };
    if let CredentialKind::Issuer(issuer) = &row.kind {
        let claim_role = |of: &RoleOfClaim| ClaimRole { value: of.value.clone(), role: role(of.role).into() };
        message.display_name.clone_from(&issuer.display_name);
        message.url.clone_from(&issuer.url);
        message.audience.clone_from(&issuer.audience);
        message.algorithms = issuer.algorithms.iter().map(|algorithm| algorithm.as_str().to_owned()).collect();
        message.any_type = issuer.any_type;
        message.ignore_scopes = issuer.ignores_scopes;
        message.role_claim = issuer.role_claim.clone().unwrap_or_default();
        message.claim_roles = issuer.roles.iter().map(claim_role).collect();
        message.max_role = role(issuer.max_role).into();
        message.tenant_claim = issuer.tenant_claim.clone().unwrap_or_default();
        let seconds = i64::from(issuer.max_lifetime_secs);
        message.max_lifetime = Some(prost_types::Duration { seconds, nanos: 0 });
        message.operated = issuer.is_operated;
    }
    message
}

pub(super) fn binding_from(caller: &Caller, tenant: &str, binding: v1::RoleBinding) -> Result<RoleBinding, Status> {
    Ok(RoleBinding {
        role: role_from("role_binding.role", binding.role)?,
        principal: binding.principal,
        groups: groups::ids(caller, "role_binding.groups", tenant, &binding.groups)?,
    })
}

/// Returns the role binding with the fields of a mask from another one.
pub(super) fn changed_binding(
    mut binding: v1::RoleBinding,
    given: &v1::RoleBinding,
    paths: &[String],
) -> Result<v1::RoleBinding, Status> {
    const KNOWN: &str = "`role`, `groups`";
    if paths.is_empty() {
        return Err(errors::invalid("update_mask", format!("names no field: use {KNOWN}")));
    }
    for path in paths {
        match path.as_str() {
            "role" => binding.role = given.role,
            "groups" => binding.groups.clone_from(&given.groups),
            _ => {
                let reason = format!("{path:.80?} cannot be changed: use {KNOWN}");
                return Err(errors::invalid("update_mask", reason));
            }
        }
    }
    Ok(binding)
}

pub(super) fn binding(row: &Credential) -> v1::RoleBinding {
    let mut message = v1::RoleBinding {
        name: names::child(&row.tenant, "roleBindings", row.id.as_str()),
        create_time: Some(timestamp(row.created)),
        etag: row.etag(),
        ..Default::default()
    };
    if let CredentialKind::RoleBinding(binding) = &row.kind {
        message.principal.clone_from(&binding.principal);
        message.role = role(binding.role).into();
        message.groups = groups::names_of(&row.tenant, binding.groups.iter().map(String::as_str));
    }
    message
}
