//! The other processes of the fleet: whether they have the same pools. One that lacks a pool
//! refuses the devices and the calls of its tenants, and flushes none of its logs.

use std::time::Duration;

use cluster::members::{Member, Members};
use tokio_util::sync::CancellationToken;

use super::state::Waiting;
use crate::config::{Config, Role, SHARED};

/// Name of the part in reports.
const PART: &str = "pools";
/// Other processes that a report names.
const MOST: usize = 4;

/// This process as the others know it, at the address where they call it; empty without one.
pub(crate) fn member(config: &Config, advertised: &str) -> Member {
    let roles = Role::PARTS.iter().filter(|role| config.has(**role)).map(|role| role.name());
    let pools = config.pool.iter().map(|pool| pool.name.as_str());
    Member::new(&config.redis.log.node, advertised, roles, pools)
}

/// Returns the reason when processes of a fleet have other pools than this one.
pub(crate) fn differing(members: &[Member], own: &Member) -> Option<String> {
    let names = |member: &Member| match member.pools() {
        [] => format!("only {SHARED}"),
        pools => pools.join(", "),
    };
    let others = members.iter().filter(|member| member.pools() != own.pools());
    let others: Vec<String> = others.map(|member| format!("{member} has {}", names(member))).collect();
    let more = others.len().saturating_sub(MOST);
    let more = if more > 0 { format!(", and {more} more differ") } else { String::new() };
    (!others.is_empty()).then(|| {
        format!(
            "the processes of this fleet have different pools: this one has {}, {}{more}; give all of them the same \
             [[pool]] tables: a process without a pool refuses the tenants of that pool",
            names(own),
            others[..others.len().min(MOST)].join(", ")
        )
    })
}

/// Announces this process for the time of a lease, again and again, and compares the pools of all,
/// until `stop`.
pub(super) async fn watch(members: Members, own: Member, lease: Duration, waiting: Waiting, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(lease / 3);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        match members.announce(&own, lease).await {
            Ok(all) => {
                let reason = differing(&all, &own);
                match waiting.set(PART, reason.clone()).then_some(reason) {
                    Some(Some(reason)) => tracing::error!("{reason}"),
                    Some(None) => tracing::info!("all processes of this fleet have the same pools"),
                    None => {}
                }
            }
            Err(error) => tracing::debug!(%error, "cannot compare the pools of the processes"),
        }
    }
    // It expires by itself, too.
    if let Err(error) = members.withdraw(&own).await {
        tracing::debug!(%error, "cannot withdraw this process");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(pools: &[&[&str]]) -> Vec<Member> {
        let named = |(n, pools): (usize, &&[&str])| Member::new(&format!("n{n}"), "", ["ingest"], pools.to_vec());
        pools.iter().enumerate().map(named).collect()
    }

    #[test]
    fn processes_with_other_pools_are_named() {
        let config: Config = toml::from_str("[[pool]]\nname = 'b'\n[[pool]]\nname = 'a'\n").unwrap();
        let own = member(&config, "http://h:1");
        assert_eq!(own.pools(), ["a", "b"]);
        assert!(own.has_role("ingest") && own.has_role("flusher") && own.has_role("api"), "{own}");
        assert_eq!(differing(&members(&[&["a", "b"], &["b", "a"]]), &own), None);
        let reason = differing(&members(&[&["a", "b"], &[], &["a"]]), &own).unwrap();
        assert!(reason.contains("this one has a, b, n1 (ingest) has only shared, n2 (ingest) has a;"), "{reason}");
        let shared = Member::new("n", "", ["api"], []);
        let reason = differing(&members(&[&["x"][..]; 7]), &shared).unwrap();
        assert!(reason.contains("this one has only shared") && reason.contains("and 3 more"), "{reason}");
    }
}
