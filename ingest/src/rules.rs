//! The rules that all connections share.

use std::sync::Arc;

use crate::admission::Admission;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::routes::Routes;
use crate::schemas::Schemas;

/// Routes and limits: everything that decides the outcome of a message. Cheap to clone.
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
    /// Returns rules without a limit on the devices of a tenant.
    pub fn new(routes: Routes, limits: Limits, metrics: Arc<Metrics>) -> Self {
        Self::with_max_devices(routes, limits, metrics, 0)
    }

    /// Returns rules under which a tenant has at most `max_devices` devices, counted since the
    /// start; messages of further devices become dead letters. 0 means no limit.
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
