//! Bridges to other brokers.

use std::sync::Arc;

use broker::Broker;
use door::Identity;
use tokio_util::sync::CancellationToken;

use super::placement::{Placement, PooledInbox};
use super::state::State;
use crate::config::Config;
use crate::supervise::Supervisor;

/// Starts every bridge of the configuration, in the part `bridges`.
///
/// # Errors
/// Names the bridge and the key of a file that cannot be used.
pub(super) fn spawn(
    supervisor: &mut Supervisor,
    config: &Config,
    state: &State,
    (broker, placement): (&Arc<Broker<PooledInbox>>, Option<&Arc<Placement>>),
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let limits = bridge::Limits {
        max_packet_bytes: config.mqtt.broker.max_packet_bytes,
        receive_maximum: config.mqtt.broker.receive_maximum,
    };
    for bridge in &config.bridge {
        let name = &bridge.name;
        let tenant = if config.auth.required { bridge.tenant.as_str() } else { model::DEFAULT_TENANT };
        let attach = attach(Arc::clone(broker), placement.cloned(), tenant.into());
        let (waiting, part) = (state.waiting().clone(), format!("bridge {name}"));
        let report = move |reason| {
            waiting.set(&part, reason);
        };
        let client_id = format!("{}bridge/{name}", Broker::<PooledInbox>::INTERNAL);
        let metrics = &state.metrics.bridges;
        let opened = bridge::Bridge::new(bridge.clone(), client_id, limits, attach, report, metrics);
        let opened = opened.map_err(|error| anyhow::anyhow!("[[bridge]] {name}: {error}"))?;
        let stop = stop.clone();
        supervisor.spawn("bridges", "bridge", async move {
            opened.run(stop).await;
            Ok(())
        });
    }
    Ok(())
}

/// Connections to the broker for a bridge, which acts in the tenant with all of its topics.
fn attach(broker: Arc<Broker<PooledInbox>>, placement: Option<Arc<Placement>>, tenant: Arc<str>) -> bridge::Attach {
    Box::new(move || {
        let (broker, placement, tenant) = (Arc::clone(&broker), placement.clone(), Arc::clone(&tenant));
        Box::pin(async move {
            if let Some(placement) = placement {
                // The log of its messages: no device of the tenant may have come to this process.
                let lane = placement.lane(&tenant).await.map_err(|error| error.to_string())?;
                placement.found(&tenant, lane);
            }
            let (device, grants, ended, meter, expires) = (None, Arc::default(), None, None, None);
            Ok(broker.attach(Identity { tenant, device, grants, ended, meter, expires }))
        })
    })
}
