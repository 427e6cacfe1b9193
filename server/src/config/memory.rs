//! `[memory]`: one amount for the process, divided among its parts.

use std::path::{Path, PathBuf};

use identity::Passwords;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Config, Lowered};

/// Memory of the credential of a connected device, in bytes.
const CREDENTIAL: u64 = 700;
/// Memory that a TLS handshake may hold, in bytes, times the handshakes of all ports for each one
/// of the MQTT port: three others have a quarter of them.
const HANDSHAKE: u64 = (64 << 10) / 4 * 7;
/// Least amount that the parts can work with.
const LEAST: u64 = 64 << 20;

/// `[memory]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Memory {
    /// Memory of the process, in bytes. Three quarters are divided among packets, retained and
    /// queued messages, unflushed readings, latest states, caches and queries; the rest is for the
    /// allocator and the program. 0 is half of what the machine or the control group has. A part
    /// that is full says so to its clients.
    pub(crate) max_bytes: u64,
}

/// The shares of the parts that have no key of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Answers of the services.
    pub(crate) queries: usize,
    /// Readings of one export that are not delivered yet.
    pub(crate) export: u64,
    /// Credentials of the clients and callers that were admitted.
    pub(crate) credentials: usize,
    /// Threads that hash passwords, each with its memory.
    pub(crate) passwords: usize,
}

impl Memory {
    /// Checks the key, and the largest packet against its share.
    pub(super) fn check(&self, config: &Config) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.max_bytes == 0 || self.max_bytes >= LEAST,
            "`memory.max_bytes` is {}: give at least {LEAST} (64 MiB), or 0 for half of the machine's memory",
            self.max_bytes
        );
        let packet = u64::from(config.mqtt.broker.max_packet_bytes);
        anyhow::ensure!(
            self.max_bytes == 0 || packet <= self.max_bytes / 32,
            "`mqtt.max_packet_bytes` is {packet}: with `memory.max_bytes` = {} it can be at most {}",
            self.max_bytes,
            self.max_bytes / 32
        );
        Ok(())
    }

    fn total(&self) -> u64 {
        match self.max_bytes {
            0 => (available(Path::new("/")).unwrap_or(2 << 30) / 2).max(LEAST),
            bytes => bytes,
        }
    }

    /// The amount that is divided among the parts. What the allocator has for buffers of many
    /// sizes was measured to be up to half as much again as is in use.
    fn divided(&self) -> u64 {
        self.total() / 4 * 3
    }

    fn shares(&self, exports: usize, lanes: u64) -> Shares {
        let total = self.divided();
        Shares {
            queries: size(total / 32 * 5),
            export: total / 16 / lanes / exports.max(1) as u64,
            credentials: size(total / 16),
            passwords: 0,
        }
    }

    /// Returns how many threads may hash passwords: as many as there are processors, four at least
    /// and eight at most, within an eighth of what is divided.
    fn password_threads(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        processors.clamp(4, 8).min(size(self.divided() / 8) / Passwords::MEMORY_BYTES)
    }

    /// Returns the least `memory.max_bytes` with which passwords can be checked.
    pub(super) fn for_passwords() -> u64 {
        (Passwords::MEMORY_BYTES as u64 * 8).div_ceil(3) * 4
    }
}

impl Config {
    /// The shares of `memory.max_bytes` for parts that have no key of their own.
    pub(crate) fn shares(&self) -> Shares {
        let passwords = if self.auth.passwords { self.memory.password_threads() } else { 0 };
        Shares { passwords, ..self.memory.shares(self.export.len() + 1, self.lanes()) }
    }

    /// The configuration with every part within its share of `memory.max_bytes`, and the keys that
    /// are lowered. What each pool has of its own is divided among the pools.
    pub(crate) fn within_memory(mut self) -> (Self, Vec<Lowered>) {
        let total = self.memory.divided();
        let of_lane = total / self.lanes();
        let reason = format!("its share of {} bytes (memory.max_bytes)", self.memory.total());
        let usual = Self::default();
        let mut lowered = Vec::new();
        let mut lower = |key: &str, value: u64, default: u64, most: u64| {
            if value > most {
                lowered.push(Lowered::new(key, value, default, most, &reason));
            }
            value.min(most)
        };
        let (sink, default) = (&mut self.history.sink, &usual.history.sink);
        sink.max_unflushed_bytes =
            lower("history.max_unflushed_bytes", sink.max_unflushed_bytes, default.max_unflushed_bytes, of_lane / 8);
        sink.flush_bytes =
            lower("history.flush_bytes", sink.flush_bytes, default.flush_bytes, sink.max_unflushed_bytes / 2);
        let (ring, default) = (self.log.ring_bytes as u64, usual.log.ring_bytes as u64);
        self.log.ring_bytes = size(lower("log.ring_bytes", ring, default, of_lane / 16));
        let store = &mut self.history.store;
        let files = store.max_open_partitions as u64 + 1;
        let (cache, default) = (store.cache_bytes as u64, usual.history.store.cache_bytes as u64);
        store.cache_bytes = size(lower("history.cache_bytes", cache, default, of_lane / 32 * 3 / files));
        // Each credential is of a client, so that its memory is from their share.
        let credentials = if self.auth.required { total / 16 } else { 0 };
        if self.auth.required {
            // A credential that has no place ends its session.
            let (connections, default) = (self.mqtt.broker.max_connections, usual.mqtt.broker.max_connections);
            let most = credentials / CREDENTIAL;
            self.mqtt.broker.max_connections =
                size(lower("mqtt.max_connections", connections as u64, default as u64, most));
        }
        let passwords = (self.shares().passwords * Passwords::MEMORY_BYTES) as u64;
        // Handshakes are of clients, too.
        let mut handshakes = 0;
        if self.tls.is_used() || self.fleet.is_encrypted() || self.mqtt.listener.iter().any(|listener| listener.tls) {
            let (most, default) = (self.tls.max_handshakes as u64, usual.tls.max_handshakes as u64);
            // A listener with files of its own has a quarter of them, as other ports do.
            let own = self.mqtt.listener.iter().filter(|listener| listener.has_files()).count() as u64;
            let each = HANDSHAKE + HANDSHAKE / 7 * own;
            let most = lower("tls.max_handshakes", most, default, total / 16 / each);
            self.tls.max_handshakes = size(most);
            handshakes = most * each;
        }
        self.mqtt.broker.memory_bytes = size(total / 8 * 3 - credentials - passwords - handshakes);
        self.ingest.remembered_bytes = size(of_lane / 32);
        self.latest.memory_bytes = of_lane / 16;
        for batch in [&mut self.log.batch, &mut self.redis.log.batch] {
            batch.resend_bytes = batch.resend_bytes.min(size(of_lane / 32));
        }
        (self, lowered)
    }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Memory of the machine, or the least limit of the control groups that the process is in. `root`
/// is the root of the file system.
fn available(root: &Path) -> Option<u64> {
    let read = |path: PathBuf| std::fs::read_to_string(path).ok();
    let machine = read(root.join("proc/meminfo")).and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    let groups = read(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| {
        // Version 2 has one line with an empty list of controllers; version 1 one for each.
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let (base, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let base = root.join(base);
        // In a container the path may be that of the host: then only the root is there.
        let folders = Path::new(path.trim_start_matches('/')).ancestors().map(|part| base.join(part));
        folders.filter_map(|folder| read(folder.join(file))?.trim().parse::<u64>().ok()).min()
    });
    machine.into_iter().chain(limits).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn the_least_limit_of_machine_and_control_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(available(root), None);
        put(root, "proc/meminfo", "MemFree:  1 kB\nMemTotal:       4194304 kB\n");
        assert_eq!(available(root), Some(4 << 30));
        put(root, "proc/self/cgroup", "0::/a/b\n");
        put(root, "sys/fs/cgroup/a/b/memory.max", "max\n");
        assert_eq!(available(root), Some(4 << 30));
        put(root, "sys/fs/cgroup/a/memory.max", "1073741824\n");
        assert_eq!(available(root), Some(1 << 30), "of a group around it");
        put(root, "sys/fs/cgroup/memory.max", "536870912\n");
        assert_eq!(available(root), Some(512 << 20), "of a container");
        put(root, "proc/self/cgroup", "5:cpu,memory:/x\n4:pids:/x\n");
        put(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456\n");
        assert_eq!(available(root), Some(256 << 20), "of version 1");
    }

    #[test]
    fn passwords_have_threads_within_an_eighth_and_their_memory_is_that_of_connections() {
        let config = |max_bytes, passwords| Config {
            memory: Memory { max_bytes },
            auth: super::super::Auth { required: true, passwords, ..Default::default() },
            ..Config::default()
        };
        let least = Memory::for_passwords();
        for (max_bytes, threads) in
            [(LEAST, 0..=0), (least - 4, 0..=0), (least, 1..=1), (1 << 30, 4..=5), (64 << 30, 4..=8)]
        {
            assert!(threads.contains(&config(max_bytes, true).shares().passwords), "{max_bytes}");
            assert_eq!(config(max_bytes, false).shares().passwords, 0);
            let memory = |passwords| config(max_bytes, passwords).within_memory().0.mqtt.broker.memory_bytes;
            let held = config(max_bytes, true).shares().passwords * Passwords::MEMORY_BYTES;
            assert_eq!(memory(false) - memory(true), held);
        }
    }

    #[test]
    fn the_parts_together_hold_no_more_than_the_whole() {
        for (max_bytes, exports) in [(LEAST, 0), (1 << 30, 1), (64 << 30, 5)] {
            let mut config = Config { memory: Memory { max_bytes }, ..Config::default() };
            config.tls.certificate = "server.pem".into();
            config.auth.required = exports > 0;
            config.export = (0..exports).map(|_| super::super::Export::default()).collect();
            let (config, lowered) = config.within_memory();
            let shares = config.shares();
            let store = &config.history.store;
            let parts = [
                config.mqtt.broker.memory_bytes as u64,
                config.ingest.remembered_bytes as u64,
                config.latest.memory_bytes,
                config.log.batch.resend_bytes as u64,
                config.history.sink.max_unflushed_bytes,
                config.log.ring_bytes as u64,
                (store.cache_bytes * (store.max_open_partitions + 1)) as u64,
                shares.queries as u64,
                shares.export * (exports as u64 + 1),
                config.tls.max_handshakes as u64 * HANDSHAKE,
                if exports > 0 { shares.credentials as u64 } else { 0 },
            ];
            assert!(config.tls.max_handshakes >= 16 && config.mqtt.broker.memory_bytes > 8 << 20, "{parts:?}");
            assert!(parts.iter().sum::<u64>() <= max_bytes / 4 * 3, "{parts:?}");
            assert_eq!(lowered.is_empty(), max_bytes > 8 << 30, "{lowered:?}");
            assert!(config.history.sink.flush_bytes < config.history.sink.max_unflushed_bytes);
        }
    }
}
