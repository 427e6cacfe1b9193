//! The sessions that the processes of a fleet share.

use std::sync::Arc;
use std::time::Duration;

use cluster::sessions::{Pool, Pooled};

use super::lane::Lane;
use super::placement::{Placement, lane_of};
use super::startup::Startup;
use crate::config::Config;

/// Opens the sessions of all pools, as soon as the Redis of each answers. From then on, other
/// processes send this one what they publish. Returns None in a process that shares none.
///
/// # Errors
/// None at present: it waits.
pub(super) async fn open(
    lanes: &[Lane],
    placement: Option<Arc<Placement>>,
    startup: &Startup,
) -> anyhow::Result<Option<Arc<Pooled>>> {
    let pools: Option<Vec<Pool>> = lanes.iter().map(Lane::shared_sessions).collect();
    let Some(pools) = pools else { return Ok(None) };
    let open = || {
        let placement = placement.clone();
        Pooled::open(&pools, Box::new(move |tenant| lane_of(placement.as_deref(), tenant)))
    };
    Ok(Some(Arc::new(startup.wait_for("Redis", |_| true, open).await?)))
}

/// Bounds of the sessions of a pool.
pub(super) fn settings(config: &Config) -> cluster::sessions::Config {
    let broker = &config.mqtt.broker;
    cluster::sessions::Config {
        lease: Duration::from_millis(config.fleet.lease_ms),
        max_queued_messages: broker.max_queued_messages,
        max_stored_bytes: config.redis.max_session_bytes,
        queue_full: broker.queue_full,
        ..cluster::sessions::Config::default()
    }
}
