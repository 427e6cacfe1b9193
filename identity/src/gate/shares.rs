//! The exchange of the use of tenants between the processes of a fleet.

use std::sync::Arc;

use door::quota::{Moment, TenantMeter, Usage};

use super::Gate;

fn by_ref(meters: &[(Box<str>, Arc<TenantMeter>)]) -> impl Iterator<Item = (&str, &TenantMeter)> {
    meters.iter().map(|(id, meter)| (&**id, &**meter))
}

impl Gate {
    /// Returns the use that tenants with limits make of this process, for the others, and the
    /// number of tenants that have no room in it. `kept` returns the numbers of sessions and of
    /// subscriptions of a tenant.
    pub fn tell_use(&self, kept: impl Fn(&str) -> (usize, usize)) -> (Vec<u8>, usize) {
        let meters = self.0.tenants.meters(TenantMeter::is_shared);
        self.0.tenants.fleet.tell(by_ref(&meters), kept, Moment::now())
    }

    /// Holds the limits for all processes together from what the others have told. Returns the
    /// number of those that told what cannot be read.
    pub fn hear_use(&self, reports: &[Vec<u8>]) -> usize {
        let meters = self.0.tenants.meters(TenantMeter::is_shared);
        self.0.tenants.fleet.hear(reports, by_ref(&meters), Moment::now())
    }

    /// Goes on with what was heard before, for a while.
    pub fn miss_use(&self) {
        let meters = self.0.tenants.meters(TenantMeter::is_shared);
        self.0.tenants.fleet.miss(by_ref(&meters), Moment::now());
    }

    /// Returns the use that a tenant has made of this process and of the others that have told it.
    pub(crate) fn usage(&self, tenant: &str) -> Option<Usage> {
        let own = self.meter(tenant).map(|meter| meter.usage());
        self.0.tenants.fleet.add_others(tenant, own, Moment::now())
    }
}
