//! Settings.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Settings of the MongoDB store.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Connection string, with user and password where the server asks for them. The server is a replica set, of one member
    /// at least, or sharded.
    pub uri: String,
    /// Database that holds the collections.
    pub database: String,
    /// Begins the name of every collection, so that two installations can share a database.
    pub collection_prefix: String,
    /// Name that the server's log and its list of operations show.
    pub app_name: String,
    /// Longest time to make a connection.
    pub connect_timeout_ms: u64,
    /// Longest time to find a server that takes writes.
    pub server_selection_timeout_ms: u64,
    /// Longest time to wait for one answer; the request is then repeated.
    pub request_timeout_ms: u64,
    /// Connections to each server.
    pub max_pool_size: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            uri: "mongodb://127.0.0.1:27017".into(),
            database: "weir".into(),
            collection_prefix: String::new(),
            app_name: "weir".into(),
            connect_timeout_ms: 5_000,
            server_selection_timeout_ms: 5_000,
            request_timeout_ms: 30_000,
            max_pool_size: 16,
        }
    }
}

impl fmt::Debug for Config {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("uri", &without_password(&self.uri))
            .field("database", &self.database)
            .field("collection_prefix", &self.collection_prefix)
            .field("app_name", &self.app_name)
            .field("connect_timeout_ms", &self.connect_timeout_ms)
            .field("server_selection_timeout_ms", &self.server_selection_timeout_ms)
            .field("request_timeout_ms", &self.request_timeout_ms)
            .field("max_pool_size", &self.max_pool_size)
            .finish()
    }
}

/// The connection string with dots in place of the password.
pub(super) fn without_password(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else { return uri.to_owned() };
    // The last one, wherever it stands: a password with characters that it may not have is not shown either.
    let Some(at) = rest.rfind('@') else { return uri.to_owned() };
    let user = rest[..at].split(':').next().unwrap_or_default();
    format!("{scheme}://{user}:...{}", &rest[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let config = Config { uri: "mongodb://weir:se@cret@db1,db2/?tls=true".into(), ..Config::default() };
        let shown = format!("{config:?}");
        assert!(!shown.contains("cret") && shown.contains("mongodb://weir:...@db1,db2/?tls=true"), "{shown}");
        assert_eq!(without_password("mongodb://db1"), "mongodb://db1");
        assert_eq!(without_password("mongodb://weir:a/b?c@db1/x"), "mongodb://weir:...@db1/x");
    }
}
