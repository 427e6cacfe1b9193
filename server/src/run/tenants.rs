//! The work about tenants of the registry, beside devices and calls: counting what they have
//! (`census.rs`), deleting what they no longer keep (`retention.rs`), and removing those that are
//! deleted (`purge.rs`).

use std::time::Duration;

use futures::future::{join_all, try_join_all};
use identity::Gate;

use super::lane::Lane;
use super::{census, purge, retention};
use crate::access::Access;
use crate::config::{Config, Role};
use crate::supervise::Supervisor;

/// Spawns it, as far as the roles need it; nothing without a registry. `forget` makes the broker
/// forget a tenant; `None` in a process without one. `process` is the name of this process.
pub(super) fn spawn(
    supervisor: &mut Supervisor,
    config: &Config,
    lanes: &[Lane],
    access: Option<&(Access, Gate)>,
    process: &str,
    forget: Option<impl Fn(&str) + Send + 'static>,
) {
    let Some((access, gate)) = access else { return };
    let deadline = Duration::from_secs(config.shutdown_timeout_secs);
    let stop = supervisor.part("deleted tenants", deadline);
    if forget.is_some() {
        let pools = census::of_lanes(lanes).into_iter();
        let counting = try_join_all(pools.map(|pool| census::follow(gate.clone(), pool, stop.clone())));
        supervisor.spawn("deleted tenants", "counts of devices and series", async move { counting.await.map(drop) });
    }
    let forget = move |tenant: &str| forget.iter().for_each(|forget| forget(tenant));
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
        let purgers: Vec<_> = lanes.iter().map(|lane| purge::purger(lane, gate, process.to_owned())).collect();
        supervisor.spawn("removal", "removal of deleted tenants", async move {
            join_all(purgers.iter().map(|purger| purger.run(stop.clone()))).await;
            Ok(())
        });
    }
}
