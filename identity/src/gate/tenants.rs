//! Meters of the tenants whose credentials are in use, held to the limits of the registry.

use std::sync::{Arc, OnceLock};

use door::quota::{CallerMeter, DeviceMeter, Fleet, Limits, Moment, TenantMeter};
use hashbrown::HashMap;
use parking_lot::Mutex;

use super::live::{Entry, Subject};
use super::{Gate, LOOKUPS, Problem};
use crate::registry::{DeviceAdmission, Error, Tenant};

/// Tenants beyond this number leave the table when none of their credentials is in use.
const TENANTS: usize = 4096;

/// The meter of a credential.
#[derive(Debug, Clone)]
pub(super) enum Metered {
    Device(DeviceMeter),
    Caller(CallerMeter),
}

#[derive(Debug, Default)]
pub(super) struct Tenants {
    table: Mutex<Table>,
    /// Pools of this process.
    pools: OnceLock<Vec<String>>,
    /// The use of the other processes.
    pub(super) fleet: Fleet,
}

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
    pool: Option<Arc<str>>,
    admission: DeviceAdmission,
    /// Devices that were admitted may not be registered.
    is_unchecked: bool,
}

impl Held {
    fn admit(&mut self, admission: DeviceAdmission) {
        self.is_unchecked |= self.admission != admission && admission != DeviceAdmission::Auto;
        self.admission = admission;
        self.meter.set_quarantines(admission == DeviceAdmission::Quarantine);
    }
}

/// A tenant whose pool this process does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "tenant {tenant} is in the pool {pool:?}, which this process does not have: add it as [[pool]] to its configuration"
)]
pub struct NotHere {
    /// The tenant.
    pub tenant: String,
    /// Its pool.
    pub pool: Arc<str>,
}

/// The reason why the pool of a tenant is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// This process does not have it.
    #[error(transparent)]
    NotHere(#[from] NotHere),
    /// The registry does not answer.
    #[error("{0}")]
    Unavailable(String),
}

impl Tenants {
    /// Returns the meter of a tenant, when it is known.
    fn get(&self, id: &str) -> Result<Arc<TenantMeter>, u64> {
        let table = self.table.lock();
        table.by_id.get(id).map(|held| Arc::clone(&held.meter)).ok_or(table.changes)
    }

    /// Returns the pool of a tenant, when the tenant is in the table; `None` in it is the shared
    /// pool.
    fn pool(&self, id: &str) -> Option<Option<Arc<str>>> {
        self.table.lock().by_id.get(id).map(|held| held.pool.clone())
    }

    fn pools(&self) -> &[String] {
        self.pools.get().map_or(&[], Vec::as_slice)
    }

    /// Returns the pool, if this process has it.
    fn own(&self, tenant: &str, pool: Option<Arc<str>>) -> Result<Option<Arc<str>>, NotHere> {
        match pool {
            Some(pool) if !self.pools().iter().any(|known| **known == *pool) => {
                Err(NotHere { tenant: tenant.to_owned(), pool })
            }
            pool => Ok(pool),
        }
    }

    /// Adds a tenant that was read after this count of changes, unless there was another one since.
    fn add(&self, id: &str, found: Tenant, changes: u64) -> Option<Arc<TenantMeter>> {
        let mut table = self.table.lock();
        if table.changes != changes {
            return None;
        }
        if table.by_id.len() >= TENANTS {
            table.by_id.retain(|_, held| Arc::strong_count(&held.meter) > 1);
        }
        let meter = || {
            let Tenant { limits, pool, device_admission: admission, .. } = found;
            let meter = TenantMeter::new(&limits);
            meter.set_quarantines(admission == DeviceAdmission::Quarantine);
            self.fleet.join(id, &meter, Moment::now());
            Held { meter, limits, pool: pool.map(Into::into), admission, is_unchecked: false }
        };
        Some(Arc::clone(&table.by_id.entry(id.into()).or_insert_with(meter).meter))
    }

    /// Counts a change. True when the tenant is in the table.
    fn changed(&self, id: &str) -> bool {
        let mut table = self.table.lock();
        table.changes += 1;
        table.by_id.contains_key(id)
    }

    /// Returns the devices that a tenant of the table admits.
    pub(super) fn admission(&self, id: &str) -> DeviceAdmission {
        self.table.lock().by_id.get(id).map(|held| held.admission).unwrap_or_default()
    }

    /// Changes the devices that a tenant admits.
    pub(super) fn admit(&self, id: &str, admission: DeviceAdmission) {
        let mut table = self.table.lock();
        table.changes += 1;
        if let Some(held) = table.by_id.get_mut(id) {
            held.admit(admission);
        }
    }

    /// Returns the tenants that ask for a registration: those that have done so since the last
    /// call, or all.
    pub(super) fn take_unchecked(&self, all: bool) -> Vec<Box<str>> {
        let mut table = self.table.lock();
        let asking = table.by_id.iter_mut().filter(|(_, held)| held.admission != DeviceAdmission::Auto);
        let unchecked = asking.filter_map(|(id, held)| {
            let is_unchecked = std::mem::take(&mut held.is_unchecked);
            (is_unchecked || all).then(|| id.clone())
        });
        unchecked.collect()
    }

    /// Changes the pool of a tenant: another one of the same id was created.
    fn place(&self, id: &str, pool: Option<Arc<str>>) {
        if let Some(held) = self.table.lock().by_id.get_mut(id) {
            held.pool = pool;
        }
    }

    /// Changes the limits of a tenant. Equal ones change nothing.
    pub(super) fn set(&self, id: &str, limits: Limits) {
        let mut table = self.table.lock();
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

    /// Returns some tenants of the table with their meters.
    pub(super) fn meters(&self, are_wanted: impl Fn(&TenantMeter) -> bool) -> Vec<(Box<str>, Arc<TenantMeter>)> {
        let table = self.table.lock();
        let wanted = table.by_id.iter().filter(|(_, held)| are_wanted(&held.meter));
        wanted.map(|(id, held)| (id.clone(), Arc::clone(&held.meter))).collect()
    }

    /// Returns the tenants of the table.
    pub(super) fn ids(&self) -> Vec<Box<str>> {
        self.table.lock().by_id.keys().cloned().collect()
    }
}

impl Gate {
    /// Admits devices of tenants in these pools, besides those in the shared one. Only the first
    /// call has an effect.
    #[must_use]
    pub fn with_pools(self, pools: Vec<String>) -> Self {
        self.0.tenants.pools.get_or_init(|| pools);
        self
    }

    /// Returns the pools of this process, without the shared one.
    pub fn pools(&self) -> &[String] {
        self.0.tenants.pools()
    }

    /// Returns the pool of a tenant that is in use; `None` in it is the shared pool.
    ///
    /// # Errors
    /// [`NotHere`].
    pub fn known_pool(&self, tenant: &str) -> Result<Option<Option<Arc<str>>>, NotHere> {
        self.0.tenants.pool(tenant).map(|pool| self.0.tenants.own(tenant, pool)).transpose()
    }

    /// Returns the pool of a tenant: from the table, or from the registry. `None` is the shared
    /// one, in which a tenant that is not registered has nothing.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub async fn pool(&self, tenant: &str) -> Result<Option<Arc<str>>, PlaceError> {
        // Not put into the table: it may be registered later, in a pool.
        Ok(self.registered_pool(tenant).await?.flatten())
    }

    /// Returns the pool of a tenant as [`Gate::pool`]; `None` when the tenant is not registered.
    pub(super) async fn registered_pool(&self, tenant: &str) -> Result<Option<Option<Arc<str>>>, PlaceError> {
        if let Some(pool) = self.known_pool(tenant)? {
            return Ok(Some(pool));
        }
        match self.look_up_tenant(tenant).await {
            Ok(Some(found)) => Ok(Some(self.0.tenants.own(tenant, found.pool.map(Into::into))?)),
            Ok(None) => Ok(None),
            Err(Problem::Unavailable(reason)) => Err(PlaceError::Unavailable(reason)),
            Err(_) => Err(PlaceError::Unavailable("the pool of the tenant cannot be read".to_owned())),
        }
    }

    /// Returns the meter of a tenant of this process, if one of its credentials was used.
    pub(crate) fn meter(&self, tenant: &str) -> Option<Arc<TenantMeter>> {
        self.0.tenants.get(tenant).ok()
    }

    /// Returns the meters of tenants whose devices or series are limited, of those in use here.
    pub fn counting_meters(&self) -> Vec<(Box<str>, Arc<TenantMeter>)> {
        self.0.tenants.meters(TenantMeter::counts_series)
    }

    /// Returns the meters of tenants of a pool whose storage is limited, of those in use here;
    /// `None` is the shared pool.
    pub fn storing_meters(&self, pool: Option<&str>) -> Vec<(Box<str>, Arc<TenantMeter>)> {
        let table = self.0.tenants.table.lock();
        let is_limited = |held: &Held| held.meter.limits_storage() && held.pool.as_deref() == pool;
        let limited = table.by_id.iter().filter(|(_, held)| is_limited(held));
        limited.map(|(id, held)| (id.clone(), Arc::clone(&held.meter))).collect()
    }

    /// Applies the limits of a tenant that was changed.
    pub(crate) fn limit(&self, tenant: &str, limits: Limits) {
        self.0.tenants.set(tenant, limits);
    }

    /// Applies which devices a tenant admits from now on.
    pub(crate) fn admit_devices(&self, tenant: &str, admission: DeviceAdmission) {
        self.0.tenants.admit(tenant, admission);
    }

    /// Returns the meter of a tenant: from the table, or with the limits of the registry.
    pub(super) async fn tenant_meter(&self, tenant: &str) -> Result<Arc<TenantMeter>, Problem> {
        for _ in 0..LOOKUPS {
            let changes = match self.0.tenants.get(tenant) {
                Ok(meter) => return Ok(meter),
                Err(changes) => changes,
            };
            // Without its row the pool is not known: the shared one would be a guess.
            let Some(found) = self.look_up_tenant(tenant).await? else {
                tracing::error!(tenant, "the registry has a credential of a tenant, and not the tenant");
                return Err(Problem::Unavailable("the tenant of the credential cannot be read".into()));
            };
            if let Some(meter) = self.0.tenants.add(tenant, found, changes) {
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
            self.0.tenants.admit(&tenant.id, tenant.device_admission);
            self.0.tenants.place(&tenant.id, tenant.pool.map(Into::into));
        }
        Ok(())
    }
}
