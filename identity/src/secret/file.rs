//! Files with keys that are for their owner only.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The reason why a file with keys cannot be read or written. Its text names no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read or written.
    #[error("cannot access {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// Other users of the machine can read the file.
    #[error("{} can be read by other users: run `chmod 600` on it", .0.display())]
    Exposed(PathBuf),
}

impl KeyFileError {
    /// Returns an error of access to a file.
    pub(crate) fn io(path: &Path) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Reads a file that only its owner, or the group of this process, may read; `None` when there is
/// none.
///
/// # Errors
/// [`KeyFileError`].
pub fn read_private(path: &Path) -> Result<Option<Vec<u8>>, KeyFileError> {
    let failed = KeyFileError::io(path);
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    // A file of another owner is for the group of this process: a secret that is mounted.
    let closed = if metadata.uid() == rustix::process::geteuid().as_raw() { 0o077 } else { 0o037 };
    if metadata.permissions().mode() & closed != 0 {
        return Err(KeyFileError::Exposed(path.to_owned()));
    }
    std::fs::read(path).map(Some).map_err(failed)
}

/// Replaces a file at once: it is on disk when this returns.
pub(crate) fn replace(path: &Path, mode: u32, text: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::File::options().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    sync_folder_of(path)
}

/// Makes the name of a file durable.
pub(crate) fn sync_folder_of(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}
