//! InfluxDB: against a real influxd, and against a fake server with chosen answers.

#![expect(clippy::unwrap_used, reason = "a test fails")]

mod answers;
mod data;
mod deletion;
mod fake;
mod kill;
mod server;
mod start;
mod values;

use std::sync::Arc;

use weir_stores::Block;
use weir_stores::contract::{DeviceBatch, Export, Result};
use weir_stores::influxdb::{Config, InfluxDb};

pub(crate) fn open(config: Config) -> InfluxDb {
    InfluxDb::new(config, Arc::default()).unwrap()
}

/// Blocks as a delivery of their rows.
pub(crate) fn batches(blocks: Vec<Block>) -> Vec<DeviceBatch> {
    let batch = |block: Block| {
        let offsets = (0..block.times.len() as u64).collect();
        DeviceBatch { block, offsets, traces: Vec::new() }
    };
    blocks.into_iter().map(batch).collect()
}

/// Writes blocks and ends the delivery.
pub(crate) async fn deliver(store: &InfluxDb, blocks: Vec<Block>) -> Result<()> {
    store.write("log", batches(blocks)).await?;
    store.commit("log", 0).await
}

impl server::Influxd {
    /// Settings that work.
    pub(crate) fn config(&self) -> Config {
        Config {
            url: self.url(),
            token: server::TOKEN.to_owned(),
            org: "plant".to_owned(),
            bucket: "iot".to_owned(),
            ..Config::default()
        }
    }
}
