//! Reading, copying and syncing files of a backup.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use sha2::{Digest, Sha256};

use super::manifest::hex;

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// Creates a folder for its owner alone.
pub(super) fn create_folder(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new().mode(0o700).create(path).with_context(|| format!("cannot create {}", path.display()))
}

/// The size and the SHA-256 of a file.
pub(super) fn digest(path: &Path) -> io::Result<(u64, String)> {
    read(path, |_| Ok(()))
}

/// Copies a file to a new one and syncs it. Returns the size and the SHA-256 of what was read, or
/// the error of the source.
///
/// # Errors
/// Those of the copy, with its name.
pub(super) fn copy(from: &Path, to: &Path) -> anyhow::Result<io::Result<(u64, String)>> {
    let failed = || format!("cannot write {}", to.display());
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(to).with_context(failed)?;
    let mut refused = None;
    let found = read(from, |bytes| {
        file.write_all(bytes).map_err(|error| {
            let kind = error.kind();
            refused = Some(error);
            kind.into()
        })
    });
    if let Some(error) = refused {
        return Err(error).with_context(failed);
    }
    file.sync_all().with_context(failed)?;
    Ok(found)
}

fn read(path: &Path, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; CHUNK]);
    loop {
        let part = file.read(&mut buffer)?;
        if part == 0 {
            return Ok((bytes, hex(&hash.finalize())));
        }
        hash.update(&buffer[..part]);
        take(&buffer[..part])?;
        bytes += part as u64;
    }
}

/// The files below a folder, sorted, and its folders, each after those within it.
pub(super) fn walk(dir: &Path) -> anyhow::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    let listed = std::fs::read_dir(dir).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    for entry in listed.with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry.path();
        if path.is_dir() {
            let (more, within) = walk(&path)?;
            files.extend(more);
            folders.extend(within);
        } else {
            files.push(path);
        }
    }
    files.sort();
    folders.push(dir.to_owned());
    Ok((files, folders))
}

/// Syncs a file or a folder.
pub(super) fn sync(path: &Path) -> anyhow::Result<()> {
    File::open(path).and_then(|file| file.sync_all()).with_context(|| format!("cannot sync {}", path.display()))
}
