//! Logs on real redis-servers.

#[path = "redis_server.rs"]
mod process;

use weir_buffer::redis::{Config, Redis, RedisLog};

pub(crate) use process::*;

impl Server {
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Small and fast settings without retention.
    pub(crate) fn config(&self) -> Config {
        Config {
            urls: vec![self.url()],
            ring_bytes: 2 << 10,
            retain_bytes: 0,
            retain_secs: 0,
            response_timeout_ms: 2_000,
            node: "test".into(),
            ..Config::default()
        }
    }

    pub(crate) async fn log(&self) -> (std::sync::Arc<RedisLog>, weir_buffer::Batcher) {
        let redis = Redis::connect(self.config()).await.unwrap();
        redis.create(std::sync::Arc::default()).await.unwrap()
    }
}
