//! Redis, MongoDB and optionally InfluxDB with any number of Weirs.

use std::path::PathBuf;

use anyhow::Context;

use crate::play::{self, Run};
use crate::services::{Influxd, Mongod, Redis};
use crate::{Weir, tail_of_log};

/// Servers and the settings that processes share.
pub struct Site {
    /// Folder of all data.
    pub dir: tempfile::TempDir,
    /// Server of the logs.
    pub redis: Redis,
    /// Server of the data.
    pub mongod: Mongod,
    /// Server of an export, if there is one.
    pub influxd: Option<Influxd>,
    /// Environment of every Weir.
    pub environment: Vec<(String, String)>,
}

impl Site {
    /// Starts the servers; `settings` apply to every Weir.
    ///
    /// # Errors
    /// When a server does not start.
    pub async fn new(with_influxdb: bool, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        Self::in_folder(dir, "", with_influxdb, settings).await
    }

    /// Like [`Site::new`], in a given folder and with additional arguments of redis-server.
    ///
    /// # Errors
    /// Like [`Site::new`].
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
            ("WEIR_FLEET_SECRET".into(), "known to all of them".into()),
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
    /// When it does not start.
    pub fn start(&self, name: &str, roles: &str, mqtt: &str) -> anyhow::Result<Weir> {
        self.start_on(name, roles, mqtt, &[])
    }

    /// Like [`Site::start`], with settings of its own.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_with(&self, name: &str, roles: &str, settings: &[(&str, &str)]) -> anyhow::Result<Weir> {
        self.start_on(name, roles, "127.0.0.1:0", settings)
    }

    fn start_on(&self, name: &str, roles: &str, mqtt: &str, settings: &[(&str, &str)]) -> anyhow::Result<Weir> {
        let dir = self.folder(name);
        std::fs::create_dir_all(&dir)?;
        let own = [("WEIR_ROLES", roles), ("WEIR_REDIS_NODE", name)];
        let all = self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(own);
        let all = all.chain(settings.iter().copied());
        Weir::start_with(&dir, mqtt, &all.collect::<Vec<_>>()).with_context(|| format!("start {name} as {roles}"))
    }

    /// Folder of a process.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The last log lines of all processes.
    pub fn logs_of(&self, names: &[&str]) -> String {
        names.iter().map(|name| format!("--- {name}\n{}\n", tail_of_log(&self.folder(name)))).collect()
    }

    /// Starts the devices of a scenario against a Weir.
    ///
    /// # Errors
    /// When the program does not start.
    pub fn play(&self, weir: &Weir, scenario: &str, time: &str) -> anyhow::Result<Run> {
        let summary = std::fs::File::create(self.dir.path().join("summary.json"))?;
        play::play(weir, (scenario, time, "120s"), &self.ledger(), summary.into())
    }

    /// Waits for the end of the devices. Returns their summary.
    ///
    /// # Errors
    /// When they fail.
    pub fn summary(&self) -> anyhow::Result<serde_json::Value> {
        Ok(serde_json::from_str(&std::fs::read_to_string(self.dir.path().join("summary.json"))?)?)
    }

    /// Path of the ledger.
    pub fn ledger(&self) -> PathBuf {
        self.dir.path().join("ledger")
    }

    /// Asserts that acknowledged readings are stored once, according to the api and to the stores.
    ///
    /// # Errors
    /// When they are not.
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
