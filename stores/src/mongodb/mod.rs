//! The store in MongoDB, 6.0 or newer, as a replica set or sharded.
//!
//! ```text
//! blocks        one immutable document per device and sealed range; see encode.rs
//! readings      a view: one document per reading, for operators and their tools
//! devices       latest state of each device
//! dead_letters  messages that could not be read, readings that a store refused
//! retained      retained MQTT messages
//! expired       readings that the retention deleted, by tenant
//! schema        the version of all of this
//! ```
//! Every write is acknowledged by a majority and journalled when it returns, so
//! [`History::sync`](crate::History::sync) has nothing to do. Keys are made from the content of a
//! document, so writing again finds the key and changes nothing.
//!
//! Nothing is deleted by a TTL index: a deletion that is not counted would leave the books
//! unbalanced. [`History::expire`](crate::History::expire) deletes and counts in one transaction.
//! Blocks are never merged: a document that never changes costs the server least.
//!
//! Reads go to the primary and see all that it holds: a query merges its answer with the tail, so
//! the answer must not be behind the tail, as the majority's view is for a moment after an
//! election. A write that a read sees too early and a failover takes back is still in the log, and
//! is written again.

mod answer;
mod config;
mod connect;
mod dead_letters;
mod decode;
mod encode;
mod expire;
mod history;
mod latest;
mod lazy;
mod metrics;
mod names;
mod retained;
mod schema;
mod server;
mod tenant;
mod update;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mongodb::bson::doc;

use crate::contract::{Result, Store, StoredPart};

pub use config::Config;
use connect::Access;
use lazy::Lazy;
pub use metrics::{CommandLabel, FailureLabel, Metrics};
use server::Server;

/// Longest wait for an answer that reads a whole collection.
const LONG_REQUEST: Duration = Duration::from_secs(600);

/// The store in MongoDB. Cheap to clone.
///
/// Connects on first use, and makes the collections, indexes and the view that do not exist: then,
/// on each [`Store::ready`], and when an answer shows that one is missing. Until
/// a server is reached each call returns [`StoreError::Busy`](crate::StoreError::Busy) with the
/// reason, and [`StoreError::NeedsOperator`](crate::StoreError::NeedsOperator) with the key to
/// change for a wrong password, a missing permission, a server that is not a replica set, a server
/// or a schema of another release.
#[derive(Debug, Clone)]
pub struct MongoStore(Arc<Lazy>);

impl MongoStore {
    /// Returns at once; nothing is sent before the first call.
    pub fn new(config: Config, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Lazy::new(config, metrics, Access::Write)))
    }

    /// As [`MongoStore::new`], for a user who may only read. Nothing is made: a collection that
    /// does not exist is empty.
    pub fn for_reading(config: Config, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Lazy::new(config, metrics, Access::Read)))
    }

    /// Ends the connections, those of clones too. Requests that are under way end with
    /// [`StoreError::Busy`](crate::StoreError::Busy).
    pub async fn close(self) {
        if let Some(server) = self.0.connected() {
            server.client.clone().shutdown().immediate(true).await;
        }
    }

    /// Returns the server, once it is reached.
    async fn server(&self) -> Result<&Server> {
        self.0.server().await
    }
}

#[async_trait]
impl Store for MongoStore {
    async fn ready(&self) -> Result<()> {
        let known = self.0.connected();
        let server = self.0.attempt().await?;
        if known.is_some() {
            let ping = server.send("start", server.database.run_command(doc! { "ping": 1 })).await;
            ping.map_err(|error| server.at_start(&error))?;
            if server.access == Access::Write {
                server.prepare().await?;
            }
        }
        Ok(())
    }

    async fn parts(&self) -> Result<Vec<StoredPart>> {
        let held = self.server().await?.collections().await?;
        let part = |name: &str| {
            let id = Arc::clone(held.get(name)?.as_ref()?);
            Some(StoredPart { name: format!("collection `{name}`"), id })
        };
        Ok(schema::HOLDING.into_iter().filter_map(part).collect())
    }

    fn name(&self) -> &'static str {
        "mongodb"
    }
}
