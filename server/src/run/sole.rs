//! The only process over its log: the log and the store in the data folder, or on servers that nobody else uses.

use std::sync::Arc;

use anyhow::Context;
use buffer::Batcher;
use flusher::{Claim, Flusher};
use model::trace::Tracer;

use super::log;
use super::parts::{self, Intake, Parts, Rest, Sinks};
use super::replay::Replayer;
use super::start::Start;
use super::state::{Metrics, SinkView, State};
use super::stores::Stores;
use super::wire;
use crate::config::{Config, Role};
use crate::data_dir::DataDir;
use crate::traces;

/// Opens the log, and the store in the data folder; MongoDB may come later.
///
/// # Errors
/// Names the key to change.
pub(super) async fn open(
    config: &Arc<Config>,
    data: &DataDir,
    metrics: Metrics,
    start: &Start,
) -> anyhow::Result<Parts> {
    let routes = wire::routes(config)?;
    let secret = data.secret()?;
    let log::Opened { log, batcher, claims, leases } =
        log::open(config, data, Arc::clone(&metrics.buffer), start).await?;
    let (tracer, exporter) = traces::open(&config.tracing, Arc::clone(&metrics.traces))?.unzip();
    if let Some(tracer) = &tracer {
        batcher.trace(tracer.clone(), log.id());
    }
    let door = ingest::Door::new(routes, wire::limits(config), batcher.clone(), Arc::clone(&metrics.ingest));
    let door = door.traced(tracer.clone());
    let (stores, retained) = if config.mongodb.uri.is_empty() {
        let stores = Stores::embedded(config, data, &metrics).await?;
        let retained = parts::retained(&*stores.retained).await.context("load the retained messages")?;
        (Some(stores), Some(retained))
    } else {
        // Devices do not wait for MongoDB, and the log keeps what they send.
        flusher::register(&claims, config.influxdb.store()?.is_some()).await?;
        match parts::mongodb_soon(config, &metrics, start).await? {
            Some((store, retained)) => (Some(Stores::of(config, store, &metrics).await?), retained),
            None => (None, None),
        }
    };
    let state = State::new(config, metrics.clone(), Some((log, batcher.clone())));
    let with_stores = WithStores {
        config: Arc::clone(config),
        metrics,
        state: state.clone(),
        start: start.clone(),
        claims,
        stores,
        tracer,
        replay: (door.clone(), batcher.clone()),
        secret,
    };
    let intake = Some(Intake { door, batcher, retained });
    Ok(Parts { state, intake, leases: Some(leases), exporter, rest: Box::pin(with_stores.open()) })
}

/// What the part that needs the stores is made of.
struct WithStores {
    config: Arc<Config>,
    metrics: Metrics,
    state: State,
    start: Start,
    claims: Vec<Claim>,
    /// None as long as MongoDB does not answer.
    stores: Option<Stores>,
    tracer: Option<Tracer>,
    /// Where dead letters are taken in again.
    replay: (ingest::Door, Batcher),
    /// Of the API's tokens.
    secret: [u8; 32],
}

impl WithStores {
    /// Waits for MongoDB where that did not answer yet; then the broker began without the retained messages, too.
    async fn open(self) -> anyhow::Result<Rest> {
        let Self { config, metrics, state, start, claims, stores, tracer, replay: (door, batcher), secret } = self;
        let (stores, retained) = match stores {
            Some(stores) => (stores, None),
            None => {
                let (store, retained) = parts::mongodb(&config, &metrics, &start, true).await?;
                (Stores::of(&config, store, &metrics).await?, retained)
            }
        };
        let logs: Vec<Arc<dyn buffer::Log>> = claims.iter().map(|claim| Arc::clone(&claim.log)).collect();
        let settings = wire::flusher_config(&config);
        let flusher = Flusher::start(settings, claims, stores.sinks(), metrics.flusher.clone()).await?;
        if let Some(tracer) = &tracer {
            flusher.trace(super::stores::tracing(&config, tracer));
        }
        let handle = flusher.handle();
        let state = state.with_stores(SinkView::Sole(handle.clone()), handle.dead_letters(), handle.books());
        let api = config.has(Role::Api).then(|| {
            let backend = api::Backend {
                history: Arc::clone(&stores.history),
                tail: handle.tail(),
                latest: handle.latest(),
                dead_letters: handle.dead_letters(),
                logs: Arc::new(logs),
                books: handle.books(),
                replay: Arc::new(Replayer::new(door, batcher, stores.sinks())),
                status: Arc::new(state.clone()),
            };
            (backend, api::Config { tracer, ..wire::api_config(&config, secret) })
        });
        Ok(Rest { state, sinks: Sinks::Sole(flusher), readers: None, api, retained })
    }
}
