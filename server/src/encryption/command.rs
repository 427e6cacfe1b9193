//! `weir encryption`.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};

use super::offer::{self, Answer, Order, PATH, PURPOSE, Report};
use crate::cli::{EncryptionCommand, EncryptionOptions, configuration};
use crate::client::output::remark;
use crate::client::time;
use crate::config::Config;
use crate::data_dir::{DataDir, User, user_of};
use crate::local;

/// Follows the command: by the process that uses the data folder, or directly when none does.
///
/// # Errors
/// Names the key or the file and what to do. Nothing has changed then.
pub(crate) fn run(command: &EncryptionCommand) -> anyhow::Result<ExitCode> {
    let (options, order) = match command {
        EncryptionCommand::Status(options) => (options, Order::Status),
        EncryptionCommand::Rotate(options) => (options, Order::Rotate),
        EncryptionCommand::Destroy { tenant, yes, options } => {
            ensure!(
                *yes,
                "this makes everything that is sealed for tenant {tenant} unreadable for ever, in the log, in the \
                 store and in later backups: run it with --yes"
            );
            (options, Order::Destroy { tenant: tenant.clone() })
        }
        EncryptionCommand::Decrypt { files, options } => return decrypt(files, options),
        EncryptionCommand::Allow { tenant, options } => (options, Order::Allow { tenant: tenant.clone() }),
    };
    let report = follow(options, &order)?;
    print(&order, &report)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the lines of files, also while a process uses the data folder.
fn decrypt(files: &[PathBuf], options: &EncryptionOptions) -> anyhow::Result<ExitCode> {
    let config = configuration(options.config.as_deref(), options.data_dir.as_deref())?;
    let keys = envelope::Keyring::read(&config.encryption, &config.data_dir)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for path in files {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
        for (number, line) in BufReader::new(file).lines().enumerate() {
            let line = line.with_context(|| format!("cannot read {shown}"))?;
            let failed = |error| anyhow::anyhow!("{shown}, line {}: {error}", number + 1);
            let lines = stores::file::decrypt(&keys, &line).map_err(failed)?;
            out.write_all(&lines.unwrap_or_default())?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn follow(options: &EncryptionOptions, order: &Order) -> anyhow::Result<Report> {
    let config = configuration(options.config.as_deref(), options.data_dir.as_deref())?;
    let data = std::path::absolute(&config.data_dir).context("cannot use the data folder")?;
    match user_of(&data) {
        Some(User::Running(addresses)) => {
            let body = local::order(&config, addresses.http, &data, (PURPOSE, PATH), order)?;
            match serde_json::from_slice(&body).context("the weir process did not answer to the end: check its log")? {
                Answer::Done(report) => Ok(report),
                Answer::Failed(reason) => bail!("{reason}"),
            }
        }
        Some(User::Starting(_)) => {
            bail!("a weir process uses {} and is not ready: `weir doctor` says what it waits for", data.display())
        }
        None => alone(&config, data, order),
    }
}

fn alone(config: &Config, data: PathBuf, order: &Order) -> anyhow::Result<Report> {
    ensure!(data.is_dir(), "there is no data folder {}: name it with --data-dir", data.display());
    let held = DataDir::open(&data)?;
    let keys = envelope::Keyring::open(&config.encryption, held.path())?;
    let keys = keys.context("encryption is off: set `encryption.key_file`")?;
    offer::follow(order, &keys, config)
}

fn print(order: &Order, report: &Report) -> anyhow::Result<()> {
    let state = &report.state;
    match order {
        Order::Status => {}
        Order::Rotate => {
            let before = report.before.as_deref().unwrap_or_default();
            remark(&format!("The keys of {} tenants are wrapped with {} now.", state.tenants.len(), state.kek));
            remark(&format!("Remove the earlier key, {before}, where no backup needs it."));
            return Ok(());
        }
        Order::Destroy { tenant } => {
            remark(&format!("{} keys of tenant {tenant} are destroyed.", report.destroyed));
            remark(
                "Earlier backups hold them under the key-encryption key of then: delete those backups, or put another",
            );
            remark("key-encryption key in place (`weir encryption rotate`) and destroy the one of then.");
            return Ok(());
        }
        Order::Allow { tenant } => {
            remark(&format!("Tenant {tenant} gets new keys. What was destroyed stays so."));
            return Ok(());
        }
    }
    let mut out = std::io::stdout().lock();
    let seals = if state.seals { "sealed" } else { "in plain (encryption.read_only)" };
    writeln!(out, "new data            {seals}")?;
    writeln!(out, "key-encryption key  {}", state.kek)?;
    writeln!(out, "unreadable          {} records and rows read since the start", state.unreadable)?;
    writeln!(out, "discarded           {} records and rows since the start", state.discarded)?;
    for held in &state.tenants {
        let keys = match held.destroyed {
            Some(at) => format!("destroyed {}", time::show(at)),
            None => format!("{} keys", held.keys),
        };
        writeln!(out, "tenant {}: {keys}", held.tenant)?;
    }
    Ok(())
}
