//! The only process over its log: the log and the store in the data folder, or on servers that nobody else uses.

use std::sync::Arc;

use flusher::Flusher;

use super::log;
use super::parts::{Intake, Messages, Parts, Sinks};
use super::replay::Replayer;
use super::state::{Metrics, SinkView, State};
use super::stores::{self, Stores};
use super::wire;
use crate::config::{Config, Role};
use crate::data_dir::DataDir;
use crate::traces;

/// Opens everything.
///
/// # Errors
/// Names the key to change.
pub(super) async fn open(config: &Config, data: &DataDir, metrics: Metrics) -> anyhow::Result<Parts> {
    let routes = wire::routes(config)?;
    let log::Opened { log, batcher, claims, leases } = log::open(config, data, Arc::clone(&metrics.buffer)).await?;
    let stores = Stores::open(config, data, &metrics).await?;
    let logs: Vec<Arc<dyn buffer::Log>> = claims.iter().map(|claim| Arc::clone(&claim.log)).collect();
    let settings = wire::flusher_config(config);
    let flusher = Flusher::start(settings, claims, stores.sinks(), metrics.flusher.clone()).await?;
    let (tracer, exporter) = traces::open(&config.tracing, Arc::clone(&metrics.traces))?.unzip();
    if let Some(tracer) = &tracer {
        batcher.trace(tracer.clone(), log.id());
        flusher.trace(stores::tracing(config, tracer));
    }
    let door = ingest::Door::new(routes, wire::limits(config), batcher.clone(), Arc::clone(&metrics.ingest));
    let door = door.traced(tracer.clone());
    let handle = flusher.handle();
    let state = State::new(
        config,
        metrics,
        Some((log, batcher.clone())),
        SinkView::Sole(handle.clone()),
        handle.dead_letters(),
        handle.books(),
    );
    let api = if config.has(Role::Api) {
        let backend = api::Backend {
            history: Arc::clone(&stores.history),
            tail: handle.tail(),
            latest: handle.latest(),
            dead_letters: handle.dead_letters(),
            logs: Arc::new(logs),
            books: handle.books(),
            replay: Arc::new(Replayer::new(door.clone(), batcher.clone(), stores.sinks())),
            status: Arc::new(state.clone()),
        };
        Some((backend, api::Config { tracer, ..wire::api_config(config, data.secret()?) }))
    } else {
        None
    };
    let retained = Messages::load(&*stores.retained).await?;
    let intake = Some(Intake { door, batcher, retained });
    Ok(Parts { state, intake, sinks: Sinks::Sole(flusher, leases), readers: None, api, exporter })
}
