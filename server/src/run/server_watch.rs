//! Servers at a start: devices do not wait for one that is away, nor for one that refuses settings
//! that it accepted before.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use model::Backoff;
use serde::Serialize;
use stores::contract::{Export, Store, StoreError, StoredPart};
use tokio_util::sync::CancellationToken;

use super::known::{Fingerprint, KnownSettings};
use super::lane::{Lane, of_pool};
use super::parts::KnownParts;
use super::startup::{Startup, WAIT};
use crate::config::Role;

/// Time between two looks at the parts of a server that accepts this process.
const LOOK: Duration = Duration::from_secs(10);

/// Time for which a start waits for a server before devices are accepted without it.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);

/// The servers that this process needs besides Redis.
pub(super) struct Servers {
    store: ServerWatch,
    exports: Vec<ServerWatch>,
}

impl Servers {
    /// Asks all of them at once, those of exports in a process that flushes or reads.
    ///
    /// # Errors
    /// A refusal of settings that a server never accepted; it names the key to change.
    pub(super) async fn open(lane: &Lane, startup: &Startup) -> anyhow::Result<Self> {
        let Lane { config, stores, known: (known, parts), .. } = lane;
        startup.waiting.report(parts.clone());
        let name = match stores.store.name() {
            "mongodb" => "MongoDB",
            name => name,
        };
        let name = of_pool(name, lane.pool.as_deref());
        let store = Server::Store(Arc::clone(&stores.store));
        let sinks = [flusher::HISTORY, flusher::DEAD_LETTERS].map(str::to_owned).to_vec();
        let mut store = ServerWatch::new((name, sinks), store, &config.mongodb, (known, parts), startup);
        let targets = stores.targets.iter().filter(|_| config.has(Role::Flusher) || config.has(Role::Api));
        let mut exports: Vec<ServerWatch> = targets
            .map(|(name, target, settings)| {
                let target = Server::Export(Arc::clone(target));
                let name = (format!("export {name}"), vec![name.clone()]);
                ServerWatch::new(name, target, settings, (known, parts), startup)
            })
            .collect();
        let exports_open = futures::future::try_join_all(exports.iter_mut().map(ServerWatch::open));
        futures::future::try_join(store.open(), exports_open).await?;
        Ok(Self { store, exports })
    }

    /// Name of the store's server, when it cannot be used yet.
    pub(super) fn store_waits_for(&self) -> Option<&str> {
        (!self.store.accepted).then_some(&self.store.name)
    }

    /// Asks those that cannot be used until they can, and looks for lost parts until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let watches = self.exports.into_iter().chain([self.store]);
        futures::future::join_all(watches.map(|watch| watch.run(stop.clone()))).await;
    }
}

/// A server that a start asks whether it can be used.
enum Server {
    /// The store of the process.
    Store(Arc<dyn Store>),
    /// The system of an export.
    Export(Arc<dyn Export>),
}

impl Server {
    async fn ready(&self) -> Result<(), StoreError> {
        match self {
            Self::Store(store) => store.ready().await,
            Self::Export(export) => export.ready().await,
        }
    }

    /// The parts of a server that is ready.
    async fn ready_parts(&self) -> Result<Vec<StoredPart>, StoreError> {
        self.ready().await?;
        match self {
            Self::Store(store) => store.parts().await,
            Self::Export(export) => export.parts().await,
        }
    }
}

/// Asks a server at the start, and again and again while it does not accept this process.
struct ServerWatch {
    /// In readiness and log lines.
    name: String,
    /// Projections that are stored there.
    sinks: Vec<String>,
    server: Server,
    settings: Fingerprint,
    known: KnownSettings,
    parts: KnownParts,
    /// The server has parts that it may lose.
    has_parts: bool,
    startup: Startup,
    /// True once the server has accepted the settings.
    accepted: bool,
}

impl ServerWatch {
    fn new(
        (name, sinks): (String, Vec<String>),
        server: Server,
        settings: &impl Serialize,
        (known, parts): (&KnownSettings, &KnownParts),
        startup: &Startup,
    ) -> Self {
        let (settings, startup) = (known.fingerprint(settings), startup.clone());
        let (known, parts) = (known.clone(), parts.clone());
        Self { name, sinks, server, settings, known, parts, has_parts: false, startup, accepted: false }
    }

    /// Asks the server once, and waits no longer than devices may wait.
    ///
    /// # Errors
    /// A refusal of settings that the server never accepted; it names the key to change.
    async fn open(&mut self) -> anyhow::Result<()> {
        let error = match tokio::time::timeout(DEADLINE, self.server.ready_parts()).await {
            Ok(Ok(parts)) => {
                self.note_accepted(&parts);
                return Ok(());
            }
            Ok(Err(error)) => error,
            Err(_) => StoreError::busy(format!("no answer within {DEADLINE:?}")),
        };
        let is_away = matches!(error, StoreError::Busy { .. });
        if !is_away && !self.known.holds(&self.name, &self.settings) {
            return Err(error).with_context(|| format!("open {}", self.name));
        }
        self.note_missing(&error);
        Ok(())
    }

    /// Waits until the server accepts this process, then for `stop`. A refusal does not end it:
    /// devices are accepted already.
    async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(WAIT.0, WAIT.1);
        while !self.accepted {
            tokio::select! {
                () = tokio::time::sleep(backoff.draw()) => {}
                () = stop.cancelled() => return,
            }
            tokio::select! {
                ready = self.server.ready_parts() => match ready {
                    Ok(parts) => {
                        tracing::info!(server = self.name, "the server can be used now");
                        self.note_accepted(&parts);
                    }
                    Err(error) => self.note_missing(&error),
                },
                () = stop.cancelled() => return,
            }
        }
        while self.has_parts {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
            tokio::select! {
                ready = self.server.ready_parts() => match ready {
                    Ok(parts) => self.note_accepted(&parts),
                    // What needs the server reports that it is away.
                    Err(StoreError::Busy { .. }) => {}
                    Err(error) => self.note_missing(&error),
                },
                () = stop.cancelled() => return,
            }
        }
        stop.cancelled().await;
    }

    /// Notes that the server accepts this process, and reports the parts that it has lost.
    fn note_accepted(&mut self, parts: &[StoredPart]) {
        self.accepted = true;
        self.has_parts |= !parts.is_empty();
        for part in self.parts.saw(&self.name, &self.settings, &self.sinks, parts) {
            let server = &self.name;
            tracing::error!(
                server,
                part,
                "it was deleted and made anew: what was written there before is gone; `weir health` has what to do"
            );
        }
        if matches!(&self.server, Server::Store(store) if store.name() == "embedded") {
            // It is no server: its files refuse nothing.
            return;
        }
        self.known.accepted(&self.name, &self.settings);
        self.startup.waiting.set(&self.name, None);
    }

    /// Reports why the server cannot be used, and logs each new reason.
    fn note_missing(&self, error: &StoreError) {
        let server = &self.name;
        match error {
            StoreError::Busy { reason, .. } => {
                if self.startup.waiting.set(server, Some(format!("waiting for it: {reason}"))) {
                    tracing::warn!(server, reason, "the server does not respond yet; devices do not wait for it");
                }
            }
            error => {
                let reason = match error {
                    StoreError::NeedsOperator(reason) => reason.clone(),
                    other => other.to_string(),
                };
                if self.startup.waiting.set(server, Some(format!("paused: {reason}"))) {
                    tracing::error!(
                        server,
                        reason,
                        "the server refuses this process; what needs it is paused, everything is kept in the log"
                    );
                }
            }
        }
    }
}
