//! The rules that all connections share.

use std::sync::Arc;

use model::Budget;

use crate::admission::Admission;
use crate::denials::Denials;
use crate::identity::Key;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::routes::Routes;
use crate::schemas::Schemas;

/// Routes and limits: everything that decides the outcome of a message. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rules {
    pub(crate) shared: Arc<Shared>,
    /// Of the log that the records are for.
    pub(crate) key: Key,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) routes: Routes,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) schemas: Schemas,
    pub(crate) admission: Admission,
    pub(crate) denials: Denials,
    /// Memory for what connections remember.
    pub(crate) remembered: Budget,
}

impl Rules {
    /// Returns rules. Messages of devices beyond [`Limits::max_devices`] become dead letters.
    pub fn new(routes: Routes, limits: Limits, metrics: Arc<Metrics>) -> Self {
        let admission = Admission::new(limits.max_devices);
        let remembered = Budget::new("topics that connections remember", limits.remembered_bytes);
        let schemas = Schemas::default();
        let denials = Denials::default();
        let shared = Arc::new(Shared { routes, limits, metrics, schemas, admission, denials, remembered });
        Self { shared, key: Key([0; 2]) }
    }

    /// As [`Rules::new`], with another [`Limits::max_devices`].
    pub fn with_max_devices(routes: Routes, limits: Limits, metrics: Arc<Metrics>, max_devices: usize) -> Self {
        Self::new(routes, Limits { max_devices, ..limits }, metrics)
    }

    /// The same rules, with the key of the log that the records are for: see
    /// [`buffer::batcher::LogBackend::key`].
    #[must_use]
    pub fn keyed(self, key: [u64; 2]) -> Self {
        Self { key: Key(key), ..self }
    }
}

impl AsRef<Self> for Rules {
    fn as_ref(&self) -> &Self {
        self
    }
}
