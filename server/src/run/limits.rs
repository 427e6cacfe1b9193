//! Limits of the process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{Config, Lowered, Role};

/// Descriptors for standard streams, folders, listeners, connections to servers and timers.
const OTHER_FILES: u64 = 64;
/// Connections of other processes of a fleet.
const FLEET_FILES: u64 = 256;
/// Each listener keeps at least this many connections.
const LEAST: u64 = 4;

/// Raises the limit of open files to the maximum, since every connection is an open file. Returns
/// the limit in force.
pub(super) fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current.unwrap_or(u64::MAX);
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files; see `ulimit -n`");
        return limit.current.unwrap_or(u64::MAX);
    }
    limit.maximum.unwrap_or(u64::MAX)
}

/// The configuration with as few connections as leave descriptors for the log and the stores, and
/// the keys that are lowered.
pub(crate) fn within_open_files(mut config: Config, files: u64) -> (Config, Vec<Lowered>) {
    let of_pools = config.pool.iter().filter_map(|pool| config.of_pool(pool).ok()).map(|config| config.log);
    let logs = of_pools.chain([config.log.clone()]);
    let segments: u64 = logs.map(|log| log.capacity_bytes / log.segment_bytes.max(1)).sum();
    let partitions = config.history.store.max_open_partitions as u64 * config.lanes();
    let fleet = if config.is_fleet() && config.has(Role::Flusher) { FLEET_FILES } else { 0 };
    let bridges = config.bridge.len() as u64;
    let own = OTHER_FILES * config.lanes() + segments + partitions + exports(&config) + fleet + bridges;
    // With a low limit the log does not grow to its capacity with all its segments open; half of
    // the descriptors hold more than connections can fill.
    let left = files - own.min(files / 2);
    let reason = format!(
        "because the process can open {files} files (`ulimit -n`) and the log and the stores need some of them"
    );
    let usual = Config::default();
    let mut lowered = Vec::new();
    let mut lower = |key: &str, value: &mut usize, default: usize, most: u64| {
        let least = usize::try_from(most).unwrap_or(usize::MAX);
        if *value > least {
            lowered.push(Lowered::new(key, *value as u64, default as u64, most, &reason));
            *value = least;
        }
    };
    let default = usual.http.max_connections;
    lower("http.max_connections", &mut config.http.max_connections, default, (left / 16).max(LEAST));
    let default = usual.grpc.limits.max_connections;
    lower("grpc.max_connections", &mut config.grpc.limits.max_connections, default, (left / 8).max(LEAST));
    let others = (config.http.max_connections + config.grpc.limits.max_connections) as u64;
    // The broker opens a few more to refuse them with a reason.
    let most = left.saturating_sub(others + broker::beyond(0) as u64) / 17 * 16;
    let default = usual.mqtt.broker.max_connections;
    lower("mqtt.max_connections", &mut config.mqtt.broker.max_connections, default, most.max(LEAST));
    (config, lowered)
}

/// Connections and files of exports.
fn exports(config: &Config) -> u64 {
    16 * (config.export.len() as u64 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_log_and_the_stores() {
        for files in [64, 256, 400, 1024, 65_536, 1 << 20] {
            let (config, lowered) = within_open_files(Config::default(), files);
            let mqtt = config.mqtt.broker.max_connections;
            let open = mqtt + broker::beyond(mqtt) + config.grpc.limits.max_connections + config.http.max_connections;
            let left = files as usize - open;
            let segments = 128;
            assert!(left >= (files as usize / 2).min(64 + segments), "{files} files: {left} are left");
            assert_eq!(lowered.is_empty(), files == 1 << 20, "{lowered:?}");
        }
        let (config, lowered) = within_open_files(Config::default(), 400);
        assert!((100..200).contains(&config.mqtt.broker.max_connections));
        let line = |lowered: &[Lowered]| {
            lowered.iter().find(|lowered| lowered.text.starts_with("`mqtt.max_connections` is ")).cloned().unwrap()
        };
        let default = line(&lowered);
        assert!(!default.is_set && default.text.contains(" on this machine") && !default.text.contains("100000"));
        let mut set = Config::default();
        set.mqtt.broker.max_connections = 50_000;
        let set = line(&within_open_files(set, 400).1);
        assert!(set.is_set && set.text.starts_with("`mqtt.max_connections` is 50000: lowered to "), "{set:?}");
    }
}
