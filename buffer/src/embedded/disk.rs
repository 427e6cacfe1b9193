//! Disk operations of the log, behind a trait so that tests can inject failures.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Operations on a disk.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Writes at an offset.
    ///
    /// # Errors
    /// The error of the system.
    fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(bytes, at)
    }

    /// Syncs the file: all writes are durable when it returns.
    ///
    /// # Errors
    /// The error of the system. It is then unknown which writes are durable.
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    /// Creates a file of zeros, durable when it returns. A partial file is removed on failure.
    ///
    /// # Errors
    /// The error of the system, usually no space.
    fn create_zeroed(&self, path: &Path, bytes: u64) -> io::Result<File> {
        let made = zeroed(path, bytes);
        if made.is_err() {
            // The first error is reported.
            std::fs::remove_file(path).ok();
        }
        made
    }

    /// Replaces a file with `bytes`, durable when it returns.
    ///
    /// # Errors
    /// The error of the system.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        self.rename(&temporary, path)
    }

    /// Renames a file, durable when it returns.
    ///
    /// # Errors
    /// The error of the system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)?;
        self.sync_folder_of(to)
    }

    /// Removes a file if it exists, durable when it returns.
    ///
    /// # Errors
    /// The error of the system.
    fn remove(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.sync_folder_of(path)
    }

    /// Syncs the folder of `path`: its names are durable when it returns.
    ///
    /// # Errors
    /// The error of the system.
    fn sync_folder_of(&self, path: &Path) -> io::Result<()> {
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// The real disk.
#[derive(Debug, Clone, Copy)]
pub struct RealDisk;

impl Disk for RealDisk {}

fn zeroed(path: &Path, bytes: u64) -> io::Result<File> {
    const CHUNK: usize = 1 << 20;
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    let zeros = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK);
        file.write_all(&zeros[..n])?;
        left -= n as u64;
    }
    file.sync_all()?;
    Ok(file)
}
