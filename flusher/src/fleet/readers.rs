//! Readers of all logs, wherever each is held.
//!
//! Each query is answered for every log there is: by this process for the logs that it holds, by
//! their holders for the others, and from the log itself where no holder answers. The stores are
//! asked last: a reading that moves there meanwhile is seen twice, and is never missed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use buffer::{Catalogue, Log};
use cluster::members::Peers;
use futures::future::join_all;
use stores::contract::{Books, DeadLetters, LatestView, StoreError, Tail};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::directory::{Directory, Listing};
use super::{FleetHandle, call, convert, latest, ledger, letters, tail};
use crate::accounting::books::{KeptFrom, kept_from};
use crate::flusher::system_clock;
use crate::status::SinkStatus;
use crate::{Config, Projections, Stores};

/// The list of logs is read again this often.
const POLL: Duration = Duration::from_millis(500);

/// The parts of a reader.
pub struct Source {
    /// The logs.
    pub catalogue: Arc<dyn Catalogue>,
    /// The projections of every process.
    pub projections: Projections,
    /// The stores of the standard projections.
    pub stores: Stores,
    /// Other processes write the stores too.
    pub is_store_shared: bool,
    /// The logs that this process holds, when it flushes too.
    pub local: Option<FleetHandle>,
    /// The other processes, for calls about the pool of the logs.
    pub peers: Peers,
}

/// Readers of the whole fleet. Cheap to clone.
#[derive(Clone)]
pub struct Readers(pub(super) Arc<Reading>);

pub(super) struct Reading {
    pub(super) directory: Directory,
    pub(super) peers: Peers,
    pub(super) projections: Projections,
    pub(super) stores: Stores,
    pub(super) is_store_shared: bool,
    pub(super) local: Option<FleetHandle>,
    /// Time for which a query waits for the end of a log.
    pub(super) wait: Duration,
    names: watch::Sender<Arc<[String]>>,
    pub(super) kept_from: KeptFrom,
}

/// Logs by the process that answers for them.
pub(super) struct Groups {
    pub(super) here: Vec<String>,
    pub(super) there: BTreeMap<String, Vec<String>>,
    pub(super) unheld: Vec<String>,
}

impl Readers {
    /// Readers with the waits of `config`.
    pub fn new(config: &Config, source: Source) -> Self {
        Self(Arc::new(Reading {
            directory: Directory::new(source.catalogue, system_clock()),
            peers: source.peers,
            projections: source.projections,
            stores: source.stores,
            is_store_shared: source.is_store_shared,
            local: source.local,
            wait: Duration::from_millis(config.history.query_wait_ms),
            names: watch::channel(Arc::default()).0,
            kept_from: kept_from(config.history.retention_secs, system_clock()),
        }))
    }

    /// The readings that are not stored yet.
    pub fn tail(&self) -> Arc<dyn Tail> {
        Arc::new(tail::FleetTail(Arc::clone(&self.0)))
    }

    /// The latest states.
    pub fn latest(&self) -> Arc<dyn LatestView> {
        Arc::new(latest::FleetLatest(Arc::clone(&self.0)))
    }

    /// The dead letters, including those that are not stored yet.
    pub fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        Arc::new(letters::FleetLetters(Arc::clone(&self.0)))
    }

    /// The books.
    pub fn books(&self) -> Arc<dyn Books> {
        Arc::new(ledger::FleetBooks(Arc::clone(&self.0)))
    }

    /// The state of each sink of each log, as far as its holder answers.
    pub async fn status(&self) -> Vec<SinkStatus> {
        let Ok(listing) = self.0.directory.list().await else {
            return self.0.local.as_ref().map(FleetHandle::status).unwrap_or_default();
        };
        let groups = self.0.groups(&listing);
        let mut asked = Vec::new();
        for address in groups.there.keys() {
            asked.push(self.0.peer_status(address));
        }
        let mut found = self.0.local.as_ref().map(FleetHandle::status).unwrap_or_default();
        found.extend(join_all(asked).await.into_iter().flatten().map(convert::read_sink));
        found.sort_by(|a, b| (&a.log, &a.sink).cmp(&(&b.log, &b.sink)));
        found
    }

    /// The state of each export on each log, as far as its holder answers.
    pub async fn exports(&self) -> Vec<SinkStatus> {
        let mut found = self.status().await;
        found.retain(SinkStatus::is_export);
        found
    }

    /// The names of all logs, as of the last poll of [`Readers::watch`].
    pub fn names(&self) -> watch::Receiver<Arc<[String]>> {
        self.0.names.subscribe()
    }

    /// Reads the list of logs from time to time, until `stop`.
    pub async fn watch(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(POLL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if let Ok(names) = self.0.directory.catalogue.ids().await {
                self.0.names.send_if_modified(|held| {
                    let changed = **held != *names;
                    if changed {
                        *held = names.into();
                    }
                    changed
                });
            }
        }
    }

    /// Opens every log there is, for callers that follow them.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when the logs cannot be reached.
    pub async fn logs(&self) -> Result<Vec<Arc<dyn Log>>, StoreError> {
        let listing = self.0.directory.list().await?;
        let names: Vec<String> = listing.logs.iter().map(|info| info.id.clone()).collect();
        self.0.open_all(&names).await
    }
}

impl Reading {
    pub(super) fn groups(&self, listing: &Listing) -> Groups {
        let mut groups = Groups { here: Vec::new(), there: BTreeMap::new(), unheld: Vec::new() };
        let local: Vec<String> = match &self.local {
            Some(local) => local.0.held_logs().iter().map(|held| held.lease.log.clone()).collect(),
            None => Vec::new(),
        };
        for info in &*listing.logs {
            let own = self.local.as_ref().map(|local| &local.0.holder);
            match &info.holder {
                _ if local.contains(&info.id) => groups.here.push(info.id.clone()),
                Some(holder) if Some(holder) != own && !holder.address.is_empty() => {
                    groups.there.entry(holder.address.clone()).or_default().push(info.id.clone());
                }
                _ => groups.unheld.push(info.id.clone()),
            }
        }
        self.peers.keep(|address| groups.there.contains_key(address));
        groups
    }

    async fn peer_status(&self, address: &str) -> Vec<proto::internal::v1::Sink> {
        let Some(mut client) = call::client(&self.peers, address) else { return Vec::new() };
        let request = proto::internal::v1::StatusRequest {};
        self.peers.first(address, client.status(request)).await.map(|answer| answer.sinks).unwrap_or_default()
    }

    /// The log itself; `None` when it was removed: all of it is in the stores.
    async fn open(&self, log: &str) -> Result<Option<Arc<dyn Log>>, StoreError> {
        match self.directory.catalogue.open(log).await {
            Ok(log) => Ok(Some(log)),
            Err(_) if self.directory.is_gone(log).await => Ok(None),
            Err(error) => Err(StoreError::busy(error.to_string())),
        }
    }

    /// Opens logs, except those that were removed.
    pub(super) async fn open_all(&self, logs: &[String]) -> Result<Vec<Arc<dyn Log>>, StoreError> {
        let mut opened = Vec::new();
        for log in logs {
            opened.extend(self.open(log).await?);
        }
        Ok(opened)
    }

    /// The result of a read; `None` when it failed because the log was removed meanwhile.
    pub(super) async fn unless_gone<T>(&self, log: &str, read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match read {
            Ok(found) => Ok(Some(found)),
            Err(_) if self.directory.is_gone(log).await => Ok(None),
            Err(error) => Err(error),
        }
    }
}
