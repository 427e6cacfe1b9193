//! InfluxDB: against a real influxd, and against a server that answers as it is told.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod answers;
mod data;
mod fake;
mod kill;
mod server;
mod start;
mod values;

use std::sync::Arc;

use weir_stores::influxdb::{Config, InfluxDb};

pub(crate) fn open(config: Config) -> InfluxDb {
    InfluxDb::new(config, Arc::default()).unwrap()
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
