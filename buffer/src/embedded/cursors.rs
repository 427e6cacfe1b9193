//! The cursor file: version, checksum and all cursors, replaced as a whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::recover::OpenError;
use crate::cursor::{self, Cursor};
use crate::log::CursorError;

const VERSION: u32 = 1;

pub(super) type Cursors = BTreeMap<String, Cursor>;

#[derive(Serialize, Deserialize)]
struct Contents {
    version: u32,
    cursors: Cursors,
}

/// The cursors and their file.
#[derive(Debug, Clone)]
pub(super) struct CursorFile {
    path: PathBuf,
    cursors: Arc<Mutex<Cursors>>,
}

impl CursorFile {
    pub(super) fn open(path: PathBuf) -> Result<Self, OpenError> {
        let cursors = match std::fs::read(&path) {
            Ok(bytes) => decode(&bytes).map_err(|why| OpenError::damaged(&path, 0, why))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Cursors::new(),
            Err(error) => return Err(OpenError::io("read", &path, &error)),
        };
        Ok(Self { path, cursors: Arc::new(Mutex::new(cursors)) })
    }

    pub(super) fn all(&self) -> Cursors {
        self.cursors.lock().clone()
    }

    /// Returns the offset below which every sink is done; `None` without sinks.
    pub(super) fn passed(&self) -> Option<u64> {
        self.cursors.lock().values().map(|cursor| cursor.done_to).min()
    }

    /// Blocks on disk IO.
    pub(super) fn move_to(&self, sink: &str, to: Cursor, end: u64, disk: &dyn Disk) -> Result<(), CursorError> {
        // Held across the write: moves are sequential and complete.
        let mut cursors = self.cursors.lock();
        cursor::check_move(sink, cursors.get(sink), &to, end)?;
        let mut next = cursors.clone();
        next.insert(sink.to_owned(), to);
        self.replace(&mut cursors, next, disk)
    }

    /// Like [`CursorFile::move_to`], also backwards within a log from `start` to `end`. Blocks on
    /// disk IO.
    pub(super) fn rewind(
        &self,
        sink: &str,
        to: Cursor,
        (start, end): (u64, u64),
        disk: &dyn Disk,
    ) -> Result<(), CursorError> {
        let mut cursors = self.cursors.lock();
        cursor::check_rewind(sink, cursors.get(sink), &to, start, end)?;
        let mut next = cursors.clone();
        next.insert(sink.to_owned(), to);
        self.replace(&mut cursors, next, disk)
    }

    /// Blocks on disk IO.
    pub(super) fn forget(&self, sink: &str, epoch: u64, disk: &dyn Disk) -> Result<(), CursorError> {
        let mut cursors = self.cursors.lock();
        cursor::check_forget(sink, cursors.get(sink), epoch)?;
        let mut next = cursors.clone();
        match next.remove(sink) {
            Some(_) => self.replace(&mut cursors, next, disk),
            None => Ok(()),
        }
    }

    /// Writes the file at `path`. Blocks on disk IO.
    pub(super) fn write(path: &Path, cursors: &Cursors, disk: &dyn Disk) -> Result<(), OpenError> {
        disk.replace(path, &encode(cursors)).map_err(|error| OpenError::io("write", path, &error))
    }

    fn replace(&self, held: &mut Cursors, next: Cursors, disk: &dyn Disk) -> Result<(), CursorError> {
        disk.replace(&self.path, &encode(&next))
            .map_err(|error| CursorError::Unavailable(format!("write {}: {error}", self.path.display())))?;
        *held = next;
        Ok(())
    }
}

/// A line with the checksum of the rest, then JSON.
fn encode(cursors: &Cursors) -> Vec<u8> {
    let contents = Contents { version: VERSION, cursors: cursors.clone() };
    let json = serde_json::to_string(&contents).expect("maps with text keys are JSON");
    format!("{:08x}\n{json}\n", crc32c::crc32c(json.as_bytes())).into_bytes()
}

fn decode(bytes: &[u8]) -> Result<Cursors, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the cursor file is not text")?;
    let (crc, json) = text.split_once('\n').ok_or("the cursor file has no checksum line")?;
    let json = json.trim_end();
    if u32::from_str_radix(crc, 16) != Ok(crc32c::crc32c(json.as_bytes())) {
        return Err("the checksum of the cursor file does not match".into());
    }
    let contents: Contents = serde_json::from_str(json).map_err(|error| format!("the cursor file: {error}"))?;
    match contents.version {
        VERSION => Ok(contents.cursors),
        other => Err(format!("the cursor file has version {other}, this release reads {VERSION}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The golden file is of the first release and is never regenerated.
    #[test]
    fn cursor_files_of_version_1_are_read_and_written_as_they_were() {
        let golden = include_bytes!("../../tests/golden/cursors-1.txt");
        let cursors = BTreeMap::from(cursor::golden().map(|(sink, cursor)| (sink.to_owned(), cursor)));
        assert_eq!(decode(golden), Ok(cursors.clone()));
        assert_eq!(encode(&cursors), golden);
    }
}
