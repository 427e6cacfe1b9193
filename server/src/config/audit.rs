//! `[audit]`: checkpoints of the audit.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use identity::{CheckpointOptions, CheckpointTarget, HttpFetch, Webhook};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[audit]`
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Audit {
    /// Folder outside of this machine that signed checkpoints of the audit are added to; files of
    /// it are added to and never changed, so that it may be a mount which allows no more. Empty:
    /// none.
    pub(crate) folder: PathBuf,
    /// Address that signed checkpoints are sent to by POST, as `https://audit.example.com/weir`;
    /// with http on this host only. Empty: none.
    pub(crate) webhook: String,
    /// File of the token that these calls have (`authorization: Bearer`); its mode has to be 600.
    pub(crate) webhook_token_file: PathBuf,
    /// File with certificates (PEM) of authorities that the address of the webhook has its
    /// certificate from, beside the usual ones.
    pub(crate) webhook_ca_file: PathBuf,
    /// Seconds after which the end of an audit that has moved is signed.
    pub(crate) interval_secs: u64,
    /// New events of a tenant after which the end of its audit is signed earlier.
    pub(crate) events: u64,
    /// File of the key that signs; empty: `audit-key` in the data folder. The public keys are in
    /// the file beside it, with `.pub` at the end of its name. `weir audit key` prints them.
    pub(crate) key: PathBuf,
}

impl Default for Audit {
    fn default() -> Self {
        let CheckpointOptions { interval, events } = CheckpointOptions::default();
        Self {
            folder: PathBuf::new(),
            webhook: String::new(),
            webhook_token_file: PathBuf::new(),
            webhook_ca_file: PathBuf::new(),
            interval_secs: interval.as_secs(),
            events,
            key: PathBuf::new(),
        }
    }
}

impl fmt::Debug for Audit {
    /// Without the address of the webhook, which may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").field("folder", &self.folder).finish_non_exhaustive()
    }
}

fn given(path: &Path) -> Option<&Path> {
    Some(path).filter(|path| !path.as_os_str().is_empty())
}

impl Audit {
    /// Checks the values.
    ///
    /// # Errors
    /// Names the key and what to do.
    pub(super) fn check(&self, has_authentication: bool) -> anyhow::Result<()> {
        anyhow::ensure!(self.interval_secs > 0, "`audit.interval_secs` is 0: give at least 1");
        anyhow::ensure!(self.events > 0, "`audit.events` is 0: give at least 1");
        let is_on = given(&self.folder).is_some() || !self.webhook.is_empty();
        anyhow::ensure!(
            !is_on || has_authentication,
            "`audit.folder` and `audit.webhook` need the audit: set `auth.required = true`"
        );
        // Its text may hold a secret.
        anyhow::ensure!(
            self.webhook.is_empty() || ["https://", "http://"].iter().any(|scheme| self.webhook.starts_with(scheme)),
            "`audit.webhook` is not an address that begins with https://"
        );
        anyhow::ensure!(
            !self.webhook.is_empty() || given(&self.webhook_token_file).or(given(&self.webhook_ca_file)).is_none(),
            "`audit.webhook_token_file` and `audit.webhook_ca_file` need `audit.webhook`"
        );
        Ok(())
    }

    /// Returns the pace of checkpoints.
    pub(crate) fn options(&self) -> CheckpointOptions {
        CheckpointOptions { interval: Duration::from_secs(self.interval_secs), events: self.events }
    }

    /// Returns the targets of checkpoints.
    ///
    /// # Errors
    /// Names the key.
    pub(crate) fn targets(&self) -> anyhow::Result<Vec<CheckpointTarget>> {
        let folder = given(&self.folder).map(|folder| CheckpointTarget::Folder(folder.to_owned()));
        let mut targets: Vec<_> = folder.into_iter().collect();
        if !self.webhook.is_empty() {
            // An operator chose the address.
            let networks = ["0.0.0.0/0", "::/0"].map(|network| network.parse().context("a network"));
            let networks = networks.into_iter().collect::<anyhow::Result<_>>()?;
            let http = HttpFetch::new(networks, given(&self.webhook_ca_file));
            let http = http.context("`audit.webhook_ca_file` cannot be used")?;
            let token = given(&self.webhook_token_file).map(Path::to_owned);
            targets.push(CheckpointTarget::Webhook(Webhook { url: self.webhook.clone(), token, http }));
        }
        Ok(targets)
    }
}
