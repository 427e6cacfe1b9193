//! `weir restore`: a backup becomes a data folder.
//!
//! Everything is written to `DATA/restoring` first. A start refuses a folder in which that is, so
//! an interrupted restore is never taken for data.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use rustix::fs::{Mode, statvfs};

use super::manifest::Manifest;
use super::{command, files, take};
use crate::cli::{RestoreOptions, configuration};
use crate::client::output::remark;
use crate::data_dir::{RESTORING, lanes_in, log_in, user_of};

/// Names that an empty volume may have.
const OF_VOLUMES: [&str; 1] = ["lost+found"];

/// Verifies a backup, then writes it to a data folder without data.
///
/// # Errors
/// Names the file and what to do.
pub(crate) fn run(options: &RestoreOptions) -> anyhow::Result<ExitCode> {
    let from = &options.from;
    let manifest = Manifest::read(from)?;
    if options.check {
        manifest.verify(from)?;
        let (files, taken) = (manifest.files.len(), &manifest.taken);
        remark(&format!("All {files} files of the backup of {taken} in {} are undamaged.", from.display()));
        return Ok(ExitCode::SUCCESS);
    }
    let to = match &options.to {
        Some(to) => to.clone(),
        None => configuration(options.config.as_deref(), None)?.data_dir,
    };
    let to = std::path::absolute(&to).with_context(|| format!("cannot use {}", to.display()))?;
    check_empty(&to)?;
    manifest.verify(from)?;
    // As the data folder: for this user alone.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let is_new = !to.exists();
    std::fs::create_dir_all(&to).with_context(|| format!("cannot create {}", to.display()))?;
    let restoring = to.join(RESTORING);
    let done = check_space(&manifest, &to).and_then(|()| fill(&manifest, from, &restoring));
    if let Err(error) = done {
        // The first error is reported.
        std::fs::remove_dir_all(&restoring).ok();
        if is_new {
            std::fs::remove_dir(&to).ok();
        }
        return Err(error.context(format!("nothing was restored to {}", to.display())));
    }
    put_in_place(&restoring, &to).with_context(|| {
        format!("the restore to {} was interrupted: remove all that is in it, then repeat it", to.display())
    })?;
    command::print_restored(&manifest, &to);
    Ok(ExitCode::SUCCESS)
}

/// Refuses a folder with anything in it.
fn check_empty(to: &Path) -> anyhow::Result<()> {
    let shown = to.display();
    ensure!(user_of(to).is_none(), "a weir process uses {shown}: stop it, or name another folder with --to");
    let entries = match std::fs::read_dir(to) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {shown}")),
    };
    for entry in entries {
        let name = entry.with_context(|| format!("cannot list {shown}"))?.file_name();
        if name == RESTORING {
            bail!("{shown} holds an interrupted restore: remove all that is in it, then repeat it");
        }
        ensure!(
            OF_VOLUMES.iter().any(|of_volume| name == *of_volume),
            "{shown} is not empty, it holds {}: move its contents away, or name another folder with --to",
            name.display()
        );
    }
    Ok(())
}

fn check_space(manifest: &Manifest, to: &Path) -> anyhow::Result<()> {
    let Ok(space) = statvfs(to) else { return Ok(()) };
    let (free, needed) = (space.f_bavail.saturating_mul(space.f_frsize), manifest.bytes());
    ensure!(free >= needed, "{} has {free} bytes free, the backup needs {needed}: free space", to.display());
    Ok(())
}

/// Copies the backup to a new folder, reads it as a start does, and gives the log a new id: it is
/// continued by other records than the original, and stores tell the two apart by the id.
fn fill(manifest: &Manifest, from: &Path, to: &Path) -> anyhow::Result<()> {
    files::create_folder(to)?;
    for file in &manifest.files {
        let copy = to.join(&file.path);
        std::fs::create_dir_all(copy.parent().unwrap_or(to))
            .with_context(|| format!("cannot create the folder of {}", copy.display()))?;
        let found = files::copy(&from.join(&file.path), &copy)?;
        file.verify(&found, from)?;
    }
    take::verify(to)?;
    for log in lanes_in(to).iter().map(|lane| log_in(lane)).filter(|log| log.is_dir()) {
        buffer::embedded::renew(&log)?;
    }
    let (_, folders) = files::walk(to)?;
    folders.iter().try_for_each(|folder| files::sync(folder))
}

/// Moves everything in `restoring` into `to`, and removes `restoring` last.
fn put_in_place(restoring: &Path, to: &Path) -> anyhow::Result<()> {
    let entries: Vec<PathBuf> =
        std::fs::read_dir(restoring)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    for entry in entries {
        let name = entry.file_name().context("an entry has a name")?;
        std::fs::rename(&entry, to.join(name)).with_context(|| format!("cannot move {}", entry.display()))?;
    }
    files::sync(to)?;
    std::fs::remove_dir(restoring)?;
    files::sync(to)?;
    files::sync(to.parent().unwrap_or(Path::new("/")))
}
