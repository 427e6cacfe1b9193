//! Settings of the MongoDB store.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the MongoDB store: the section `[mongodb]`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Connection string of a replica set or a sharded cluster, as
    /// `mongodb://user:password@host/?replicaSet=rs0`. Empty: MongoDB is not used.
    pub uri: String,
    /// Database that holds the collections.
    pub database: String,
    /// Prefix of the name of every collection, so that two installations can share a database.
    pub collection_prefix: String,
    /// Name that the server's log and its list of operations show; not a key.
    #[serde(skip)]
    pub app_name: String,
    /// Longest time to make a connection, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Longest time to find a server that accepts writes, in milliseconds.
    pub server_selection_timeout_ms: u64,
    /// Longest time to wait for one answer, in milliseconds; the request is then repeated.
    pub request_timeout_ms: u64,
    /// Most connections to each server.
    pub max_pool_size: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            uri: String::new(),
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

/// Returns the connection string with dots in place of the password.
pub(super) fn without_password(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else { return uri.to_owned() };
    // The last one: a password that contains characters that are not allowed in it is not shown
    // either.
    let Some(at) = rest.rfind('@') else { return uri.to_owned() };
    let user = rest[..at].split(':').next().unwrap_or_default();
    format!("{scheme}://{user}:...{}", &rest[at..])
}

/// Returns the servers that the connection string names.
pub(super) fn hosts(uri: &str) -> &str {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    rest.split(['/', '?']).next().unwrap_or(rest)
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
        assert_eq!(hosts(&config.uri), "db1,db2");
        assert_eq!(hosts("mongodb+srv://cluster.example"), "cluster.example");
        assert_eq!(without_password("mongodb://weir:a/b?c@db1/x"), "mongodb://weir:...@db1/x");
    }
}
