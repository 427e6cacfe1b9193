//! Projections as data: the list that a flusher runs on every log that it holds.

use std::collections::BTreeSet;
use std::sync::Arc;

use buffer::Log;
use tokio::sync::RwLock;

use crate::accounting::accepted::Accepted;
use crate::accounting::replay::ReplayInto;
use crate::config::Pace;
use crate::context::Context;
use crate::engine::assemble::{OpenedSink, View, drive};
use crate::sink::Sink;
use crate::sinks::export::filter::ExportFilter;
use crate::sinks::latest::States;
use crate::status::Shared;
use crate::{Accounting, PurgedTenants, Retentions, flusher::Error};

/// Where a projection begins on a log that it has not seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// At the first record: the projection has been there since the log began.
    Beginning,
    /// At the first record that the log still holds. Earlier ones are counted as missed.
    Joining,
    /// At the records that come after the projection was configured. Earlier ones are counted as
    /// missed.
    Now,
}

/// A projection of every log, in one store.
pub struct Projection {
    /// Name of its cursors, label of its metrics, stage of its dead letters. Unique in a process.
    pub name: Arc<str>,
    /// Kind: `history`, `latest`, `dead_letters`, `retained`, or the type of an export.
    pub kind: &'static str,
    /// Where it begins on a new log.
    pub start: StartAt,
    /// When it follows and when it delivers.
    pub pace: Pace,
    /// How it appears in the books.
    pub accounting: Accounting,
    /// Takes a reading that the store refused earlier.
    pub replay: Option<Arc<dyn ReplayInto>>,
    /// Name of the store in spans; `None` when flushes are not traced.
    pub(crate) store: Option<&'static str>,
    /// The latest states, of the projection that keeps them.
    pub(crate) states: Option<Arc<States>>,
    /// The readings that it exports; `None` for a projection that is not an export.
    pub(crate) filter: Option<Arc<ExportFilter>>,
    /// Held for reading while the store and the cursor do not agree.
    pub(crate) gate: Arc<RwLock<()>>,
    /// Opens its sink on a log.
    pub(crate) open: Open,
}

/// Opens the projection's sink on a log: erases the types of its batches and items.
pub(crate) type Open = Box<dyn Fn(&Arc<Projection>, &LogContext) -> OpenedSink + Send + Sync>;

/// A log on which sinks are opened.
pub struct LogContext {
    pub(crate) context: Context,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) accepted: Arc<Accepted>,
}

impl LogContext {
    /// [`Log::id`].
    pub fn log(&self) -> &str {
        self.log.id()
    }

    pub(crate) fn purged(&self) -> PurgedTenants {
        self.context.projections.purged().clone()
    }

    /// The sink has everything below this offset.
    pub fn done_to(&self) -> u64 {
        self.shared.done_to()
    }
}

impl Projection {
    /// A projection without a line in the books; `sink` makes its sink for a log.
    pub fn new<S: Sink>(
        name: impl Into<Arc<str>>,
        kind: &'static str,
        pace: Pace,
        sink: impl Fn(&LogContext) -> S + Send + Sync + 'static,
    ) -> Self {
        Self::with_view(name.into(), kind, pace, move |context| (Arc::new(sink(context)), View::None))
    }

    pub(crate) fn with_view<S: Sink>(
        name: Arc<str>,
        kind: &'static str,
        pace: Pace,
        sink: impl Fn(&LogContext) -> (Arc<S>, View) + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            kind,
            start: StartAt::Beginning,
            pace,
            accounting: Accounting::Nothing,
            replay: None,
            store: None,
            states: None,
            filter: None,
            gate: Arc::default(),
            open: Box::new(move |projection, context| {
                let (sink, view) = sink(context);
                drive(projection, context, sink, view)
            }),
        }
    }

    pub(crate) fn open(self: &Arc<Self>, context: &LogContext) -> OpenedSink {
        (self.open)(self, context)
    }

    /// The readings that an export delivers; `None` for a standard projection.
    pub fn filter(&self) -> Option<&ExportFilter> {
        self.filter.as_deref()
    }

    /// True for an export: it joins logs and leaves them, as the configuration says.
    pub fn is_export(&self) -> bool {
        self.filter.is_some()
    }

    /// True when records of `tenant` appear in its books.
    pub(crate) fn covers(&self, tenant: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.has_tenant(tenant))
    }
}

/// The projections of a process. Cheap to clone.
#[derive(Clone)]
pub struct Projections {
    list: Arc<[Arc<Projection>]>,
    purged: PurgedTenants,
    retentions: Retentions,
}

impl Projections {
    /// A list of projections.
    ///
    /// # Errors
    /// [`Error::SameName`] when two have the same name.
    pub fn new(projections: Vec<Projection>) -> Result<Self, Error> {
        let mut names = BTreeSet::new();
        if let Some(twice) = projections.iter().find(|projection| !names.insert(Arc::clone(&projection.name))) {
            return Err(Error::SameName(twice.name.to_string()));
        }
        let list = projections.into_iter().map(Arc::new).collect();
        Ok(Self { list, purged: PurgedTenants::default(), retentions: Retentions::default() })
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Projection>> + Clone {
        self.list.iter()
    }

    /// The one of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Projection>> {
        self.iter().find(|projection| *projection.name == *name)
    }

    /// The exports among them.
    pub fn exports(&self) -> impl Iterator<Item = &Arc<Projection>> {
        self.iter().filter(|projection| projection.is_export())
    }

    /// The tenants of which nothing is written.
    pub fn purged(&self) -> &PurgedTenants {
        &self.purged
    }

    /// Removes the latest states of a tenant from memory, when its data is being removed or can no
    /// longer be opened.
    pub fn forget_states(&self, tenant: &str) {
        if let Some(states) = self.states() {
            states.map.write().forget(tenant);
        }
    }

    /// The tenants whose readings are kept for less time than those of others.
    pub fn retentions(&self) -> &Retentions {
        &self.retentions
    }

    pub(crate) fn states(&self) -> Option<&Arc<States>> {
        self.iter().find_map(|projection| projection.states.as_ref())
    }
}
