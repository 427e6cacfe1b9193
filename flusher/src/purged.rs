//! Tenants whose data is being removed or is gone. Their records pass through the sinks, are
//! counted as left out, and reach no store: neither those that come from the log after the removal
//! has begun, nor those of a rewind or a replay. Readers are told that there is nothing of them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

/// The tenants whose data is being removed or is gone. Cheap to clone: clones share them.
#[derive(Debug, Clone, Default)]
pub struct PurgedTenants(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// False while there are none, as nearly always.
    any: AtomicBool,
    tenants: RwLock<HashSet<Arc<str>>>,
}

impl PurgedTenants {
    /// Adds tenants. A batch that is cut from now on has nothing of them; one that is being written
    /// may have.
    pub fn add(&self, tenants: impl IntoIterator<Item = Arc<str>>) {
        let mut held = self.0.tenants.write();
        held.extend(tenants);
        self.0.any.store(!held.is_empty(), Ordering::Release);
    }

    /// True for a tenant that was added.
    pub fn has(&self, tenant: &str) -> bool {
        self.0.any.load(Ordering::Acquire) && self.0.tenants.read().contains(tenant)
    }
}
