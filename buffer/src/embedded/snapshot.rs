//! A copy of the log at one moment, while its writer goes on.
//!
//! Segments are only appended to, so a copy of the bytes below a durable position is a log. No
//! segment is deleted while the moment is taken, and later ones are read through files that are
//! open already. A restored copy is continued by other records than the original: [`renew`] gives
//! it an id of its own, so that stores do not mistake the new records for those of the original.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::EmbeddedLog;
use super::cursors::CursorFile;
use super::disk::RealDisk;
use super::identity;
use super::recover::{END_FILE, OpenError, encode_end};
use super::segment::Segment;
use crate::cursor::Cursor;

/// Bytes read at a time.
const CHUNK: u64 = 1 << 20;
/// Unit of the size of a copied segment.
const PAGE: u64 = 4096;
/// Files that do not change while the log is open.
const FIXED: [&str; 2] = ["log.json", "key"];

/// The log at one moment.
#[derive(Debug)]
pub struct Snapshot {
    dir: PathBuf,
    id: String,
    cursors: BTreeMap<String, Cursor>,
    end: u64,
    /// Segments with the bytes of each that are durable.
    segments: Vec<(Arc<Segment>, u64)>,
}

impl EmbeddedLog {
    /// Takes the log as it is now: first the cursors, then `between` runs, then the end. All
    /// records that were durable before the call are in the copy. A store as `between` finds it
    /// holds the records below the cursors, and none that the copy lacks.
    pub fn snapshot<T>(&self, between: impl FnOnce() -> T) -> (Snapshot, T) {
        // The cursors must not pass a segment that is deleted before it is listed.
        let _one_at_a_time = self.deleting.lock();
        let cursors = self.cursors.all();
        let taken = between();
        let end = *self.end.borrow();
        let segments = self.shared.lock().segments.iter().map(|s| (Arc::clone(s), s.end())).collect();
        let (dir, id) = (self.config.dir.clone(), self.id.clone());
        (Snapshot { dir, id, cursors, end, segments }, taken)
    }
}

impl Snapshot {
    /// Id of the log.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Offset of the first record.
    pub fn start(&self) -> u64 {
        self.segments.first().map_or(0, |(segment, _)| segment.first_offset)
    }

    /// Offset after the last record.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Cursors of all sinks.
    pub fn cursors(&self) -> &BTreeMap<String, Cursor> {
        &self.cursors
    }

    /// Writes the copy into the existing folder `dir`. Nothing is synced.
    ///
    /// # Errors
    /// [`OpenError`] with the file.
    pub fn write_to(&self, dir: &Path) -> Result<(), OpenError> {
        for name in FIXED {
            let from = self.dir.join(name);
            let bytes = std::fs::read(&from).map_err(|error| OpenError::io("read", &from, &error))?;
            write_file(&dir.join(name), &bytes)?;
        }
        for (segment, durable) in &self.segments {
            copy(segment, *durable, &Segment::path(dir, segment.first_offset))?;
        }
        CursorFile::write(&dir.join("cursors"), &self.cursors, &RealDisk)?;
        write_file(&dir.join(END_FILE), &encode_end(self.end))
    }
}

/// Gives the log in `dir`, which no process has open, an id that no log had before. Returns it.
///
/// # Errors
/// [`OpenError`] with the file.
pub fn renew(dir: &Path) -> Result<String, OpenError> {
    let identity = identity::read(dir)?.ok_or_else(|| identity::missing(dir))?.renewed();
    identity.write(dir, &RealDisk)?;
    Ok(identity.id)
}

/// Copies the first `durable` bytes, and zeros to a whole page, so that there is at least one.
fn copy(segment: &Segment, durable: u64, to: &Path) -> Result<(), OpenError> {
    let read = |error: &io::Error| OpenError::io("read", &segment.path, error);
    let write = |error: &io::Error| OpenError::io("write", to, error);
    let mut file = create(to).map_err(|error| write(&error))?;
    let mut buffer = vec![0; usize::try_from(CHUNK.min(durable)).unwrap_or(0)];
    let mut at = 0;
    while at < durable {
        let part = usize::try_from((durable - at).min(CHUNK)).unwrap_or(0);
        segment.file.read_exact_at(&mut buffer[..part], at).map_err(|error| read(&error))?;
        file.write_all(&buffer[..part]).map_err(|error| write(&error))?;
        at += part as u64;
    }
    file.set_len(durable.max(1).next_multiple_of(PAGE)).map_err(|error| write(&error))
}

fn create(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), OpenError> {
    let write = || create(path)?.write_all(bytes);
    write().map_err(|error| OpenError::io("write", path, &error))
}
