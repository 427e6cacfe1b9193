//! The spill: where frames go while the server that carries the log is away or full, and back from there in order.
//!
//! ```text
//!            the primary takes nothing for longer than `patience_ms`
//!  Direct ───────────────────────────────────────────────────────────▶ Spilling
//!  appends go to the primary                     appends go to files of their own, durable there: devices get their PUBACK
//!         ◀───────────────────────────────────────────────────────────  the drain moves them into the primary, in order
//!            the drain has moved the last one, with appends held back for that moment
//! ```
//! **Places.** A frame's place in the primary follows from its place in the spill: `to + (offset - from)`. Both numbers and
//! the primary's id stand in `DIR/drain.json`, which is durable before the first frame of an episode is spilled. The frame
//! that the primary did not answer for is the first one: at its place it has the very bytes that the primary may hold
//! already, and such an append is recognised and answered as done. Nothing else is appended to the primary before the
//! spill is empty.
//!
//! **Crash.** The spill's cursor moves when the primary holds the frames. After a crash at any point the primary's end says
//! how many of them it holds: those below `from + (end - to)`. The rest goes into the log of the new start, after
//! `drain.json` says so. If the primary knows nothing of the old log any more, the cursor counts; what is then drained twice
//! has equal readings, which the stores merge.
//!
//! **What it costs.** What is spilled is not seen by sinks and queries before it is drained. A node that starts while the
//! server is away does not start.

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
use serde::{Deserialize, Serialize};

use crate::batcher::{Append, AppendError};
use crate::embedded::{self, EmbeddedLog, RealDisk};
use crate::frame::Frame;
use crate::log::{Log, State};
use crate::metrics::Metrics;

pub(crate) use append::Form;
use place::Place;

/// The cursor that the drain moves.
const SINK: &str = "drain";

/// Settings of the spill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where its files are.
    pub dir: PathBuf,
    /// Bytes of files in all: when they are full, too, devices wait.
    pub capacity_bytes: u64,
    /// Size of one file; two of them are there at all times.
    pub segment_bytes: u64,
    /// How long the server may take nothing before frames are spilled.
    pub patience_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { dir: PathBuf::from("spill"), capacity_bytes: 4 << 30, segment_bytes: 16 << 20, patience_ms: 3_000 }
    }
}

/// Why there is no spill.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its files.
    #[error("spill: {0}")]
    Files(#[from] embedded::OpenError),
    /// The note of what is to be drained where.
    #[error("spill: {0}")]
    Place(String),
    /// A thread could not be made.
    #[error("cannot start the drain of the spill: {0}")]
    Start(std::io::Error),
}

/// See [`Primary::blocker`].
pub(crate) type Blocker = Box<dyn Fn(Option<&str>) + Send + Sync>;

/// A form of the log that can be retried frame by frame.
pub(crate) trait Primary: Append + 'static {
    /// [`Log::id`].
    fn id(&self) -> &str;

    /// Its end, as far as the writer knows.
    fn end(&self) -> u64;

    /// In the header of each of its frames.
    fn incarnation(&self) -> u64;

    /// Does what [`Append::blocked`] does, also while the form is in use.
    fn blocker(&self) -> Blocker;

    /// Takes back the frame of which it is not known whether it is durable.
    fn take_waiting(&mut self) -> Option<Frame>;

    /// Appends a frame that begins at the end. What is there already with the same bytes is a success.
    ///
    /// # Errors
    /// As [`Append::append`].
    fn store(&mut self, frame: &Frame) -> Result<(), AppendError>;
}

/// What there is to know of a spill from outside.
#[derive(Debug, Clone)]
pub struct Status {
    log: Arc<EmbeddedLog>,
    drained: Arc<AtomicU64>,
}

impl Status {
    /// Records that are acknowledged, and not yet where sinks and queries see them.
    pub fn behind(&self) -> u64 {
        self.log.end().saturating_sub(self.drained.load(Ordering::Acquire))
    }

    /// How full its files are.
    pub fn state(&self) -> State {
        self.log.state()
    }
}

/// What the writer and the drain share.
struct Shared<P> {
    log: Arc<EmbeddedLog>,
    /// Held while it is in use, which may take long. In `Direct` the writer's, otherwise the drain's.
    primary: Mutex<P>,
    /// Held for moments, and while the last frames are drained.
    mode: Mutex<Mode>,
    changed: Condvar,
    drained: Arc<AtomicU64>,
    config: Config,
    metrics: Arc<Metrics>,
    blocked: Blocker,
}

#[derive(Debug)]
enum Mode {
    /// Appends go to the primary.
    Direct,
    /// Appends go to the spill, and from there to these places.
    Spilling(Place),
    /// The primary takes nothing ever again.
    Failed(String),
    /// The writer ended.
    Closed,
}

impl<P> Shared<P> {
    fn patience(&self) -> Duration {
        Duration::from_millis(self.config.patience_ms)
    }
}

/// Settings of the files.
fn files(config: &Config) -> embedded::Config {
    embedded::Config {
        dir: config.dir.clone(),
        segment_bytes: config.segment_bytes,
        capacity_bytes: config.capacity_bytes,
        ring_bytes: 16 << 20,
        retain_bytes: 0,
        retain_secs: 0,
        ..embedded::Config::default()
    }
}

/// The files of a spill, before it is known what of them is still to be drained.
pub(crate) struct Opened {
    config: Config,
    log: Arc<EmbeddedLog>,
    form: embedded::Form,
    left: Option<Place>,
}

impl Opened {
    /// Opens the files.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn open(config: Config) -> Result<Self, OpenError> {
        let left = place::read(&config.dir)?;
        // Its figures are not the log's.
        let (log, form) = EmbeddedLog::open_form(files(&config), Arc::default(), Arc::new(RealDisk))?;
        Ok(Self { config, log, form, left })
    }

    /// The log that the files were last drained into: its end tells how far.
    pub(crate) fn drained_into(&self) -> Option<&str> {
        self.left.as_ref().map(|place| place.log.as_str())
    }

    /// Puts the spill before a log that was just made. `end` is that of [`Opened::drained_into`], if it is known.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) async fn start<P: Primary>(
        self,
        primary: P,
        end: Option<u64>,
        metrics: Arc<Metrics>,
    ) -> Result<(Form<P>, Status), OpenError> {
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
            metrics.spilling.set(1);
            Mode::Spilling(place)
        } else {
            Mode::Direct
        };
        let drained = Arc::new(AtomicU64::new(from));
        let status = Status { log: Arc::clone(&log), drained: Arc::clone(&drained) };
        let shared = Arc::new(Shared {
            blocked: primary.blocker(),
            log,
            primary: Mutex::new(primary),
            mode: Mutex::new(mode),
            changed: Condvar::new(),
            drained,
            config,
            metrics,
        });
        let drain = drain::start(Arc::clone(&shared)).map_err(OpenError::Start)?;
        Ok((Form::new(shared, form, drain), status))
    }
}
