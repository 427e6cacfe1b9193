//! The other processes of the fleet: whether they have the same pools. One that lacks a pool
//! refuses the devices and the calls of its tenants, and flushes none of its logs.

use std::collections::BTreeSet;
use std::time::Duration;

use buffer::redis::Redis;
use tokio_util::sync::CancellationToken;

use super::state::Waiting;
use crate::config::{Config, Role, SHARED};

/// Name of the part in reports.
const PART: &str = "pools";
/// Other processes that a report names.
const MOST: usize = 4;

/// The pools of a configuration as a process announces them.
pub(crate) fn announced(config: &Config) -> String {
    let names: BTreeSet<&str> = config.pool.iter().map(|pool| pool.name.as_str()).collect();
    Vec::from_iter(names).join(",")
}

/// Returns the reason when processes of a fleet have other pools than this one.
pub(crate) fn differing(processes: &[(String, String)], own: &str) -> Option<String> {
    let names = |pools: &str| if pools.is_empty() { format!("only {SHARED}") } else { pools.replace(',', ", ") };
    let others: Vec<String> = processes
        .iter()
        .filter(|(_, pools)| pools != own)
        .map(|(name, pools)| format!("{} has {}", name.split('#').next().unwrap_or_default(), names(pools)))
        .collect();
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

/// Announces this process, and compares the pools of all, until `stop`.
pub(super) async fn watch(redis: Redis, config: &Config, process: &str, waiting: Waiting, stop: CancellationToken) {
    let roles = Role::PARTS.iter().filter(|role| config.has(**role)).map(|role| role.name());
    // Processes without an address of their own may have the same name.
    let start = model::clock::now().unsigned_abs() ^ (u64::from(std::process::id()) << 40);
    let name = format!("{process} ({})#{start:x}", Vec::from_iter(roles).join(", "));
    let (own, lease) = (announced(config), Duration::from_millis(config.fleet.lease_ms));
    let mut ticks = tokio::time::interval(lease / 3);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        match redis.announce_process(&name, &own, lease).await {
            Ok(processes) => {
                let reason = differing(&processes, &own);
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
    if let Err(error) = redis.announce_process(&name, &own, Duration::ZERO).await {
        tracing::debug!(%error, "cannot withdraw this process");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_with_other_pools_are_named() {
        let all = |pools: &[&str]| -> Vec<(String, String)> {
            pools.iter().enumerate().map(|(n, pools)| (format!("n{n} (ingest)#abc"), (*pools).to_owned())).collect()
        };
        assert_eq!(differing(&all(&["a,b", "a,b"]), "a,b"), None);
        let reason = differing(&all(&["a,b", "", "a"]), "a,b").unwrap();
        assert!(reason.contains("this one has a, b, n1 (ingest) has only shared, n2 (ingest) has a;"), "{reason}");
        let reason = differing(&all(&["x"; 7]), "").unwrap();
        assert!(reason.contains("this one has only shared") && reason.contains("and 3 more"), "{reason}");
        let config: Config = toml::from_str("[[pool]]\nname = 'b'\n[[pool]]\nname = 'a'\n").unwrap();
        assert_eq!(announced(&config), "a,b");
    }
}
