//! Several processes with authentication and one registry.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::site::Site;
use crate::{Weir, checked, program};

/// Processes with all roles.
pub struct KeyedFleet {
    /// The processes.
    pub nodes: Vec<Weir>,
    /// The key of the operator.
    pub key: String,
    /// Their servers.
    pub site: Site,
}

impl KeyedFleet {
    /// Starts a process for each value of `auth.registry`. The site sets `auth.required`.
    ///
    /// # Errors
    /// When one does not start.
    pub fn with(mut site: Site, registries: &[String]) -> anyhow::Result<Self> {
        let first = site.folder("n0");
        let key = init(&site, &first, &registries[0])?;
        let peppers = first.join("data/peppers").display().to_string();
        site.environment.push(("WEIR_AUTH_PEPPERS".into(), peppers));
        let mut nodes = Vec::new();
        for (number, registry) in registries.iter().enumerate() {
            site.environment.retain(|(key, _)| key != "WEIR_AUTH_REGISTRY");
            site.environment.push(("WEIR_AUTH_REGISTRY".into(), registry.clone()));
            nodes.push(site.start(&format!("n{number}"), "all", "127.0.0.1:0")?);
        }
        Ok(Self { nodes, key, site })
    }

    /// Runs a command at a process; returns what it prints.
    ///
    /// # Errors
    /// When it fails.
    pub fn cli(&self, node: usize, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(program("weir")?);
        command.args(arguments).args(["--server", &self.nodes[node].url()]).env("WEIR_API_KEY", &self.key);
        checked(&format!("weir {arguments:?}"), command.output()?)
    }

    /// Adds a device; returns the id of its credential, and its secret.
    ///
    /// # Errors
    /// When the command fails.
    pub fn add(&self, node: usize, device: &str) -> anyhow::Result<(String, String)> {
        self.add_of(node, "-", device)
    }

    /// As [`KeyedFleet::add`], for a device of another tenant.
    ///
    /// # Errors
    /// When the command fails.
    pub fn add_of(&self, node: usize, tenant: &str, device: &str) -> anyhow::Result<(String, String)> {
        let text = self.cli(node, &["devices", "add", device, "--tenant", tenant, "--format", "json"])?;
        let answer: serde_json::Value = serde_json::from_str(&text)?;
        let field = |name: &str| answer[name].as_str().map(str::to_owned).with_context(|| text.clone());
        Ok((field("id")?, field("password")?))
    }
}

/// Makes the registry, its peppers and the key of the operator.
fn init(site: &Site, folder: &Path, registry: &str) -> anyhow::Result<String> {
    std::fs::create_dir_all(folder)?;
    let mut command = Command::new(program("weir")?);
    command.current_dir(folder).args(["init", "--data-dir", "data"]);
    command.envs(site.environment.iter().map(|(name, value)| (name, value))).env("WEIR_AUTH_REGISTRY", registry);
    Ok(checked("weir init", command.output()?)?.trim().to_owned())
}
