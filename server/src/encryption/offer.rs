//! The keyring of a running process: requests over HTTP that only a reader of the data folder can
//! make.

use std::sync::Arc;

use anyhow::bail;
use envelope::{Keyring, Status};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::local::Token;

/// Path of the request.
pub(crate) const PATH: &str = "/encryption";

/// Purpose of the token.
pub(super) const PURPOSE: &str = "weir encryption";

/// The request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "lowercase")]
pub(crate) enum Order {
    /// Only the state.
    Status,
    /// Wrap the keys anew.
    Rotate,
    /// Destroy the keys of a tenant.
    Destroy { tenant: String },
    /// Allow new keys for a tenant whose keys were destroyed.
    Allow { tenant: String },
}

/// The outcome of an order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Report {
    /// Fingerprint of the key-encryption key before a rotation.
    pub(super) before: Option<String>,
    /// Keys that were destroyed.
    pub(super) destroyed: usize,
    /// State afterwards.
    pub(super) state: State,
}

/// State of a keyring.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) kek: String,
    pub(super) seals: bool,
    pub(super) tenants: Vec<TenantState>,
    pub(super) discarded: u64,
    pub(super) unreadable: u64,
}

/// State of the keys of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TenantState {
    pub(super) tenant: String,
    pub(super) keys: usize,
    /// Time of the destruction, in nanoseconds since 1970.
    pub(super) destroyed: Option<i64>,
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Answer {
    Done(Report),
    Failed(String),
}

/// The orders that a process follows. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Offer(Arc<Inner>);

struct Inner {
    config: Arc<Config>,
    keys: Option<Keyring>,
    token: Token,
}

impl Offer {
    /// Orders about `keys`, for callers that know the `secret` of the data folder.
    pub(crate) fn new(config: Arc<Config>, keys: Option<Keyring>, secret: &[u8; 32]) -> Self {
        Self(Arc::new(Inner { config, keys, token: Token::of(PURPOSE, secret) }))
    }

    /// True when the text of `Authorization` is the token.
    pub(crate) fn permits(&self, given: &[u8]) -> bool {
        self.0.token.permits(given)
    }

    /// Follows an order. Blocks. Returns the answer as JSON.
    pub(crate) fn follow(&self, order: &Order) -> String {
        let followed = match &self.0.keys {
            Some(keys) => follow(order, keys, &self.0.config),
            None => Err(anyhow::anyhow!("encryption is off: set `encryption.key_file`")),
        };
        let answer = followed.map_or_else(|error| Answer::Failed(format!("{error:#}")), Answer::Done);
        serde_json::to_string(&answer).unwrap_or_else(|error| format!(r#"{{"failed":"{error}"}}"#))
    }
}

/// Follows an order about `keys`.
pub(super) fn follow(order: &Order, keys: &Keyring, config: &Config) -> anyhow::Result<Report> {
    let mut report = Report::default();
    match order {
        Order::Status => {}
        Order::Rotate => {
            let (before, after) = keys.rotate(&config.encryption)?;
            tracing::info!(before, after, "the keys of tenants are wrapped with another key-encryption key");
            report.before = Some(before);
        }
        Order::Destroy { tenant } => {
            match keys.status().tenants.iter().find(|held| held.tenant == *tenant) {
                Some(held) if held.destroyed.is_some() => bail!("the keys of tenant {tenant} were destroyed before"),
                Some(held) if held.keys > 0 => {}
                _ => bail!("the keyring has no key of tenant {tenant}: nothing is sealed for it"),
            }
            report.destroyed = keys.destroy(tenant)?;
            tracing::warn!(tenant, keys = report.destroyed, "the keys of a tenant were destroyed");
        }
        Order::Allow { tenant } => {
            keys.allow(tenant)?;
            tracing::info!(tenant, "a tenant whose keys were destroyed gets new ones");
        }
    }
    report.state = keys.status().into();
    Ok(report)
}

impl From<Status> for State {
    fn from(status: Status) -> Self {
        let Status { kek, seals, tenants, discarded, unreadable } = status;
        let tenant = |held: envelope::TenantStatus| TenantState {
            tenant: held.tenant,
            keys: held.keys,
            destroyed: held.destroyed,
        };
        Self { kek, seals, tenants: tenants.into_iter().map(tenant).collect(), discarded, unreadable }
    }
}
