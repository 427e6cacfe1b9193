//! The meter of a caller of the api.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::meter::{Meter, Moment};
use super::{CHANGES_PER_MINUTE, Exceeded, Quota, TenantMeter};

/// The meter of a caller. Its clones share their use. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CallerMeter {
    tenant: Arc<TenantMeter>,
    key: Arc<Meter>,
}

impl TenantMeter {
    /// Returns a meter for one key.
    pub fn caller(self: &Arc<Self>) -> CallerMeter {
        CallerMeter { tenant: Arc::clone(self), key: Arc::default() }
    }
}

impl CallerMeter {
    /// Admits a call.
    ///
    /// # Errors
    /// [`Exceeded`], with the time to wait.
    pub fn call(&self, now: Moment) -> Result<(), Exceeded> {
        let tenant = &*self.tenant;
        let refused = |quota, limit, wait| tenant.exceeded(Exceeded { quota, limit, retry_after: Some(wait) });
        let key = self.key.take(&tenant.key_calls, 1, now);
        let cost = key.map_err(|wait| refused(Quota::KeyCalls, tenant.key_calls.limit(), wait))?;
        let calls = &tenant.calls;
        calls.meter.take(&calls.rate, 1, now).map_err(|wait| {
            self.key.give_back(cost);
            refused(Quota::Calls, calls.rate.limit(), wait)
        })?;
        tenant.counted.calls.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Admits a change of the tenant's own things: a credential, a key, a group, a role.
    ///
    /// # Errors
    /// [`Exceeded`], with the time to wait.
    pub fn change(&self, now: Moment) -> Result<(), Exceeded> {
        let changes = &self.tenant.changes;
        changes.meter.take(&changes.rate, 1, now).map(drop).map_err(|wait| {
            let (quota, limit) = (Quota::Changes, CHANGES_PER_MINUTE);
            self.tenant.exceeded(Exceeded { quota, limit, retry_after: Some(wait) })
        })
    }

    /// Admits a stream of answers.
    ///
    /// # Errors
    /// [`Exceeded`].
    pub fn stream(&self) -> Result<StreamPermit, Exceeded> {
        let most = &self.tenant.max_streams;
        if self.tenant.streams.add_within(most.here()) {
            return Ok(StreamPermit(Arc::clone(&self.tenant)));
        }
        Err(self.tenant.exceeded(Exceeded { quota: Quota::Streams, limit: most.get(), retry_after: None }))
    }
}

/// A stream that is counted until this is dropped.
#[derive(Debug)]
pub struct StreamPermit(Arc<TenantMeter>);

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.0.streams.remove();
    }
}
