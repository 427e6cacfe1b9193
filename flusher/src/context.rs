//! The context that the sinks of all logs of a process share.

use std::sync::{Arc, OnceLock};

use crate::config::Config;
use crate::engine::control::Controls;
use crate::engine::traces::Traces;
use crate::fleet::Fresh;
use crate::flusher::system_clock;
use crate::metrics::Metrics;
use crate::{Clock, Projections, Stores};

/// Shared by the sinks of all logs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) projections: Projections,
    pub(crate) stores: Stores,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
    /// Receives the spans of flushes, once tracing is on.
    pub(crate) traces: Traces,
    /// The operators' settings of exports.
    pub(crate) controls: Controls,
    /// Exports that are new to the logs; unset where the only log is asked itself.
    pub(crate) fresh: Arc<OnceLock<Fresh>>,
}

impl Context {
    pub(crate) fn new(
        config: Config,
        projections: Projections,
        stores: Stores,
        metrics: Arc<Metrics>,
        controls: Controls,
    ) -> Self {
        let (clock, traces) = (system_clock(), Traces::default());
        Self { config, projections, stores, metrics, clock, traces, controls, fresh: Arc::default() }
    }
}
