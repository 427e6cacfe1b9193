//! `TelemetryService`: passes each call to the module that answers it.

use proto::v1::telemetry_service_server::TelemetryService;
use proto::v1::{
    BatchGetLatestRequest, BatchGetLatestResponse, ListReadingsRequest, ListReadingsResponse, QueryAggregatesRequest,
    QueryAggregatesResponse, QueryGapsRequest, QueryGapsResponse, StreamReadingsRequest, SubscribeRequest,
};
use tonic::{Request, Response, Status};

use super::{Shared, aggregates, gaps, latest, readings, stream};
use crate::auth::Caller;
use crate::subscribe;

/// Implementation of `TelemetryService`.
pub(crate) struct TelemetryApi(pub(crate) Shared);

#[tonic::async_trait]
impl TelemetryService for TelemetryApi {
    type StreamReadingsStream = stream::Chunks;
    type SubscribeStream = subscribe::Events;

    async fn batch_get_latest(
        &self,
        request: Request<BatchGetLatestRequest>,
    ) -> Result<Response<BatchGetLatestResponse>, Status> {
        let caller = Caller::of(&request)?;
        latest::batch_get(&self.0, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn list_readings(
        &self,
        request: Request<ListReadingsRequest>,
    ) -> Result<Response<ListReadingsResponse>, Status> {
        let caller = Caller::of(&request)?;
        readings::list(&self.0, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn stream_readings(
        &self,
        request: Request<StreamReadingsRequest>,
    ) -> Result<Response<stream::Chunks>, Status> {
        let caller = Caller::of(&request)?;
        stream::open(&self.0, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn query_aggregates(
        &self,
        request: Request<QueryAggregatesRequest>,
    ) -> Result<Response<QueryAggregatesResponse>, Status> {
        let caller = Caller::of(&request)?;
        aggregates::query(&self.0, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn query_gaps(&self, request: Request<QueryGapsRequest>) -> Result<Response<QueryGapsResponse>, Status> {
        let caller = Caller::of(&request)?;
        gaps::query(&self.0, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<subscribe::Events>, Status> {
        let caller = Caller::of(&request)?;
        subscribe::subscribe(&self.0, &caller, request.into_inner()).await.map(Response::new)
    }
}
