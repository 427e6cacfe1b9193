//! The exports for the api: progress from the readers, settings in the catalogue of the logs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::{ExportError, ExportLogStatus, ExportState, ExportStatus, Rewound};
use async_trait::async_trait;
use buffer::{Catalogue, ExportSetting, Log, Rewind};
use flusher::fleet::Readers;
use flusher::{Projections, SinkState, SinkStatus};
use model::Nanos;

/// Lists the exports and changes their settings.
pub(super) struct Exports {
    catalogue: Arc<dyn Catalogue>,
    projections: Projections,
    readers: Readers,
}

impl Exports {
    pub(super) fn new(catalogue: Arc<dyn Catalogue>, projections: Projections, readers: Readers) -> Self {
        Self { catalogue, projections, readers }
    }

    async fn settings(&self) -> Result<BTreeMap<String, ExportSetting>, ExportError> {
        self.catalogue.export_settings().await.map_err(|error| ExportError::Unavailable(error.to_string()))
    }

    /// Changes the setting of an export durably.
    async fn change(&self, name: &str, change: impl FnOnce(&mut ExportSetting) + Send) -> Result<(), ExportError> {
        if !self.projections.exports().any(|export| *export.name == *name) {
            let known = self.projections.exports().map(|export| export.name.to_string()).collect();
            return Err(ExportError::Unknown { name: name.to_owned(), known });
        }
        let mut setting = self.settings().await?.get(name).copied().unwrap_or_default();
        change(&mut setting);
        let set = self.catalogue.set_export(name, setting).await;
        set.map_err(|error| ExportError::Unavailable(error.to_string()))
    }
}

#[async_trait]
impl api::Exports for Exports {
    async fn list(&self) -> Result<Vec<ExportStatus>, ExportError> {
        let (settings, found) = (self.settings().await?, self.readers.exports().await);
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
        self.change(name, |setting| setting.paused = true).await
    }

    async fn resume(&self, name: &str) -> Result<(), ExportError> {
        self.change(name, |setting| setting.paused = false).await
    }

    async fn rewind(&self, name: &str, to: Nanos) -> Result<Rewound, ExportError> {
        self.change(name, |setting| {
            let generation = setting.rewind.map_or(0, |rewind| rewind.generation) + 1;
            setting.rewind = Some(Rewind { generation, to });
        })
        .await?;
        let mut rewound = Rewound { begins: to, truncated: false };
        for log in self.readers.logs().await.map_err(|error| ExportError::Unavailable(error.to_string()))? {
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
