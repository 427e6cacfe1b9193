//! Who may call what.
//!
//! Each method carries a rule in its proto option ([`Rules`] reads them from the descriptors; a method without one keeps
//! the server from starting). The layer in `calls` checks the permission before a service sees the request, and
//! leaves a `Caller` with it. A service gets the tenant that it works for from nowhere else: `Caller::tenant` and
//! `Caller::device` check the resource that the rule's field names.

mod rules;

use std::sync::Arc;

use model::DeviceKey;
use tonic::{Request, Status};

pub use rules::{Rule, RuleError, Rules, Scope};

use crate::{errors, names};

/// Who calls. Until there are credentials everybody is the same: the local one, of tenant `default`, who may do
/// everything in it.
#[derive(Debug, Clone)]
pub(crate) struct Principal {
    tenant: Arc<str>,
}

impl Principal {
    /// Whoever reaches the server without credentials.
    pub(crate) fn local() -> Self {
        Self { tenant: model::DEFAULT_TENANT.into() }
    }

    /// Whose it is.
    pub(crate) fn tenant(&self) -> &str {
        &self.tenant
    }

    /// True when it holds a permission.
    #[expect(clippy::unused_self, reason = "the local principal holds every permission; others will not")]
    pub(crate) fn holds(&self, _permission: &str) -> bool {
        true
    }
}

/// A principal that holds the permission of the method it calls.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    principal: Principal,
    rule: Rule,
}

impl Caller {
    pub(crate) fn new(principal: Principal, rule: Rule) -> Self {
        Self { principal, rule }
    }

    /// The caller that the layer left with a request.
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Self>().cloned();
        caller.ok_or_else(|| errors::internal("a call reached a service without authorization"))
    }

    /// The tenant that `name` names, when it is the caller's; and writes its full name into `name`, so that requests
    /// that mean the same are the same.
    pub(crate) fn tenant(&self, name: &mut String) -> Result<Arc<str>, Status> {
        let field = &*self.rule.field;
        let tenant = names::split_tenant(name).ok_or_else(|| errors::invalid(field, "must be `tenants/{tenant}`"))?;
        let own = self.own(tenant, name)?;
        *name = names::tenant(&own);
        Ok(own)
    }

    /// The device that `name` names, when it belongs to the caller's tenant; and writes its full name into `name`.
    pub(crate) fn device(&self, field: &str, name: &mut String) -> Result<DeviceKey, Status> {
        let shape = || errors::invalid(field, "must be `tenants/{tenant}/devices/{device}`, percent-encoded");
        let (tenant, id) = names::split_device(name).ok_or_else(shape)?;
        let tenant = self.own(tenant, name)?;
        let id = names::decode(id).ok_or_else(shape)?;
        model::device::check_id(&id).map_err(|error| errors::invalid(field, error.to_string()))?;
        *name = names::device(&tenant, &id);
        Ok(DeviceKey { tenant, id: id.into() })
    }

    /// The caller's tenant, when that is what a name's segment says.
    pub(crate) fn own(&self, segment: &str, name: &str) -> Result<Arc<str>, Status> {
        let own = &self.principal.tenant;
        if segment == names::OWN || names::decode(segment).as_deref() == Some(own) {
            Ok(Arc::clone(own))
        } else {
            Err(errors::denied(&self.rule.permission, name))
        }
    }
}
