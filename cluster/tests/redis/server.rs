//! Nodes of a fleet over real redis-servers.

#[path = "../../../buffer/tests/common/redis_server.rs"]
mod process;

use buffer::redis::Redis;
use weir_cluster::sessions::Config;

use crate::node::Node;
pub(crate) use process::*;

impl Server {
    /// Access for a node.
    pub(crate) async fn redis(&self, node: &str) -> Redis {
        redis_at(node, self.port).await
    }

    /// Starts a node.
    pub(crate) async fn node(&self, name: &str, config: Config) -> Node {
        Node::open(&self.redis(name).await, config).await
    }

    /// Number of keys whose names begin so.
    pub(crate) fn keys(&self, part: &str) -> usize {
        let script = "return #redis.call('KEYS', 'weir:{sessions}:' .. ARGV[1] .. '*')";
        self.command(&["EVAL", script, "0", part]).trim_start_matches(':').parse().unwrap()
    }

    /// Seconds of the processor that the server has used.
    pub(crate) fn processor(&self) -> f64 {
        let info = self.command(&["INFO", "cpu"]);
        let of = |name: &str| {
            let mut lines = info.lines();
            lines.find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':')?.parse::<f64>().ok()).unwrap()
        };
        of("used_cpu_sys") + of("used_cpu_user")
    }

    /// Bytes of the messages that are stored for sessions.
    pub(crate) fn stored_bytes(&self) -> u64 {
        let script = "return tonumber(redis.call('HGET', 'weir:{sessions}:g', 'bytes'))";
        self.command(&["EVAL", script, "0"]).trim_start_matches(':').parse().unwrap()
    }
}

/// Access for a node, by way of a port.
pub(crate) async fn redis_at(node: &str, port: u16) -> Redis {
    let config = buffer::redis::Config {
        urls: vec![format!("redis://127.0.0.1:{port}")],
        response_timeout_ms: 1_000,
        connect_timeout_ms: 500,
        node: node.into(),
        ..buffer::redis::Config::default()
    };
    Redis::connect(config).await.unwrap()
}
