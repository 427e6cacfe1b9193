//! Writing a backup.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use buffer::embedded::Snapshot;

use super::files;
use super::manifest::{self, CopiedFile, CopiedLog, Manifest};
use super::servers;
use super::source::{Moment, Source};
use crate::access::{AUDIT_KEY, AUDIT_KEYS, PEPPERS, REGISTRY};
use crate::client::time;
use crate::data_dir::{lanes_in, log_in, spill_in, store_in};

/// Small files that are replaced as a whole, so that each can be read at any time.
/// The keyring is copied after the log and the store, so that it has the keys of both.
const SMALL: [&str; 7] = ["secret", envelope::FILE, PEPPERS, AUDIT_KEY, AUDIT_KEYS, "servers.json", "exports.json"];

/// As [`SMALL`], in the folder of a pool.
const OF_POOL: [&str; 2] = ["servers.json", "exports.json"];

/// Copies of the keyring that are made until one is whole.
const KEYRING_COPIES: usize = 10;

/// The name of the file with the place of the spill in the log on Redis.
const DRAIN: &str = "drain.json";

/// Copies a data folder to the new folder `to`, durable when it returns. On an error nothing is
/// left there.
///
/// # Errors
/// Names the file and what to do.
pub(super) fn take(source: &Source, to: &Path) -> anyhow::Result<Manifest> {
    let to = std::path::absolute(to).with_context(|| format!("cannot use {}", to.display()))?;
    let shown = to.display();
    let (Some(parent), Some(name)) = (to.parent(), to.file_name()) else { bail!("{shown} is not a new folder") };
    ensure!(to.symlink_metadata().is_err(), "{shown} exists: give each backup a folder of its own");
    ensure!(parent.is_dir(), "{} does not exist: create it, or name another folder", parent.display());
    ensure!(!to.starts_with(&source.data), "{shown} lies in the data folder: name a folder on another disk");
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".unfinished");
    let unfinished = parent.join(hidden);
    remove(&unfinished).with_context(|| format!("cannot remove {}", unfinished.display()))?;
    let done = write(source, &unfinished).and_then(|manifest| {
        std::fs::rename(&unfinished, &to).with_context(|| format!("cannot name the backup {shown}"))?;
        files::sync(parent)?;
        Ok(manifest)
    });
    done.map_err(|error| match remove(&unfinished) {
        Ok(()) => error.context(format!("no backup was written to {shown}")),
        Err(_) => error.context(format!("no backup was written to {shown}; remove {}", unfinished.display())),
    })
}

/// Removes a folder if it is there.
fn remove(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn write(source: &Source, to: &Path) -> anyhow::Result<Manifest> {
    files::create_folder(to)?;
    let taken = time::show(time::now());
    let (moment, mut logs) = copy_lane(source, to, Path::new(""))?;
    if moment.is_empty() && !source.data.join("secret").exists() {
        bail!("there is no data of a weir in {}: name its folder with --data-dir", source.data.display());
    }
    // Before the keyring, which has their keys, too.
    for (place, pool) in source.pools()? {
        let (_, of_pool) = copy_lane(&pool, &to.join(&place), &place)?;
        logs.extend(of_pool);
        for name in OF_POOL.map(|name| place.join(name)) {
            let from = source.data.join(&name);
            if from.exists() {
                files::copy(&from, &to.join(&name))?.with_context(|| format!("cannot read {}", from.display()))?;
            }
        }
    }
    if let Some(registry) = source.registry()? {
        registry.copy_to(&to.join(REGISTRY)).context("copy the registry")?;
    }
    let mut small: Vec<PathBuf> = SMALL.iter().map(PathBuf::from).collect();
    if moment.spill.is_some() {
        // After the spill: it describes what was spilled last, which is then in the copy, or later.
        small.push(Path::new("spill").join(DRAIN));
    }
    for name in small {
        let from = source.data.join(&name);
        if name == Path::new(envelope::FILE) {
            copy_keyring(&from, &to.join(&name))?;
        } else if from.exists() {
            files::copy(&from, &to.join(&name))?.with_context(|| format!("cannot read {}", from.display()))?;
        }
    }
    // Files of the store are closed first, and logs that were opened for this.
    drop(moment);
    verify(to)?;
    let (paths, folders) = files::walk(to)?;
    let mut found = Vec::with_capacity(paths.len());
    for path in paths {
        files::sync(&path)?;
        let (bytes, sha256) = files::digest(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let inside = path.strip_prefix(to).context("a file lies in its folder")?;
        let inside = inside.to_str().with_context(|| format!("the name of {} is not UTF-8", path.display()))?;
        found.push(CopiedFile { path: inside.to_owned(), bytes, sha256 });
    }
    let steps = servers::steps(&source.config, &logs)?;
    let manifest = Manifest::new(taken, logs, steps, found);
    let path = to.join(manifest::FILE);
    crate::data_dir::replace(&path, &manifest.encode()?)?;
    folders.iter().try_for_each(|folder| files::sync(folder))?;
    Ok(manifest)
}

/// Copies the keyring, if there is one. A destruction of keys overwrites the file that it replaces,
/// also while that one is copied.
fn copy_keyring(from: &Path, to: &Path) -> anyhow::Result<()> {
    for turn in 1.. {
        if !from.exists() {
            break;
        }
        files::copy(from, to)?.with_context(|| format!("cannot read {}", from.display()))?;
        match envelope::check(to) {
            Ok(()) => break,
            Err(fault) => ensure!(turn < KEYRING_COPIES, "cannot copy the keyring: {fault}"),
        }
        std::fs::remove_file(to).with_context(|| format!("cannot remove {}", to.display()))?;
    }
    Ok(())
}

/// Copies the log and the store of a data folder, or of a pool at `place` in it. Returns them, and
/// the logs for the manifest.
fn copy_lane(source: &Source, to: &Path, place: &Path) -> anyhow::Result<(Moment, Vec<CopiedLog>)> {
    let moment = source.moment()?;
    if place.components().next().is_some() {
        std::fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    }
    moment.write_to(to)?;
    let logs = [("log", &moment.log), ("spill", &moment.spill)];
    let logs = logs
        .into_iter()
        .filter_map(|(folder, log)| Some(copied(&place.join(folder).display().to_string(), log.as_ref()?)));
    let logs = logs.collect();
    Ok((moment, logs))
}

/// Reads the copy as a start does.
///
/// # Errors
/// Names the file that cannot be read.
pub(super) fn verify(dir: &Path) -> anyhow::Result<()> {
    for lane in lanes_in(dir) {
        for log in [log_in(&lane), spill_in(&lane)].into_iter().filter(|log| log.is_dir()) {
            buffer::embedded::verify(&log)?;
        }
        let (_, damaged) = stores::embedded::verify(&store_in(&lane));
        ensure!(damaged.is_empty(), "{}", damaged.join("; "));
    }
    let keyring = dir.join(envelope::FILE);
    if keyring.exists() {
        envelope::check(&keyring).map_err(anyhow::Error::msg)?;
    }
    Ok(())
}

fn copied(folder: &str, log: &Snapshot) -> CopiedLog {
    let passed = log.cursors().iter().map(|(sink, cursor)| (sink.clone(), cursor.done_to)).collect();
    CopiedLog { folder: folder.to_owned(), id: log.id().to_owned(), start: log.start(), end: log.end(), passed }
}
