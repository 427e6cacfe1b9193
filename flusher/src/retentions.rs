//! Readings that were deleted for tenants that keep them for less time than others.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::Nanos;
use parking_lot::RwLock;

use crate::accounting::tallies::hour_of;

/// The times before which readings of tenants were deleted. Cheap to clone: clones share them.
#[derive(Debug, Clone, Default)]
pub struct Retentions(Arc<RwLock<BTreeMap<Arc<str>, Nanos>>>);

impl Retentions {
    /// Notes that readings of a tenant that are older than `before` are being deleted.
    pub fn expiring(&self, tenant: &str, before: Nanos) {
        let mut held = self.0.write();
        let known = held.entry(tenant.into()).or_insert(Nanos::MIN);
        *known = before.max(*known);
    }

    /// True when readings of an hour may have been deleted.
    pub(crate) fn reaches(&self, tenant: &str, hour: i64) -> bool {
        self.0.read().get(tenant).is_some_and(|before| hour <= hour_of(*before))
    }
}
