//! The folder that holds everything: its lock and its paths.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use rustix::fs::{FlockOperation, Mode};
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

/// Folder of an unfinished restore in a data folder.
pub(crate) const RESTORING: &str = "restoring";

/// Folder of the pools in a data folder.
const POOLS: &str = "pools";

/// A data folder, locked for this process, or the folder of a pool in it.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// The data folder of a pool's folder.
    root: PathBuf,
    lock: Arc<File>,
}

/// Addresses of a running Weir: the content of `addresses.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Addresses {
    /// Devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mqtt: Option<SocketAddr>,
    /// Devices, over TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mqtts: Option<SocketAddr>,
    /// Further listeners for devices, by name: an address, or `unix:` and a path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) listeners: BTreeMap<String, String>,
    /// Third parties.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) grpc: Option<SocketAddr>,
    /// Health, metrics and the status page.
    pub(crate) http: SocketAddr,
    /// gRPC and HTTP are encrypted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) tls: bool,
    /// The other processes of the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fleet: Option<SocketAddr>,
}

/// A process that uses a data folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum User {
    /// It runs with all its listeners.
    Running(Addresses),
    /// It starts, and answers at least over HTTP, if the address is known.
    Starting(Option<SocketAddr>),
}

/// The process that uses the data folder at `path`; `None` when there is none.
pub(crate) fn user_of(path: &Path) -> Option<User> {
    let lock = File::open(path.join("weir.lock")).ok()?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_ok() {
        return None;
    }
    let addresses = std::fs::read_to_string(path.join("addresses.json")).ok();
    if let Some(addresses) = addresses.and_then(|text| serde_json::from_str(&text).ok()) {
        return Some(User::Running(addresses));
    }
    let noted = std::io::read_to_string(lock).unwrap_or_default();
    Some(User::Starting(noted.lines().nth(1).and_then(|line| line.parse().ok())))
}

/// Errors of [`DataDir::open`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Another process has locked it.
    #[error("{} is in use by another weir (process {process}): stop that one, or give another --data-dir", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Process id, as far as it is known.
        process: String,
    },
    /// It holds part of a backup only.
    #[error("{} holds an interrupted restore: remove all that is in it, then repeat `weir restore`", .0.display())]
    Restoring(PathBuf),
    /// The file system refuses.
    #[error("cannot use {} for data: {source}; give another --data-dir or its owner the right to write", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// Its error.
        source: std::io::Error,
    },
}

impl DataDir {
    /// Creates the folder if it is missing and locks it for this process.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io { path: path.to_owned(), source };
        // Everything in the folder is for this user alone: readings, and the secrets of tokens.
        rustix::process::umask(Mode::RWXG | Mode::RWXO);
        std::fs::create_dir_all(path).map_err(failed)?;
        let path = std::path::absolute(path).map_err(failed)?;
        if path.join(RESTORING).exists() {
            return Err(OpenError::Restoring(path));
        }
        if let Err(error) = std::fs::set_permissions(&path, Permissions::from_mode(0o700)) {
            // A volume may belong to another user, and be for a group.
            tracing::debug!(%error, path = %path.display(), "cannot close the data folder to other users");
        }
        let mut lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path.join("weir.lock"))
            .map_err(failed)?;
        // Another holder may be one that only looks whether the folder is used: see `user_of`.
        if !buffer::embedded::lock_within(&lock).map_err(failed)? {
            let mut process = String::new();
            // The message is useful without the process id, too.
            let process = match lock.read_to_string(&mut process) {
                Ok(_) => process.lines().next().unwrap_or_default().trim().to_owned(),
                Err(_) => String::new(),
            };
            let process = if process.is_empty() { "unknown".to_owned() } else { process };
            return Err(OpenError::InUse { path, process });
        }
        // A full disk does not keep Weir from starting: /health/ready reports it.
        let noted = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        if let Err(error) = noted {
            tracing::warn!(%error, "cannot write the process id to the lock file");
        }
        // Left by a process that was killed.
        match std::fs::remove_file(path.join("addresses.json")) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        Ok(Self { root: path.clone(), path, lock: Arc::new(lock) })
    }

    /// Creates the folder of a pool if it is missing.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub(crate) fn pool(&self, name: &str) -> Result<Self, OpenError> {
        let path = pools_in(&self.root).join(name);
        let failed = |source| OpenError::Io { path: path.clone(), source };
        std::fs::create_dir_all(&path).map_err(failed)?;
        // The names of both folders have to survive a crash, as do the files in them.
        for parent in [&self.root, &pools_in(&self.root)] {
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
        }
        Ok(Self { path, root: self.root.clone(), lock: Arc::clone(&self.lock) })
    }

    /// Absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The log's folder.
    pub(crate) fn log(&self) -> PathBuf {
        log_in(&self.path)
    }

    /// Folder of the log's files while Redis is unavailable.
    pub(crate) fn spill(&self) -> PathBuf {
        spill_in(&self.path)
    }

    /// File with the settings of the exports that an operator changed.
    pub(crate) fn exports(&self) -> PathBuf {
        self.path.join("exports.json")
    }

    /// File with fingerprints of the settings that servers accepted.
    pub(crate) fn servers(&self) -> PathBuf {
        self.path.join("servers.json")
    }

    /// File with the parts of servers that hold what was written, as last seen.
    pub(crate) fn parts(&self) -> PathBuf {
        self.path.join("parts.json")
    }

    /// The store's folder.
    pub(crate) fn store(&self) -> PathBuf {
        store_in(&self.path)
    }

    /// Adds the address of HTTP to the lock file, where `weir doctor` finds it during a start.
    pub(crate) fn note_http(&self, http: SocketAddr) {
        if let Err(error) = writeln!(&*self.lock, "{http}") {
            tracing::warn!(%error, "cannot write the address of HTTP to the lock file");
        }
    }

    /// Writes `addresses.json` atomically. Every listener in it is open.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn publish(&self, addresses: &Addresses) -> anyhow::Result<()> {
        let text = serde_json::to_string(addresses).context("addresses are JSON")?;
        replace(&self.path.join("addresses.json"), text.as_bytes())
    }

    /// Removes `addresses.json`, once nothing listens there.
    pub(crate) fn withdraw(&self) {
        if let Err(error) = std::fs::remove_file(self.path.join("addresses.json")) {
            tracing::debug!(%error, "cannot remove addresses.json");
        }
    }

    /// The installation's secret, created at the first start.
    ///
    /// # Errors
    /// When it can be neither read nor created.
    pub(crate) fn secret(&self) -> anyhow::Result<[u8; 32]> {
        let path = self.root.join("secret");
        match std::fs::read(&path) {
            Ok(bytes) => bytes.try_into().map_err(|_| {
                anyhow::anyhow!(
                    "{} is not 32 bytes long: restore it, or remove it (resume tokens then end)",
                    path.display()
                )
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let mut secret = [0; 32];
                getrandom(&mut secret[..], GetRandomFlags::empty()).context("ask the system for random bytes")?;
                replace(&path, &secret)?;
                Ok(secret)
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

/// Folder of the pools in a data folder.
pub(crate) fn pools_in(data_dir: &Path) -> PathBuf {
    data_dir.join(POOLS)
}

/// The pools that have a folder in a data folder: each with its name and that folder.
pub(crate) fn pool_folders(data_dir: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(pools_in(data_dir)).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())));
    let mut found: Vec<_> = named.filter(|(_, path)| path.is_dir()).collect();
    found.sort();
    found
}

/// A data folder and the folders of its pools: each has a log and a store.
pub(crate) fn lanes_in(data_dir: &Path) -> Vec<PathBuf> {
    [data_dir.to_owned()].into_iter().chain(pool_folders(data_dir).into_iter().map(|(_, path)| path)).collect()
}

/// Folder of the log's files while Redis is unavailable, in a data folder.
pub(crate) fn spill_in(data_dir: &Path) -> PathBuf {
    data_dir.join("spill")
}

/// The store's folder in a data folder.
pub(crate) fn store_in(data_dir: &Path) -> PathBuf {
    data_dir.join("store")
}

/// The log's folder inside a data folder.
pub(crate) fn log_in(data_dir: &Path) -> PathBuf {
    data_dir.join("log")
}

/// Replaces a file atomically and durably.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let temporary = path.with_extension("new");
        let mut file = private(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Creates a file that only its owner can read.
fn private(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().create(true).truncate(true).write(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_use_is_refused_with_the_id_of_its_process() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::open(dir.path()).unwrap();
        let error = DataDir::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())) && error.contains("--data-dir"), "{error}");
        drop(held);
        assert!(DataDir::open(dir.path()).is_ok());
    }

    #[test]
    fn a_process_that_only_looks_at_a_folder_keeps_none_out() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path()).unwrap());
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                        user_of(dir.path());
                    }
                });
            }
            let opened = (0..200).try_for_each(|_| DataDir::open(dir.path()).map(drop));
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            opened.unwrap();
        });
    }

    #[test]
    fn the_secret_stays_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let secret = data.secret().unwrap();
        assert_eq!(data.secret().unwrap(), secret);
        assert_ne!(secret, [0; 32]);
    }
}
