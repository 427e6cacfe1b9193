//! `weir backup`, and the reports of both commands.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};

use super::manifest::{Manifest, Step};
use super::source::{Open, Source};
use super::{offer, take};
use crate::cli::{BackupOptions, configuration};
use crate::client::output::remark;
use crate::data_dir::{DataDir, User, user_of};
use crate::encryption;

/// Copies the data folder to a new folder: by the process that uses it, or directly when none does.
///
/// # Errors
/// Names the file and what to do. There is no backup then.
pub(crate) fn run(options: &BackupOptions) -> anyhow::Result<ExitCode> {
    let config = configuration(options.config.as_deref(), options.data_dir.as_deref())?;
    let absolute = |path: &Path| std::path::absolute(path).with_context(|| format!("cannot use {}", path.display()));
    let (data, to) = (absolute(&config.data_dir)?, absolute(&options.to)?);
    let shown = data.display();
    ensure!(data.is_dir(), "there is no data folder {shown}: name it with --data-dir");
    let manifest = match user_of(&data) {
        Some(User::Running(addresses)) => offer::request(&config, addresses.http, &data, &to)?,
        Some(User::Starting(_)) => {
            bail!(
                "a weir process uses {shown} and is not ready: `weir doctor --data-dir {shown}` says what it waits for"
            )
        }
        None => {
            ensure!(
                ["log", "spill", "store", "secret"].iter().any(|part| data.join(part).exists()),
                "there is no data of a weir in {shown}: name its folder with --data-dir"
            );
            let held = DataDir::open(&data)?;
            let mut config = config;
            encryption::open(&mut config, held.path())?;
            let data = held.path().to_owned();
            let source = Source { config: Arc::new(config), data, open: Open::default(), pools: Vec::new() };
            take::take(&source, &to)?
        }
    };
    print_taken(&manifest, &to);
    Ok(ExitCode::SUCCESS)
}

fn print_taken(manifest: &Manifest, to: &Path) {
    let (files, bytes, taken) = (manifest.files.len(), manifest.bytes(), &manifest.taken);
    let holds = match manifest.logs.iter().any(|log| log.folder == "log") {
        true => format!("every reading acknowledged before {taken}"),
        false => format!("the files of this process as of {taken}; the readings are on the servers"),
    };
    remark(&format!("{} holds {holds}: {files} files, {bytes} bytes.", to.display()));
    let title = |step: &Step| format!("{}: {}", step.server, step.why);
    print_steps("Copy the servers, in this order:", &manifest.servers, title, |step| &step.backup);
}

pub(super) fn print_restored(manifest: &Manifest, to: &Path) {
    let Manifest { weir, taken, .. } = manifest;
    let shown = to.display();
    remark(&format!("The backup of {taken}, taken by weir {weir}, is in {shown}. Later readings are not in it."));
    let title = |step: &Step| step.server.clone();
    print_steps("Restore the servers before a start, in this order:", &manifest.servers, title, |step| &step.restore);
    remark("Next:");
    remark(&format!("  weir doctor --data-dir {shown}"));
    remark(&format!("  weir run --data-dir {shown}"));
    remark("  weir books --check");
}

fn print_steps(heading: &str, steps: &[Step], title: impl Fn(&Step) -> String, command: impl Fn(&Step) -> &String) {
    if steps.is_empty() {
        return;
    }
    remark(heading);
    for (n, step) in steps.iter().enumerate() {
        remark(&format!("{}. {}", n + 1, title(step)));
        command(step).lines().for_each(|line| remark(&format!("     {line}")));
    }
}
