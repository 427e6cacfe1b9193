//! The services: each validates its request, queries the backend and builds the answer.

mod access;
mod aggregates;
mod audit;
mod authorities;
mod broker;
mod dead_letters;
mod devices;
mod exports;
mod gaps;
mod groups;
mod issuers;
mod latest;
mod operations;
mod readings;
mod registry;
mod scan;
mod states;
mod stream;
mod telemetry;
mod tenants;

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::Status;

pub(crate) use access::AccessApi;
pub(crate) use aggregates::BucketPosition;
pub(crate) use audit::AuditApi;
pub(crate) use authorities::AuthorityApi;
pub(crate) use broker::BrokerApi;
pub(crate) use dead_letters::DeadLetterApi;
pub(crate) use devices::DeviceApi;
pub(crate) use exports::ExportApi;
pub(crate) use groups::GroupApi;
pub(crate) use issuers::IssuerApi;
pub(crate) use operations::OperationsApi;
pub(crate) use scan::{KnownDevice, Scope, device_filter, scan};
pub(crate) use states::Steps;
pub(crate) use telemetry::TelemetryApi;
pub(crate) use tenants::TenantApi;

use crate::metrics::Metrics;
use crate::read::Source;
use crate::{Backend, Config, errors};

/// State shared by the services. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) backend: Backend,
    pub(crate) config: Arc<Config>,
    pub(crate) metrics: Metrics,
    /// Cancelled when the server stops; open streams then end.
    pub(crate) draining: CancellationToken,
    streams: Arc<Semaphore>,
}

impl Shared {
    pub(crate) fn new(backend: Backend, config: Config, metrics: Metrics, draining: CancellationToken) -> Self {
        let streams = Arc::new(Semaphore::new(config.limits.max_streams));
        Self { backend, config: Arc::new(config), metrics, draining, streams }
    }

    /// The stores that a call reads readings from, and the memory for them.
    pub(crate) fn source(&self) -> Source {
        Source::new(&self.backend, &self.config.memory)
    }

    /// Reserves a position for a stream, released when dropped.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when all positions are taken; UNAVAILABLE while the server stops.
    pub(crate) fn open_stream(&self) -> Result<StreamPermit, Status> {
        if self.draining.is_cancelled() {
            return Err(errors::stopping());
        }
        let full = |_| errors::exhausted("streams", self.config.limits.max_streams);
        let permit = Arc::clone(&self.streams).try_acquire_owned().map_err(full)?;
        self.metrics.streams_open.inc();
        Ok(StreamPermit { metrics: self.metrics.clone(), _permit: permit })
    }
}

/// A reserved position among the streams allowed at one time.
#[derive(Debug)]
pub(crate) struct StreamPermit {
    metrics: Metrics,
    _permit: OwnedSemaphorePermit,
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.metrics.streams_open.dec();
    }
}
