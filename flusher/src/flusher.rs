//! All sinks of all logs, started and stopped together.

use std::collections::HashMap;
use std::sync::Arc;

use buffer::Log;
use model::Nanos;
pub(crate) use model::clock::now;
use model::trace::Tracer;
use stores::contract::{Books, DeadLetters, History, Latest, LatestView, Retained, Store, Tail};
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::accounting::accepted::{Accepted, Lag};
use crate::accounting::books::Ledger;
use crate::config::Config;
use crate::context::Context;
use crate::engine::assemble::{Builder, Opened};
use crate::engine::control::Controls;
use crate::engine::traces::Traces;
use crate::metrics::Metrics;
use crate::readers::latest::StatesView;
use crate::readers::letters::LettersView;
use crate::readers::tail::HistoryTail;
use crate::status::{Shared, SinkStatus};
use crate::{Clock, Projections};

/// A log and the lease under which it is flushed.
#[derive(Clone)]
pub struct Claim {
    /// The log.
    pub log: Arc<dyn Log>,
    /// Epoch of the lease; cursors of a higher one are not touched.
    pub epoch: u64,
}

impl Claim {
    /// A log that no other process can hold.
    pub fn sole(log: Arc<dyn Log>) -> Self {
        Self { log, epoch: 1 }
    }
}

/// The stores that every process has.
#[derive(Clone)]
pub struct Stores {
    /// Name of the store in spans: `embedded`, `mongodb`.
    pub name: &'static str,
    /// Readings.
    pub history: Arc<dyn History>,
    /// Latest states.
    pub latest: Arc<dyn Latest>,
    /// Messages that could not be read, and readings that a store refused.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// Retained messages.
    pub retained: Arc<dyn Retained>,
}

impl Stores {
    /// One store that holds everything.
    pub fn of<S: Store>(store: Arc<S>) -> Self {
        Self {
            name: store.name(),
            history: store.clone(),
            latest: store.clone(),
            dead_letters: store.clone(),
            retained: store,
        }
    }
}

/// The reason why the sinks do not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cursors of a log cannot be used.
    #[error("cannot start the sinks of log {log}: {reason}")]
    Cursor {
        /// Id of the log.
        log: String,
        /// The reason.
        reason: String,
        /// True when a later attempt may succeed without an operator.
        passing: bool,
    },
    /// Two projections have the same name.
    #[error("two projections have the name {0:?}: give every export a name of its own")]
    SameName(String),
    /// A task ended that must not.
    #[error("{task} ended: {reason}")]
    Ended {
        /// Name of the task.
        task: String,
        /// The reason.
        reason: String,
    },
}

/// The sinks, ready to run.
pub struct Flusher {
    handle: Handle,
    tasks: Vec<Task>,
    traces: Traces,
}

/// A part of the sinks that runs on its own.
pub(crate) struct Task {
    name: String,
    start: Start,
}

/// Starts a task in a set.
type Start = Box<dyn FnOnce(&mut JoinSet<Result<(), String>>, CancellationToken) -> Id + Send>;

impl Task {
    pub(crate) fn new<F>(name: String, start: impl FnOnce(CancellationToken) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        Self { name, start: Box::new(move |set, stop| set.spawn(start(stop)).id()) }
    }
}

/// A sink, and how far it is behind.
pub(crate) struct Watched {
    pub(crate) shared: Arc<Shared>,
    pub(crate) accepted: Arc<Accepted>,
    pub(crate) log: Arc<dyn Log>,
}

/// Readers of the sinks, for the rest of the process. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) latest: Arc<StatesView>,
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

    /// The readings that are not stored yet.
    pub fn tail(&self) -> Arc<dyn Tail> {
        Arc::clone(&self.tail) as Arc<dyn Tail>
    }

    /// The dead letters, including those that are not stored yet.
    pub fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        Arc::clone(&self.letters) as Arc<dyn DeadLetters>
    }

    /// The books.
    pub fn books(&self) -> Arc<dyn Books> {
        Arc::clone(&self.books) as Arc<dyn Books>
    }

    /// The state of each export on each log.
    pub fn exports(&self) -> Vec<SinkStatus> {
        self.statuses().into_iter().filter(SinkStatus::is_export).collect()
    }

    /// The state of each sink of each log. Sets the lag gauges too.
    pub fn status(&self) -> Vec<SinkStatus> {
        let statuses = self.statuses();
        self.metrics.observe(&self.books.projections, &statuses);
        statuses
    }

    pub(crate) fn statuses(&self) -> Vec<SinkStatus> {
        let now = (self.clock)();
        let statuses: Vec<_> = self.sinks.iter().map(|sink| sink.status(now)).collect();
        for Watched { accepted, log, .. } in self.sinks.iter() {
            let passed = statuses.iter().filter(|s| s.log == log.id()).map(|s| s.done_to).min();
            accepted.forget_below(passed.unwrap_or(0));
        }
        statuses
    }
}

impl Watched {
    fn status(&self, now: Nanos) -> SinkStatus {
        let Self { shared, accepted, log } = self;
        let done_to = shared.done_to();
        let lag_records = log.end().saturating_sub(done_to);
        let lag = if lag_records == 0 { Lag::default() } else { accepted.lag(done_to) };
        #[expect(clippy::cast_precision_loss, reason = "an age for people and gauges")]
        let lag_seconds = lag.since.map_or(0.0, |since| (now - since).max(0) as f64 / 1e9);
        SinkStatus {
            log: shared.log.to_string(),
            sink: Arc::clone(shared.name()),
            kind: shared.projection.kind.into(),
            state: shared.state(),
            paused: shared.is_paused_by_operator(),
            refused: shared.refused(),
            done_to,
            lag_records,
            lag_bytes: lag.bytes,
            lag_seconds,
        }
    }
}

/// The clock of the system.
pub(crate) fn system_clock() -> Clock {
    Arc::new(now)
}

impl Flusher {
    /// Registers every projection with every log, so that nothing is trimmed before all have passed
    /// it. No store is asked: one that is away is waited for by the sinks alone. Nothing runs
    /// before [`Flusher::run`].
    ///
    /// # Errors
    /// [`Error::Cursor`] when a cursor is not inside its log, belongs to another holder, or cannot
    /// be read.
    pub async fn start(
        config: Config,
        claims: Vec<Claim>,
        projections: Projections,
        stores: Stores,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        let context = Context::new(config, projections, stores, metrics, Controls::none());
        let mut builder = Builder::new(context.clone());
        for claim in claims {
            builder.add_log(Opened::register(&context, claim).await?);
        }
        builder.add_upkeep();
        builder.add_loading();
        Ok(builder.finish())
    }

    pub(crate) fn new(handle: Handle, tasks: Vec<Task>, traces: Traces) -> Self {
        Self { handle, tasks, traces }
    }

    /// Records spans of flushes that hold traced messages, from now on. The first call counts.
    pub fn trace(&self, tracer: Tracer) {
        self.traces.get_or_init(|| tracer);
    }

    /// Readers of the sinks, for the rest of the process. They answer while [`Flusher::run`] runs.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs every sink until `shutdown`, then flushes once more, for as long as the configuration
    /// allows. Call it after the log takes no more records.
    ///
    /// # Errors
    /// [`Error::Ended`] with the first task that ended for a reason of its own; the others are then
    /// aborted.
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
