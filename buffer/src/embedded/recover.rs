//! Opens the log: verifies its frames and finds its end.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use envelope::UnsealError;

use super::config::Config;
use super::cursors::CursorFile;
use super::disk::Disk;
use super::identity::{self, Identity};
use super::key;
use super::lock::Lock;
use super::segment::{SECTOR, Segment};
use crate::frame::sealed::{Reading, check_keys};
use crate::frame::{self, Frame, FrameError, Header, VERSION_AT};

/// Name of the file that has the durable end.
pub(super) const END_FILE: &str = "end";

/// The reason why a log does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another process has the log open.
    #[error("another process has the log in {0} open: stop it, or use another data folder")]
    Locked(PathBuf),
    /// Bytes differ from what was written. Acknowledged records may be affected.
    #[error("the log is damaged: {file}, byte {offset}: {what}; `weir repair` keeps what is whole", file = file.display())]
    Damaged {
        /// Path of the file.
        file: PathBuf,
        /// Offset in the file.
        offset: u64,
        /// Description of the damage.
        what: String,
    },
    /// A later release wrote it, or the version byte is damaged. `weir repair` does not handle
    /// this.
    #[error(
        "{file}, byte {offset}: format version {version}, this release reads up to {read}: start the release that wrote it",
        file = file.display(),
        read = frame::SEALED_VERSION
    )]
    Version {
        /// Path of the file.
        file: PathBuf,
        /// Offset in the file.
        offset: u64,
        /// Version found.
        version: u32,
    },
    /// The keyring does not have the key of acknowledged records. Nothing is damaged.
    #[error("cannot read the log: {file}, byte {offset}: {what}", file = file.display())]
    Keys {
        /// Path of the file.
        file: PathBuf,
        /// Offset in the file.
        offset: u64,
        /// The key, and what to do.
        what: String,
    },
    /// The configured capacity is too small.
    #[error("capacity_bytes of the log is {capacity}: use at least {least}, or smaller segments")]
    Capacity {
        /// Configured capacity.
        capacity: u64,
        /// Size of two segments.
        least: u64,
    },
    /// A system call failed.
    #[error("cannot {what} {path}: {error}", path = path.display())]
    Io {
        /// Operation.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        error: String,
    },
    /// A thread or file could not be created.
    #[error("cannot start the log's writer: {0}")]
    Start(String),
}

impl OpenError {
    pub(super) fn io(what: &'static str, path: &Path, error: &io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), error: error.to_string() }
    }

    pub(super) fn damaged(file: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_owned(), offset, what: what.into() }
    }

    #[expect(clippy::needless_pass_by_value, reason = "given to map_err")]
    pub(super) fn start(error: io::Error) -> Self {
        Self::Start(error.to_string())
    }
}

/// Result of the recovery.
pub(super) struct Recovered {
    pub(super) identity: Identity,
    pub(super) key: [u64; 2],
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) cursors: CursorFile,
    pub(super) end: u64,
    /// The last frames, oldest first, up to about the size of the ring.
    pub(super) recent: Vec<Frame>,
    pub(super) lock: Lock,
}

/// Opens all segments and verifies every frame.
pub(super) fn recover(config: &Config, disk: &dyn Disk) -> Result<Recovered, OpenError> {
    let dir = &config.dir;
    std::fs::create_dir_all(dir).map_err(|error| OpenError::io("make", dir, &error))?;
    let lock = Lock::take(dir)?;
    let paths = segment_paths(dir)?;
    let identity = identity::read_or_make(dir, disk, paths.is_empty())?;
    let key = key::read_or_make(dir, disk)?;
    let cursors = CursorFile::open(dir.join("cursors"))?;
    let mut walk = Walk {
        incarnation: identity.incarnation,
        ring_bytes: config.ring_bytes,
        reading: Reading::With(config.keys.clone()),
        ..Walk::default()
    };
    let mut segments = walk.segments(&paths)?;
    walk.check_end(dir, &cursors, segments.last().map(|segment| &*segment.path))?;
    if segments.is_empty() {
        segments.push(Arc::new(first_segment(config, disk)?));
    }
    let end = walk.expected;
    if let Some(segment) = segments.last() {
        settle(segment, disk)?;
    }
    Ok(Recovered { identity, key, segments, cursors, end, recent: walk.recent_frames()?, lock })
}

/// Verifies every frame of the log in `dir` as `recover` does, and changes nothing. Returns the
/// end of the log. For a log that no process has open.
///
/// # Errors
/// The error with which the log would not open.
pub fn verify(dir: &Path) -> Result<u64, OpenError> {
    let paths = segment_paths(dir)?;
    let Some(identity) = identity::read(dir)? else {
        return if paths.is_empty() { Ok(0) } else { Err(identity::missing(dir)) };
    };
    let cursors = CursorFile::open(dir.join("cursors"))?;
    let mut walk = Walk { incarnation: identity.incarnation, ..Walk::default() };
    let segments = walk.segments(&paths)?;
    walk.check_end(dir, &cursors, segments.last().map(|segment| &*segment.path))?;
    let end = walk.expected;
    walk.recent_frames()?;
    Ok(end)
}

/// Position in the log during the recovery.
#[derive(Default)]
struct Walk {
    incarnation: u64,
    reading: Reading,
    ring_bytes: usize,
    expected: u64,
    /// End of the frames in the last segment.
    stopped: Option<(PathBuf, u64)>,
    /// The last frames with their files and offsets.
    recent: VecDeque<(PathBuf, u64, Bytes)>,
    recent_bytes: usize,
}

impl Walk {
    /// Reads all segments in order.
    fn segments(&mut self, paths: &[(u64, PathBuf)]) -> Result<Vec<Arc<Segment>>, OpenError> {
        let mut segments = Vec::new();
        for (i, (first_offset, path)) in paths.iter().enumerate() {
            if i > 0 && *first_offset != self.expected {
                let (file, place) = self.stopped.clone().unwrap_or((path.clone(), 0));
                let what = format!("records {}..{first_offset} are missing", self.expected);
                return Err(OpenError::damaged(&file, place, what));
            }
            self.expected = *first_offset;
            segments.push(self.segment(path, *first_offset, i + 1 == paths.len())?);
        }
        Ok(segments)
    }

    /// Returns an error when records that are known to be durable are behind the end.
    fn check_end(&self, dir: &Path, cursors: &CursorFile, last: Option<&Path>) -> Result<(), OpenError> {
        let passed = cursors.all().values().map(|c| c.done_to.max(c.sealed_to)).max().unwrap_or(0);
        let known = known_end(dir).max(passed);
        if self.expected >= known {
            return Ok(());
        }
        let (file, place) = self.stopped.clone().unwrap_or_else(|| (last.unwrap_or(dir).to_owned(), 0));
        let what = format!("the log ends at record {} and {known} were acknowledged", self.expected);
        Err(OpenError::damaged(&file, place, what))
    }

    fn segment(&mut self, path: &Path, first_offset: u64, last: bool) -> Result<Arc<Segment>, OpenError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| OpenError::io("open", path, &error))?;
        let bytes = Bytes::from(std::fs::read(path).map_err(|error| OpenError::io("read", path, &error))?);
        let segment = Segment::new(first_offset, path.to_owned(), file, bytes.len() as u64);
        let mut place = 0;
        while place < bytes.len() as u64 {
            let at = usize::try_from(place).expect("it was read into memory");
            match Header::check(&bytes[at..]) {
                Ok(header) => {
                    self.accept(path, place, &header, bytes.slice(at..at + header.frame_bytes()))?;
                    segment.note(header.first_offset, header.appended, place, header.frame_bytes() as u64);
                    place = segment.end();
                }
                Err(FrameError::Version(version)) => return Err(other_version(path, place, &bytes[at..], version)),
                Err(error) => {
                    if let Some(later) = frame_after(&bytes, at, self.expected, self.incarnation) {
                        let what = format!("{error}, yet a whole frame lies behind it at byte {later}");
                        return Err(OpenError::damaged(path, place, what));
                    }
                    break;
                }
            }
        }
        // A segment ends only when the next frame does not fit: if there is a later segment,
        // `recover` finds a gap.
        if !last || place < bytes.len() as u64 {
            self.stopped = Some((path.to_owned(), place));
        }
        Ok(Arc::new(segment))
    }

    fn accept(&mut self, path: &Path, place: u64, header: &Header, frame: Bytes) -> Result<(), OpenError> {
        if header.incarnation != self.incarnation {
            return Err(OpenError::damaged(path, place, "the frame belongs to another log"));
        }
        if header.first_offset != self.expected {
            let what = format!("the frame has offset {}, due was {}", header.first_offset, self.expected);
            return Err(OpenError::damaged(path, place, what));
        }
        if let Reading::With(keys) = &self.reading {
            check_keys(&frame, header, keys.as_ref()).map_err(|error| unreadable(path, place, &error))?;
        }
        self.expected = header.end_offset();
        self.recent_bytes += frame.len();
        self.recent.push_back((path.to_owned(), place, frame));
        while self.recent_bytes > self.ring_bytes && self.recent.len() > 1 {
            let (_, _, gone) = self.recent.pop_front().expect("there are two");
            self.recent_bytes -= gone.len();
        }
        Ok(())
    }

    fn recent_frames(self) -> Result<Vec<Frame>, OpenError> {
        let frames = self.recent.into_iter().map(|(path, place, bytes)| {
            // A copy, because the frame would keep the whole file in memory.
            Frame::read(&Bytes::copy_from_slice(&bytes), &self.reading)
                .map_err(|error| unreadable(&path, place, &error))
        });
        frames.collect()
    }
}

/// A frame whose checksum is right and that cannot be read.
fn unreadable(path: &Path, place: u64, error: &FrameError) -> OpenError {
    match error {
        FrameError::Sealed | FrameError::Unseal(UnsealError::Missing { .. }) => {
            OpenError::Keys { file: path.to_owned(), offset: place, what: error.to_string() }
        }
        error => OpenError::damaged(path, place, error.to_string()),
    }
}

/// A frame of another version, or one of this version with a damaged version byte: the checksum
/// decides.
pub(super) fn other_version(path: &Path, place: u64, bytes: &[u8], version: u8) -> OpenError {
    let mut mended = bytes.to_vec();
    for known in [frame::VERSION, frame::SEALED_VERSION] {
        mended[VERSION_AT] = known;
        if Header::check(&mended).is_ok() {
            return OpenError::damaged(path, place, "the version of the frame is damaged");
        }
    }
    OpenError::Version { file: path.to_owned(), offset: place, version: version.into() }
}

/// Finds a complete frame of this log from offset `expected` on, on a sector after `at`.
fn frame_after(bytes: &Bytes, at: usize, expected: u64, incarnation: u64) -> Option<usize> {
    let sector = SECTOR as usize;
    (at / sector * sector + sector..bytes.len()).step_by(sector).find(|place| {
        let rest = bytes.slice(*place..);
        Header::read(&rest).is_ok_and(|h| h.incarnation == incarnation && h.first_offset >= expected)
            && Header::check(&rest).is_ok()
    })
}

/// Zeroes bytes of an unfinished append after the last frame, and syncs the last segment: a killed
/// process may have written complete frames that were not durable yet.
fn settle(segment: &Segment, disk: &dyn Disk) -> Result<(), OpenError> {
    let path = &segment.path;
    let from = segment.end();
    let length = usize::try_from(segment.capacity().saturating_sub(from)).unwrap_or(0);
    let mut tail = vec![0; length];
    segment.file.read_exact_at(&mut tail, from).map_err(|error| OpenError::io("read", path, &error))?;
    if let Some(last) = tail.iter().rposition(|b| *b != 0) {
        tracing::warn!(
            "cut an unfinished append of {} bytes at byte {from} of {}: it was never acknowledged",
            last + 1,
            path.display()
        );
        disk.write_at(&segment.file, &vec![0; last + 1], from).map_err(|error| OpenError::io("write", path, &error))?;
    }
    disk.sync(&segment.file).map_err(|error| OpenError::io("fsync", path, &error))
}

fn first_segment(config: &Config, disk: &dyn Disk) -> Result<Segment, OpenError> {
    let capacity = config.segment_for(0);
    let (spare, path) = (config.dir.join("spare"), Segment::path(&config.dir, 0));
    let file = disk.create_zeroed(&spare, capacity).map_err(|error| OpenError::io("make", &spare, &error))?;
    disk.rename(&spare, &path).map_err(|error| OpenError::io("rename", &path, &error))?;
    Ok(Segment::new(0, path, file, capacity))
}

/// Segment files by first offset.
pub(super) fn segment_paths(dir: &Path) -> Result<Vec<(u64, PathBuf)>, OpenError> {
    let failed = |error: &io::Error| OpenError::io("list", dir, error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| failed(&error))? {
        let path = entry.map_err(|error| failed(&error))?.path();
        if path.extension().is_some_and(|e| e == "seg") {
            let offset = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok());
            let offset = offset.ok_or_else(|| OpenError::damaged(&path, 0, "its name is not an offset"))?;
            found.push((offset, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Encodes the offset in sixteen bytes: offset, checksum, zeros.
pub(super) fn encode_end(end: u64) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&end.to_le_bytes());
    out[8..12].copy_from_slice(&crc32c::crc32c(&end.to_le_bytes()).to_le_bytes());
    out
}

/// Reads the recorded durable end, a lower bound; 0 when it is unreadable.
pub(super) fn known_end(dir: &Path) -> u64 {
    let path = dir.join(END_FILE);
    let Ok(file) = File::open(&path) else { return 0 };
    let mut bytes = [0; 16];
    if file.read_exact_at(&mut bytes, 0).is_err() {
        return 0;
    }
    let (end, crc) = (&bytes[..8], &bytes[8..12]);
    if crc32c::crc32c(end).to_le_bytes() != crc {
        tracing::warn!("{} is damaged: damage to the very last records would not be noticed", path.display());
        return 0;
    }
    u64::from_le_bytes(end.try_into().expect("eight bytes"))
}
