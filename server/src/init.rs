//! `weir init`: a configuration with authentication, and the key of its operator.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use identity::{Admin, By, CreatedApiKey, KeyRights, NewApiKey, Role};

use crate::access::Access;
use crate::cli::InitOptions;
use crate::client::output::remark;
use crate::config::{self, Sources};
use crate::data_dir::DataDir;

/// Name of the configuration file that `weir run` reads by itself.
const FILE: &str = "weir.toml";
/// Name of the key.
const OPERATOR: &str = "operator";
/// Validity of a key, in seconds: a year.
const VALIDITY: i64 = 365 * 24 * 3600;
/// Keys that are listed at a time.
const PAGE: usize = 1_000;

/// Writes the configuration unless there is one, and prints a new key of the role installation. The
/// environment may ask for authentication, too: then no file is written.
///
/// # Errors
/// When the configuration does not ask for authentication, or a process uses the data folder.
pub(crate) fn run(options: &InitOptions) -> anyhow::Result<ExitCode> {
    if let Some(file) = options.key_file.as_ref().filter(|file| file.exists()) {
        remark(&format!("{} is there already: nothing is done.", file.display()));
        return Ok(ExitCode::SUCCESS);
    }
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
    let is_new = is_new && !sources.asks_for(("auth", "required"), "true");
    if is_new {
        sources.flags.push(("auth.required", "true".to_owned()));
    }
    let config = config::load(&sources)?.config;
    anyhow::ensure!(
        config.auth.required,
        "{} does not ask for authentication: set `auth.required = true` in it, then repeat `weir init`",
        path.display()
    );
    // Before there is a key, because it is shown once.
    let file = options.key_file.as_deref().map(KeyFile::create).transpose()?;
    let data = DataDir::open(&config.data_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start")?;
    let admin = runtime.block_on(Access::create(&config, data.path()))?.admin();
    // A start of the service repeats this command; it may not make a key each time.
    let has_key = file.is_some() && runtime.block_on(has_key(&admin))?;
    if is_new {
        write(&path, &text(options)?)?;
        remark(&format!("{} is written, with authentication on. Start Weir with `weir run`.", path.display()));
    }
    if has_key {
        remark(&format!(
            "a key {OPERATOR} exists, and its file is not there: no other one is made; `weir keys add` makes another."
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let created = runtime.block_on(create_key(&admin))?;
    let secret = created.secret.context("a new key has a secret")?;
    let key = secret.expose();
    if let Some(file) = file {
        let written = file.write(key);
        if written.is_err() {
            // No client has the key.
            let by = By::local();
            let deleted = admin.delete_api_key(model::DEFAULT_TENANT, created.credential.id, &by);
            runtime.block_on(deleted).context("delete the key that could not be written")?;
        }
        return written.map(|()| ExitCode::SUCCESS);
    }
    remark(
        "The key of the operator is shown once. It may do everything, for a year; put it into the environment for the \
         commands:\n  export WEIR_API_KEY=KEY\n  weir devices add DEVICE\n  weir keys add NAME --role viewer",
    );
    let mut out = std::io::stdout().lock();
    writeln!(out, "{key}").and_then(|()| out.flush()).context("print the key")?;
    Ok(ExitCode::SUCCESS)
}

/// True when a key of the operator is valid.
async fn has_key(admin: &Admin) -> anyhow::Result<bool> {
    let now = crate::client::time::now();
    let mut after = None;
    loop {
        let page = match admin.list_api_keys(model::DEFAULT_TENANT, after, PAGE).await {
            Err(identity::Error::NotFound(_)) => return Ok(false),
            page => page?,
        };
        let Some(last) = page.last() else { return Ok(false) };
        after = Some(last.credential.id);
        let is_one = page.iter().map(|listed| &listed.credential).any(|key| {
            let is_operator = |rights: &KeyRights| rights.role == Role::Installation && rights.display_name == OPERATOR;
            key.rights().is_some_and(is_operator) && key.expires.is_none_or(|expires| expires > now)
        });
        if is_one {
            return Ok(true);
        }
    }
}

async fn create_key(admin: &Admin) -> anyhow::Result<CreatedApiKey> {
    match admin.create_tenant(model::DEFAULT_TENANT, "", &By::local()).await {
        Ok(_) | Err(identity::Error::Exists(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let key = NewApiKey {
        display_name: OPERATOR.to_owned(),
        role: Role::Installation,
        scopes: Vec::new(),
        allowed_networks: Vec::new(),
        groups: Vec::new(),
        expires: Some(crate::client::time::now() + VALIDITY * model::time::SECOND),
    };
    Ok(admin.create_api_key(model::DEFAULT_TENANT, key, &By::local()).await?)
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

/// A file for a key: it appears under its name once it is whole.
struct KeyFile<'a> {
    path: &'a Path,
    part: PathBuf,
    file: File,
}

impl<'a> KeyFile<'a> {
    fn create(path: &'a Path) -> anyhow::Result<Self> {
        let part = path.with_extension("part");
        let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
        let file = made.with_context(|| format!("cannot write {}: give another --key-file", part.display()))?;
        Ok(Self { path, part, file })
    }

    fn write(mut self, key: &str) -> anyhow::Result<()> {
        let written = writeln!(self.file, "{key}").and_then(|()| self.file.sync_all());
        let written = written.and_then(|()| std::fs::rename(&self.part, self.path));
        written.with_context(|| format!("cannot write {}", self.path.display()))?;
        remark(&format!(
            "{} has the key of the operator: WEIR_API_KEY_FILE names it to the commands.",
            self.path.display()
        ));
        Ok(())
    }
}

impl Drop for KeyFile<'_> {
    fn drop(&mut self) {
        // It is under its name, or of no use.
        std::fs::remove_file(&self.part).ok();
    }
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
