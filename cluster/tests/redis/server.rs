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
