//! Logs, stores and settings into sinks with their drivers.

use std::sync::Arc;
use std::time::Duration;

use buffer::{Cursor, Log};
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

use crate::books::{Account, Ledger, kept_from};
use crate::census::Census;
use crate::common::Common;
use crate::config::Pace;
use crate::deliver::Delivery;
use crate::driver::Driver;
use crate::flusher::{Error, Flusher, Handle, Task, Watched};
use crate::history::{HistorySink, HistoryTail, Recent, Source};
use crate::latest::{LatestSink, View};
use crate::letters::LettersView;
use crate::points::{self, PointsSink};
use crate::rare::{Letters, Rare, RetainedMessages};
use crate::register::{Registered, register};
use crate::sink::Sink;
use crate::status::Shared;
use crate::traces::Trouble;
use crate::{Claim, Stores, maintenance};

/// Dead letters are listed this soon.
const LETTERS: Duration = Duration::from_secs(1);
/// Retained messages are in their store this soon.
const MESSAGES: Duration = Duration::from_millis(200);

/// Collects the sinks of logs.
pub(crate) struct Builder {
    common: Common,
    tasks: Vec<Task>,
    accounts: Vec<Account>,
    sources: Vec<Source>,
    states: Vec<(Arc<dyn Log>, Arc<Shared>)>,
    sinks: Vec<Watched>,
}

/// A log with the cursors that are this holder's now.
pub(crate) struct Opened {
    log: Arc<dyn Log>,
    cursors: Registered,
    points: Option<Cursor>,
    recent: Recent,
}

impl Opened {
    /// Registers every sink, so that nothing is trimmed before all have passed it.
    pub(crate) async fn register(claim: Claim, with_points: bool) -> Result<Self, Error> {
        let failed = |reason| Error::Cursor { log: claim.log.id().into(), reason };
        let cursors = register(&claim).await.map_err(failed)?;
        let points = points::register(&claim, &cursors, with_points).await.map_err(failed)?;
        let recent = Recent::load(&*claim.log, cursors[0].done_to).await.map_err(|e| failed(e.to_string()))?;
        Ok(Self { log: claim.log, cursors, points, recent })
    }
}

impl Builder {
    pub(crate) fn new(common: Common) -> Self {
        Self {
            common,
            tasks: Vec::new(),
            accounts: Vec::new(),
            sources: Vec::new(),
            states: Vec::new(),
            sinks: Vec::new(),
        }
    }

    /// Adds all sinks of a log.
    pub(crate) fn add_log(&mut self, Opened { log, cursors, points, recent }: Opened) {
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

        let sink =
            Arc::new(HistorySink::new(log.id(), Arc::clone(&self.common.stores.history), history.done_to(), recent));
        self.sources.push(Source { log: Arc::clone(&log), sink: Arc::clone(&sink), shared: Arc::clone(&history) });
        let [writes, puts] = [0, 1].map(|i| Arc::clone(&self.common.gates[i]));
        self.drive(&log, sink, &history, self.common.config.history.pace(), Arc::clone(&writes));

        let sink = Arc::new(LatestSink::new(Arc::clone(&self.common.map), Arc::clone(&self.common.stores.latest)));
        self.states.push((Arc::clone(&log), Arc::clone(&latest)));
        self.drive(&log, sink, &latest, self.common.config.latest.pace(), Arc::default());

        let drain = Letters { log: log.id().into(), store: Arc::clone(&self.common.stores.dead_letters) };
        self.drive(&log, Arc::new(Rare::new(drain)), &letters, Pace::rare(LETTERS), puts);

        let drain = RetainedMessages { store: Arc::clone(&self.common.stores.retained) };
        self.drive(&log, Arc::new(Rare::new(drain)), &retained, Pace::rare(MESSAGES), Arc::default());

        if let (Some(store), Some(shared)) = (self.common.stores.points.clone(), &points) {
            let sink = PointsSink::new(log.id(), store, self.common.config.points.separate_equal_times);
            let gate = Arc::clone(&self.common.gates[2]);
            self.drive(&log, Arc::new(sink), shared, self.common.config.points.pace(), gate);
        }

        let (counting, retry) = (Arc::clone(&census), self.common.config.retry.clone());
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
        self.common.metrics.begin(shared.sink);
        let delivery = Delivery {
            log: Arc::clone(log),
            sink,
            shared: Arc::clone(shared),
            letters: Arc::clone(&self.common.stores.dead_letters),
            retry: self.common.config.retry.clone(),
            metrics: Arc::clone(&self.common.metrics),
            gate,
            traces: Arc::clone(&self.common.traces),
            trouble: Trouble::default(),
        };
        let driver = Driver::new(delivery, pace, std::time::Duration::from_secs(self.common.config.stop_secs));
        self.task(format!("sink {} of {}", shared.sink, shared.log), move |stop| driver.run(stop));
    }

    fn task<F>(&mut self, name: String, start: impl FnOnce(CancellationToken) -> F + Send + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.tasks.push(Task { name, start: Box::new(move |set, stop| set.spawn(start(stop)).id()) });
    }

    /// Adds what is done once for each process: merging of blocks and retention.
    pub(crate) fn add_upkeep(&mut self) {
        let (store, retry) = (Arc::clone(&self.common.stores.history), self.common.config.retry.clone());
        self.task("merging of blocks".to_owned(), move |stop| maintenance::merge(store, retry, stop));
        let (store, retention) = (Arc::clone(&self.common.stores.history), self.common.config.history.retention_secs);
        let (clock, metrics) = (Arc::clone(&self.common.clock), Arc::clone(&self.common.metrics));
        self.task("retention".to_owned(), move |stop| maintenance::expire(store, retention, clock, metrics, stop));
    }

    pub(crate) fn finish(self) -> Flusher {
        let Common { config, stores, metrics, clock, map, gates, traces } = self.common;
        let wait = Duration::from_millis(config.latest.query_wait_ms);
        let letters = self.accounts.iter().map(|a| (Arc::clone(&a.log), Arc::clone(&a.dead_letters))).collect();
        let letters = LettersView { store: Arc::clone(&stores.dead_letters), sources: letters, wait };
        let tail = HistoryTail {
            sources: self.sources,
            wait: Duration::from_millis(config.history.query_wait_ms),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
        };
        let Stores { history, dead_letters, points, .. } = stores;
        let kept_from = kept_from(config.history.retention_secs, Arc::clone(&clock));
        let handle = Handle {
            letters: Arc::new(letters),
            latest: Arc::new(View { map, sources: self.states, wait }),
            tail: Arc::new(tail),
            books: Arc::new(Ledger { accounts: self.accounts, history, dead_letters, points, gates, kept_from }),
            sinks: Arc::new(self.sinks),
            metrics,
            clock,
        };
        Flusher::new(handle, self.tasks, traces)
    }
}
