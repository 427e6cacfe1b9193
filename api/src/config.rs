//! Limits and secrets of the services.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use identity::{Admin, Authenticator};
use model::Budget;
use model::setting::duration_ms;
use model::trace::Tracer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Configuration of the services.
#[derive(Clone)]
pub struct Config {
    /// Authenticates page tokens and resume tokens: random bytes. Must be the same on every node of
    /// an installation and across restarts: a token signed with another secret is refused, and its
    /// client has to start again.
    pub token_secret: [u8; 32],
    /// Maximum size of a request, in bytes.
    pub max_request_bytes: usize,
    /// Maximum size of an answer, in bytes. Services keep their answers far below it.
    pub max_response_bytes: usize,
    /// Memory of all answers while they are built.
    pub memory: Budget,
    /// Limits that an operator sets.
    pub limits: Limits,
    /// Time between HTTP/2 pings on a connection; a connection that does not answer within 20 s is
    /// closed.
    pub keepalive_interval: Duration,
    /// Records the spans of traced calls; without one, no call is traced.
    pub tracer: Option<Tracer>,
    /// Checks the credentials of callers. Without one, every caller is
    /// [`Principal::local`](identity::Principal::local), and there is one tenant.
    pub authenticator: Option<Arc<dyn Authenticator>>,
    /// Changes tenants, keys and secrets. Without it the calls for that are refused.
    pub admin: Option<Admin>,
}

/// Limits that an operator sets: keys of `[grpc]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Limits {
    /// Maximum number of connections; further ones are closed.
    pub max_connections: usize,
    /// Calls at one time on one connection.
    pub max_concurrent_calls: u32,
    /// Streams (StreamReadings, Subscribe) at one time over all connections.
    pub max_streams: usize,
    /// Longest time of a call that is not a stream, in milliseconds, also when the client sets no
    /// deadline.
    #[serde(rename = "call_timeout_ms", with = "duration_ms")]
    #[schemars(with = "u64")]
    pub call_timeout: Duration,
    /// Time that calls in progress have at a stop, in milliseconds.
    #[serde(rename = "drain_timeout_ms", with = "duration_ms")]
    #[schemars(with = "u64")]
    pub drain_timeout: Duration,
    /// Origins of the pages that may call from a browser (gRPC-Web), as
    /// `https://dashboard.example.com`; `"*"` allows every page. Calls of other pages are refused.
    pub web_origins: Vec<String>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_concurrent_calls: 256,
            max_streams: 1024,
            call_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(5),
            web_origins: Vec::new(),
        }
    }
}

impl Config {
    /// The defaults, with this secret.
    pub fn new(token_secret: [u8; 32]) -> Self {
        Self {
            token_secret,
            max_request_bytes: 1 << 20,
            max_response_bytes: 16 << 20,
            memory: Budget::new("queries", 512 << 20),
            limits: Limits::default(),
            keepalive_interval: Duration::from_secs(60),
            tracer: None,
            authenticator: None,
            admin: None,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("limits", &self.limits).finish_non_exhaustive()
    }
}
