//! `weir repair`: makes a damaged log open again, keeping every whole record before the damage.
//!
//! What is cut is kept beside the log, in `*.damaged` files, and the range of records that went is reported.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::cursors::CursorFile;
use super::disk::{Disk, RealDisk};
use super::lock::Lock;
use super::recover::{END_FILE, OpenError, segment_paths};
use super::segment::SECTOR;
use crate::frame::Frame;

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairReport {
    /// The log now ends here.
    pub end: u64,
    /// Whole records that lay behind the damage and were cut with it; more may have been unreadable.
    pub cut_records: u64,
    /// Where the bytes that were cut are kept.
    pub kept: Vec<PathBuf>,
    /// True when the cursors said more than the log has: they were set aside, and the stores are written again.
    pub cursors_reset: bool,
}

/// Cuts the log in `dir` at its first damage. Changes nothing in a log that is whole.
///
/// # Errors
/// [`OpenError`]: when another process has it open, or the system refuses.
pub fn repair(dir: &Path) -> Result<RepairReport, OpenError> {
    let _lock = Lock::take(dir)?;
    let mut report = RepairReport { end: 0, cut_records: 0, kept: Vec::new(), cursors_reset: false };
    let mut whole = true;
    for (i, (first_offset, path)) in segment_paths(dir)?.into_iter().enumerate() {
        if i == 0 {
            report.end = first_offset;
        }
        let bytes = Bytes::from(std::fs::read(&path).map_err(|error| OpenError::io("read", &path, &error))?);
        let place = if whole && first_offset == report.end { walk(&bytes, &mut report.end) } else { 0 };
        let rest = &bytes[place..];
        if rest.iter().any(|b| *b != 0) {
            report.cut_records += records(&bytes.slice(place..));
            set_aside(&path, rest, &mut report)?;
        }
        if place == 0 && i > 0 {
            RealDisk.remove(&path).map_err(|error| OpenError::io("remove", &path, &error))?;
            whole = false;
        } else if rest.iter().any(|b| *b != 0) {
            zero(&path, place as u64, rest.len())?;
        }
    }
    match CursorFile::open(dir.join("cursors")) {
        Ok(file) if file.all().values().all(|c| c.sealed_to <= report.end) => {}
        _ => {
            let (from, to) = (dir.join("cursors"), dir.join("cursors.damaged"));
            RealDisk.rename(&from, &to).map_err(|error| OpenError::io("rename", &from, &error))?;
            report.kept.push(to);
            report.cursors_reset = true;
        }
    }
    let end = dir.join(END_FILE);
    if end.exists() {
        RealDisk.remove(&end).map_err(|error| OpenError::io("remove", &end, &error))?;
    }
    Ok(report)
}

/// Walks whole frames in order; the place where they end.
fn walk(bytes: &Bytes, expected: &mut u64) -> usize {
    let mut place = 0;
    while place < bytes.len() {
        match Frame::decode(&bytes.slice(place..)) {
            Ok(frame) if frame.header().first_offset == *expected => {
                *expected = frame.header().end_offset();
                place = (place + frame.bytes().len()).next_multiple_of(SECTOR as usize).min(bytes.len());
            }
            _ => break,
        }
    }
    place
}

/// Whole records anywhere in these bytes.
fn records(bytes: &Bytes) -> u64 {
    let whole = (0..bytes.len()).step_by(SECTOR as usize).filter_map(|at| Frame::decode(&bytes.slice(at..)).ok());
    whole.map(|frame| u64::from(frame.header().count)).sum()
}

fn set_aside(path: &Path, bytes: &[u8], report: &mut RepairReport) -> Result<(), OpenError> {
    let kept = path.with_extension("seg.damaged");
    RealDisk.replace(&kept, bytes).map_err(|error| OpenError::io("write", &kept, &error))?;
    report.kept.push(kept);
    Ok(())
}

fn zero(path: &Path, from: u64, length: usize) -> Result<(), OpenError> {
    let failed = |error: &std::io::Error| OpenError::io("write", path, error);
    let file = OpenOptions::new().write(true).open(path).map_err(|error| failed(&error))?;
    file.write_all_at(&vec![0; length], from).map_err(|error| failed(&error))?;
    file.sync_all().map_err(|error| failed(&error))
}
