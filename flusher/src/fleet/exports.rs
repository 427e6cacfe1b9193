//! Control of exports: settings in the catalogue, which the drivers of all processes follow.

use std::collections::BTreeMap;

use buffer::{CatalogueError, ExportSetting, Rewind};
use model::Nanos;

use super::Readers;

/// The reason why the setting of an export was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ExportControlError {
    /// No export has this name.
    #[error("no export is named {name:?}: see `weir exports`")]
    Unknown {
        /// The name.
        name: String,
        /// The names of all exports.
        known: Vec<String>,
    },
    /// The settings cannot be read or written now.
    #[error("cannot reach the settings of exports: {0}")]
    Unavailable(#[from] CatalogueError),
}

impl Readers {
    /// The settings that were changed at least once, by the name of the export.
    ///
    /// # Errors
    /// As [`buffer::Catalogue::export_settings`].
    pub async fn export_settings(&self) -> Result<BTreeMap<String, ExportSetting>, CatalogueError> {
        self.0.directory.catalogue.export_settings().await
    }

    /// Stops the deliveries of an export. The logs keep the records. The setting is durable when
    /// this returns; every process follows it within seconds.
    ///
    /// # Errors
    /// [`ExportControlError::Unknown`] when no export has this name,
    /// [`ExportControlError::Unavailable`] when the settings cannot be read or written.
    pub async fn pause_export(&self, name: &str) -> Result<(), ExportControlError> {
        self.change_export(name, |setting| setting.paused = true).await
    }

    /// Continues the deliveries of an export.
    ///
    /// # Errors
    /// As [`Readers::pause_export`].
    pub async fn resume_export(&self, name: &str) -> Result<(), ExportControlError> {
        self.change_export(name, |setting| setting.paused = false).await
    }

    /// Sets an export back: in each log to the first record received at or after `to`, or to the
    /// first record that the log still holds.
    ///
    /// # Errors
    /// As [`Readers::pause_export`].
    pub async fn rewind_export(&self, name: &str, to: Nanos) -> Result<(), ExportControlError> {
        self.change_export(name, |setting| {
            let generation = setting.rewind.map_or(0, |rewind| rewind.generation) + 1;
            setting.rewind = Some(Rewind { generation, to });
        })
        .await
    }

    async fn change_export(
        &self,
        name: &str,
        change: impl FnOnce(&mut ExportSetting),
    ) -> Result<(), ExportControlError> {
        if !self.0.projections.exports().any(|export| *export.name == *name) {
            let known = self.0.projections.exports().map(|export| export.name.to_string()).collect();
            return Err(ExportControlError::Unknown { name: name.to_owned(), known });
        }
        let mut setting = self.export_settings().await?.remove(name).unwrap_or_default();
        change(&mut setting);
        let catalogue = &self.0.directory.catalogue;
        catalogue.set_export(name, setting).await?;
        if let Some(local) = &self.0.local {
            // At once here; the drivers of other processes follow when they read the settings next.
            let refreshed = local.0.context.controls.refresh(&**catalogue).await;
            refreshed.unwrap_or_else(|error| tracing::debug!(%error, "the settings of exports are read later"));
        }
        Ok(())
    }
}
