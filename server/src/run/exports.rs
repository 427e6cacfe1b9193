//! The exports for the api: progress and settings from the readers.

use std::sync::Arc;
use std::time::Duration;

use api::{ExportError, ExportLogStatus, ExportState, ExportStatus, Rewound};
use async_trait::async_trait;
use buffer::Log;
use flusher::fleet::{ExportControlError, Readers};
use flusher::{Projections, SinkState, SinkStatus};
use model::Nanos;

/// Lists the exports and changes their settings.
pub(super) struct Exports {
    projections: Projections,
    readers: Readers,
}

impl Exports {
    pub(super) fn new(projections: Projections, readers: Readers) -> Self {
        Self { projections, readers }
    }
}

#[async_trait]
impl api::Exports for Exports {
    async fn list(&self) -> Result<Vec<ExportStatus>, ExportError> {
        let (settings, found) =
            (self.readers.export_settings().await.map_err(unavailable)?, self.readers.exports().await);
        let mut exports: Vec<ExportStatus> = self
            .projections
            .exports()
            .map(|export| ExportStatus {
                name: Arc::clone(&export.name),
                kind: export.kind.to_owned(),
                filter: export.filter().map(ToString::to_string).unwrap_or_default(),
                paused: settings.get(&*export.name).is_some_and(|setting| setting.paused),
                logs: found.iter().filter(|status| status.sink == export.name).map(progress).collect(),
            })
            .collect();
        exports.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(exports)
    }

    async fn pause(&self, name: &str) -> Result<(), ExportError> {
        self.readers.pause_export(name).await.map_err(refused)
    }

    async fn resume(&self, name: &str) -> Result<(), ExportError> {
        self.readers.resume_export(name).await.map_err(refused)
    }

    async fn rewind(&self, name: &str, to: Nanos) -> Result<Rewound, ExportError> {
        self.readers.rewind_export(name, to).await.map_err(refused)?;
        let mut rewound = Rewound { begins: to, truncated: false };
        for log in self.readers.logs().await.map_err(unavailable)? {
            // A trimmed log begins at the first record that is delivered again.
            if log.start() > 0
                && let Some(first) = first_time(&*log).await
                && first > to
            {
                rewound = Rewound { begins: rewound.begins.max(first), truncated: true };
            }
        }
        Ok(rewound)
    }
}

fn unavailable(error: impl std::fmt::Display) -> ExportError {
    ExportError::Unavailable(error.to_string())
}

fn refused(error: ExportControlError) -> ExportError {
    match error {
        ExportControlError::Unknown { name, known } => ExportError::Unknown { name, known },
        ExportControlError::Unavailable(error) => unavailable(error),
    }
}

/// Append time of the first frame in a log.
async fn first_time(log: &dyn Log) -> Option<Nanos> {
    let frames = log.read(log.start(), 1).await.ok()?;
    frames.first().map(|frame| frame.header().appended)
}

fn progress(status: &SinkStatus) -> ExportLogStatus {
    let state = match &status.state {
        SinkState::Running => ExportState::Running,
        SinkState::Retrying { reason, .. } | SinkState::Ended { reason } => ExportState::Retrying(reason.clone()),
        // Paused through the api: the setting decides, and the driver follows it a moment later.
        SinkState::Paused { .. } if status.paused => ExportState::Running,
        SinkState::Paused { reason, .. } => ExportState::NeedsOperator(reason.clone()),
    };
    ExportLogStatus {
        log: status.log.clone(),
        state,
        done_to: status.done_to,
        lag_records: status.lag_records,
        lag_bytes: status.lag_bytes,
        lag: Duration::try_from_secs_f64(status.lag_seconds).unwrap_or_default(),
        dead_letters: status.refused,
    }
}
