//! Checks that a server keeps confirmed data.

use redis::RedisResult;
use redis::aio::MultiplexedConnection;

use super::config::{Config, Durability};
use super::error::{OpenError, refused, words};

/// Wait for replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// No wait.
    No,
    /// Until replicas have the data in memory.
    Memory,
    /// Until the data is on the disks of the master and the replicas.
    Disk,
}

/// Reads a server's settings and refuses those that lose acknowledged data. Returns the supported
/// wait for replicas.
pub(super) async fn check(
    config: &Config,
    address: &str,
    connection: &mut MultiplexedConnection,
) -> Result<Wait, OpenError> {
    let info: RedisResult<String> = redis::cmd("INFO").arg("server").query_async(connection).await;
    let server = Server::read(&info.map_err(|error| refused(address, &error))?);
    if server.version < [7, 0, 0] {
        return Err(OpenError::Unsafe(format!(
            "{} at {address} is older than 7.0, which Weir needs: upgrade it, or name another in redis.urls",
            server.name()
        )));
    }
    if config.durability == Durability::Relaxed {
        return Ok(if config.replicas > 0 { Wait::Memory } else { Wait::No });
    }
    let read: RedisResult<Vec<(String, String)>> = ask().query_async(connection).await;
    let settings = read.map_err(|error| {
        OpenError::Unsafe(format!(
            "cannot see whether redis at {address} keeps what it acknowledges, CONFIG GET is refused ({}): allow it, or \
             set redis.durability = \"relaxed\"",
            words(&error)
        ))
    })?;
    judge(address, &settings)?;
    server.wait(config.replicas, address)
}

/// The command that reads the settings that [`judge`] judges.
pub(super) fn ask() -> redis::Cmd {
    let mut ask = redis::cmd("CONFIG");
    ask.arg("GET").arg("appendonly").arg("appendfsync").arg("no-appendfsync-on-rewrite").arg("maxmemory-policy");
    ask
}

/// Refuses settings that lose acknowledged data.
pub(super) fn judge(address: &str, settings: &[(String, String)]) -> Result<(), OpenError> {
    match unsafe_setting(settings) {
        None => Ok(()),
        Some((key, value, loss)) => Err(OpenError::Unsafe(format!(
            "redis at {address} has {key} {value}: {loss}; set {key} {} there, or redis.durability = \"relaxed\" here",
            wanted(key)
        ))),
    }
}

/// The first setting that loses data, its value, and the reason.
fn unsafe_setting(settings: &[(String, String)]) -> Option<(&'static str, &str, &'static str)> {
    let get = |key: &str| settings.iter().find(|(k, _)| k == key).map_or("unknown", |(_, value)| value.as_str());
    [
        ("appendonly", get("appendonly") != "yes", "acknowledged readings are lost with the process"),
        ("appendfsync", get("appendfsync") != "always", "acknowledged readings can be lost when the machine fails"),
        (
            "no-appendfsync-on-rewrite",
            get("no-appendfsync-on-rewrite") != "no",
            "acknowledged readings can be lost while the AOF is rewritten",
        ),
        // The volatile policies delete no data, but leases and heartbeats.
        ("maxmemory-policy", get("maxmemory-policy") != "noeviction", "keys are thrown away when its memory is full"),
    ]
    .into_iter()
    .find(|(_, wrong, _)| *wrong)
    .map(|(key, _, loss)| (key, get(key), loss))
}

fn wanted(key: &str) -> &'static str {
    match key {
        "appendonly" => "yes",
        "appendfsync" => "always",
        "no-appendfsync-on-rewrite" => "no",
        _ => "noeviction",
    }
}

#[derive(Debug, PartialEq)]
struct Server {
    valkey: bool,
    version: [u32; 3],
}

impl Server {
    fn read(info: &str) -> Self {
        let field = |name: &str| info.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
        let valkey = field("valkey_version");
        let text = valkey.or_else(|| field("redis_version")).unwrap_or_default();
        let mut parts = text.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
        let version = [(); 3].map(|()| parts.next().unwrap_or(0));
        Self { valkey: valkey.is_some(), version }
    }

    fn name(&self) -> String {
        let [major, minor, patch] = self.version;
        format!("{} {major}.{minor}.{patch}", if self.valkey { "valkey" } else { "redis" })
    }

    /// Redis and Valkey have WAITAOF from 7.2 on; some releases respond before the data is on disk
    /// (Redis 7.4.2 and Valkey 8.0.2 release notes).
    fn wait(&self, replicas: u32, address: &str) -> Result<Wait, OpenError> {
        let hasty: &[[u32; 3]] = if self.valkey { &[[8, 0, 0], [8, 0, 1]] } else { &[[7, 4, 0], [7, 4, 1]] };
        match replicas {
            0 => Ok(Wait::No),
            _ if self.version < [7, 2, 0] => Ok(Wait::Memory),
            _ if hasty.contains(&self.version) => Err(OpenError::Unsafe(format!(
                "{} at {address} answers WAITAOF before the data is on disk: upgrade it to the next patch release, or set \
                 redis.replicas = 0",
                self.name()
            ))),
            _ => Ok(Wait::Disk),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Server, Wait};

    #[test]
    fn releases_that_answer_waitaof_too_early_are_refused() {
        let server = |info: &str| Server::read(info);
        let redis =
            |version: &str| server(&format!("# Server\r\nredis_version:{version}\r\nredis_mode:standalone\r\n"));
        let valkey =
            |version: &str| server(&format!("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:{version}"));
        assert_eq!(redis("7.0.15").wait(1, "a").ok(), Some(Wait::Memory));
        assert_eq!(redis("7.2.0").wait(1, "a").ok(), Some(Wait::Disk));
        assert_eq!(redis("7.4.2").wait(2, "a").ok(), Some(Wait::Disk));
        assert_eq!(redis("7.4.1").wait(0, "a").ok(), Some(Wait::No));
        assert_eq!(valkey("7.2.5").wait(1, "a").ok(), Some(Wait::Disk));
        assert_eq!(valkey("8.1.0-rc1").wait(1, "a").ok(), Some(Wait::Disk));
        for early in [redis("7.4.0"), redis("7.4.1"), valkey("8.0.0"), valkey("8.0.1")] {
            let error = early.wait(1, "a").unwrap_err().to_string();
            assert!(error.contains("redis.replicas"), "{error}");
        }
    }
}
