//! Redis, MongoDB and perhaps InfluxDB, with any number of Weirs over them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::services::{Influxd, Mongod, Redis};
use crate::{Weir, program, tail_of_log};

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
        let mut command = Command::new(program("weir-sim")?);
        command.args(["run", scenario, "--time", time, "--drain", "120s", "--quiet", "--json"]);
        command.args(["--broker", &weir.mqtt.to_string(), "--ledger"]).arg(self.ledger());
        let summary = std::fs::File::create(self.dir.path().join("summary.json"))?;
        Ok(Run(command.stdin(Stdio::null()).stdout(summary).spawn()?))
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
        let mut command = Command::new(program("weir-sim")?);
        command.args(["verify", "--within", "90s", "--server", &api.url(), "--ledger"]).arg(self.ledger());
        command.args(["--mongodb", &self.mongod.uri()]);
        if let Some(influxd) = &self.influxd {
            command.args(["--influxdb", &influxd.url(), "--influxdb-token", &influxd.token]);
            command.args(["--influxdb-org", &influxd.org, "--influxdb-bucket", &influxd.bucket]);
        }
        let output = command.output()?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        println!("{text}");
        ensure!(output.status.success() && text.contains("weir: ") && text.contains("mongodb: "), "{text}");
        Ok(())
    }
}

/// A fleet at work. Ends with the value.
pub struct Run(pub Child);

impl Drop for Run {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Waits until the ledger has so many bytes: devices get on.
///
/// # Errors
/// When they do not.
pub fn grown(ledger: &Path, bytes: u64) -> anyhow::Result<()> {
    let begun = Instant::now();
    while std::fs::metadata(ledger).map_or(0, |m| m.len()) < bytes {
        ensure!(begun.elapsed() < Duration::from_secs(20), "the run does not get on");
        std::thread::yield_now();
    }
    Ok(())
}
