//! All sinks of all logs, as one thing to start and stop.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use buffer::{Cursor, CursorError, Log};
use parking_lot::RwLock as SyncLock;
use stores::contract::{Books, DeadLetters, History, Latest, LatestView, Points, Retained, StoreError, Tail};
use tokio::sync::RwLock;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::books::{Account, Ledger};
use crate::census::Census;
use crate::config::{Config, Pace};
use crate::deliver::Delivery;
use crate::driver::Driver;
use crate::history::{HistorySink, HistoryTail, Recent, Source};
use crate::latest::{LatestMap, LatestSink, View};
use crate::letters::LettersView;
use crate::metrics::Metrics;
use crate::points::{self, PointsSink};
use crate::rare::{Letters, Rare, RetainedMessages};
use crate::sink::Sink;
use crate::status::{Shared, SinkStatus};
use crate::traces::{Traces, Tracing, Trouble};
use crate::{Clock, maintenance};

/// Dead letters are listed this soon.
const LETTERS: Duration = Duration::from_secs(1);
/// Retained messages are in their store this soon.
const MESSAGES: Duration = Duration::from_millis(200);

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

struct Task {
    name: String,
    start: Start,
}

type Start = Box<dyn FnOnce(&mut JoinSet<Result<(), String>>, CancellationToken) -> Id + Send>;

/// A sink, and what tells how far it is behind.
type Watched = (Arc<Shared>, Arc<Census>, Arc<dyn Log>);

/// What the rest of the process asks of the sinks. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    latest: Arc<View>,
    pub(crate) tail: Arc<HistoryTail>,
    letters: Arc<LettersView>,
    books: Arc<Ledger>,
    sinks: Arc<Vec<Watched>>,
    metrics: Arc<Metrics>,
    clock: Clock,
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
        let now = (self.clock)();
        let statuses: Vec<_> =
            self.sinks.iter().map(|(shared, census, log)| status(shared, census, &**log, now)).collect();
        for (_, census, log) in self.sinks.iter() {
            let passed = statuses.iter().filter(|s| s.log == log.id()).map(|s| s.done_to).min();
            census.forget_below(passed.unwrap_or(0));
        }
        self.metrics.observe(&statuses);
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
fn system_clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
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
            let failed = |reason| Error::Cursor { log: claim.log.id().into(), reason };
            let cursors = register(&claim).await.map_err(failed)?;
            let points = points::register(&claim, &cursors, stores.points.is_some()).await.map_err(failed)?;
            let recent = Recent::load(&*claim.log, cursors[0].done_to).await.map_err(|e| failed(e.to_string()))?;
            logs.push((claim.log, cursors, points, recent));
        }
        let map = Arc::new(SyncLock::new(LatestMap::load(stores.latest.load().await?)));
        let mut builder = Builder {
            config,
            metrics,
            clock,
            map,
            gates: std::array::from_fn(|_| Arc::new(RwLock::new(()))),
            tasks: Vec::new(),
            accounts: Vec::new(),
            sources: Vec::new(),
            states: Vec::new(),
            sinks: Vec::new(),
            traces: Traces::default(),
            stores,
        };
        for (log, cursors, points, recent) in logs {
            builder.add_log(log, cursors, points, recent);
        }
        Ok(builder.finish())
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

/// The cursors of one log, in the order of [`crate::SINKS`].
pub(crate) type Registered = [Cursor; 4];

async fn register(claim: &Claim) -> Result<Registered, String> {
    let log = &claim.log;
    let held = log.cursors().await.map_err(|error| error.to_string())?;
    let mut cursors = Registered::default();
    for (sink, cursor) in crate::SINKS.into_iter().zip(&mut cursors) {
        let fresh = Cursor { done_to: log.start(), sealed_to: log.start(), ..Cursor::default() };
        *cursor = take(claim, sink, held.get(sink).cloned().unwrap_or(fresh)).await?;
    }
    Ok(cursors)
}

/// Makes a sink's cursor that of this holder.
pub(crate) async fn take(claim: &Claim, sink: &str, mut cursor: Cursor) -> Result<Cursor, String> {
    check(sink, &cursor, &*claim.log)?;
    if cursor.epoch > claim.epoch {
        let reason = CursorError::Fenced { sink: sink.to_owned(), held: cursor.epoch, tried: claim.epoch };
        return Err(reason.to_string());
    }
    cursor.epoch = claim.epoch;
    claim.log.move_cursor(sink, cursor.clone()).await.map_err(|error| error.to_string())?;
    Ok(cursor)
}

fn check(sink: &str, cursor: &Cursor, log: &dyn Log) -> Result<(), String> {
    let (start, end) = (log.start(), log.end());
    if cursor.done_to < start {
        return Err(format!(
            "sink {sink} is at offset {}, the log begins at {start}: what lies between is gone; restore the log",
            cursor.done_to
        ));
    }
    if cursor.sealed_to.max(cursor.done_to) > end {
        return Err(format!(
            "sink {sink} is at offset {}, the log ends at {end}: this is not the log it followed; restore the log",
            cursor.sealed_to.max(cursor.done_to)
        ));
    }
    Ok(())
}

struct Builder {
    config: Config,
    stores: Stores,
    metrics: Arc<Metrics>,
    clock: Clock,
    map: Arc<SyncLock<LatestMap>>,
    gates: [Arc<RwLock<()>>; 3],
    tasks: Vec<Task>,
    accounts: Vec<Account>,
    sources: Vec<Source>,
    states: Vec<(Arc<dyn Log>, Arc<Shared>)>,
    sinks: Vec<Watched>,
    traces: Traces,
}

impl Builder {
    fn add_log(&mut self, log: Arc<dyn Log>, cursors: Registered, points: Option<Cursor>, recent: Recent) {
        let lowest = cursors.iter().chain(&points).map(|c| c.done_to).min().unwrap_or(0);
        let census = Arc::new(Census::new(Arc::clone(&log), lowest, cursors[0].done_to, &cursors[0].tallies));
        let [history, latest, letters, retained] = cursors;
        let [history, latest, letters, retained] = [
            (crate::HISTORY, history),
            (crate::LATEST, latest),
            (crate::DEAD_LETTERS, letters),
            (crate::RETAINED, retained),
        ]
        .map(|(sink, cursor)| Arc::new(Shared::new(log.id(), sink, cursor)));
        let points = points.map(|cursor| Arc::new(Shared::new(log.id(), crate::POINTS, cursor)));
        for shared in [&history, &latest, &letters, &retained].into_iter().chain(&points) {
            self.sinks.push((Arc::clone(shared), Arc::clone(&census), Arc::clone(&log)));
        }

        let sink = Arc::new(HistorySink::new(log.id(), Arc::clone(&self.stores.history), history.done_to(), recent));
        self.sources.push(Source { log: Arc::clone(&log), sink: Arc::clone(&sink), shared: Arc::clone(&history) });
        let [writes, puts] = [0, 1].map(|i| Arc::clone(&self.gates[i]));
        self.drive(&log, sink, &history, self.config.history.pace(), Arc::clone(&writes));

        let sink = Arc::new(LatestSink::new(Arc::clone(&self.map), Arc::clone(&self.stores.latest)));
        self.states.push((Arc::clone(&log), Arc::clone(&latest)));
        self.drive(&log, sink, &latest, self.config.latest.pace(), Arc::default());

        let drain = Letters { log: log.id().into(), store: Arc::clone(&self.stores.dead_letters) };
        self.drive(&log, Arc::new(Rare::new(drain)), &letters, Pace::rare(LETTERS), puts);

        let drain = RetainedMessages { store: Arc::clone(&self.stores.retained) };
        self.drive(&log, Arc::new(Rare::new(drain)), &retained, Pace::rare(MESSAGES), Arc::default());

        if let (Some(store), Some(shared)) = (self.stores.points.clone(), &points) {
            let sink = PointsSink::new(log.id(), store, self.config.points.separate_equal_times);
            let gate = Arc::clone(&self.gates[2]);
            self.drive(&log, Arc::new(sink), shared, self.config.points.pace(), gate);
        }

        let (counting, retry) = (Arc::clone(&census), self.config.retry.clone());
        self.task(format!("census of {}", log.id()), move |stop| counting.run(retry, stop));
        self.accounts.push(Account { log, census, history, latest, dead_letters: letters, points });
    }

    fn drive<S: Sink>(
        &mut self,
        log: &Arc<dyn Log>,
        sink: Arc<S>,
        shared: &Arc<Shared>,
        pace: Pace,
        gate: Arc<RwLock<()>>,
    ) {
        let delivery = Delivery {
            log: Arc::clone(log),
            sink,
            shared: Arc::clone(shared),
            letters: Arc::clone(&self.stores.dead_letters),
            retry: self.config.retry.clone(),
            metrics: Arc::clone(&self.metrics),
            gate,
            traces: Arc::clone(&self.traces),
            trouble: Trouble::default(),
        };
        let driver = Driver::new(delivery, pace, std::time::Duration::from_secs(self.config.stop_secs));
        self.task(format!("sink {} of {}", shared.sink, shared.log), move |stop| driver.run(stop));
    }

    fn task<F>(&mut self, name: String, start: impl FnOnce(CancellationToken) -> F + Send + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.tasks.push(Task { name, start: Box::new(move |set, stop| set.spawn(start(stop)).id()) });
    }

    fn finish(mut self) -> Flusher {
        let (store, retry) = (Arc::clone(&self.stores.history), self.config.retry.clone());
        self.task("merging of blocks".to_owned(), move |stop| maintenance::merge(store, retry, stop));
        let (store, retention) = (Arc::clone(&self.stores.history), self.config.history.retention_secs);
        let (clock, metrics) = (Arc::clone(&self.clock), Arc::clone(&self.metrics));
        self.task("retention".to_owned(), move |stop| maintenance::expire(store, retention, clock, metrics, stop));
        let letters = self.accounts.iter().map(|a| (Arc::clone(&a.log), Arc::clone(&a.dead_letters))).collect();
        let handle = Handle {
            letters: Arc::new(LettersView {
                store: Arc::clone(&self.stores.dead_letters),
                sources: letters,
                wait: Duration::from_millis(self.config.latest.query_wait_ms),
            }),
            latest: Arc::new(View {
                map: self.map,
                sources: self.states,
                wait: Duration::from_millis(self.config.latest.query_wait_ms),
            }),
            tail: Arc::new(HistoryTail {
                sources: self.sources,
                wait: Duration::from_millis(self.config.history.query_wait_ms),
                clock: Arc::clone(&self.clock),
                metrics: Arc::clone(&self.metrics),
            }),
            books: Arc::new(Ledger {
                accounts: self.accounts,
                history: self.stores.history,
                dead_letters: self.stores.dead_letters,
                points: self.stores.points,
                gates: self.gates,
            }),
            sinks: Arc::new(self.sinks),
            metrics: self.metrics,
            clock: self.clock,
        };
        Flusher { handle, tasks: self.tasks, traces: self.traces }
    }
}
