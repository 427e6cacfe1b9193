//! The operators' settings of exports, as the drivers follow them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use buffer::{Catalogue, CatalogueError, ExportSetting};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Settings are read again this often.
const POLL: Duration = Duration::from_secs(1);

/// Settings of exports, by name.
type ExportSettings = BTreeMap<String, ExportSetting>;

/// The settings as last read. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Controls(Arc<watch::Sender<Option<ExportSettings>>>);

impl Controls {
    /// Of a process whose logs have no catalogue: every export delivers.
    pub(crate) fn none() -> Self {
        Self(Arc::new(watch::channel(Some(ExportSettings::new())).0))
    }

    /// Not read yet: no export delivers before, because it may be paused.
    pub(crate) fn unread() -> Self {
        Self(Arc::new(watch::channel(None).0))
    }

    /// Reads the settings.
    ///
    /// # Errors
    /// As [`Catalogue::export_settings`].
    pub(crate) async fn refresh(&self, catalogue: &dyn Catalogue) -> Result<(), CatalogueError> {
        let settings = catalogue.export_settings().await?;
        self.0.send_if_modified(|held| {
            let changed = held.as_ref() != Some(&settings);
            *held = Some(settings);
            changed
        });
        Ok(())
    }

    /// Reads the settings again and again, until `stop`.
    pub(crate) async fn follow(self, catalogue: Arc<dyn Catalogue>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(POLL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failed = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            match self.refresh(&*catalogue).await {
                Ok(()) => failed = false,
                Err(error) if !std::mem::replace(&mut failed, true) => {
                    tracing::warn!(%error, "cannot read the settings of exports; trying again");
                }
                Err(_) => {}
            }
        }
    }

    /// The setting of one export.
    pub(crate) fn of(&self, export: &Arc<str>) -> Control {
        Control { export: Arc::clone(export), settings: self.0.subscribe() }
    }
}

/// The setting of one export.
pub(crate) struct Control {
    export: Arc<str>,
    settings: watch::Receiver<Option<ExportSettings>>,
}

impl Control {
    /// The setting now; `None` before it was read.
    pub(crate) fn get(&self) -> Option<ExportSetting> {
        let settings = self.settings.borrow();
        settings.as_ref().map(|settings| settings.get(&*self.export).copied().unwrap_or_default())
    }

    /// Returns when the setting is not `known`.
    pub(crate) async fn differs(&mut self, known: Option<&ExportSetting>) {
        loop {
            if self.get().as_ref() != known {
                return;
            }
            if self.settings.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
