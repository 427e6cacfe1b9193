//! `ExportService`.

use std::time::Duration;

use proto::v1::export::State;
use proto::v1::export_service_server::ExportService;
use proto::v1::{
    Export, ExportLog, ListExportsRequest, ListExportsResponse, PauseExportRequest, ResumeExportRequest,
    RewindExportRequest, RewindExportResponse,
};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::auth::Caller;
use crate::exports::{ExportError, ExportLogStatus, ExportState, ExportStatus};
use crate::{convert, errors, names};

/// Implementation of `ExportService`.
pub(crate) struct ExportApi(pub(crate) Shared);

impl ExportApi {
    /// The export of this name as it is now.
    async fn get(&self, name: &str) -> Result<Export, Status> {
        let exports = self.0.backend.exports.list().await.map_err(refused)?;
        let found = exports.iter().find(|export| &*export.name == name).map(to_proto);
        found.ok_or_else(|| {
            let known = exports.iter().map(|export| export.name.to_string()).collect();
            refused(ExportError::Unknown { name: name.to_owned(), known })
        })
    }
}

/// The name in the configuration of `exports/{export}`.
fn read_name(name: &str) -> Result<String, Status> {
    names::export_name(name).ok_or_else(|| errors::invalid("name", format!("`{name}` must be `exports/{{export}}`")))
}

fn refused(error: ExportError) -> Status {
    match error {
        ExportError::Unknown { ref name, .. } => {
            errors::missing("EXPORT_NOT_FOUND", &names::export(name), error.to_string())
        }
        ExportError::Unavailable(_) => errors::unavailable("EXPORTS_UNAVAILABLE", error.to_string()),
    }
}

fn to_proto(export: &ExportStatus) -> Export {
    let logs: Vec<ExportLog> = export.logs.iter().map(|log| log_to_proto(log, export.paused)).collect();
    let (state, reason) = state(export.logs.iter().map(|log| &log.state).max(), export.paused);
    let sum = |count: fn(&ExportLog) -> i64| logs.iter().map(count).fold(0_i64, i64::saturating_add);
    Export {
        name: names::export(&export.name),
        r#type: export.kind.clone(),
        state: state.into(),
        reason,
        filter: export.filter.clone(),
        lag_records: sum(|log| log.lag_records),
        lag_bytes: sum(|log| log.lag_bytes),
        lag: lag(export.logs.iter().map(|log| log.lag).max().unwrap_or_default()),
        dead_letter_count: sum(|log| log.dead_letter_count),
        logs,
    }
}

fn log_to_proto(log: &ExportLogStatus, paused: bool) -> ExportLog {
    let (state, reason) = state(Some(&log.state), paused);
    ExportLog {
        log: log.log.clone(),
        state: state.into(),
        reason,
        done_offset: convert::count(log.done_to),
        lag_records: convert::count(log.lag_records),
        lag_bytes: convert::count(log.lag_bytes),
        lag: lag(log.lag),
        dead_letter_count: convert::count(log.dead_letters),
    }
}

fn state(state: Option<&ExportState>, paused: bool) -> (State, String) {
    match state {
        _ if paused => (State::Paused, "paused by an operator".to_owned()),
        None | Some(ExportState::Running) => (State::Running, String::new()),
        Some(ExportState::Retrying(reason)) => (State::Retrying, reason.clone()),
        Some(ExportState::NeedsOperator(reason)) => (State::NeedsOperator, reason.clone()),
    }
}

fn lag(lag: Duration) -> Option<prost_types::Duration> {
    if lag.is_zero() { None } else { lag.try_into().ok() }
}

#[tonic::async_trait]
impl ExportService for ExportApi {
    async fn list_exports(
        &self,
        request: Request<ListExportsRequest>,
    ) -> Result<Response<ListExportsResponse>, Status> {
        Caller::of(&request)?;
        let mut exports = self.0.backend.exports.list().await.map_err(refused)?;
        exports.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Response::new(ListExportsResponse { exports: exports.iter().map(to_proto).collect() }))
    }

    async fn pause_export(&self, request: Request<PauseExportRequest>) -> Result<Response<Export>, Status> {
        Caller::of(&request)?;
        let name = read_name(&request.get_ref().name)?;
        self.0.backend.exports.pause(&name).await.map_err(refused)?;
        self.get(&name).await.map(Response::new)
    }

    async fn resume_export(&self, request: Request<ResumeExportRequest>) -> Result<Response<Export>, Status> {
        Caller::of(&request)?;
        let name = read_name(&request.get_ref().name)?;
        self.0.backend.exports.resume(&name).await.map_err(refused)?;
        self.get(&name).await.map(Response::new)
    }

    async fn rewind_export(
        &self,
        request: Request<RewindExportRequest>,
    ) -> Result<Response<RewindExportResponse>, Status> {
        Caller::of(&request)?;
        let request = request.into_inner();
        let name = read_name(&request.name)?;
        let to = request.to_time.as_ref().ok_or_else(|| errors::invalid("to_time", "is required"))?;
        let to = convert::nanos("to_time", to)?;
        if to > convert::now() {
            return Err(errors::invalid("to_time", "lies in the future: use a time that has passed"));
        }
        let rewound = self.0.backend.exports.rewind(&name, to).await.map_err(refused)?;
        Ok(Response::new(RewindExportResponse {
            export: Some(self.get(&name).await?),
            start_time: Some(convert::timestamp(rewound.begins)),
            truncated: rewound.truncated,
        }))
    }
}
