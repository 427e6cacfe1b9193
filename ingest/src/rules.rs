//! The rules that all connections share.

use std::sync::Arc;

use model::Budget;

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
    /// Memory for what connections remember.
    pub(crate) remembered: Budget,
}

impl Rules {
    /// Returns rules. Messages of devices beyond [`Limits::max_devices`] become dead letters.
    pub fn new(routes: Routes, limits: Limits, metrics: Arc<Metrics>) -> Self {
        let admission = Admission::new(limits.max_devices);
        let remembered = Budget::new("topics that connections remember", limits.remembered_bytes);
        let schemas = Schemas::default();
        Self { shared: Arc::new(Shared { routes, limits, metrics, schemas, admission, remembered }) }
    }

    /// As [`Rules::new`], with another [`Limits::max_devices`].
    pub fn with_max_devices(routes: Routes, limits: Limits, metrics: Arc<Metrics>, max_devices: usize) -> Self {
        Self::new(routes, Limits { max_devices, ..limits }, metrics)
    }
}

impl AsRef<Self> for Rules {
    fn as_ref(&self) -> &Self {
        self
    }
}
