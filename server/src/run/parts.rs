//! What a process is made of, by its roles and stores.

use std::sync::Arc;

use ::stores::contract::{Retained, RetainedMessage, StoreError};
use anyhow::Context;
use buffer::Batcher;
use flusher::fleet::Readers;
use flusher::{Fleet, Flusher};

use super::log::Leases;
use super::start::Start;
use super::state::{Metrics, State};
use super::{fleet, sole};
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::traces::Exporter;

/// Everything that is opened before anything runs.
pub(super) struct Parts {
    pub(super) state: State,
    pub(super) intake: Option<Intake>,
    pub(super) sinks: Sinks,
    /// Look which logs there are.
    pub(super) readers: Option<Readers>,
    pub(super) api: Option<(api::Backend, api::Config)>,
    /// None when nothing is traced.
    pub(super) exporter: Option<Exporter>,
}

/// From devices into the log.
pub(super) struct Intake {
    pub(super) door: ingest::Door,
    pub(super) batcher: Batcher,
    pub(super) retained: Messages,
}

/// Retained messages of earlier starts.
pub(super) enum Messages {
    /// At hand.
    Here(Vec<broker::Message>),
    /// In a store that does not answer yet; the broker runs meanwhile.
    Later(stores::mongodb::Config, Arc<stores::mongodb::Metrics>),
}

/// From logs into the stores.
pub(super) enum Sinks {
    /// This process does not flush.
    None,
    /// The only flusher of its logs.
    Sole(Flusher, Leases),
    /// One of several.
    Fleet(Fleet),
}

impl Parts {
    /// Opens what the roles need; `advertised` is where other processes reach this one.
    ///
    /// # Errors
    /// Names the key to change.
    pub(super) async fn open(
        config: &Config,
        data: &DataDir,
        metrics: Metrics,
        start: &Start,
        advertised: Option<String>,
    ) -> anyhow::Result<Self> {
        if config.is_fleet() {
            fleet::open(config, data, metrics, start, advertised.unwrap_or_default()).await
        } else {
            sole::open(config, data, metrics).await
        }
    }
}

/// Retained messages as the broker keeps them.
///
/// # Errors
/// As [`Retained::load`].
pub(super) async fn retained(store: &dyn Retained) -> Result<Vec<broker::Message>, StoreError> {
    let message = |m: &RetainedMessage| broker::Message::new(&m.topic, &m.payload, m.qos, true, &m.properties);
    Ok(store.load().await?.iter().map(message).collect())
}

impl Messages {
    /// Those of a store that answers.
    ///
    /// # Errors
    /// When they cannot be loaded.
    pub(super) async fn load(store: &dyn Retained) -> anyhow::Result<Self> {
        Ok(Self::Here(retained(store).await.context("load the retained messages")?))
    }
}
