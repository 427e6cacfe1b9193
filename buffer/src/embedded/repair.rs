//! `weir repair`: makes a damaged log usable and keeps every complete record before the damage.
//!
//! Removed bytes are kept beside the log in `*.damaged` files, and the range of removed records is
//! reported.

use std::fs::OpenOptions;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::cursors::CursorFile;
use super::disk::{Disk, RealDisk};
use super::identity::{self, Identity};
use super::lock::Lock;
use super::recover::{END_FILE, OpenError, known_end, other_version, segment_paths};
use super::segment::SECTOR;
use crate::frame::{FrameError, Header};

/// Result of a repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairReport {
    /// New end of the log.
    pub end: u64,
    /// Offsets of removed acknowledged records, as far as known; they are lost unless a store has
    /// them.
    pub lost: Option<Range<u64>>,
    /// Complete records after the damage that were removed; others may have been unreadable.
    pub cut_records: u64,
    /// Files with the removed bytes.
    pub kept: Vec<PathBuf>,
    /// True when cursors were past the end of the log: they were reset, and the stores are written
    /// again.
    pub cursors_reset: bool,
    /// New id of the log, set when records were removed, so that their offsets can be assigned
    /// again without ambiguity.
    pub new_id: Option<String>,
}

/// Truncates the log in `dir` at its first damage. An intact log is not changed.
///
/// # Errors
/// [`OpenError`] when another process has it open, a later release wrote it, or a system call
/// fails.
pub fn repair(dir: &Path) -> Result<RepairReport, OpenError> {
    let _lock = Lock::take(dir)?;
    let old = identity::read(dir);
    if let Err(error @ OpenError::Version { .. }) = old {
        return Err(error);
    }
    let old = old.ok().flatten();
    let cursors = match CursorFile::open(dir.join("cursors")) {
        Ok(file) => Some(file.all()),
        Err(OpenError::Damaged { .. }) => None,
        Err(error) => return Err(error),
    };
    let mut found = Found { incarnation: old.as_ref().map(|identity| identity.incarnation), ..Found::default() };
    for (i, (first_offset, path)) in segment_paths(dir)?.into_iter().enumerate() {
        found.segment(i == 0, first_offset, path)?;
    }
    let passed = cursors.iter().flatten().map(|(_, cursor)| cursor.sealed_to.max(cursor.done_to)).max().unwrap_or(0);
    let known = known_end(dir).max(passed).max(found.known);
    let reset = cursors.is_none() || passed > found.end;
    let mut report = RepairReport {
        end: found.end,
        lost: (known > found.end).then_some(found.end..known),
        cut_records: found.cut_records,
        kept: Vec::new(),
        cursors_reset: reset,
        new_id: None,
    };
    if report.lost.is_some() || !found.cuts.is_empty() || old.is_none() {
        // First, so that an interrupted repair starts again.
        let identity = Identity::after(old, found.incarnation);
        identity.write(dir, &RealDisk)?;
        report.new_id = Some(identity.id);
    }
    for cut in &found.cuts {
        cut.make(&mut report)?;
    }
    if reset {
        let from = dir.join("cursors");
        let to = unused(&from);
        RealDisk.rename(&from, &to).map_err(|error| OpenError::io("rename", &from, &error))?;
        report.kept.push(to);
    }
    if report.new_id.is_some() {
        let end = dir.join(END_FILE);
        RealDisk.remove(&end).map_err(|error| OpenError::io("remove", &end, &error))?;
    }
    Ok(report)
}

/// Contents of the segments.
#[derive(Default)]
struct Found {
    incarnation: Option<u64>,
    /// End of the complete records.
    end: u64,
    /// End of the last complete frame in any segment.
    known: u64,
    cut_records: u64,
    /// True at the end of the scan.
    stopped: bool,
    cuts: Vec<Cut>,
}

impl Found {
    fn segment(&mut self, first: bool, first_offset: u64, path: PathBuf) -> Result<(), OpenError> {
        let bytes = Bytes::from(std::fs::read(&path).map_err(|error| OpenError::io("read", &path, &error))?);
        if first {
            self.end = first_offset;
        }
        self.stopped |= first_offset != self.end;
        let place = if self.stopped { 0 } else { self.walk(&path, &bytes)? };
        let rest = bytes.slice(place..);
        self.stopped |= rest.iter().any(|b| *b != 0);
        for at in (0..rest.len()).step_by(SECTOR as usize) {
            if let Ok(header) = Header::check(&rest[at..]) {
                self.cut_records += u64::from(header.count);
                self.known = self.known.max(header.end_offset());
            }
        }
        let whole_file = place == 0 && !first && self.stopped;
        if whole_file || rest.iter().any(|b| *b != 0) {
            self.cuts.push(Cut { path, place: place as u64, rest, whole_file });
        }
        Ok(())
    }

    /// Reads complete frames in order. Returns the offset after the last one.
    fn walk(&mut self, path: &Path, bytes: &Bytes) -> Result<usize, OpenError> {
        let mut place = 0;
        while place < bytes.len() {
            match Header::check(&bytes[place..]) {
                Ok(header) if header.first_offset == self.end => {
                    if *self.incarnation.get_or_insert(header.incarnation) != header.incarnation {
                        break;
                    }
                    self.end = header.end_offset();
                    place = (place + header.frame_bytes()).next_multiple_of(SECTOR as usize).min(bytes.len());
                }
                Err(FrameError::Version(version)) => {
                    match other_version(path, place as u64, &bytes[place..], version) {
                        error @ OpenError::Version { .. } => return Err(error),
                        _ => break,
                    }
                }
                _ => break,
            }
        }
        Ok(place)
    }
}

/// Bytes to remove from a segment.
struct Cut {
    path: PathBuf,
    place: u64,
    rest: Bytes,
    whole_file: bool,
}

impl Cut {
    fn make(&self, report: &mut RepairReport) -> Result<(), OpenError> {
        let failed = |error: &std::io::Error| OpenError::io("write", &self.path, error);
        if self.rest.iter().any(|b| *b != 0) {
            let kept = unused(&self.path);
            RealDisk.replace(&kept, &self.rest).map_err(|error| OpenError::io("write", &kept, &error))?;
            report.kept.push(kept);
        }
        if self.whole_file {
            return RealDisk.remove(&self.path).map_err(|error| OpenError::io("remove", &self.path, &error));
        }
        let file = OpenOptions::new().write(true).open(&self.path).map_err(|error| failed(&error))?;
        file.write_all_at(&vec![0; self.rest.len()], self.place).map_err(|error| failed(&error))?;
        file.sync_all().map_err(|error| failed(&error))
    }
}

/// Returns `PATH.damaged-1`, or the first unused number.
fn unused(path: &Path) -> PathBuf {
    let name = |n: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".damaged-{n}"));
        PathBuf::from(name)
    };
    (1..).map(name).find(|path| !path.exists()).expect("some number is free")
}
