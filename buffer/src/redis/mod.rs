//! The log on Redis Streams (or Valkey), shared by several nodes.
//!
//! ```text
//! PREFIX:{LOG}:log      stream, one entry for each frame: id FIRST-COUNT, field f = the frame's bytes
//! PREFIX:{LOG}:marks    stream with the same ids: b = bytes up to and with this frame, t = when it was appended, ms
//! PREFIX:{LOG}:meta     hash: its writer, its end, its start, bytes, the last frame's hash, the last lease's epoch
//! PREFIX:{LOG}:cursors  hash: sink → EPOCH DONE_TO SEALED_TO TALLIES (JSON)
//! PREFIX:{LOG}:lease    hash with an expiry: its flusher          PREFIX:{LOG}:writer   expires with its writer
//! PREFIX:{logs}:…       epochs by node; the list of logs; flushers; tallies of removed logs
//! PREFIX:pool:NAME:…    the same of a pool
//! ```
//! **Write.** Each start of a writer creates its own log, `NODE.EPOCH`, so a log has exactly one
//! writer. A script appends a frame at the log's end: an existing frame with the same hash is a
//! retry and gets the same response. Without a response the writer retries over new connections. A
//! frame is durable when the server responds, because its settings (`appendfsync always`) are
//! checked for every connection; with replicas, when these confirm it too. A writer whose log was
//! closed or taken over stops.
//!
//! **Read.** A follower waits for new frames and keeps them in a ring: each frame is transferred
//! once to each process, for any number of sinks. Older frames are found by the marks. The writer's
//! process has no follower.
//!
//! **Delete.** As in the embedded log, by frame instead of by segment. The lease holder removes a
//! log without a writer when every sink is at its end and the retention is over; its tallies are
//! added to the sums once.
//!
//! **Loss.** The settings of the server are checked with every append. A log that the server has
//! lost is reported and put there again from memory; see `restore`.
//!
//! **Full.** Scripts that free memory work while the server is out of memory; the append does not.
//!
//! **Share.** The writer counts the unflushed bytes of its tenants. The trim that follows each move
//! of a cursor notes in `meta` what every sink has passed; the answers to appends have it, and
//! while a tenant waits, the writer trims by itself.

mod access;
mod append;
mod catalogue;
mod config;
mod cursors;
mod elsewhere;
mod error;
mod follow;
mod keys;
mod link;
mod read;
mod register;
mod restore;
mod scripts;
mod servers;
mod settings;
mod tls;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::backlog::{Backlog, Place};
use crate::batcher::Batcher;
use crate::embedded::key;
use crate::log::State;
use crate::metrics::Metrics;
use crate::ring::Ring;
use crate::spill;

pub use access::{Access, AccessError, Command, Durable, Reply, Script, Waiting};
pub use config::{Config, Durability, Secret};
pub use error::OpenError;

use error::refused;
use keys::{Common, Keys};
use servers::Servers;

/// Time without a heartbeat after which a writer counts as dead.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Expiry of a log that its creator did not add to the list.
const UNLISTED: Duration = Duration::from_secs(600);

/// Logs on a Redis. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Redis {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Arc<Config>,
    servers: Arc<Servers>,
    common: Common,
    /// Open logs of this process, one shared reader for each.
    open: Mutex<HashMap<String, Weak<RedisLog>>>,
}

/// The reading side of a log on Redis.
pub struct RedisLog {
    id: String,
    keys: Keys,
    config: Arc<Config>,
    servers: Arc<Servers>,
    held: Mutex<Held>,
    end: watch::Sender<u64>,
    metrics: Arc<Metrics>,
    /// Held while a lost log is put on the server again.
    restoring: tokio::sync::Mutex<()>,
    /// Records of this log that are not on the server yet.
    spill: OnceLock<spill::Status>,
    /// The backlog of a log that this process writes, when tenants are held to a share of it.
    backlog: Option<Arc<Backlog>>,
    /// Task of the follower, or of the writer's heartbeat.
    task: Mutex<Option<Task>>,
}

/// Known state of the log on the server.
#[derive(Debug)]
struct Held {
    ring: Ring,
    start: u64,
    used: u64,
    blocked: Option<String>,
    /// True when this process appends and knows the end.
    written_here: bool,
    /// Time of the last known end.
    confirmed: model::Nanos,
    /// True when the log was removed.
    gone: bool,
    /// Data that the server lost, since this process started.
    loss: Option<String>,
    /// A setting of the server that loses data.
    doubt: Option<String>,
}

/// A task that is aborted when dropped.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl fmt::Debug for RedisLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLog").field("id", &self.id).field("end", &self.end).finish_non_exhaustive()
    }
}

impl Redis {
    /// Connects and checks the settings of every server.
    ///
    /// # Errors
    /// [`OpenError`] with the key to change.
    pub async fn connect(config: Config) -> Result<Self, OpenError> {
        config.check()?;
        let config = Arc::new(config);
        let servers = Arc::new(Servers::new(Arc::clone(&config))?);
        for (address, mut connection) in servers.masters().await? {
            settings::check(&config, &address, &mut connection).await?;
        }
        let common = Common::of(&config.key_prefix());
        Ok(Self { shared: Arc::new(Shared { config, servers, common, open: Mutex::default() }) })
    }

    /// Creates a log for this start of the node, and starts its writer.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn create(&self, metrics: Arc<Metrics>) -> Result<(Arc<RedisLog>, Batcher), OpenError> {
        let (log, form) = self.create_writer(metrics, None).await?;
        let (batch, metrics) = (self.shared.config.batch.clone(), Arc::clone(&log.metrics));
        let batcher = Batcher::start(batch, metrics, form).map_err(|error| OpenError::Start(error.to_string()))?;
        Ok((log, batcher))
    }

    /// Like [`Redis::create`], with a spill for times when the server is unavailable or full. An
    /// existing spill is drained into the new log.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn create_with_spill(
        &self,
        spill: spill::Config,
        metrics: Arc<Metrics>,
    ) -> Result<(Arc<RedisLog>, Batcher, spill::Status), OpenError> {
        let spill_error = |error: spill::OpenError| OpenError::Spill(error.to_string());
        let opened = spill::Opened::open(spill).map_err(spill_error)?;
        let before = opened.drained_into().map(str::to_owned);
        let end = match &before {
            Some(log) => self.shared.take(log).await.map_err(|error| self.shared.refused(&error))?,
            None => None,
        };
        let (log, form) = self.create_writer(Arc::clone(&metrics), Some(opened.divided_bytes())).await?;
        let (form, status) = opened.start(form, end, metrics).await.map_err(spill_error)?;
        log.spill.get_or_init(|| status.clone());
        let (batch, metrics) = (self.shared.config.batch.clone(), Arc::clone(&log.metrics));
        let batcher = Batcher::start(batch, metrics, form).map_err(|error| OpenError::Start(error.to_string()))?;
        // It is no longer needed: the new log has the rest of the spill.
        if let Some(before) = before
            && let Err(error) = self.shared.forget_end(&before).await
        {
            tracing::debug!("forget the end of {before}: {error}");
        }
        Ok((log, batcher, status))
    }

    /// `spill` is the size of the spill of this log.
    async fn create_writer(
        &self,
        metrics: Arc<Metrics>,
        spill: Option<u64>,
    ) -> Result<(Arc<RedisLog>, append::RedisWriter), OpenError> {
        let made = self.make_log().await;
        let (id, incarnation) = made.map_err(|error| self.shared.refused(&error))?;
        let Config { max_bytes, tenant_share_percent, .. } = *self.shared.config;
        let backlog = Backlog::new(max_bytes, spill, tenant_share_percent);
        let log = Arc::new(RedisLog { backlog, ..self.shared.log(&id, metrics) });
        log.held.lock().written_here = true;
        let key = self.shared.key().await.map_err(|error| self.shared.refused(&error))?;
        let form = append::RedisWriter::new(Arc::clone(&log), self.shared.common.clone(), incarnation, key)?;
        append::keep_alive(&log, incarnation);
        self.shared.open.lock().insert(id, Arc::downgrade(&log));
        Ok((log, form))
    }

    async fn make_log(&self) -> redis::RedisResult<(String, u64)> {
        let Shared { config, servers, common, .. } = &*self.shared;
        let incarnation = append::unique();
        loop {
            let epoch: String = servers.script(&scripts::EPOCH, &[&common.epochs], &[&config.node]).await?;
            let id = config.log_id(&epoch);
            let keys = Keys::of(&config.key_prefix(), &id);
            let arguments = [incarnation.to_string(), millis(HEARTBEAT), millis(UNLISTED)];
            let arguments = arguments.each_ref().map(String::as_str);
            let made: bool = servers.script(&scripts::CREATE, &[&keys.meta, &keys.writer], &arguments).await?;
            if !made {
                continue;
            }
            let now: (u64, u64) = servers.run(&common.index, &redis::cmd("TIME")).await?;
            let mut list = redis::cmd("HSET");
            list.arg(&common.index).arg(&id).arg(now.0 * 1000);
            servers.run::<()>(&common.index, &list).await?;
            let mut keep = redis::cmd("PERSIST");
            if servers.run::<bool>(&keys.meta, keep.arg(&keys.meta)).await? {
                return Ok((id, incarnation));
            }
        }
    }
}

impl Shared {
    fn refused(&self, error: &redis::RedisError) -> OpenError {
        refused(&self.config.urls_for_people(), error)
    }

    /// Ends a log whose writer is dead. Returns its end, or None when the log is unknown.
    async fn take(&self, log: &str) -> redis::RedisResult<Option<u64>> {
        let keys = Keys::of(&self.config.key_prefix(), log);
        let end: Option<String> = self.servers.script(&scripts::TAKE, &[&keys.meta, &keys.writer], &[]).await?;
        match end {
            Some(end) => Ok(Some(number(&end)?)),
            None => {
                let Common { ends, .. } = &self.common;
                self.servers.run(ends, redis::cmd("HGET").arg(ends).arg(log)).await
            }
        }
    }

    async fn forget_end(&self, log: &str) -> redis::RedisResult<()> {
        let Common { ends, .. } = &self.common;
        self.servers.run(ends, redis::cmd("HDEL").arg(ends).arg(log)).await
    }

    /// The key of the installation: see [`LogBackend::key`](crate::batcher::LogBackend::key). The
    /// first node makes it.
    async fn key(&self) -> redis::RedisResult<[u64; 2]> {
        let name = &self.common.key;
        let mut make = redis::cmd("SET");
        make.arg(name).arg(key::text(key::random())).arg("NX");
        let _: redis::Value = self.servers.run(name, &make).await?;
        let mut read = redis::cmd("GET");
        let text: String = self.servers.run(name, read.arg(name)).await?;
        key::parse(&text).ok_or_else(|| {
            let what = format!("{name} does not hold a key: delete it in Redis");
            redis::RedisError::from((redis::ErrorKind::UnexpectedReturnType, "key of resent messages", what))
        })
    }

    fn log(&self, id: &str, metrics: Arc<Metrics>) -> RedisLog {
        let ring = Ring::new(self.config.ring_bytes);
        RedisLog {
            id: id.to_owned(),
            keys: Keys::of(&self.config.key_prefix(), id),
            config: Arc::clone(&self.config),
            servers: Arc::clone(&self.servers),
            held: Mutex::new(Held {
                ring,
                start: 0,
                used: 0,
                blocked: None,
                written_here: false,
                confirmed: 0,
                gone: false,
                loss: None,
                doubt: None,
            }),
            restoring: tokio::sync::Mutex::default(),
            spill: OnceLock::new(),
            end: watch::channel(0).0,
            metrics,
            backlog: None,
            task: Mutex::default(),
        }
    }
}

impl RedisLog {
    fn set_blocked(&self, reason: Option<&str>) {
        self.metrics.blocked.set(i64::from(reason.is_some()));
        self.held.lock().blocked = reason.map(str::to_owned);
    }

    fn note(&self, start: u64, used: u64) {
        let mut held = self.held.lock();
        held.start = held.start.max(start);
        held.used = used;
        self.metrics.used.set(i64::try_from(used).unwrap_or(i64::MAX));
    }

    /// Notes the offset that every sink has passed, in whichever process it is.
    fn note_passed(&self, passed: u64) {
        if let Some(backlog) = &self.backlog {
            backlog.pass(Place::Log, passed);
        }
    }

    fn current(&self) -> State {
        let held = self.held.lock();
        State { used_bytes: held.used, capacity_bytes: self.config.max_bytes, blocked: held.blocked.clone() }
    }
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

fn number(text: &str) -> redis::RedisResult<u64> {
    text.parse().map_err(|_| error::strange("a number was expected"))
}
