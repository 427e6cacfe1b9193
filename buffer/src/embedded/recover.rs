//! Opening: what is there, is it whole, where does it end.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::config::Config;
use super::cursors::CursorFile;
use super::disk::Disk;
use super::lock::Lock;
use super::segment::{SECTOR, Segment};
use crate::frame::{Frame, FrameError, HEADER_BYTES, Header};

/// Name of the file with the durable end.
pub(super) const END_FILE: &str = "end";
const IDENTITY_FILE: &str = "log.json";
const VERSION: u32 = 1;

/// Why the log does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("another process has the log in {0} open: stop it, or use another data folder")]
    Locked(PathBuf),
    /// Bytes are not as they were written. Acknowledged records may be among them.
    #[error("the log is damaged: {file}, byte {offset}: {what}; `weir repair` keeps what is whole", file = file.display())]
    Damaged {
        /// Where.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// The system refuses.
    #[error("cannot {what} {path}: {error}", path = path.display())]
    Io {
        /// The act.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Its words.
        error: String,
    },
    /// A thread or file could not be made.
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

/// Who the log is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Identity {
    version: u32,
    pub(super) id: String,
    pub(super) incarnation: u64,
}

/// What was found.
pub(super) struct Recovered {
    pub(super) identity: Identity,
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) cursors: CursorFile,
    pub(super) end: u64,
    /// The last frames, oldest first, about as many bytes as the ring holds.
    pub(super) recent: Vec<Frame>,
    pub(super) lock: Lock,
}

/// Opens everything and checks every frame.
pub(super) fn recover(config: &Config, disk: &dyn Disk) -> Result<Recovered, OpenError> {
    let dir = &config.dir;
    std::fs::create_dir_all(dir).map_err(|error| OpenError::io("make", dir, &error))?;
    let lock = Lock::take(dir)?;
    let paths = segment_paths(dir)?;
    let identity = identity(dir, disk, paths.is_empty())?;
    let cursors = CursorFile::open(dir.join("cursors"))?;
    let mut walk = Walk { incarnation: identity.incarnation, ring_bytes: config.ring_bytes, ..Walk::default() };
    let mut segments = Vec::new();
    for (i, (first_offset, path)) in paths.iter().enumerate() {
        if i > 0 && *first_offset != walk.expected {
            let (file, place) = walk.stopped.clone().unwrap_or((path.clone(), 0));
            let what = format!("records {}..{first_offset} are missing", walk.expected);
            return Err(OpenError::damaged(&file, place, what));
        }
        walk.expected = *first_offset;
        segments.push(walk.segment(path, *first_offset, i + 1 == paths.len())?);
    }
    if segments.is_empty() {
        segments.push(Arc::new(first_segment(config, disk)?));
    }
    let known = known_end(dir).max(cursors.all().values().map(|c| c.done_to.max(c.sealed_to)).max().unwrap_or(0));
    if walk.expected < known {
        let (file, place) = walk.stopped.unwrap_or_else(|| (segments[segments.len() - 1].path.clone(), 0));
        let what = format!("the log ends at record {} and {known} were acknowledged", walk.expected);
        return Err(OpenError::damaged(&file, place, what));
    }
    if let Some(segment) = segments.last() {
        cut_torn_tail(segment, disk)?;
    }
    Ok(Recovered { identity, segments, cursors, end: walk.expected, recent: walk.recent.into(), lock })
}

/// The place in the log while it is walked.
#[derive(Default)]
struct Walk {
    incarnation: u64,
    ring_bytes: usize,
    expected: u64,
    /// Where the last segment's frames ended.
    stopped: Option<(PathBuf, u64)>,
    recent: VecDeque<Frame>,
    recent_bytes: usize,
}

impl Walk {
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
            match Frame::decode(&bytes.slice(at..)) {
                Ok(frame) => {
                    self.accept(path, place, &frame)?;
                    segment.note(
                        frame.header().first_offset,
                        frame.header().appended,
                        place,
                        frame.bytes().len() as u64,
                    );
                    place = segment.end();
                }
                Err(error @ FrameError::Version(_)) => return Err(OpenError::damaged(path, place, error.to_string())),
                Err(error) => {
                    if let Some(later) = frame_after(&bytes, at, self.expected, self.incarnation) {
                        let what = format!("{error}, yet a whole frame lies behind it at byte {later}");
                        return Err(OpenError::damaged(path, place, what));
                    }
                    break;
                }
            }
        }
        // A segment is left only when the next frame does not fit: with a later segment there, `recover` sees a hole.
        if !last || place < bytes.len() as u64 {
            self.stopped = Some((path.to_owned(), place));
        }
        Ok(Arc::new(segment))
    }

    fn accept(&mut self, path: &Path, place: u64, frame: &Frame) -> Result<(), OpenError> {
        let header = frame.header();
        if header.incarnation != self.incarnation {
            return Err(OpenError::damaged(path, place, "the frame belongs to another log"));
        }
        if header.first_offset != self.expected {
            let what = format!("the frame has offset {}, due was {}", header.first_offset, self.expected);
            return Err(OpenError::damaged(path, place, what));
        }
        self.expected = header.end_offset();
        self.recent_bytes += frame.bytes().len();
        // A copy: the frame would keep the whole file in memory.
        let copy = Frame::decode(&Bytes::copy_from_slice(frame.bytes()));
        self.recent.push_back(copy.map_err(|error| OpenError::damaged(path, place, error.to_string()))?);
        while self.recent_bytes > self.ring_bytes && self.recent.len() > 1 {
            let gone = self.recent.pop_front().expect("there are two");
            self.recent_bytes -= gone.bytes().len();
        }
        Ok(())
    }
}

/// The place of a whole frame of this log at or past `expected`, on a sector behind `at`.
fn frame_after(bytes: &Bytes, at: usize, expected: u64, incarnation: u64) -> Option<usize> {
    let sector = SECTOR as usize;
    (at / sector * sector + sector..bytes.len()).step_by(sector).find(|place| {
        let rest = bytes.slice(*place..);
        Header::read(&rest).is_ok_and(|h| h.incarnation == incarnation && h.first_offset >= expected)
            && Frame::decode(&rest).is_ok()
    })
}

/// Zeroes what an append that did not finish left behind the last frame.
fn cut_torn_tail(segment: &Segment, disk: &dyn Disk) -> Result<(), OpenError> {
    let path = &segment.path;
    let from = segment.end();
    let length = usize::try_from(segment.capacity().saturating_sub(from)).unwrap_or(0);
    let mut tail = vec![0; length];
    segment.file.read_exact_at(&mut tail, from).map_err(|error| OpenError::io("read", path, &error))?;
    let Some(last) = tail.iter().rposition(|b| *b != 0) else { return Ok(()) };
    tracing::warn!(
        "cut an unfinished append of {} bytes at byte {from} of {}: it was never acknowledged",
        last + 1,
        path.display()
    );
    disk.write_at(&segment.file, &vec![0; last + 1], from).map_err(|error| OpenError::io("write", path, &error))?;
    disk.sync(&segment.file).map_err(|error| OpenError::io("fsync", path, &error))
}

fn first_segment(config: &Config, disk: &dyn Disk) -> Result<Segment, OpenError> {
    let capacity = config.segment_bytes.max(HEADER_BYTES as u64).next_multiple_of(4096);
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

fn identity(dir: &Path, disk: &dyn Disk, empty: bool) -> Result<Identity, OpenError> {
    let path = dir.join(IDENTITY_FILE);
    match std::fs::read(&path) {
        Ok(bytes) => {
            let identity: Identity =
                serde_json::from_slice(&bytes).map_err(|error| OpenError::damaged(&path, 0, error.to_string()))?;
            if identity.version != VERSION {
                let what = format!("version {}, this release reads {VERSION}", identity.version);
                return Err(OpenError::damaged(&path, 0, what));
            }
            Ok(identity)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && empty => {
            // Unique among logs, not secret: the time, and an address that differs between processes.
            let now = super::append::now().unsigned_abs();
            let incarnation = now ^ (u64::from(std::process::id()) << 48);
            let identity = Identity { version: VERSION, id: format!("{incarnation:016x}"), incarnation };
            let json = serde_json::to_vec(&identity).expect("plain fields are JSON");
            disk.replace(&path, &json).map_err(|error| OpenError::io("write", &path, &error))?;
            Ok(identity)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(OpenError::damaged(&path, 0, "it is missing, and there are segments"))
        }
        Err(error) => Err(OpenError::io("read", &path, &error)),
    }
}

/// Sixteen bytes: the offset, its checksum, zeros.
pub(super) fn encode_end(end: u64) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&end.to_le_bytes());
    out[8..12].copy_from_slice(&crc32c::crc32c(&end.to_le_bytes()).to_le_bytes());
    out
}

/// The durable end as last noted; 0 when that cannot be read: it is a lower bound.
fn known_end(dir: &Path) -> u64 {
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
