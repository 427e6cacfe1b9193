//! The spill: files for frames while the server of the log is unavailable or full, drained in
//! order.
//!
//! ```text
//!            the primary accepts nothing for `patience_ms`
//!  Direct ───────────────────────────────────────────────────────────▶ Spilling
//!  appends go to the primary                     appends go to files of their own, durable there: devices get their PUBACK
//!         ◀───────────────────────────────────────────────────────────  the drain moves them into the primary, in order
//!            the drain has moved the last one, with appends held back for that moment
//! ```
//! **Offsets.** A frame's offset in the primary follows from its offset in the spill:
//! `to + (offset - from)`. Both numbers and the primary's id are in `DIR/drain.json`, which is
//! durable before the first frame of an episode is spilled. The first frame is the one without a
//! response from the primary: with the same offset it has the same bytes that the primary may
//! already hold, and such an append is detected as done. Nothing else is appended to the primary
//! before the spill is empty. A frame that found no room in the spill before the drain was over is
//! the first one that goes to the primary again.
//!
//! **Crash.** The spill's cursor moves when the primary has the frames. After a crash the primary's
//! end shows which of them it has: those below `from + (end - to)`. The rest goes into the log of
//! the new start, once `drain.json` is updated. If the primary no longer has the old log, the
//! cursor decides; frames that are drained twice have equal readings, which the stores merge.
//!
//! **Limits.** Sinks and queries do not see spilled records before they are drained; answers say
//! until when they are complete. A node does not start while the server is unavailable.

mod append;
mod drain;
mod place;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backlog::{self, Backlog};
use crate::batcher::{AppendError, LogBackend};
use crate::embedded::{self, EmbeddedLog, RealDisk};
use crate::frame::Frame;
use crate::log::{Log, State};
use crate::metrics::Metrics;

pub(crate) use append::SpillWriter;
use place::Place;

/// Name of the drain's cursor.
const SINK: &str = "drain";

/// Settings of the spill; one of them is a key of `[redis]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Folder of its files; not a key.
    #[serde(skip)]
    pub dir: PathBuf,
    /// Maximum bytes of files in all; when they are full, too, devices wait. From `[log]`.
    #[serde(skip)]
    pub capacity_bytes: u64,
    /// Size of one file; two of them exist at all times. From `[log]`.
    #[serde(skip)]
    pub segment_bytes: u64,
    /// Time that Redis may accept nothing, in milliseconds, before readings go to the data folder;
    /// they are moved to Redis when it is back.
    #[serde(rename = "spill_patience_ms")]
    pub patience_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { dir: PathBuf::from("spill"), capacity_bytes: 4 << 30, segment_bytes: 16 << 20, patience_ms: 3_000 }
    }
}

/// The reason why a spill does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Error of its files.
    #[error("spill: {0}")]
    Files(#[from] embedded::OpenError),
    /// Error of `drain.json`.
    #[error("spill: {0}")]
    Place(String),
    /// A thread could not be started.
    #[error("cannot start the drain of the spill: {0}")]
    Start(std::io::Error),
}

/// See [`Primary::blocker`].
pub(crate) type Blocker = Box<dyn Fn(Option<&str>) + Send + Sync>;

/// A log backend whose frames can be retried one by one.
pub(crate) trait Primary: LogBackend + 'static {
    /// [`Log::id`].
    fn id(&self) -> &str;

    /// End of the log known to the writer.
    fn end(&self) -> u64;

    /// Incarnation in the headers of its frames.
    fn incarnation(&self) -> u64;

    /// Like [`LogBackend::blocked`], also while the backend is in use.
    fn blocker(&self) -> Blocker;

    /// Returns the frame that may not be durable.
    fn take_waiting(&mut self) -> Option<Frame>;

    /// Takes a frame at the end, which the next append stores before anything else.
    fn put_waiting(&mut self, frame: Frame);

    /// Appends a frame at the end. An existing frame with the same bytes is a success.
    ///
    /// # Errors
    /// Like [`LogBackend::append`].
    fn store(&mut self, frame: &Frame) -> Result<(), AppendError>;
}

/// Status of a spill.
#[derive(Debug, Clone)]
pub struct Status {
    log: Arc<EmbeddedLog>,
    drained: Arc<AtomicU64>,
}

impl Status {
    /// Acknowledged records that are not drained yet.
    pub fn behind(&self) -> u64 {
        self.log.end().saturating_sub(self.drained.load(Ordering::Acquire))
    }

    /// The time until which the log on the server has every acknowledged record; `None` when all
    /// are there.
    pub(crate) async fn complete_until(&self) -> Option<model::Nanos> {
        let drained = self.drained.load(Ordering::Acquire);
        if self.log.end() <= drained {
            return None;
        }
        let first = self.log.read(drained, 1).await.ok().and_then(|frames| Some(frames.first()?.header().appended));
        // Records are received some time before their frame is built.
        Some(first.map_or(0, |appended| appended - model::time::SECOND))
    }

    /// The log in its files.
    pub fn files(&self) -> &EmbeddedLog {
        &self.log
    }

    /// Fill level of its files.
    pub fn state(&self) -> State {
        self.log.state()
    }
}

/// State shared by the writer and the drain.
struct Shared<P> {
    log: Arc<EmbeddedLog>,
    /// Locked while in use, which may take long: by the writer in `Direct`, otherwise by the drain.
    primary: Mutex<P>,
    /// Locked briefly, and while the last frames are drained.
    mode: Mutex<Mode>,
    changed: Condvar,
    drained: Arc<AtomicU64>,
    config: Config,
    metrics: Arc<Metrics>,
    blocked: Blocker,
    backlog: Option<Arc<Backlog>>,
}

#[derive(Debug)]
enum Mode {
    /// Appends go to the primary.
    Direct,
    /// Appends go to the spill, and from there to these offsets.
    Spilling(Place),
    /// The primary has failed.
    Failed(String),
    /// The writer has ended.
    Closed,
}

impl<P> Shared<P> {
    fn patience(&self) -> Duration {
        Duration::from_millis(self.config.patience_ms)
    }

    /// Notes that the primary has all frames below an offset of the spill.
    fn drained_to(&self, offset: u64) {
        self.drained.store(offset, Ordering::Release);
        if let Some(backlog) = &self.backlog {
            backlog.pass(backlog::Place::Spill, offset);
        }
    }

    /// Notes where appends go from now on.
    fn goes_to(&self, place: backlog::Place) {
        self.metrics.spilling.set(i64::from(place == backlog::Place::Spill));
        if let Some(backlog) = &self.backlog {
            backlog.goes_to(place);
        }
    }
}

impl<P> Shared<P> {
    /// Counts the records that an earlier start has spilled.
    fn count_left(&self) {
        let mode = self.mode.lock();
        let Mode::Spilling(place) = &*mode else { return };
        if let Some(backlog) = &self.backlog {
            for (end, bytes) in self.log.unpassed(place.from) {
                backlog.found(backlog::Place::Spill, end, bytes);
                backlog.found(backlog::Place::Log, place.of(end), bytes);
            }
        }
        self.goes_to(backlog::Place::Spill);
    }
}

/// Settings of the spill's log.
fn files(config: &Config) -> embedded::Config {
    embedded::Config {
        dir: config.dir.clone(),
        segment_bytes: config.segment_bytes,
        capacity_bytes: config.capacity_bytes,
        ring_bytes: 16 << 20,
        retain_bytes: 0,
        retain_secs: 0,
        tenant_share_percent: 100,
        ..embedded::Config::default()
    }
}

/// The opened files of a spill, before the position of the drain is known.
pub(crate) struct Opened {
    config: Config,
    log: Arc<EmbeddedLog>,
    form: embedded::EmbeddedWriter,
    left: Option<Place>,
}

impl Opened {
    /// Opens the files.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn open(config: Config) -> Result<Self, OpenError> {
        let left = place::read(&config.dir)?;
        // Its metrics are separate from the log's.
        let (log, form) = EmbeddedLog::open_form(files(&config), Arc::default(), Arc::new(RealDisk))?;
        Ok(Self { config, log, form, left })
    }

    /// Bytes of its files that tenants share.
    pub(crate) fn divided_bytes(&self) -> u64 {
        files(&self.config).divided_bytes()
    }

    /// Id of the log that was last drained into; its end is the position of the drain.
    pub(crate) fn drained_into(&self) -> Option<&str> {
        self.left.as_ref().map(|place| place.log.as_str())
    }

    /// Attaches the spill to a new log. `end` is that of [`Opened::drained_into`], if known.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) async fn start<P: Primary>(
        self,
        primary: P,
        end: Option<u64>,
        metrics: Arc<Metrics>,
    ) -> Result<(SpillWriter<P>, Status), OpenError> {
        let Self { config, log, form, left } = self;
        let cursors = log.cursors().await.map_err(|error| OpenError::Place(error.to_string()))?;
        let passed = cursors.get(SINK).map_or(0, |cursor| cursor.done_to);
        let held = left.and_then(|place| place.drained(end?));
        let from = held.unwrap_or(passed).clamp(passed, log.end());
        drain::move_cursor(&log, from).await.map_err(|error| OpenError::Place(error.to_string()))?;
        let mode = if from < log.end() {
            let (id, to) = (primary.id().to_owned(), primary.end());
            tracing::warn!(records = log.end() - from, "draining what was spilled before the last end");
            let place = Place { log: id, from, to };
            place::write(&config.dir, &place)?;
            Mode::Spilling(place)
        } else {
            Mode::Direct
        };
        let drained = Arc::new(AtomicU64::new(from));
        let status = Status { log: Arc::clone(&log), drained: Arc::clone(&drained) };
        let shared = Arc::new(Shared {
            blocked: primary.blocker(),
            backlog: primary.backlog(),
            log,
            primary: Mutex::new(primary),
            mode: Mutex::new(mode),
            changed: Condvar::new(),
            drained,
            config,
            metrics,
        });
        shared.count_left();
        let drain = drain::start(Arc::clone(&shared)).map_err(OpenError::Start)?;
        Ok((SpillWriter::new(shared, form, drain), status))
    }
}
