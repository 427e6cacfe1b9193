//! Constructors of projections.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use model::TimeRange;
use model::glob::Glob;
use stores::contract::{DeadLetters, Export, History, Latest, Result, Retained};

use crate::accounting::replay::{IntoExport, IntoHistory};
use crate::config::{Config, Pace};
use crate::engine::assemble::View;
use crate::projection::Projection;
use crate::sinks::export::ExportSink;
pub use crate::sinks::export::filter::ExportFilter;
use crate::sinks::history::HistorySink;
use crate::sinks::latest::{LatestSink, States};
use crate::sinks::records::{DeadLetterWriter, RecordSink, RetainedWriter};
use crate::{Accounting, Countable, StartAt, Stores};

/// Dead letters are listed this soon.
const LETTERS: Duration = Duration::from_secs(1);
/// Retained messages are in their store this soon. Most messages that wait for sessions are over by
/// then, and no store sees them.
const MESSAGES: Duration = Duration::from_secs(5);

/// The projections that every process has: history, latest states, dead letters, retained messages.
pub fn standard(config: &Config, stores: &Stores) -> Vec<Projection> {
    vec![
        Projection { store: Some(stores.name), ..history(config, Arc::clone(&stores.history)) },
        Projection { store: Some(stores.name), ..latest(config, Arc::clone(&stores.latest)) },
        dead_letters(Arc::clone(&stores.dead_letters)),
        retained(Arc::clone(&stores.retained)),
    ]
}

/// Readings, in blocks.
pub fn history(config: &Config, store: Arc<dyn History>) -> Projection {
    let (counted, replayed) = (Arc::new(CountedHistory(Arc::clone(&store))), IntoHistory(Arc::clone(&store)));
    let unflushed = config.history.pace().max_bytes;
    let open = move |context: &crate::LogContext| {
        let sink = HistorySink::new(context.log(), Arc::clone(&store), context.done_to(), unflushed, context.purged());
        let sink = Arc::new(sink);
        (Arc::clone(&sink), View::Readings(sink))
    };
    Projection {
        accounting: Accounting::Telemetry(Some(counted)),
        replay: Some(Arc::new(replayed)),
        ..Projection::with_view(crate::HISTORY.into(), crate::HISTORY, config.history.pace(), open)
    }
}

/// The newest values of each device.
pub fn latest(config: &Config, store: Arc<dyn Latest>) -> Projection {
    let states = Arc::new(States::new(store, config.latest.bounds()));
    let shared = Arc::clone(&states);
    let open = move |context: &crate::LogContext| {
        let metrics = Arc::clone(&context.context.metrics);
        (Arc::new(LatestSink::new(Arc::clone(&shared), metrics, context.purged())), View::States)
    };
    Projection {
        accounting: Accounting::Telemetry(None),
        states: Some(states),
        ..Projection::with_view(crate::LATEST.into(), crate::LATEST, config.latest.pace(), open)
    }
}

/// Messages that could not be read.
pub fn dead_letters(store: Arc<dyn DeadLetters>) -> Projection {
    let counted = Arc::clone(&store);
    let open = move |context: &crate::LogContext| {
        let writer =
            DeadLetterWriter { log: context.log().into(), store: Arc::clone(&store), purged: context.purged() };
        (Arc::new(RecordSink::new(writer)), View::DeadLetters)
    };
    Projection {
        accounting: Accounting::DeadLetters(counted),
        ..Projection::with_view(crate::DEAD_LETTERS.into(), crate::DEAD_LETTERS, Pace::rare(LETTERS), open)
    }
}

/// Retained messages.
pub fn retained(store: Arc<dyn Retained>) -> Projection {
    let open = move |context: &crate::LogContext| {
        RecordSink::new(RetainedWriter { store: Arc::clone(&store), purged: context.purged() })
    };
    Projection::new(crate::RETAINED, crate::RETAINED, Pace::rare(MESSAGES), open)
}

/// An export, as it is configured.
pub struct ExportSpec {
    /// Name, unique among all projections.
    pub name: Arc<str>,
    /// Type: `influxdb`, `kafka`, …
    pub kind: &'static str,
    /// Where the readings go.
    pub store: Arc<dyn Export>,
    /// Which readings go there.
    pub filter: ExportFilter,
    /// When they are delivered.
    pub pace: Pace,
    /// Where it begins.
    pub start: StartAt,
}

/// Readings, as another system wants them.
pub fn export(spec: ExportSpec) -> Projection {
    let ExportSpec { name, kind, store, filter, pace, start } = spec;
    let filter = Arc::new(filter);
    let counted = CountedExport { name: Arc::clone(&name), store: Arc::clone(&store) };
    let replayed = IntoExport { store: Arc::clone(&store) };
    let (passes, stage) = (Arc::clone(&filter), Arc::clone(&name));
    let open = move |context: &crate::LogContext| {
        let (stage, store, passes) = (Arc::clone(&stage), Arc::clone(&store), Arc::clone(&passes));
        ExportSink::new(context.log(), stage, store, passes, pace.max_bytes).without(context.purged())
    };
    Projection {
        start,
        accounting: Accounting::Telemetry(Some(Arc::new(counted))),
        replay: Some(Arc::new(replayed)),
        store: Some(kind),
        filter: Some(filter),
        ..Projection::new(name, kind, pace, open)
    }
}

impl ExportFilter {
    /// Patterns of the configuration, in which `*` stands for any characters; an empty list passes
    /// everything.
    pub fn new(tenants: &[String], devices: &[String], names: &[String]) -> Self {
        let globs = |patterns: &[String]| patterns.iter().map(|pattern| Glob::new(pattern)).collect();
        Self { tenants: tenants.to_vec(), devices: globs(devices), names: globs(names) }
    }
}

struct CountedHistory(Arc<dyn History>);

#[async_trait]
impl Countable for CountedHistory {
    async fn count(&self) -> Result<Option<Vec<(Arc<str>, u64)>>> {
        self.0.count().await.map(Some)
    }

    async fn count_between(&self, range: TimeRange) -> Result<Option<Vec<(Arc<str>, u64)>>> {
        self.0.count_between(range).await
    }
}

/// An export that cannot be asked leaves the books of every other projection as they are.
struct CountedExport {
    name: Arc<str>,
    store: Arc<dyn Export>,
}

#[async_trait]
impl Countable for CountedExport {
    async fn count(&self) -> Result<Option<Vec<(Arc<str>, u64)>>> {
        let counted = async {
            match self.store.keeps_everything().await? {
                true => self.store.count(TimeRange::ALL).await,
                false => Ok(None),
            }
        };
        Ok(counted.await.unwrap_or_else(|error| {
            tracing::warn!(export = &*self.name, %error, "cannot count what the export holds; its books are not checked");
            None
        }))
    }

    async fn count_between(&self, range: TimeRange) -> Result<Option<Vec<(Arc<str>, u64)>>> {
        // It may have gone away since it counted everything.
        Ok(self.store.count(range).await.ok().flatten())
    }
}
