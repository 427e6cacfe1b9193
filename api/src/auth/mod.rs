//! Authorization of calls.
//!
//! Each method carries a rule in its proto option. [`Rules`] reads them from the descriptors; the
//! server does not start while a method has none. The layer in `calls` checks the permission before
//! the request reaches a service, and attaches a `Caller` to it. `Caller::tenant` and
//! `Caller::device` check the resource that the field of the rule names; a service gets its tenant
//! from nowhere else.

mod rules;

use std::sync::Arc;

use model::DeviceKey;
use tonic::{Request, Status};

pub use rules::{Rule, RuleError, Rules, Scope};

use crate::{errors, names};

/// The identity of a caller. Until there are credentials, every caller is the local principal: it
/// belongs to the tenant `default` and holds every permission.
#[derive(Debug, Clone)]
pub(crate) struct Principal {
    tenant: Arc<str>,
}

impl Principal {
    /// The principal of a call without credentials.
    pub(crate) fn local() -> Self {
        Self { tenant: model::DEFAULT_TENANT.into() }
    }

    /// The tenant that it belongs to.
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

    /// The caller that the layer attached to a request.
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Self>().cloned();
        caller.ok_or_else(|| errors::internal("a call reached a service without authorization"))
    }

    /// Returns the tenant that `name` names if it is the caller's own, and replaces `name` by its
    /// full form, so that equivalent requests become equal.
    pub(crate) fn tenant(&self, name: &mut String) -> Result<Arc<str>, Status> {
        let field = &*self.rule.field;
        let tenant = names::split_tenant(name).ok_or_else(|| errors::invalid(field, "must be `tenants/{tenant}`"))?;
        let own = self.own(tenant, name)?;
        *name = names::tenant(&own);
        Ok(own)
    }

    /// Returns the device that `name` names if it belongs to the caller's tenant, and replaces
    /// `name` by its full form.
    pub(crate) fn device(&self, field: &str, name: &mut String) -> Result<DeviceKey, Status> {
        let shape = || errors::invalid(field, "must be `tenants/{tenant}/devices/{device}`, percent-encoded");
        let (tenant, id) = names::split_device(name).ok_or_else(shape)?;
        let tenant = self.own(tenant, name)?;
        let id = names::decode(id).ok_or_else(shape)?;
        model::device::check_id(&id).map_err(|error| errors::invalid(field, error.to_string()))?;
        *name = names::device(&tenant, &id);
        Ok(DeviceKey { tenant, id: id.into() })
    }

    /// Returns the caller's tenant if the tenant segment of a name stands for it.
    pub(crate) fn own(&self, segment: &str, name: &str) -> Result<Arc<str>, Status> {
        let own = &self.principal.tenant;
        if segment == names::OWN || names::decode(segment).as_deref() == Some(own) {
            Ok(Arc::clone(own))
        } else {
            Err(errors::denied(&self.rule.permission, name))
        }
    }
}
