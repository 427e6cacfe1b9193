//! Opens the sinks of logs, each with its driver.

use std::sync::Arc;
use std::time::Duration;

use buffer::Log;
use tokio_util::sync::CancellationToken;

use super::deliver::Delivery;
use super::driver::Driver;
use super::register::{Registered, Unready, register};
use super::traces::FlushFaults;
use crate::accounting::accepted::Accepted;
use crate::accounting::books::{Account, Ledger, kept_from};
use crate::context::Context;
use crate::flusher::{Error, Flusher, Handle, Task, Watched};
use crate::readers::latest::StatesView;
use crate::readers::letters::LettersView;
use crate::readers::tail::{HistoryTail, Source};
use crate::sink::Sink;
use crate::sinks::history::HistorySink;
use crate::status::Shared;
use crate::{Claim, LogContext, Projection, upkeep};

/// A sink of a log, ready to run.
pub(crate) struct OpenedSink {
    task: Task,
    view: View,
}

/// The part of a sink that readers use.
pub(crate) enum View {
    None,
    /// Readings that are not stored yet.
    Readings(Arc<HistorySink>),
    States,
    DeadLetters,
}

/// Opens a sink with its driver.
pub(crate) fn drive<S: Sink>(projection: &Arc<Projection>, on: &LogContext, sink: Arc<S>, view: View) -> OpenedSink {
    let (context, shared) = (&on.context, Arc::clone(&on.shared));
    context.metrics.begin(&projection.name);
    let delivery = Delivery {
        log: Arc::clone(&on.log),
        sink,
        accepted: Arc::clone(&on.accepted),
        shared: Arc::clone(&shared),
        letters: Arc::clone(&context.stores.dead_letters),
        retry: context.config.retry.clone(),
        metrics: Arc::clone(&context.metrics),
        traces: Arc::clone(&context.traces),
        faults: FlushFaults::default(),
    };
    let control = context.controls.of(&projection.name);
    let driver = Driver::new(delivery, control, Duration::from_secs(context.config.stop_secs));
    let name = format!("sink {} of {}", shared.name(), shared.log);
    OpenedSink { task: Task::new(name, move |stop| driver.run(stop)), view }
}

/// A log whose cursors are this holder's now.
pub(crate) struct Opened {
    log: Arc<dyn Log>,
    cursors: Registered,
}

impl Opened {
    /// Registers every projection, so that nothing is trimmed before all have passed it.
    pub(crate) async fn register(context: &Context, claim: Claim) -> Result<Self, Error> {
        let failed = |Unready { reason, passing }| Error::Cursor { log: claim.log.id().into(), reason, passing };
        let cursors = register(&claim, &context.projections, context.fresh.get()).await.map_err(failed)?;
        Ok(Self { log: claim.log, cursors })
    }
}

/// Collects the sinks of logs.
pub(crate) struct Builder {
    context: Context,
    tasks: Vec<Task>,
    accounts: Vec<Account>,
    sources: Vec<Source>,
    states: Vec<(Arc<dyn Log>, Arc<Shared>)>,
    letters: Vec<(Arc<dyn Log>, Arc<Shared>)>,
    sinks: Vec<Watched>,
}

impl Builder {
    pub(crate) fn new(context: Context) -> Self {
        Self {
            context,
            tasks: Vec::new(),
            accounts: Vec::new(),
            sources: Vec::new(),
            states: Vec::new(),
            letters: Vec::new(),
            sinks: Vec::new(),
        }
    }

    /// Adds a sink of the log for each projection.
    pub(crate) fn add_log(&mut self, Opened { log, cursors }: Opened) {
        let accepted = Arc::new(Accepted::new(Arc::clone(&log), &cursors));
        let mut sinks = Vec::new();
        for (projection, cursor) in cursors {
            let shared = Arc::new(Shared::new(log.id(), Arc::clone(&projection), cursor));
            let (context, own) = (self.context.clone(), Arc::clone(&log));
            let accepted = Arc::clone(&accepted);
            let on = LogContext { context, log: own, shared: Arc::clone(&shared), accepted: Arc::clone(&accepted) };
            let OpenedSink { task, view } = projection.open(&on);
            self.tasks.push(task);
            let own = (Arc::clone(&log), Arc::clone(&shared));
            match view {
                View::None => {}
                View::Readings(sink) => self.sources.push(Source { log: own.0, sink, shared: own.1 }),
                View::States => self.states.push(own),
                View::DeadLetters => self.letters.push(own),
            }
            self.sinks.push(Watched { shared: Arc::clone(&shared), accepted, log: Arc::clone(&log) });
            sinks.push(shared);
        }
        let (counting, retry) = (Arc::clone(&accepted), self.context.config.retry.clone());
        self.task(format!("count of {}", log.id()), move |stop| counting.run(retry, stop));
        self.accounts.push(Account { log, accepted, sinks });
    }

    fn task<F>(&mut self, name: String, start: impl FnOnce(CancellationToken) -> F + Send + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.tasks.push(Task::new(name, start));
    }

    /// Adds the work that is done once for each process: merging of blocks, retention, and the
    /// bound of the dead letters.
    pub(crate) fn add_upkeep(&mut self) {
        let Context { config, stores, clock, metrics, .. } = self.context.clone();
        let (store, retry) = (Arc::clone(&stores.history), config.retry);
        self.task("merging of blocks".to_owned(), move |stop| upkeep::merge(store, retry, stop));
        let (store, bound) = (Arc::clone(&stores.dead_letters), config.dead_letters.bound());
        let counted = Arc::clone(&metrics);
        self.task("bound of the dead letters".to_owned(), move |stop| upkeep::trim(store, bound, counted, stop));
        let (store, retention) = (stores.history, config.history.retention_secs);
        self.task("retention".to_owned(), move |stop| upkeep::expire(store, retention, clock, metrics, stop));
    }

    /// Adds the loading of the latest states that the store holds.
    pub(crate) fn add_loading(&mut self) {
        if let Some(states) = self.context.projections.states().cloned() {
            let retry = self.context.config.retry.clone();
            self.task("loading of the latest states".to_owned(), move |stop| upkeep::load(states, retry, stop));
        }
    }

    pub(crate) fn finish(self) -> Flusher {
        let Context { config, projections, stores, metrics, clock, traces, .. } = self.context;
        let wait = Duration::from_millis(config.latest.query_wait_ms);
        let letters = LettersView { store: stores.dead_letters, sources: self.letters, wait };
        let tail = HistoryTail {
            sources: self.sources,
            wait: Duration::from_millis(config.history.query_wait_ms),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
        };
        let states = projections.states().cloned();
        let kept_from = kept_from(config.history.retention_secs, Arc::clone(&clock));
        let handle = Handle {
            letters: Arc::new(letters),
            latest: Arc::new(StatesView { states, sources: self.states, wait }),
            tail: Arc::new(tail),
            books: Arc::new(Ledger { accounts: self.accounts, projections, kept_from }),
            sinks: Arc::new(self.sinks),
            metrics,
            clock,
        };
        Flusher::new(handle, self.tasks, traces)
    }
}
