//! Verifies stored readings: generates every reading of a run again and compares it with a store.

mod compare;
mod findings;
mod influxdb;
mod mongodb;
pub(crate) mod subscribers;
mod weir;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;

pub use compare::{Stored, check_device, check_latest};
pub use findings::{Fault, Finding, Findings, StoreReport};
pub use influxdb::{Influx, Place, Refused};
pub use mongodb::Mongo;
pub use subscribers::{SubscriberReport, verify_deliveries};
pub use weir::Weir;
pub(crate) use weir::device_name;

use crate::ledger::Ledger;
use crate::plan;

/// Time between two comparisons of a store.
const AGAIN: Duration = Duration::from_millis(300);

/// Stores to verify.
#[derive(Clone)]
pub struct Targets {
    /// gRPC address of Weir.
    pub weir: Option<String>,
    /// Bearer token for Weir.
    pub token: Option<String>,
    /// PEM file with the authorities of Weir's certificate.
    pub ca: Option<PathBuf>,
    /// Connection string of MongoDB.
    pub mongodb: Option<String>,
    /// InfluxDB.
    pub influxdb: Option<Place>,
    /// Devices to read concurrently.
    pub parallel: usize,
    /// A store with differences is compared again until it has none or this time is over: stores
    /// receive readings later.
    pub within: Duration,
}

impl Targets {
    /// True without stores.
    pub fn is_empty(&self) -> bool {
        self.weir.is_none() && self.mongodb.is_none() && self.influxdb.is_none()
    }
}

/// Reads the ledger and all stored readings of its devices, and compares them.
///
/// # Errors
/// When the ledger is damaged or a store cannot be read. Differences are findings, not errors.
pub async fn verify(ledger: &Path, targets: &Targets) -> anyhow::Result<Vec<StoreReport>> {
    let ledger = Ledger::read(ledger)?;
    let devices = plan::devices(&ledger.header.scenario, &ledger.header.folder, ledger.header.start)?;
    let deadline = Instant::now() + targets.within;
    let mut reports = Vec::new();
    let mut weir = None;
    if let Some(address) = &targets.weir {
        let connected = Weir::connect(address, targets.token.as_deref(), targets.ca.as_deref()).await;
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

/// Compares until there are no differences, or until the deadline.
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
