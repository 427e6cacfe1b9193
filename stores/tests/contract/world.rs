//! An empty store that can be opened again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use weir_stores::contract::{Store, StoreError};
use weir_stores::embedded::{self, EmbeddedStore};
use weir_stores::mongodb::{self, MongoStore};
use weir_stores::testing::MemoryStore;

use crate::server::{Server, shared};

pub(crate) trait World: Send {
    type Store: Store + Clone;

    /// Returns the store.
    async fn open(&mut self) -> &Self::Store;

    /// Ends the store and opens it again.
    async fn open_again(&mut self) -> &Self::Store;
}

/// The embedded store in a folder of its own.
pub(crate) struct Embedded {
    dir: tempfile::TempDir,
    is_sealed: bool,
    store: Option<EmbeddedStore>,
}

impl Embedded {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), is_sealed: false, store: None }
    }

    /// With encryption at rest.
    pub(crate) fn sealed() -> Self {
        Self { is_sealed: true, ..Self::new() }
    }
}

impl World for Embedded {
    type Store = EmbeddedStore;

    async fn open(&mut self) -> &EmbeddedStore {
        let keys = (self.is_sealed && self.store.is_none()).then(|| envelope::testing::keyring(self.dir.path()));
        let config = embedded::Config { dir: self.dir.path().to_owned(), keys, ..embedded::Config::default() };
        self.store.get_or_insert_with(|| EmbeddedStore::open(config, std::sync::Arc::default()).unwrap())
    }

    async fn open_again(&mut self) -> &EmbeddedStore {
        self.store = None;
        self.open().await
    }
}

/// The store in memory that other crates test with.
#[derive(Default)]
pub(crate) struct Memory(MemoryStore);

impl World for Memory {
    type Store = MemoryStore;

    async fn open(&mut self) -> &MemoryStore {
        &self.0
    }

    async fn open_again(&mut self) -> &MemoryStore {
        self.0.crash_losing_all();
        &self.0
    }
}

/// A database of its own on the server that the tests share.
pub(crate) struct Mongo {
    pub(crate) config: mongodb::Config,
    store: Option<MongoStore>,
}

impl Mongo {
    /// Returns `None` when there is no server program here.
    pub(crate) async fn new() -> Option<Self> {
        let server = tokio::task::spawn_blocking(shared).await.unwrap()?;
        Some(Self { config: config(server), store: None })
    }
}

/// Returns settings for a database that no other test uses.
pub(crate) fn config(server: &Server) -> mongodb::Config {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    mongodb::Config {
        uri: server.uri(),
        database: format!("weir-{}-{number}", std::process::id()),
        ..Default::default()
    }
}

/// Returns a store that has reached its server.
pub(crate) async fn connected(config: &mongodb::Config) -> MongoStore {
    let store = MongoStore::new(config.clone(), std::sync::Arc::default());
    let begun = Instant::now();
    while let Err(error) = store.ready().await {
        let passes = matches!(error, StoreError::Busy { .. }) && begun.elapsed() < Duration::from_secs(60);
        assert!(passes, "{error}");
    }
    store
}

impl World for Mongo {
    type Store = MongoStore;

    async fn open(&mut self) -> &MongoStore {
        if self.store.is_none() {
            self.store = Some(connected(&self.config).await);
        }
        self.store.as_ref().unwrap()
    }

    async fn open_again(&mut self) -> &MongoStore {
        self.store = None;
        self.open().await
    }
}
