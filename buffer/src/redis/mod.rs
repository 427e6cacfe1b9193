//! The log on Redis Streams (or Valkey): for several nodes that share it.
//!
//! ```text
//! PREFIX:{LOG}:log      stream, one entry for each frame: id FIRST-COUNT, field f = the frame's bytes
//! PREFIX:{LOG}:marks    stream with the same ids: b = bytes up to and with this frame, t = when it was appended, ms
//! PREFIX:{LOG}:meta     hash: who writes it, its end, its start, bytes, the last frame's hash, the last lease's epoch
//! PREFIX:{LOG}:cursors  hash: sink → EPOCH DONE_TO SEALED_TO TALLIES (JSON)
//! PREFIX:{LOG}:lease    hash that runs out: who flushes it        PREFIX:{LOG}:writer   runs out: its writer lives
//! PREFIX:{logs}:…       epochs by node; the list of logs; what became of the logs that were removed
//! ```
//! **Write.** Each start of a writer makes a log of its own, `NODE.EPOCH`, so a log has one writer, ever. A frame is appended
//! by a script that looks at the log's end: what is there already, with the same hash, was a retry and is answered the same.
//! What the server does not answer is sent again until it does, over new connections. It is durable when the server
//! answers, because the server's settings were looked at (`appendfsync always`) whenever the connection was made; with
//! replicas, when these have it, too. A writer whose log was closed or taken stops.
//!
//! **Read.** A follower waits for new frames and keeps them in a ring: each frame crosses the network once for each
//! process, however many sinks it has. Older ones are looked up in the marks. In the writer's process there is no follower.
//!
//! **Delete.** As in the files' form, by frame instead of by segment. A log whose writer is gone is removed by the lease's
//! holder when every sink is at its end and the retention is over; its tallies are added up elsewhere, once.
//!
//! **Full.** Scripts that make room work while the server is out of memory; the one that appends does not.

mod append;
mod catalogue;
mod config;
mod cursors;
mod elsewhere;
mod error;
mod follow;
mod keys;
mod read;
mod scripts;
mod servers;
mod settings;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::batcher::Batcher;
use crate::log::State;
use crate::metrics::Metrics;
use crate::ring::Ring;
use crate::spill;

pub use config::{Config, Durability, Secret};
pub use error::OpenError;

use error::refused;
use keys::{Common, Keys};
use servers::Servers;

/// A writer that was not heard of for so long is taken for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A log that its maker did not list goes by itself.
const UNLISTED: Duration = Duration::from_secs(600);

/// The logs on a Redis. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Redis {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Arc<Config>,
    servers: Arc<Servers>,
    common: Common,
    /// Logs open in this process: one reading side for all who use it.
    open: Mutex<HashMap<String, Weak<RedisLog>>>,
}

/// A log on Redis, as its readers see it.
pub struct RedisLog {
    id: String,
    keys: Keys,
    config: Arc<Config>,
    servers: Arc<Servers>,
    held: Mutex<Held>,
    end: watch::Sender<u64>,
    metrics: Arc<Metrics>,
    /// The follower, or what renews the writer's heartbeat.
    task: Mutex<Option<Task>>,
}

/// What is known of the log on the server.
#[derive(Debug)]
struct Held {
    ring: Ring,
    start: u64,
    used: u64,
    blocked: Option<String>,
    /// This process appends: it knows the end.
    written_here: bool,
    /// When the server last told of the end.
    confirmed: model::Nanos,
    /// Nothing more comes: the log was removed.
    gone: bool,
}

/// Ends with its owner.
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
    /// Connects, and looks at the settings of every server.
    ///
    /// # Errors
    /// [`OpenError`], in one line that names the key to change.
    pub async fn connect(config: Config) -> Result<Self, OpenError> {
        config.check()?;
        let config = Arc::new(config);
        let servers = Arc::new(Servers::new(Arc::clone(&config))?);
        for (address, mut connection) in servers.masters().await? {
            settings::check(&config, &address, &mut connection).await?;
        }
        let common = Common::of(&config.prefix);
        Ok(Self { shared: Arc::new(Shared { config, servers, common, open: Mutex::default() }) })
    }

    /// Makes a log for this start of the node, and starts its writer.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn create(&self, metrics: Arc<Metrics>) -> Result<(Arc<RedisLog>, Batcher), OpenError> {
        let (log, form) = self.create_form(metrics).await?;
        let (batch, metrics) = (self.shared.config.batch.clone(), Arc::clone(&log.metrics));
        let batcher = Batcher::start(batch, metrics, form).map_err(|error| OpenError::Start(error.to_string()))?;
        Ok((log, batcher))
    }

    /// As [`Redis::create`], with a spill for when the server is away or full. What was spilled before the last end is
    /// drained into the new log.
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
        let (log, form) = self.create_form(Arc::clone(&metrics)).await?;
        let (form, status) = opened.start(form, end, metrics).await.map_err(spill_error)?;
        let (batch, metrics) = (self.shared.config.batch.clone(), Arc::clone(&log.metrics));
        let batcher = Batcher::start(batch, metrics, form).map_err(|error| OpenError::Start(error.to_string()))?;
        // Nobody asks for it again: all that is left is noted under the new log.
        if let Some(before) = before
            && let Err(error) = self.shared.forget_end(&before).await
        {
            tracing::debug!("forget the end of {before}: {error}");
        }
        Ok((log, batcher, status))
    }

    async fn create_form(&self, metrics: Arc<Metrics>) -> Result<(Arc<RedisLog>, append::Form), OpenError> {
        let made = self.make_log().await;
        let (id, incarnation) = made.map_err(|error| self.shared.refused(&error))?;
        let log = Arc::new(self.shared.log(&id, metrics));
        log.held.lock().written_here = true;
        let form = append::Form::new(Arc::clone(&log), self.shared.common.clone(), incarnation)?;
        append::keep_alive(&log, incarnation);
        self.shared.open.lock().insert(id, Arc::downgrade(&log));
        Ok((log, form))
    }

    async fn make_log(&self) -> redis::RedisResult<(String, u64)> {
        let Shared { config, servers, common, .. } = &*self.shared;
        let incarnation = append::unique();
        loop {
            let epoch: String = servers.script(&scripts::EPOCH, &[&common.epochs], &[&config.node]).await?;
            let id = format!("{}.{epoch}", config.node);
            let keys = Keys::of(&config.prefix, &id);
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

    /// Ends a log whose writer is dead. Its end; none when nothing is known of it any more.
    async fn take(&self, log: &str) -> redis::RedisResult<Option<u64>> {
        let keys = Keys::of(&self.config.prefix, log);
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

    fn log(&self, id: &str, metrics: Arc<Metrics>) -> RedisLog {
        let ring = Ring::new(self.config.ring_bytes);
        RedisLog {
            id: id.to_owned(),
            keys: Keys::of(&self.config.prefix, id),
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
            }),
            end: watch::channel(0).0,
            metrics,
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
