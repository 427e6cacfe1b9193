//! Control of exports as an operator does it, for tests: settings in the catalogue, which the
//! drivers of all processes follow.

use buffer::{ExportSetting, Rewind};
use model::Nanos;
use stores::contract::{Result, StoreError};

use super::Readers;

impl Readers {
    /// The setting of an export.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when no export has this name, [`StoreError::Busy`] when the settings
    /// cannot be read.
    pub async fn export_setting(&self, name: &str) -> Result<ExportSetting> {
        if !self.0.projections.exports().any(|export| *export.name == *name) {
            return Err(StoreError::Refused(format!("no export is named {name:?}: see `weir exports`")));
        }
        let settings = self.0.directory.catalogue.export_settings().await;
        let mut settings = settings.map_err(|error| StoreError::busy(error.to_string()))?;
        Ok(settings.remove(name).unwrap_or_default())
    }

    /// Stops the deliveries of an export. The logs keep the records. The setting is durable when
    /// this returns; every process follows it within seconds.
    ///
    /// # Errors
    /// As [`Readers::export_setting`].
    pub async fn pause_export(&self, name: &str) -> Result<()> {
        let setting = self.export_setting(name).await?;
        self.set_export(name, ExportSetting { paused: true, ..setting }).await
    }

    /// Continues the deliveries of an export.
    ///
    /// # Errors
    /// As [`Readers::export_setting`].
    pub async fn resume_export(&self, name: &str) -> Result<()> {
        let setting = self.export_setting(name).await?;
        self.set_export(name, ExportSetting { paused: false, ..setting }).await
    }

    /// Sets an export back: in each log to the first record received at or after `to`, or to the
    /// first record that the log still holds.
    ///
    /// # Errors
    /// As [`Readers::export_setting`].
    pub async fn rewind_export(&self, name: &str, to: Nanos) -> Result<()> {
        let setting = self.export_setting(name).await?;
        let generation = setting.rewind.map_or(0, |rewind| rewind.generation) + 1;
        self.set_export(name, ExportSetting { rewind: Some(Rewind { generation, to }), ..setting }).await
    }

    async fn set_export(&self, name: &str, setting: ExportSetting) -> Result<()> {
        let catalogue = &self.0.directory.catalogue;
        catalogue.set_export(name, setting).await.map_err(|error| StoreError::busy(error.to_string()))?;
        if let Some(local) = &self.0.local {
            // At once here; the drivers of other processes follow when they read the settings next.
            let refreshed = local.0.context.controls.refresh(&**catalogue).await;
            refreshed.unwrap_or_else(|error| tracing::debug!(%error, "the settings of exports are read later"));
        }
        Ok(())
    }
}
