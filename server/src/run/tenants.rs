//! The work about tenants of the registry, beside devices and calls: counting what they have
//! (`census.rs`, `storage.rs`), releasing what was held of devices (`release.rs`), sharing their
//! limits with other processes (`shares.rs`), deleting what they no longer keep (`retention.rs`),
//! and removing those that are deleted (`purge.rs`).

use std::sync::Arc;
use std::time::Duration;

use broker::Broker;
use cluster::members::{Member, Members};
use futures::future::{join_all, try_join_all};
use identity::Gate;

use super::lane::Lane;
use super::placement::PooledInbox;
use super::{census, purge, release, retention, shares, storage};
use crate::access::Access;
use crate::config::{Config, Role};
use crate::supervise::Supervisor;

/// Spawns it, as far as the roles need it; nothing without a registry. There is no broker in a
/// process without the role ingest. `own` is this process.
pub(super) fn spawn(
    supervisor: &mut Supervisor,
    config: &Config,
    lanes: &[Lane],
    access: Option<&(Access, Gate)>,
    (own, limits): (&Member, Arc<shares::Metrics>),
    broker: Option<Arc<Broker<PooledInbox>>>,
) {
    let Some((access, gate)) = access else { return };
    let deadline = Duration::from_secs(config.shutdown_timeout_secs);
    let stop = supervisor.part("deleted tenants", deadline);
    if broker.is_some() {
        let pools = census::of_lanes(lanes).into_iter();
        let counting = try_join_all(pools.map(|pool| census::follow(gate.clone(), pool, stop.clone())));
        supervisor.spawn("deleted tenants", "counts of devices and series", async move { counting.await.map(drop) });
        let held = lanes.iter().map(release::Held::of).collect();
        let releasing = release::follow(gate.clone(), access.admin(), held, stop.clone());
        supervisor.spawn("deleted tenants", "messages of adopted devices", releasing);
    }
    let held = lanes.iter().map(storage::Held::of);
    let asking = try_join_all(held.map(|held| storage::follow(gate.clone(), held, stop.clone())));
    supervisor.spawn("deleted tenants", "storage of tenants", async move { asking.await.map(drop) });
    // The limits belong to the installation, so that they are exchanged on the server of the shared
    // pool.
    let redis = lanes.first().and_then(|lane| lane.logs.redis.as_ref());
    if let Some(redis) = redis.filter(|_| config.is_fleet() && (broker.is_some() || config.has(Role::Api))) {
        let (stop, broker) = (supervisor.part("limits of tenants", deadline), broker.clone());
        let kept = move |tenant: &str| broker.as_ref().map_or((0, 0), |broker| broker.kept(tenant));
        let exchange = Members::of(redis).exchange(own, shares::FORGET);
        let sharing = shares::run(exchange, gate.clone(), kept, limits, stop);
        supervisor.spawn("limits of tenants", "exchange of the use of tenants", async move {
            sharing.await;
            Ok(())
        });
    }
    let forget = move |tenant: &str| broker.iter().for_each(|broker| broker.forget_tenant(tenant));
    let following = purge::follow(gate.clone(), purge::of_lanes(lanes), forget, stop);
    supervisor.spawn("deleted tenants", "deleted tenants", following);
    if !config.has(Role::Flusher) && !config.has(Role::Api) {
        return;
    }
    let stop = supervisor.part("removal", deadline);
    let expiring: Vec<_> =
        lanes.iter().map(|lane| retention::follow(access.admin(), retention::Kept::of(lane), stop.clone())).collect();
    supervisor.spawn("removal", "retention of tenants", async move { try_join_all(expiring).await.map(drop) });
    if config.has(Role::Flusher) {
        let purgers: Vec<_> = lanes.iter().map(|lane| purge::purger(lane, gate, own.name().to_owned())).collect();
        supervisor.spawn("removal", "removal of deleted tenants", async move {
            join_all(purgers.iter().map(|purger| purger.run(stop.clone()))).await;
            Ok(())
        });
    }
}
