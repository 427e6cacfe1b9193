//! Limits and secrets of the services.

use std::fmt;
use std::time::Duration;

use model::trace::Tracer;

/// How the services serve.
#[derive(Clone)]
pub struct Config {
    /// Signs resume tokens. The same on every node of an installation and across restarts; a client whose token was
    /// signed with another one is told to start anew.
    pub token_secret: [u8; 32],
    /// Largest request, in bytes.
    pub max_request_bytes: usize,
    /// Largest answer, in bytes. Services cut their answers far below it.
    pub max_response_bytes: usize,
    /// Calls at one time on one connection.
    pub max_concurrent_calls: u32,
    /// Streams (StreamReadings, Subscribe) at one time, over all connections.
    pub max_streams: usize,
    /// Longest time a call that is no stream may take, also when the client sets no deadline.
    pub call_timeout: Duration,
    /// Time between HTTP/2 pings on a connection; one that does not answer within 20 s is closed.
    pub keepalive_interval: Duration,
    /// Time that calls in progress have to end after shutdown was asked for.
    pub drain_timeout: Duration,
    /// Takes the spans of traced calls; none traces no call.
    pub tracer: Option<Tracer>,
}

impl Config {
    /// The defaults, with this secret.
    pub fn new(token_secret: [u8; 32]) -> Self {
        Self {
            token_secret,
            max_request_bytes: 1 << 20,
            max_response_bytes: 16 << 20,
            max_concurrent_calls: 256,
            max_streams: 1024,
            call_timeout: Duration::from_secs(60),
            keepalive_interval: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(5),
            tracer: None,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("max_streams", &self.max_streams).finish_non_exhaustive()
    }
}
