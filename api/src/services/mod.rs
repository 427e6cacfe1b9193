//! The services: each checks its request, asks the backend, and shapes the answer.

mod aggregates;
mod dead_letters;
mod devices;
mod gaps;
mod latest;
mod operations;
mod readings;
mod stream;
mod telemetry;

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::Status;

pub(crate) use dead_letters::DeadLetterApi;
pub(crate) use devices::{DeviceApi, device_filter, scan};
pub(crate) use operations::OperationsApi;
pub(crate) use telemetry::TelemetryApi;

use crate::metrics::Metrics;
use crate::{Backend, Config, errors};

/// What every service works with. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) backend: Backend,
    pub(crate) config: Arc<Config>,
    pub(crate) metrics: Metrics,
    /// Cancelled when the server stops: streams end.
    pub(crate) draining: CancellationToken,
    streams: Arc<Semaphore>,
}

impl Shared {
    pub(crate) fn new(backend: Backend, config: Config, metrics: Metrics, draining: CancellationToken) -> Self {
        let streams = Arc::new(Semaphore::new(config.max_streams));
        Self { backend, config: Arc::new(config), metrics, draining, streams }
    }

    /// A place for a stream, given back when dropped.
    pub(crate) fn open_stream(&self) -> Result<StreamPlace, Status> {
        if self.draining.is_cancelled() {
            return Err(errors::stopping());
        }
        let full = |_| errors::exhausted("streams", self.config.max_streams);
        let permit = Arc::clone(&self.streams).try_acquire_owned().map_err(full)?;
        self.metrics.streams_open.inc();
        Ok(StreamPlace { metrics: self.metrics.clone(), _permit: permit })
    }
}

/// Holds a stream's place among those allowed.
#[derive(Debug)]
pub(crate) struct StreamPlace {
    metrics: Metrics,
    _permit: OwnedSemaphorePermit,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.metrics.streams_open.dec();
    }
}
