//! Meters of the tenants whose credentials are in use, held to the limits of the registry.

use std::sync::Arc;

use door::quota::{CallerMeter, DeviceMeter, Limits, TenantMeter};
use hashbrown::HashMap;
use parking_lot::Mutex;

use super::live::{Entry, Subject};
use super::{Gate, LOOKUPS, Problem};
use crate::registry::Error;

/// Tenants beyond this number leave the table when none of their credentials is in use.
const TENANTS: usize = 4096;

/// The meter of a credential.
#[derive(Debug, Clone)]
pub(super) enum Metered {
    Device(DeviceMeter),
    Caller(CallerMeter),
}

#[derive(Debug, Default)]
pub(super) struct Tenants(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<Box<str>, Held>,
    /// Count of changes: limits that were read before one of them are read again.
    changes: u64,
}

#[derive(Debug)]
struct Held {
    meter: Arc<TenantMeter>,
    limits: Limits,
}

impl Tenants {
    /// Returns the meter of a tenant, when it is known.
    fn get(&self, id: &str) -> Result<Arc<TenantMeter>, u64> {
        let table = self.0.lock();
        table.by_id.get(id).map(|held| Arc::clone(&held.meter)).ok_or(table.changes)
    }

    /// Adds a tenant with limits that were read after this count of changes, unless there was
    /// another one since.
    fn add(&self, id: &str, limits: Limits, changes: u64) -> Option<Arc<TenantMeter>> {
        let mut table = self.0.lock();
        if table.changes != changes {
            return None;
        }
        if table.by_id.len() >= TENANTS {
            table.by_id.retain(|_, held| Arc::strong_count(&held.meter) > 1);
        }
        let meter = || Held { meter: TenantMeter::new(&limits), limits };
        Some(Arc::clone(&table.by_id.entry(id.into()).or_insert_with(meter).meter))
    }

    /// Counts a change. True when the tenant is in the table.
    fn changed(&self, id: &str) -> bool {
        let mut table = self.0.lock();
        table.changes += 1;
        table.by_id.contains_key(id)
    }

    /// Changes the limits of a tenant. Equal ones change nothing.
    pub(super) fn set(&self, id: &str, limits: Limits) {
        let mut table = self.0.lock();
        table.changes += 1;
        let changed = table.by_id.get_mut(id).filter(|held| held.limits != limits);
        let meter = changed.map(|held| {
            held.limits = limits;
            Arc::clone(&held.meter)
        });
        drop(table);
        if let Some(meter) = meter {
            meter.set(&limits);
        }
    }

    /// Returns the tenants of the table.
    pub(super) fn ids(&self) -> Vec<Box<str>> {
        self.0.lock().by_id.keys().cloned().collect()
    }
}

impl Gate {
    /// Returns the meter of a tenant of this process, if one of its credentials was used.
    pub(crate) fn meter(&self, tenant: &str) -> Option<Arc<TenantMeter>> {
        self.0.tenants.get(tenant).ok()
    }

    /// Applies the limits of a tenant that was changed.
    pub(crate) fn limit(&self, tenant: &str, limits: Limits) {
        self.0.tenants.set(tenant, limits);
    }

    /// Returns the meter of a tenant: from the table, or with the limits of the registry.
    pub(super) async fn tenant_meter(&self, tenant: &str) -> Result<Arc<TenantMeter>, Problem> {
        for _ in 0..LOOKUPS {
            let changes = match self.0.tenants.get(tenant) {
                Ok(meter) => return Ok(meter),
                Err(changes) => changes,
            };
            // A tenant of a credential exists.
            let found = self.look_up_tenant(tenant).await?;
            let limits = found.map(|tenant| tenant.limits).unwrap_or_default();
            if let Some(meter) = self.0.tenants.add(tenant, limits, changes) {
                return Ok(meter);
            }
        }
        Err(Problem::Unavailable("the limits of tenants are being changed".into()))
    }

    /// Returns the meter of a credential.
    pub(super) async fn metered(&self, entry: &Entry) -> Result<Metered, Problem> {
        let tenant = self.tenant_meter(&entry.tenant).await?;
        Ok(match &entry.subject {
            Subject::Device { device, .. } => Metered::Device(tenant.device(device)),
            Subject::Caller { .. } | Subject::Authority { .. } => Metered::Caller(tenant.caller()),
        })
    }

    /// Reads the limits of a tenant again, if it is in the table.
    pub(super) async fn read_limits(&self, tenant: &str) -> Result<(), Error> {
        // One that is being added meanwhile reads them again.
        if self.0.tenants.changed(tenant)
            && let Some(tenant) = self.0.registry.tenant(tenant).await?
        {
            self.0.tenants.set(&tenant.id, tenant.limits);
        }
        Ok(())
    }
}
