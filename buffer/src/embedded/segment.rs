//! One segment file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;

/// Alignment of frames: the unit that a disk writes atomically.
pub(super) const SECTOR: u64 = 512;
/// Number of frames per entry of the offset index.
const INDEX_STRIDE: u32 = 32;

/// A segment file with an index of its frames.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) first_offset: u64,
    pub(super) path: PathBuf,
    pub(super) file: File,
    capacity: u64,
    first_time: AtomicI64,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    /// (first offset, position) of some frames, ascending.
    places: Vec<(u64, u64)>,
    skipped: u32,
    /// Position of the next frame.
    end: u64,
}

impl Segment {
    pub(super) fn new(first_offset: u64, path: PathBuf, file: File, capacity: u64) -> Self {
        Self { first_offset, path, file, capacity, first_time: AtomicI64::new(i64::MAX), index: Mutex::default() }
    }

    /// Path `DIR/N.seg`.
    pub(super) fn path(dir: &Path, first_offset: u64) -> PathBuf {
        dir.join(format!("{first_offset:020}.seg"))
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Position of the next frame.
    pub(super) fn end(&self) -> u64 {
        self.index.lock().end
    }

    /// Append time of its first frame; the maximum without frames.
    pub(super) fn first_time(&self) -> i64 {
        self.first_time.load(Ordering::Relaxed)
    }

    /// Adds a frame at `place` to the index.
    pub(super) fn note(&self, first_offset: u64, appended: i64, place: u64, bytes: u64) {
        let mut index = self.index.lock();
        if index.places.is_empty() {
            self.first_time.store(appended, Ordering::Relaxed);
        }
        if index.places.is_empty() || index.skipped >= INDEX_STRIDE {
            index.places.push((first_offset, place));
            index.skipped = 0;
        }
        index.skipped += 1;
        index.end = (place + bytes).next_multiple_of(SECTOR);
    }

    /// Returns a position at or before the frame with `offset`.
    pub(super) fn place_before(&self, offset: u64) -> u64 {
        let index = self.index.lock();
        let at = index.places.partition_point(|(first, _)| *first <= offset);
        at.checked_sub(1).map_or(0, |i| index.places[i].1)
    }
}
