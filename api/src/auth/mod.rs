//! Authorization of calls.
//!
//! Each method carries a rule in its proto option. [`Rules`] reads them from the descriptors; the
//! server does not start while a method has none. The layer in `calls` asks an
//! [`identity::Authenticator`] for the identity of the caller, checks the permission before the
//! request reaches a service, and attaches a `Caller` to it. `Caller::tenant`, `Caller::device` and
//! `Caller::own` authorize the resource that the field of the rule names; a service gets its tenant
//! from nowhere else, and the layer withholds the answer of a call that authorized none. The rule
//! also decides what a caller that is bound to groups of devices may call, and the layer withholds
//! the answer of a call that did not ask for the devices which such a caller sees.

mod bearer;
mod rules;
mod visible;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use identity::{Principal, Role};
use model::DeviceKey;
use tonic::{Request, Status};

pub(crate) use bearer::{Bearer, peer};
pub use rules::{DeviceScope, Rule, RuleError, Rules, Scope};
pub(crate) use visible::Visible;

use crate::{errors, names};

/// A principal that holds the permission of the method it calls.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    principal: Principal,
    peer: Option<IpAddr>,
    rule: Rule,
    /// True when it may name any tenant: an operator of an installation with tenants.
    roams: bool,
    /// True once the resource that the rule names was authorized.
    checked: Arc<AtomicBool>,
    /// True once the devices that the caller sees were asked for.
    seen: Arc<AtomicBool>,
}

impl Caller {
    /// A caller of a method with this rule. `tenants` is true when the installation has several.
    ///
    /// # Errors
    /// PERMISSION_DENIED when it does not hold the permission of the rule.
    pub(crate) fn new(principal: Principal, rule: Rule, path: &str, tenants: bool) -> Result<Self, Status> {
        // Its role is that of some devices.
        let is_bound = !principal.reach.is_everything();
        let operator = principal.role >= Role::Installation && !is_bound;
        let may = match rule.scope {
            // Any valid credential.
            Scope::Public | Scope::Caller => true,
            Scope::Tenant | Scope::Device => principal.holds(&rule.permission),
            Scope::Installation => operator && principal.holds(&rule.permission),
        };
        if !may || is_bound && matches!(rule.devices, DeviceScope::TenantWide | DeviceScope::Undecided) {
            return Err(errors::denied(&rule.permission, path));
        }
        let named = matches!(rule.scope, Scope::Tenant | Scope::Device);
        let [checked, seen] = [!named, !(named && is_bound)].map(|is_done| Arc::new(AtomicBool::new(is_done)));
        Ok(Self { principal, peer: None, rule, roams: operator && tenants, checked, seen })
    }

    /// The caller, at an address.
    pub(crate) fn at(self, peer: Option<IpAddr>) -> Self {
        Self { peer, ..self }
    }

    /// The caller that the layer attached to a request.
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Self>().cloned();
        caller.ok_or_else(|| errors::internal("a call reached a service without authorization"))
    }

    /// The identity of the caller.
    pub(crate) fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The address that the call comes from, when it is known.
    pub(crate) fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// True once the resource that the rule names was authorized, or when it names none, and the
    /// devices that a caller of groups sees were asked for.
    pub(crate) fn is_checked(&self) -> bool {
        self.checked.load(Ordering::Relaxed) && self.seen.load(Ordering::Relaxed)
    }

    /// Returns the devices that it sees, of its own tenant.
    pub(crate) fn visible(&self) -> Visible {
        self.seen.store(true, Ordering::Relaxed);
        Visible::new(self.principal.reach.clone(), Arc::clone(&self.rule.permission))
    }

    /// Returns the tenant that `name` names if it is the caller's own, and replaces `name` by its
    /// full form, so that equivalent requests become equal.
    pub(crate) fn tenant(&self, name: &mut String) -> Result<Arc<str>, Status> {
        let field = &*self.rule.field;
        let tenant = names::split_tenant(name).ok_or_else(|| errors::invalid(field, "must be `tenants/{tenant}`"))?;
        let own = self.own(field, tenant, name)?;
        *name = names::tenant(&own);
        Ok(own)
    }

    /// Returns the device that `name` names if it belongs to the caller's tenant and groups, and
    /// replaces `name` by its full form.
    pub(crate) fn device(&self, field: &str, name: &mut String) -> Result<DeviceKey, Status> {
        let shape = || errors::invalid(field, "must be `tenants/{tenant}/devices/{device}`, percent-encoded");
        let (tenant, id) = names::split_device(name).ok_or_else(shape)?;
        let tenant = self.own(field, tenant, name)?;
        let id = names::decode(id).ok_or_else(shape)?;
        model::device::check_id(&id).map_err(|error| errors::invalid(field, error.to_string()))?;
        if !self.principal.reach.has(&id) {
            return Err(errors::denied(&self.rule.permission, name));
        }
        if *field == *self.rule.field {
            self.seen.store(true, Ordering::Relaxed);
        }
        *name = names::device(&tenant, &id);
        Ok(DeviceKey { tenant, id: id.into() })
    }

    /// Returns the tenant and the id of a name in a collection of a tenant, if the caller may name
    /// the tenant. `form` describes a name of the collection.
    pub(crate) fn child<'a>(
        &self,
        field: &str,
        name: &'a str,
        collection: &str,
        form: &str,
    ) -> Result<(Arc<str>, &'a str), Status> {
        let (tenant, id) = names::split_child(name, collection).ok_or_else(|| errors::invalid(field, form))?;
        Ok((self.own(field, tenant, name)?, id))
    }

    /// Returns the tenant that the tenant segment of a name stands for, if the caller may name it.
    /// `field` is the request field that holds the name.
    pub(crate) fn own(&self, field: &str, segment: &str, name: &str) -> Result<Arc<str>, Status> {
        let own = &self.principal.tenant;
        let tenant = match names::decode(segment) {
            _ if segment == names::OWN => Arc::clone(own),
            Some(named) if *named == **own => Arc::clone(own),
            Some(named) if self.roams && may_be_named(&named) => named.into(),
            _ => return Err(errors::denied(&self.rule.permission, name)),
        };
        if *field == *self.rule.field {
            self.checked.store(true, Ordering::Relaxed);
        }
        Ok(tenant)
    }
}

/// True for the ids that a tenant can have, and for the chain of audit events without one.
fn may_be_named(tenant: &str) -> bool {
    tenant == identity::INSTALLATION || model::device::check_id(tenant).is_ok()
}
