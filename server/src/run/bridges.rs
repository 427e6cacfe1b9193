//! Bridges to other brokers.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use broker::Broker;
use door::Identity;
use identity::Gate;
use tokio::sync::watch;
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
    (broker, placement, gate): (&Arc<Broker<PooledInbox>>, Option<&Arc<Placement>>, Option<&Gate>),
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let limits = bridge::Limits {
        max_packet_bytes: config.mqtt.broker.max_packet_bytes,
        receive_maximum: config.mqtt.broker.receive_maximum,
    };
    for bridge in &config.bridge {
        let name = &bridge.name;
        let tenant = if config.auth.required { bridge.tenant.as_str() } else { model::DEFAULT_TENANT };
        let tenant: Arc<str> = tenant.into();
        let ended = CancellationToken::new();
        let attach = attach(Arc::clone(broker), placement.cloned(), Arc::clone(&tenant), ended.clone());
        let (waiting, part) = (state.waiting().clone(), format!("bridge {name}"));
        let report = {
            let (waiting, part) = (waiting.clone(), part.clone());
            move |reason| {
                waiting.set(&part, reason);
            }
        };
        let client_id = format!("{}bridge/{name}", Broker::<PooledInbox>::INTERNAL);
        let metrics = &state.metrics.bridges;
        let opened = bridge::Bridge::new(bridge.clone(), client_id, limits, attach, report, metrics);
        let opened = opened.map_err(|error| anyhow::anyhow!("[[bridge]] {name}: {error}"))?;
        let (stop, purged) = (stop.clone(), gate.map(Gate::purged));
        supervisor.spawn("bridges", "bridge", async move {
            let own = stop.child_token();
            let run = opened.run(own.clone());
            let end = || {
                // Its session here ends, too.
                ended.cancel();
                own.cancel();
            };
            if until_deleted(run, purged, &tenant, end).await {
                tracing::info!(bridge = part, %tenant, "stopped, as its tenant is deleted");
                waiting.set(&part, Some(format!("its tenant {tenant} is deleted: remove the table [[bridge]]")));
            }
            stop.cancelled().await;
            Ok(())
        });
    }
    Ok(())
}

/// Runs a bridge until it ends by itself, or its tenant is among those whose data is removed. Then
/// `end` ends it. True in the second case.
async fn until_deleted(
    run: impl Future<Output = ()>,
    purged: Option<watch::Receiver<BTreeSet<Arc<str>>>>,
    tenant: &str,
    end: impl FnOnce(),
) -> bool {
    let deleted = async {
        let is_deleted = match purged {
            Some(mut purged) => purged.wait_for(|all| all.contains(tenant)).await.is_ok(),
            None => false,
        };
        if !is_deleted {
            // Without tenants, and without a gate.
            std::future::pending().await
        }
    };
    let mut run = pin!(run);
    tokio::select! {
        // A bridge of a tenant that is deleted already does not begin.
        biased;
        () = deleted => {}
        () = &mut run => return false,
    }
    end();
    run.await;
    true
}

/// Connections to the broker for a bridge, which acts in the tenant with all of its topics until
/// `ended`.
fn attach(
    broker: Arc<Broker<PooledInbox>>,
    placement: Option<Arc<Placement>>,
    tenant: Arc<str>,
    ended: CancellationToken,
) -> bridge::Attach {
    Box::new(move || {
        let (broker, placement, tenant) = (Arc::clone(&broker), placement.clone(), Arc::clone(&tenant));
        let ended = Some(ended.clone());
        Box::pin(async move {
            if let Some(placement) = placement {
                // The log of its messages: no device of the tenant may have come to this process.
                let lane = placement.lane(&tenant).await.map_err(|error| error.to_string())?;
                placement.found(&tenant, lane);
            }
            let (device, grants, meter, expires) = (None, Arc::default(), None, None);
            Ok(broker.attach(Identity { tenant, device, grants, ended, meter, expires }))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bridge_stops_when_its_tenant_is_deleted_and_at_no_other() {
        let (purging, purged) = watch::channel(BTreeSet::<Arc<str>>::from(["before".into()]));
        let stop = CancellationToken::new();
        let run = |tenant: &'static str, own: CancellationToken| {
            let (purged, until) = (Some(purged.clone()), own.clone());
            async move { until_deleted(until.cancelled_owned(), purged, tenant, || own.cancel()).await }
        };
        assert!(run("before", stop.child_token()).await, "it does not begin");
        let (deleted, other) = (stop.child_token(), stop.child_token());
        let running =
            [("acme", &deleted), ("other", &other)].map(|(tenant, own)| tokio::spawn(run(tenant, own.clone())));
        assert!(!deleted.is_cancelled());
        purging.send_modify(|all| {
            all.insert("acme".into());
        });
        let [acme, of_other] = running;
        assert!(acme.await.unwrap());
        assert!(deleted.is_cancelled() && !other.is_cancelled());
        stop.cancel();
        assert!(!of_other.await.unwrap(), "it ends with the process");
    }
}
