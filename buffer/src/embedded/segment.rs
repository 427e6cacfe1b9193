//! One segment file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;

/// Frames start at multiples of this: the unit that a disk writes whole.
pub(super) const SECTOR: u64 = 512;
/// One frame in so many has its place remembered.
const INDEX_STRIDE: u32 = 32;

/// A segment file and what is known of its contents.
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
    /// (first offset, place) of some frames, ascending.
    places: Vec<(u64, u64)>,
    skipped: u32,
    /// Where the next frame goes.
    end: u64,
}

impl Segment {
    pub(super) fn new(first_offset: u64, path: PathBuf, file: File, capacity: u64) -> Self {
        Self { first_offset, path, file, capacity, first_time: AtomicI64::new(i64::MAX), index: Mutex::default() }
    }

    /// `DIR/N.seg`.
    pub(super) fn path(dir: &Path, first_offset: u64) -> PathBuf {
        dir.join(format!("{first_offset:020}.seg"))
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Where the next frame goes.
    pub(super) fn end(&self) -> u64 {
        self.index.lock().end
    }

    /// Append time of its first frame; the largest time while it has none.
    pub(super) fn first_time(&self) -> i64 {
        self.first_time.load(Ordering::Relaxed)
    }

    /// Takes note of a frame that lies at `place`.
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

    /// A place at or before the frame that holds `offset`.
    pub(super) fn place_before(&self, offset: u64) -> u64 {
        let index = self.index.lock();
        let at = index.places.partition_point(|(first, _)| *first <= offset);
        at.checked_sub(1).map_or(0, |i| index.places[i].1)
    }
}
