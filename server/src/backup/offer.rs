//! The backup of a running process: a request over HTTP that only a reader of the data folder can
//! make.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::manifest::Manifest;
use super::source::{Open, Source};
use super::take;
use crate::config::Config;
use crate::local::{self, Token};

/// Path of the request.
pub(crate) const PATH: &str = "/backup";

/// Purpose of the token.
const PURPOSE: &str = "weir backup";

/// The request.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Absolute path of the new folder.
    to: PathBuf,
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Taken(Box<Manifest>),
    Failed(String),
}

/// The backups that a process takes on request, one at a time. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Offer(Arc<Inner>);

struct Inner {
    source: Source,
    token: Token,
    busy: Mutex<()>,
}

impl Offer {
    /// Backups of the data folder `data` with the parts in `open`, for those who know its `secret`.
    pub(crate) fn new(
        config: Arc<Config>,
        data: PathBuf,
        secret: [u8; 32],
        (open, pools): (Open, Vec<(String, Open)>),
    ) -> Self {
        let source = Source { config, data, open, pools };
        Self(Arc::new(Inner { source, token: Token::of(PURPOSE, &secret), busy: Mutex::default() }))
    }

    /// True when the text of `Authorization` is the token.
    pub(crate) fn permits(&self, given: &[u8]) -> bool {
        self.0.token.permits(given)
    }

    /// Takes a backup. Blocks. Returns the answer as JSON.
    pub(crate) fn take(&self, order: &Order) -> String {
        let taken = match self.0.busy.try_lock() {
            Some(_one_at_a_time) => self.take_alone(&order.to),
            None => Err(anyhow::anyhow!("another backup is being taken: wait for its end")),
        };
        let answer = match taken {
            Ok(manifest) => {
                tracing::info!(to = %order.to.display(), bytes = manifest.bytes(), "a backup was taken");
                Answer::Taken(Box::new(manifest))
            }
            Err(error) => {
                tracing::error!(to = %order.to.display(), "a backup failed: {error:#}");
                Answer::Failed(format!("{error:#}"))
            }
        };
        serde_json::to_string(&answer).unwrap_or_else(|error| format!(r#"{{"failed":"{error}"}}"#))
    }

    fn take_alone(&self, to: &Path) -> anyhow::Result<Manifest> {
        let Source { config, open, .. } = &self.0.source;
        ensure!(
            !config.redis.is_used() || open.store.is_none(),
            "the log with its cursors is on Redis and the store in the data folder, so that copies of a running process \
             do not belong together: stop weir, run this again, copy Redis, then start weir"
        );
        take::take(&self.0.source, to).map_err(|error| match error.chain().any(is_forbidden) {
            true => error.context("the weir process writes the backup itself and needs the right to do so"),
            false => error,
        })
    }
}

fn is_forbidden(cause: &(dyn std::error::Error + 'static)) -> bool {
    let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    matches!(kind, Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem))
}

/// Requests a backup of the process that uses the data folder `data` and answers at `http`.
///
/// # Errors
/// Those of the process, and when it does not answer.
pub(super) fn request(config: &Config, http: SocketAddr, data: &Path, to: &Path) -> anyhow::Result<Manifest> {
    let order = Order { to: to.to_owned() };
    let body = local::order(config, http, data, (PURPOSE, PATH), &order)?;
    let silent = || format!("the weir process at {http} did not answer to the end: check its log");
    // Line breaks before it keep the connection alive.
    match serde_json::from_slice(&body).with_context(silent)? {
        Answer::Taken(manifest) => Ok(*manifest),
        Answer::Failed(reason) => bail!("{reason}"),
    }
}
