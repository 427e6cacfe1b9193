//! What all connections share.

use std::sync::Arc;

use crate::admission::Admission;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::routes::Routes;
use crate::schemas::Schemas;

/// Everything that decides what a message becomes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rules {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) routes: Routes,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) schemas: Schemas,
    pub(crate) admission: Admission,
}

impl Rules {
    /// Rules of these routes and limits; a tenant has any number of devices.
    pub fn new(routes: Routes, limits: Limits, metrics: Arc<Metrics>) -> Self {
        Self::with_max_devices(routes, limits, metrics, 0)
    }

    /// Rules under which a message of one device more than `max_devices` of a tenant, counted since the start, becomes a
    /// dead letter. 0 is no limit.
    pub fn with_max_devices(routes: Routes, limits: Limits, metrics: Arc<Metrics>, max_devices: usize) -> Self {
        let admission = Admission::new(max_devices);
        Self { shared: Arc::new(Shared { routes, limits, metrics, schemas: Schemas::default(), admission }) }
    }
}

impl AsRef<Self> for Rules {
    fn as_ref(&self) -> &Self {
        self
    }
}
