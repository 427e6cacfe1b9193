//! What the log does to a disk, behind a seam: tests make it fail.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A disk.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Writes at a place.
    ///
    /// # Errors
    /// The system's.
    fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(bytes, at)
    }

    /// Returns when everything written to the file is on the medium.
    ///
    /// # Errors
    /// The system's. What was written is then lost or not: nobody knows.
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    /// Makes a file of zeros, on the medium when it returns. A partial file is removed on failure.
    ///
    /// # Errors
    /// The system's: above all that there is no space.
    fn create_zeroed(&self, path: &Path, bytes: u64) -> io::Result<File> {
        let made = zeroed(path, bytes);
        if made.is_err() {
            // The first error is the one to tell.
            std::fs::remove_file(path).ok();
        }
        made
    }

    /// Replaces a file by `bytes`, on the medium when it returns.
    ///
    /// # Errors
    /// The system's.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        self.rename(&temporary, path)
    }

    /// Renames, on the medium when it returns.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)?;
        self.sync_folder_of(to)
    }

    /// Removes a file unless it is gone, on the medium when it returns.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.sync_folder_of(path)
    }

    /// Returns when the names in the folder that holds `path` are on the medium.
    ///
    /// # Errors
    /// The system's.
    fn sync_folder_of(&self, path: &Path) -> io::Result<()> {
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// The disk as it is.
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
