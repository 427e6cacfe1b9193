//! The registry of tenants, credentials and the audit, and the peppers of its secrets.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use identity::{
    Admin, CheckpointKey, CheckpointKeys, Checkpoints, EmbeddedRegistry, Error, Gate, MongoOptions, MongoRegistry,
    Passwords, Peppers, PostgresOptions, PostgresRegistry, Registry, Topics,
};
use model::SystemClock;
use tokio_util::sync::CancellationToken;

use crate::cli::{PeppersRotate, configuration};
use crate::client::access_cli::AuditKey;
use crate::client::output::remark;
use crate::config::{Config, Place};
use crate::run::startup::Startup;

/// An open registry.
pub(crate) struct Access {
    registry: Arc<dyn Registry>,
    /// The same one, when it is a file of the data folder.
    embedded: Option<EmbeddedRegistry>,
    peppers: Arc<Peppers>,
    /// The file of the peppers.
    path: PathBuf,
    checkpoints: Arc<Checkpoints>,
}

impl Access {
    /// Opens the registry, and waits for its server.
    ///
    /// # Errors
    /// Names the file or the key and what to do.
    pub(crate) async fn open(config: &Config, data: &Path, startup: &Startup) -> anyhow::Result<Self> {
        let peppers = peppers(config, data, false)?;
        let passes = |error: &Error| matches!(error, Error::Unavailable(_)) && config.auth.place() != Place::Embedded;
        let opened = startup.wait_for(SERVER, passes, || connect(config, data, &peppers)).await;
        Self::of(config, opened, peppers, data)
    }

    /// Opens the registry, if its server responds now. The first one to do so makes the peppers.
    ///
    /// # Errors
    /// As [`Access::open`].
    pub(crate) async fn create(config: &Config, data: &Path) -> anyhow::Result<Self> {
        let path = peppers_in(config, data);
        let is_new = !path.exists();
        let peppers = peppers(config, data, true)?;
        let opened = connect(config, data, &peppers).await;
        // When no answer came, the registry may know the new ones.
        if is_new && matches!(&opened, Err(error) if !matches!(error, Error::Unavailable(_))) {
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Self::of(config, opened, peppers, data)
    }

    fn of(config: &Config, opened: Result<Opened, Error>, peppers: Arc<Peppers>, data: &Path) -> anyhow::Result<Self> {
        let (registry, embedded) = opened.with_context(|| match config.auth.place() {
            Place::Embedded => format!("`{REGISTRY}` in the data folder, with its secrets in `{PEPPERS}`"),
            _ => "`auth.registry`".to_owned(),
        })?;
        let key = audit_key_in(config, data);
        anyhow::ensure!(
            config.audit.key.as_os_str().is_empty() || key.exists(),
            "`audit.key`: {} does not exist: copy the file there, or make one with `weir audit key`",
            key.display()
        );
        CheckpointKey::open(&key).context("the key of checkpoints of the audit")?;
        let checkpoints = Checkpoints::new(
            Arc::clone(&registry),
            Arc::new(SystemClock),
            key,
            data.join(CHECKPOINTS),
            config.audit.options(),
            config.audit.targets()?,
        );
        Ok(Self { registry, embedded, peppers, path: peppers_in(config, data), checkpoints: Arc::new(checkpoints) })
    }

    /// The registry of the data folder, for a backup.
    pub(crate) fn embedded(&self) -> Option<EmbeddedRegistry> {
        self.embedded.clone()
    }

    /// Reads the file of peppers again when it changes, and at SIGHUP, until it is stopped: a
    /// rotation needs no restart.
    pub(crate) async fn follow(&self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(PEPPERS_PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut seen, mut reported) = (stamp(&self.path), String::new());
        let mut asked = tls::Hangup::new();
        loop {
            let is_asked = tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => false,
                () = asked.next() => true,
            };
            let now = stamp(&self.path);
            if now == seen && !is_asked {
                continue;
            }
            match self.reload().await {
                Ok(()) => {
                    tracing::info!(version = self.peppers.version(), "peppers are read again");
                    seen = now;
                    reported.clear();
                }
                // Tried again: the registry may be away.
                Err(error) => {
                    let error = format!("{error:#}; the peppers that were read before stay in use");
                    if error != reported {
                        tracing::error!("{error}");
                        reported = error;
                    }
                }
            }
        }
    }

    async fn reload(&self) -> anyhow::Result<()> {
        let new = Peppers::read(&self.path)?.with_context(|| format!("{} is gone", self.path.display()))?;
        self.registry.match_peppers(new.fingerprints()).await.with_context(|| self.path.display().to_string())?;
        self.peppers.replace(&new);
        Ok(())
    }

    /// Logs what to do when there is no key that a caller could have.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub(crate) async fn check_keys(&self) -> anyhow::Result<()> {
        if self.admin().list_api_keys(model::DEFAULT_TENANT, None, 1).await?.is_empty() {
            tracing::warn!("there is no API key, so no call is admitted: stop Weir and run `weir init`");
        }
        Ok(())
    }

    /// The changes that operators make.
    pub(crate) fn admin(&self) -> Admin {
        Admin::new(Arc::clone(&self.registry), Arc::clone(&self.peppers), Arc::new(SystemClock))
            .with_checkpoints(self.checkpoints())
    }

    /// The signed checkpoints of the audit.
    pub(crate) fn checkpoints(&self) -> Arc<Checkpoints> {
        Arc::clone(&self.checkpoints)
    }

    /// The check of devices and callers. It remembers those that were admitted within its share of
    /// the memory.
    ///
    /// # Errors
    /// Names the key of a topic that cannot be used.
    pub(crate) fn gate(&self, config: &Config) -> anyhow::Result<Gate> {
        let topics = Topics { publish: config.auth.publish.clone(), subscribe: config.auth.subscribe.clone() };
        let gate = Gate::new(Arc::clone(&self.registry), Arc::clone(&self.peppers), topics, Arc::new(SystemClock))
            .context("`auth.publish` or `auth.subscribe` holds a topic that cannot be used")?;
        let pools = config.pool.iter().map(|pool| pool.name.clone()).collect();
        let gate = gate.within(config.shares().credentials).with_pools(pools);
        let gate = gate.with_issuers(Arc::new(config.auth.fetch()?));
        match config.auth.passwords {
            true => Ok(gate.with_passwords(Passwords::start(config.shares().passwords).context("hash passwords")?)),
            false => Ok(gate),
        }
    }
}

type Opened = (Arc<dyn Registry>, Option<EmbeddedRegistry>);

/// Opens the file of peppers. It is made with the registry, which may be long before this process
/// first starts.
fn peppers(config: &Config, data: &Path, creates: bool) -> anyhow::Result<Arc<Peppers>> {
    let path = peppers_in(config, data);
    let is_own = config.auth.place() == Place::Embedded && config.auth.peppers.as_os_str().is_empty();
    anyhow::ensure!(
        creates || is_own || path.exists(),
        "{} does not exist: set `auth.peppers` to a copy of the file `{PEPPERS}` that `weir init` made, in the data folder in \
         which it ran; without a registry yet, run `weir init` here",
        path.display()
    );
    Ok(Arc::new(Peppers::open(&path)?))
}

/// The file of peppers.
pub(crate) fn peppers_in(config: &Config, data: &Path) -> PathBuf {
    match config.auth.peppers.as_os_str().is_empty() {
        true => data.join(PEPPERS),
        false => config.auth.peppers.clone(),
    }
}

/// Opens the registry once, and compares the peppers with it.
async fn connect(config: &Config, data: &Path, peppers: &Peppers) -> Result<Opened, Error> {
    let (registry, embedded): Opened = match config.auth.place() {
        Place::Embedded => {
            let registry = EmbeddedRegistry::open(data.join(REGISTRY))?;
            (Arc::new(registry.clone()), Some(registry))
        }
        Place::Postgresql(url) => (Arc::new(PostgresRegistry::connect(&url, PostgresOptions::default()).await?), None),
        Place::Mongodb => {
            let server = &config.mongodb;
            let options =
                MongoOptions { collection_prefix: server.collection_prefix.clone(), ..MongoOptions::default() };
            (Arc::new(MongoRegistry::connect(&server.uri, &server.database, options).await?), None)
        }
    };
    registry.match_peppers(peppers.fingerprints()).await?;
    Ok((registry, embedded))
}

/// Connects to the registry of a server, and compares the peppers with it.
///
/// # Errors
/// The error of the registry.
pub(crate) async fn check(config: &Config) -> Result<(), Error> {
    let peppers = peppers(config, &config.data_dir, false);
    let peppers = peppers.map_err(|error| Error::NeedsOperator(format!("{error:#}")))?;
    connect(config, &config.data_dir, &peppers).await.map(drop)
}

/// A value that changes when a file is replaced or written.
fn stamp(path: &Path) -> Option<(u64, u64, SystemTime)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.len(), metadata.modified().ok()?))
}

/// `weir peppers rotate`: replaces the file of peppers. A process that runs reads it within
/// seconds.
///
/// # Errors
/// Names the file and what to do.
pub(crate) fn rotate(options: &PeppersRotate) -> anyhow::Result<ExitCode> {
    let config = configuration(options.config.as_deref(), options.data_dir.as_deref())?;
    let path = peppers_in(&config, &config.data_dir);
    let old = Peppers::read(&path)?;
    let old = old.with_context(|| format!("{} does not exist: `weir init` makes it", path.display()))?;
    let new = match options.prepare {
        true => old.prepared()?.with_context(|| {
            let shown = path.display();
            format!(
                "a pepper is prepared already in {shown}: copy the file to every process, then run it without --prepare"
            )
        })?,
        false => old.rotated()?,
    };
    new.write(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let done = match options.prepare {
        true => "has a new pepper that is not in use yet: copy it to every process, then run it without --prepare",
        false => "has a new pepper; secrets move to it when they are used, and have to before the next rotation",
    };
    remark(&format!("{} {done}.", path.display()));
    Ok(ExitCode::SUCCESS)
}

/// The file of the key that signs checkpoints of the audit.
pub(crate) fn audit_key_in(config: &Config, data: &Path) -> PathBuf {
    match config.audit.key.as_os_str().is_empty() {
        true => data.join(AUDIT_KEY),
        false => config.audit.key.clone(),
    }
}

/// The file of the key of a configuration file or a data folder.
fn configured_audit_key(config: Option<&Path>, data_dir: Option<&Path>) -> anyhow::Result<PathBuf> {
    let config = configuration(config, data_dir)?;
    Ok(audit_key_in(&config, &config.data_dir))
}

/// The file of the public keys of checkpoints.
///
/// # Errors
/// When the configuration cannot be read.
pub(crate) fn audit_keys(config: Option<&Path>, data_dir: Option<&Path>) -> anyhow::Result<PathBuf> {
    Ok(CheckpointKeys::beside(&configured_audit_key(config, data_dir)?))
}

/// `weir audit key`: prints the public keys, after making a key when there is none.
///
/// # Errors
/// Names the file and what to do.
pub(crate) fn audit_key(options: &AuditKey) -> anyhow::Result<()> {
    let path = configured_audit_key(options.config.as_deref(), options.data_dir.as_deref())?;
    let key = if options.rotate { CheckpointKey::replace(&path)? } else { CheckpointKey::open(&path)? };
    let beside = CheckpointKeys::beside(&path);
    let text = std::fs::read_to_string(&beside).with_context(|| format!("cannot read {}", beside.display()))?;
    remark(&format!(
        "The key {} signs checkpoints. Keep these public keys outside of this machine, for `weir audit verify \
         --checkpoints FILE --public-key KEYS`.",
        key.id()
    ));
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("print the keys")
}

/// Time between two looks at the file of peppers.
const PEPPERS_PERIOD: Duration = Duration::from_secs(1);
/// Name of the server of a registry, in the reasons of a wait.
const SERVER: &str = "registry";
/// The registry, in a data folder.
pub(crate) const REGISTRY: &str = "registry.redb";
/// The keys of its credentials, in a data folder.
pub(crate) const PEPPERS: &str = "peppers";
/// The key that signs checkpoints of the audit, in a data folder.
pub(crate) const AUDIT_KEY: &str = "audit-key";
/// The public keys of checkpoints, in a data folder.
pub(crate) const AUDIT_KEYS: &str = "audit-key.pub";
/// The checkpoints that were signed, in a data folder. Not part of a backup: after one was put in
/// place, checkpoints begin anew.
const CHECKPOINTS: &str = "checkpoints.redb";
