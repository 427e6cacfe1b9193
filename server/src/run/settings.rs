//! The settings of each part, from one configuration.

use crate::config::Config;
use crate::data_dir::DataDir;

/// The routes of the configuration, checked.
///
/// # Errors
/// Names the route and the key.
pub(crate) fn routes(config: &Config) -> anyhow::Result<ingest::Routes> {
    Ok(ingest::Routes::new(&config.route)?)
}

pub(super) fn embedded_log(config: &Config, data: &DataDir) -> buffer::embedded::Config {
    buffer::embedded::Config { dir: data.log(), tenant_share_percent: share(config), ..config.log.clone() }
}

/// The percentage of a log that one tenant may fill. Without authentication there is one tenant.
fn share(config: &Config) -> u32 {
    if config.auth.required { config.log.tenant_share_percent } else { 100 }
}

/// The broker of this node. Without Redis there is one node, and its machine may be renamed.
pub(super) fn broker(config: &Config) -> broker::Config {
    let node = if config.redis.is_used() { config.redis.log.node.clone() } else { String::new() };
    broker::Config { node, drain_secs: drain_secs(config), ..config.mqtt.broker.clone() }
}

/// Seconds over which the connections are closed at a stop. Those of a process alone have no other
/// place to go: the sooner it is back, the better.
pub(super) fn drain_secs(config: &Config) -> u32 {
    if config.is_fleet() { config.mqtt.broker.drain_secs } else { 0 }
}

/// The log on Redis keeps as much as `[log]` demands.
pub(crate) fn redis_log(config: &Config) -> buffer::redis::Config {
    let log = &config.log;
    buffer::redis::Config {
        retain_bytes: log.retain_bytes,
        retain_secs: log.retain_secs,
        ring_bytes: log.ring_bytes,
        tenant_share_percent: share(config),
        ..config.redis.log.clone()
    }
}

pub(super) fn spill(config: &Config, data: &DataDir) -> buffer::spill::Config {
    let spill = config.redis.spill.clone();
    buffer::spill::Config {
        dir: data.spill(),
        capacity_bytes: config.log.capacity_bytes,
        segment_bytes: config.log.segment_bytes.min(spill.segment_bytes),
        ..spill
    }
}

pub(super) fn embedded_store(config: &Config, data: &DataDir) -> stores::embedded::Config {
    stores::embedded::Config { dir: data.store(), ..config.history.store.clone() }
}

pub(super) fn flusher(config: &Config) -> flusher::Config {
    flusher::Config {
        history: config.history.sink.clone(),
        latest: config.latest.clone(),
        dead_letters: config.dead_letters.clone(),
        stop_secs: config.shutdown_timeout_secs.saturating_sub(1).max(1),
        ..flusher::Config::default()
    }
}

pub(super) fn api(config: &Config, secret: [u8; 32]) -> api::Config {
    let memory = model::Budget::new("queries", config.shares().queries);
    api::Config { limits: config.grpc.limits.clone(), memory, ..api::Config::new(secret) }
}

/// Names of the projections that have a line in the books: those of every process, then exports.
pub(super) fn in_books(config: &Config) -> anyhow::Result<Vec<String>> {
    let always = [flusher::HISTORY, flusher::LATEST, flusher::DEAD_LETTERS].map(str::to_owned);
    Ok(always.into_iter().chain(config.exports()?.into_iter().map(|export| export.name)).collect())
}
