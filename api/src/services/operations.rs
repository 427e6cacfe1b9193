//! `OperationsService`.

use proto::v1::operations_service_server::OperationsService;
use proto::v1::{BookHour, BookLine, Books, GetBooksRequest, GetStatusRequest, LogStatus, Status as ServerStatus};
use stores::contract::HourLine;
use tonic::{Request, Response, Status};

use super::Shared;
use crate::auth::Caller;
use crate::convert::{count, timestamp};
use crate::errors;

/// Implementation of `OperationsService`.
pub(crate) struct OperationsApi(pub(crate) Shared);

/// The hours whose count the store was asked for.
fn hours(hours: &[HourLine]) -> Vec<BookHour> {
    let asked = hours.iter().filter_map(|hour| Some((hour, hour.held?)));
    let line = |(hour, held): (&HourLine, u64)| BookHour {
        start_time: Some(timestamp(hour.hour.saturating_mul(3_600_000_000_000))),
        expected_count: count(hour.expected),
        held_count: count(held),
    };
    asked.map(line).collect()
}

#[tonic::async_trait]
impl OperationsService for OperationsApi {
    async fn get_books(&self, request: Request<GetBooksRequest>) -> Result<Response<Books>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        let mut lines = self.0.backend.books.books_of(&tenant, request.check).await.map_err(errors::store)?;
        lines.sort_by(|a, b| a.sink.cmp(&b.sink));
        let lines = lines.into_iter().map(|line| BookLine {
            balanced: line.balances() && line.agrees(),
            sink: line.sink,
            accepted_count: count(line.accepted),
            stored_count: count(line.stored),
            merged_count: count(line.merged),
            pending_count: count(line.pending),
            dead_lettered_count: count(line.dead_lettered),
            held_count: line.held.map(count),
            expected_count: count(line.expected),
            hours: hours(&line.hours),
        });
        let lines: Vec<BookLine> = lines.collect();
        Ok(Response::new(Books { balanced: lines.iter().all(|line| line.balanced), lines }))
    }

    async fn get_status(&self, request: Request<GetStatusRequest>) -> Result<Response<ServerStatus>, Status> {
        Caller::of(&request)?;
        let mut status = self.0.backend.status.status().await;
        let logs = self.0.backend.logs.open(None).await.map_err(errors::store)?;
        let logs = logs.iter().map(|log| {
            let state = log.state();
            LogStatus {
                log: log.id().to_owned(),
                start_offset: count(log.start()),
                end_offset: count(log.end()),
                used_bytes: count(state.used_bytes),
                capacity_bytes: count(state.capacity_bytes),
                blocked_reason: state.blocked.unwrap_or_default(),
            }
        });
        status.logs = logs.collect();
        Ok(Response::new(status))
    }
}
