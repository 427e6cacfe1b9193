//! Nodes of a fleet over real redis-servers.

#[path = "../../../buffer/tests/common/redis_server.rs"]
mod process;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

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

    /// Runs a command, and returns the first line of the response or a whole bulk response.
    pub(crate) fn command(&self, words: &[&str]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let mut text = format!("*{}\r\n", words.len());
        for word in words {
            text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.write_all(text.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end().to_owned();
        let Some(length) = line.strip_prefix('$').and_then(|length| length.parse::<usize>().ok()) else { return line };
        let mut bulk = vec![0; length];
        reader.read_exact(&mut bulk).unwrap();
        String::from_utf8_lossy(&bulk).into_owned()
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
