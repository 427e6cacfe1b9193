//! `weir init`: a configuration with authentication, and the key of its operator.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use identity::{By, NewApiKey, Role};

use crate::access::Access;
use crate::cli::InitOptions;
use crate::client::output::remark;
use crate::config::{self, Config, Sources};
use crate::data_dir::DataDir;

/// Name of the configuration file that `weir run` reads by itself.
const FILE: &str = "weir.toml";
/// Validity of a key, in seconds: a year.
const VALIDITY: i64 = 365 * 24 * 3600;

/// Writes the configuration unless there is one, and prints a new key of the role installation.
///
/// # Errors
/// When the configuration does not ask for authentication, or a process uses the data folder.
pub(crate) fn run(options: &InitOptions) -> anyhow::Result<ExitCode> {
    let path = options.config.clone().unwrap_or_else(|| FILE.into());
    let is_new = !path.exists();
    let mut sources = match is_new {
        true => Sources::of_process(None).without_file(),
        false => Sources::of_process(Some(path.clone())),
    };
    if let Some(dir) = &options.data_dir {
        let dir = dir.to_str().with_context(|| format!("--data-dir is not UTF-8: {}", dir.display()))?;
        sources.flags.push(("data_dir", dir.to_owned()));
    }
    if is_new {
        sources.flags.push(("auth.required", "true".to_owned()));
    }
    let config = config::load(&sources)?.config;
    anyhow::ensure!(
        config.auth.required,
        "{} does not ask for authentication: set `auth.required = true` in it, then repeat `weir init`",
        path.display()
    );
    let data = DataDir::open(&config.data_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start")?;
    let key = runtime.block_on(create_key(&config, data.path()))?;
    if is_new {
        write(&path, &text(options)?)?;
        remark(&format!("{} is written, with authentication on. Start Weir with `weir run`.", path.display()));
    }
    remark(
        "The key of the operator is shown once. It may do everything, for a year; put it into the environment for the \
         commands:\n  export WEIR_API_KEY=KEY\n  weir devices add DEVICE\n  weir keys add NAME --role viewer",
    );
    let mut out = std::io::stdout().lock();
    writeln!(out, "{key}").and_then(|()| out.flush()).context("print the key")?;
    Ok(ExitCode::SUCCESS)
}

async fn create_key(config: &Config, data: &Path) -> anyhow::Result<String> {
    let admin = Access::create(config, data).await?.admin();
    match admin.create_tenant(model::DEFAULT_TENANT, "", &By::local()).await {
        Ok(_) | Err(identity::Error::Exists(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let key = NewApiKey {
        display_name: "operator".to_owned(),
        role: Role::Installation,
        scopes: Vec::new(),
        allowed_networks: Vec::new(),
        expires: Some(crate::client::time::now() + VALIDITY * model::time::SECOND),
    };
    let created = admin.create_api_key(model::DEFAULT_TENANT, key, &By::local()).await?;
    let secret = created.secret.context("a new key has a secret")?;
    Ok(secret.expose().to_owned())
}

/// The configuration: keys that differ from the default, and where the others are.
fn text(options: &InitOptions) -> anyhow::Result<String> {
    let mut text = String::from("# Configuration of Weir. `weir config` prints every key with its meaning.\n");
    if let Some(dir) = &options.data_dir {
        let dir = std::path::absolute(dir).with_context(|| format!("cannot find {}", dir.display()))?;
        let dir = toml::Value::String(dir.display().to_string());
        text.push_str(&format!("data_dir = {dir}\n"));
    }
    text.push_str("\n[auth]\n# Devices connect with a secret, callers with a key.\nrequired = true\n");
    Ok(text)
}

/// Writes a new file.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let made = OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = made.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => anyhow::anyhow!("{} exists already", path.display()),
        _ => anyhow::anyhow!("cannot write {}: {error}", path.display()),
    })?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}
