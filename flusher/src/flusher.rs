//! All sinks of all logs, as one thing to start and stop.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use buffer::Log;
use model::Nanos;
use stores::contract::{Books, DeadLetters, History, Latest, LatestView, Points, Retained, StoreError, Tail};
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::Clock;
use crate::assemble::{Builder, Opened};
use crate::books::Ledger;
use crate::census::Census;
use crate::common::Common;
use crate::config::Config;
use crate::history::HistoryTail;
use crate::latest::View;
use crate::letters::LettersView;
use crate::metrics::Metrics;
use crate::status::{Shared, SinkStatus};
use crate::traces::{Traces, Tracing};

/// A log and the lease under which it is flushed.
#[derive(Clone)]
pub struct Claim {
    /// The log.
    pub log: Arc<dyn Log>,
    /// Epoch of the lease; cursors of a higher one are not touched.
    pub epoch: u64,
}

impl Claim {
    /// A log that nobody else can have.
    pub fn sole(log: Arc<dyn Log>) -> Self {
        Self { log, epoch: 1 }
    }
}

/// Where everything goes.
#[derive(Clone)]
pub struct Stores {
    /// Readings.
    pub history: Arc<dyn History>,
    /// Latest states.
    pub latest: Arc<dyn Latest>,
    /// What could not be read, and what a store refused.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// Retained messages.
    pub retained: Arc<dyn Retained>,
    /// Readings as points, where they are wanted.
    pub points: Option<Arc<dyn Points>>,
}

/// Why the sinks do not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cursors of a log cannot be used.
    #[error("cannot start the sinks of log {log}: {reason}")]
    Cursor {
        /// Which.
        log: String,
        /// Why.
        reason: String,
    },
    /// The latest states cannot be loaded.
    #[error("cannot load the latest states: {0}")]
    Load(#[from] StoreError),
    /// A task ended that must not.
    #[error("{task} ended: {reason}")]
    Ended {
        /// Its name.
        task: String,
        /// Why.
        reason: String,
    },
}

/// The sinks, ready to run.
pub struct Flusher {
    handle: Handle,
    tasks: Vec<Task>,
    traces: Traces,
}

/// A part of the sinks that runs by itself.
pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) start: Start,
}

pub(crate) type Start = Box<dyn FnOnce(&mut JoinSet<Result<(), String>>, CancellationToken) -> Id + Send>;

/// A sink, and what tells how far it is behind.
pub(crate) type Watched = (Arc<Shared>, Arc<Census>, Arc<dyn Log>);

/// What the rest of the process asks of the sinks. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) latest: Arc<View>,
    pub(crate) tail: Arc<HistoryTail>,
    pub(crate) letters: Arc<LettersView>,
    pub(crate) books: Arc<Ledger>,
    pub(crate) sinks: Arc<Vec<Watched>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
}

impl Handle {
    /// The latest states.
    pub fn latest(&self) -> Arc<dyn LatestView> {
        Arc::clone(&self.latest) as Arc<dyn LatestView>
    }

    /// The readings that are not in the store yet.
    pub fn tail(&self) -> Arc<dyn Tail> {
        Arc::clone(&self.tail) as Arc<dyn Tail>
    }

    /// The dead letters, those that are not in the store yet included.
    pub fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        Arc::clone(&self.letters) as Arc<dyn DeadLetters>
    }

    /// The books.
    pub fn books(&self) -> Arc<dyn Books> {
        Arc::clone(&self.books) as Arc<dyn Books>
    }

    /// How each sink of each log is. Sets the lag gauges too.
    pub fn status(&self) -> Vec<SinkStatus> {
        let statuses = self.statuses();
        self.metrics.observe(&statuses);
        statuses
    }

    pub(crate) fn statuses(&self) -> Vec<SinkStatus> {
        let now = (self.clock)();
        let statuses: Vec<_> =
            self.sinks.iter().map(|(shared, census, log)| status(shared, census, &**log, now)).collect();
        for (_, census, log) in self.sinks.iter() {
            let passed = statuses.iter().filter(|s| s.log == log.id()).map(|s| s.done_to).min();
            census.forget_below(passed.unwrap_or(0));
        }
        statuses
    }
}

fn status(shared: &Shared, census: &Census, log: &dyn Log, now: i64) -> SinkStatus {
    let done_to = shared.done_to();
    let lag_records = log.end().saturating_sub(done_to);
    let lag = if lag_records == 0 { crate::census::Lag::default() } else { census.lag(done_to) };
    #[expect(clippy::cast_precision_loss, reason = "an age for people and gauges")]
    let lag_seconds = lag.since.map_or(0.0, |since| (now - since).max(0) as f64 / 1e9);
    let log = shared.log.to_string();
    SinkStatus {
        log,
        sink: shared.sink,
        state: shared.state(),
        done_to,
        lag_records,
        lag_bytes: lag.bytes,
        lag_seconds,
    }
}

/// The time of day.
pub(crate) fn now() -> Nanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Tells it.
pub(crate) fn system_clock() -> Clock {
    Arc::new(now)
}

/// Registers every sink with these logs, so that nothing is trimmed before all have passed it: for a process whose stores do not
/// answer yet. [`Flusher::start`] does it too.
///
/// # Errors
/// [`Error::Cursor`].
pub async fn register(claims: &[Claim], with_points: bool) -> Result<(), Error> {
    for claim in claims {
        Opened::register(claim.clone(), with_points).await?;
    }
    Ok(())
}

impl Flusher {
    /// Registers every sink with every log, so that nothing is trimmed before all have passed it, and loads the latest
    /// states. Nothing runs before [`Flusher::run`].
    ///
    /// # Errors
    /// [`Error`] when a cursor is not inside its log, belongs to another holder, or cannot be read; when the latest
    /// states cannot be loaded.
    pub async fn start(
        config: Config,
        claims: Vec<Claim>,
        stores: Stores,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        Self::start_at(config, claims, stores, metrics, system_clock()).await
    }

    /// As [`Flusher::start`], with a clock of the caller.
    ///
    /// # Errors
    /// As [`Flusher::start`].
    pub async fn start_at(
        config: Config,
        claims: Vec<Claim>,
        stores: Stores,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Result<Self, Error> {
        let mut logs = Vec::new();
        for claim in claims {
            logs.push(Opened::register(claim, stores.points.is_some()).await?);
        }
        let common = Common::new(config, stores, metrics, clock);
        common.load_states().await?;
        let mut builder = Builder::new(common);
        logs.into_iter().for_each(|log| builder.add_log(log));
        builder.add_upkeep();
        Ok(builder.finish())
    }

    pub(crate) fn new(handle: Handle, tasks: Vec<Task>, traces: Traces) -> Self {
        Self { handle, tasks, traces }
    }

    /// From now on flushes that hold traced messages are told of. The first call counts.
    pub fn trace(&self, tracing: Tracing) {
        self.traces.get_or_init(|| tracing);
    }

    /// What the rest of the process asks of the sinks. Answers while [`Flusher::run`] runs.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs every sink until `shutdown`, then flushes once more, for as long as the configuration allows. Call it
    /// after the log takes no more records.
    ///
    /// # Errors
    /// [`Error::Ended`], naming the first task that ended for a reason of its own; the others are then aborted.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let mut set = JoinSet::new();
        let mut names = HashMap::new();
        for task in self.tasks {
            names.insert((task.start)(&mut set, shutdown.clone()), task.name);
        }
        while let Some(done) = set.join_next_with_id().await {
            let (id, reason) = match done {
                Ok((_, Ok(()))) => continue,
                Ok((id, Err(reason))) => (id, reason),
                Err(error) => (error.id(), error.to_string()),
            };
            return Err(Error::Ended { task: names.remove(&id).unwrap_or_default(), reason });
        }
        Ok(())
    }
}
