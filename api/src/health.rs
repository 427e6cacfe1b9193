//! Health checks. They need no credential, so that they are bounded in size, time and number.

use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tls::Strangers;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::{HealthReporter, HealthService};

use crate::auth::peer;

/// Time in which a request has to arrive whole.
pub(crate) const REQUEST_TIME: Duration = Duration::from_secs(10);
/// Maximum size of a request, in bytes: the name of a service.
const MAX_REQUEST_BYTES: usize = 1 << 10;
/// Streams of changes at one time.
const WATCHERS: usize = 256;
/// A stream of another source may take the place of one that is as old as this.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// The service, bounded.
pub(crate) struct BoundedHealth {
    inner: HealthService,
    places: Arc<Semaphore>,
    watchers: Strangers<OwnedSemaphorePermit>,
}

/// Returns the service that answers with what `reporter` is told.
pub(crate) fn server(reporter: HealthReporter) -> HealthServer<BoundedHealth> {
    let (inner, places) = (HealthService::from_health_reporter(reporter), Arc::new(Semaphore::new(WATCHERS)));
    HealthServer::new(BoundedHealth { inner, places, watchers: Strangers::new(PATIENCE) })
        .max_decoding_message_size(MAX_REQUEST_BYTES)
}

#[tonic::async_trait]
impl Health for BoundedHealth {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        self.inner.check(request).await
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let from = peer(request.extensions()).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let free = Arc::clone(&self.places).try_acquire_owned().ok();
        let place = free.or_else(|| self.watchers.displace(from)).ok_or_else(|| {
            Status::resource_exhausted("too many streams watch the health: call Check from time to time instead")
        })?;
        let guest = self.watchers.enter(from, place);
        let changes = self.inner.watch(request).await?.into_inner().take_until(guest.displaced());
        // The stream has the place until its end.
        Ok(Response::new(Box::pin(changes.map(move |change| {
            let _place = &guest;
            change
        }))))
    }
}
