//! `[auth]`: who may connect and call.

use std::fmt;
use std::path::PathBuf;

use anyhow::Context;
use identity::HttpFetch;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Config;
use super::memory::Memory;

/// Most topics of a list.
const MOST_TOPICS: usize = 64;
/// Most networks of issuers.
const MOST_NETWORKS: usize = 64;

/// `[auth]`
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Auth {
    /// Devices connect with a secret of their own (`weir devices add`), callers of the API with a
    /// key (`weir keys add`); without it, every client may do everything. `weir init` makes the
    /// first key.
    pub(crate) required: bool,
    /// The place of tenants, credentials and the audit: `"embedded"`, a file of the data folder;
    /// `"mongodb"`, the database of `[mongodb]`; or the address of a PostgreSQL database, as
    /// postgresql://weir:password@db.example.com/weir. Several processes share one of the latter
    /// two.
    pub(crate) registry: String,
    /// File of the peppers that secrets are kept under; empty: `peppers` in the data folder. All
    /// processes that share a registry need the same one.
    pub(crate) peppers: PathBuf,
    /// Devices may also connect with a password that was chosen for them (`weir devices add
    /// --password`), where a device cannot take a generated secret. A check takes about 20 ms of a
    /// processor, and each of its threads 19 MiB of `memory.max_bytes`.
    pub(crate) passwords: bool,
    /// Topics that a device may publish to, as topic filters; `{device}` is its id.
    pub(crate) publish: Vec<String>,
    /// Topics that a device may subscribe to, as topic filters; `{device}` is its id.
    pub(crate) subscribe: Vec<String>,
    /// Networks (CIDR) beside the public internet that issuers of access tokens may be in, as
    /// `10.0.0.0/8`; for issuers that an operator of the installation adds. An issuer of this host
    /// (`127.0.0.0/8`) may have a URL with `http`.
    pub(crate) issuer_networks: Vec<String>,
    /// File with certificates (PEM) of authorities that issuers of access tokens have their
    /// certificates from, beside the usual ones.
    pub(crate) issuer_ca_file: PathBuf,
}

impl Default for Auth {
    fn default() -> Self {
        let own = || vec!["devices/{device}/#".to_owned()];
        Self {
            required: false,
            registry: "embedded".to_owned(),
            peppers: PathBuf::new(),
            passwords: false,
            publish: own(),
            subscribe: own(),
            issuer_networks: Vec::new(),
            issuer_ca_file: PathBuf::new(),
        }
    }
}

impl fmt::Debug for Auth {
    /// Without the address of the registry, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("required", &self.required).finish_non_exhaustive()
    }
}

/// The place of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A file of the data folder.
    Embedded,
    /// The database of `[mongodb]`.
    Mongodb,
    /// A PostgreSQL database, by its address.
    Postgresql(String),
}

impl Auth {
    /// Returns the place of the registry.
    pub(crate) fn place(&self) -> Place {
        match self.registry.as_str() {
            "embedded" => Place::Embedded,
            "mongodb" => Place::Mongodb,
            address => Place::Postgresql(address.to_owned()),
        }
    }

    /// Returns how the documents of issuers are read.
    ///
    /// # Errors
    /// Names the key.
    pub(crate) fn fetch(&self) -> anyhow::Result<HttpFetch> {
        let file = Some(&*self.issuer_ca_file).filter(|file| !file.as_os_str().is_empty());
        HttpFetch::new(self.networks()?, file).context("`auth.issuer_ca_file` cannot be used")
    }

    fn networks(&self) -> anyhow::Result<Vec<IpNet>> {
        let network = |text: &String| {
            let cure = "use 10.0.0.0/8 or fd00::/8";
            text.parse()
                .with_context(|| format!("`auth.issuer_networks` holds {text:?}, which is not a network: {cure}"))
        };
        self.issuer_networks.iter().map(network).collect()
    }

    /// Checks topics and networks, and that all processes can have the registry.
    pub(super) fn check(&self, config: &Config) -> anyhow::Result<()> {
        for (key, topics) in [("auth.publish", &self.publish), ("auth.subscribe", &self.subscribe)] {
            anyhow::ensure!(
                topics.len() <= MOST_TOPICS,
                "`{key}` has {} topics: give at most {MOST_TOPICS}",
                topics.len()
            );
            for topic in topics {
                let sample = topic.replace("{device}", "d");
                model::topic::check_filter(&sample).map_err(|error| {
                    anyhow::anyhow!("`{key}` holds {topic:?}, which is not a topic filter: {error}")
                })?;
                anyhow::ensure!(
                    topic.split('/').any(|level| level == "{device}"),
                    "`{key}` holds {topic:?}, which every device could use: one level has to be {{device}}"
                );
            }
        }
        anyhow::ensure!(
            self.issuer_networks.len() <= MOST_NETWORKS,
            "`auth.issuer_networks` has {} networks: give at most {MOST_NETWORKS}",
            self.issuer_networks.len()
        );
        self.networks()?;
        anyhow::ensure!(
            self.required || !self.passwords,
            "`auth.passwords` is true and `auth.required` is false, so that nothing is checked: set both, or neither"
        );
        anyhow::ensure!(
            !self.passwords || config.shares().passwords > 0,
            "`auth.passwords` needs memory for one check at least: set `memory.max_bytes` to {} or more",
            Memory::for_passwords()
        );
        match self.place() {
            Place::Embedded => anyhow::ensure!(
                !self.required || !config.is_fleet(),
                "`auth.registry` is \"embedded\", a file of one data folder, and the processes of a fleet need one registry: \
                 use \"mongodb\", or the address of a PostgreSQL database"
            ),
            Place::Mongodb => anyhow::ensure!(
                !config.mongodb.uri.is_empty(),
                "`auth.registry` is \"mongodb\" and `mongodb.uri` is empty: set it, or use \"embedded\""
            ),
            // Its text may hold a password.
            Place::Postgresql(address) => anyhow::ensure!(
                ["postgresql://", "postgres://"].iter().any(|scheme| address.starts_with(scheme)),
                "`auth.registry` is none of \"embedded\", \"mongodb\" and an address that begins with postgresql://"
            ),
        }
        Ok(())
    }
}
