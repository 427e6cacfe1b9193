//! Redis, MongoDB and perhaps InfluxDB, with any number of Weirs over them.

use std::path::PathBuf;

use anyhow::Context;

use crate::play::{self, Run};
use crate::services::{Influxd, Mongod, Redis};
use crate::{Weir, tail_of_log};

/// The servers, and how each process is told of them.
pub struct Site {
    /// The folder of everything.
    pub dir: tempfile::TempDir,
    /// The logs.
    pub redis: Redis,
    /// The data.
    pub mongod: Mongod,
    /// The points, if there are any.
    pub influxd: Option<Influxd>,
    /// Settings of every Weir.
    pub environment: Vec<(String, String)>,
}

impl Site {
    /// Starts them; `settings` go to every Weir.
    ///
    /// # Errors
    /// When one does not come up.
    pub async fn new(with_influxdb: bool, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        Self::in_folder(dir, "", with_influxdb, settings).await
    }

    /// As [`Site::new`], in a folder and with further arguments of redis-server.
    ///
    /// # Errors
    /// As [`Site::new`].
    pub async fn in_folder(
        dir: tempfile::TempDir,
        redis: &str,
        with_influxdb: bool,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let redis = Redis::start(&dir.path().join("redis"), redis)?;
        let mongod = Mongod::start(&dir.path().join("mongod")).await?;
        let influxd = if with_influxdb { Some(Influxd::start(&dir.path().join("influxd"))?) } else { None };
        let mut environment: Vec<(String, String)> = vec![
            ("WEIR_REDIS_URLS".into(), redis.url()),
            ("WEIR_REDIS_SPILL_PATIENCE_MS".into(), "300".into()),
            ("WEIR_REDIS_RESPONSE_TIMEOUT_MS".into(), "1000".into()),
            ("WEIR_MONGODB_URI".into(), mongod.uri()),
            ("WEIR_MONGODB_SERVER_SELECTION_TIMEOUT_MS".into(), "1000".into()),
            ("WEIR_HISTORY_FLUSH_INTERVAL_MS".into(), "1000".into()),
            ("WEIR_LOG_SEGMENT_BYTES".into(), "1048576".into()),
            ("WEIR_FLEET_SECRET".into(), "known to all".into()),
            ("WEIR_FLEET_LEASE_MS".into(), "1500".into()),
        ];
        if let Some(influxd) = &influxd {
            environment.extend([
                ("WEIR_INFLUXDB_URL".into(), influxd.url()),
                ("WEIR_INFLUXDB_TOKEN".into(), influxd.token.clone()),
                ("WEIR_INFLUXDB_ORG".into(), influxd.org.clone()),
                ("WEIR_INFLUXDB_BUCKET".into(), influxd.bucket.clone()),
            ]);
        }
        environment.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Ok(Self { dir, redis, mongod, influxd, environment })
    }

    /// Starts a process with these roles; `name` is its folder and its node.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(&self, name: &str, roles: &str, mqtt: &str) -> anyhow::Result<Weir> {
        let dir = self.folder(name);
        std::fs::create_dir_all(&dir)?;
        let own = [("WEIR_ROLES", roles), ("WEIR_REDIS_NODE", name)];
        let all = self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(own);
        Weir::start_with(&dir, mqtt, &all.collect::<Vec<_>>()).with_context(|| format!("start {name} as {roles}"))
    }

    /// A process's folder.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The last lines of each.
    pub fn logs_of(&self, names: &[&str]) -> String {
        names.iter().map(|name| format!("--- {name}\n{}\n", tail_of_log(&self.folder(name)))).collect()
    }

    /// Lets a scenario's devices loose on a Weir.
    ///
    /// # Errors
    /// When they do not start.
    pub fn play(&self, weir: &Weir, scenario: &str, time: &str) -> anyhow::Result<Run> {
        let summary = std::fs::File::create(self.dir.path().join("summary.json"))?;
        play::play(weir, (scenario, time, "120s"), &self.ledger(), summary.into())
    }

    /// What the devices saw, once they are done.
    ///
    /// # Errors
    /// When they are not.
    pub fn summary(&self) -> anyhow::Result<serde_json::Value> {
        Ok(serde_json::from_str(&std::fs::read_to_string(self.dir.path().join("summary.json"))?)?)
    }

    /// What was sent.
    pub fn ledger(&self) -> PathBuf {
        self.dir.path().join("ledger")
    }

    /// Everything acknowledged is there once, through the api and in the stores themselves.
    ///
    /// # Errors
    /// When it is not.
    pub fn verify(&self, api: &Weir) -> anyhow::Result<()> {
        let uri = self.mongod.uri();
        let mut directly = vec!["--mongodb", &uri];
        let url = self.influxd.as_ref().map(Influxd::url);
        if let (Some(influxd), Some(url)) = (&self.influxd, &url) {
            directly.extend(influxd.options(url));
        }
        play::verify(api, &self.ledger(), "90s", &directly, &["weir", "mongodb"])
    }
}
