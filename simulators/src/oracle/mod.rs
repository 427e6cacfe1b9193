//! Checks what landed: makes every reading of a run again and compares it with what a store holds.

mod compare;
mod findings;
mod influxdb;
mod mongodb;
mod weir;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

pub use compare::{Stored, check_device, check_latest};
pub use findings::{Fault, Finding, Findings, StoreReport};
pub use influxdb::{Influx, Place, Refused};
pub use mongodb::Mongo;
pub use weir::Weir;

use crate::ledger::Ledger;
use crate::plan;

/// Between two looks at a store.
const AGAIN: Duration = Duration::from_millis(300);

/// What to check, and where.
#[derive(Clone)]
pub struct Targets {
    /// Weir's gRPC address.
    pub weir: Option<String>,
    /// Bearer token for it.
    pub token: Option<String>,
    /// MongoDB's connection string.
    pub mongodb: Option<String>,
    /// InfluxDB.
    pub influxdb: Option<Place>,
    /// Devices asked for at one time.
    pub parallel: usize,
    /// A store that is not clean is looked at again until it is, or until this time is over: databases get readings later.
    pub within: Duration,
}

impl Targets {
    /// No store is to be asked.
    pub fn is_empty(&self) -> bool {
        self.weir.is_none() && self.mongodb.is_none() && self.influxdb.is_none()
    }
}

/// Reads the ledger and everything that the stores hold of its devices, and compares.
///
/// # Errors
/// When the ledger is damaged or a store cannot be read. What a store holds wrongly is no error but a finding.
pub async fn verify(ledger: &Path, targets: &Targets) -> anyhow::Result<Vec<StoreReport>> {
    let ledger = Ledger::read(ledger)?;
    let devices = plan::devices(&ledger.header.scenario, &ledger.header.folder, ledger.header.start)?;
    let deadline = Instant::now() + targets.within;
    let mut reports = Vec::new();
    let mut weir = None;
    if let Some(address) = &targets.weir {
        let connected = Weir::connect(address, targets.token.as_deref()).await;
        let weir = weir.insert(connected.with_context(|| format!("weir {address}"))?);
        let look = || weir.check(&ledger, &devices, targets.parallel.max(1));
        reports.push(settled(look, deadline).await?);
    }
    if let Some(uri) = &targets.mongodb {
        let mongo = Mongo::connect(uri).await.context("mongodb")?;
        reports.push(settled(|| mongo.check(&ledger, &devices), deadline).await.context("mongodb")?);
    }
    if let Some(place) = &targets.influxdb {
        let influx = Influx::new(place.clone()).context("influxdb")?;
        let look = || async {
            let refused = match &weir {
                Some(weir) => weir.refused(ledger.header.start).await?,
                None => Refused::default(),
            };
            influx.check(&ledger, &devices, &refused).await
        };
        reports.push(settled(look, deadline).await.context("influxdb")?);
    }
    Ok(reports)
}

/// Looks until there is nothing wrong, or until the deadline.
async fn settled<F: Future<Output = anyhow::Result<StoreReport>>>(
    mut look: impl FnMut() -> F,
    deadline: Instant,
) -> anyhow::Result<StoreReport> {
    loop {
        let report = look().await?;
        if report.findings.is_clean() || Instant::now() >= deadline {
            return Ok(report);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests;
