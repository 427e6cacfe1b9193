//! `weir repair`: makes a damaged log usable and keeps every complete record before the damage.
//!
//! Removed bytes are kept beside the log in `*.damaged` files, and the range of removed records is
//! reported.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::cursors::{CursorFile, Cursors};
use super::disk::{Disk, RealDisk};
use super::identity::{self, Identity};
use super::lock::Lock;
use super::recover::{END_FILE, OpenError, known_end, other_version, segment_paths};
use super::segment::SECTOR;
use crate::frame::sealed::Reading;
use crate::frame::{Frame, FrameError, Header};

/// Result of a repair, or of its preview.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairReport {
    /// New end of the log.
    pub end: u64,
    /// Offsets of removed acknowledged records, as far as known; they are lost unless a store has
    /// them.
    pub lost: Option<Range<u64>>,
    /// Complete records after the damage that were removed; others may have been unreadable.
    pub cut_records: u64,
    /// Bytes that are removed from the log.
    pub places: Vec<DamagedPlace>,
    /// Files with the removed bytes; none in a preview.
    pub kept: Vec<PathBuf>,
    /// True when the file of the cursors was damaged: it was set aside, and the stores are written
    /// again.
    pub cursors_reset: bool,
    /// Cursors that were past the end of the log: they were set back to it, with their tallies.
    pub cursors_set_back: Vec<String>,
    /// New id of the log, set when records were removed, so that their offsets can be assigned
    /// again without ambiguity.
    pub new_id: Option<String>,
}

/// Bytes that a repair removes from a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedPlace {
    /// Path of the file.
    pub file: PathBuf,
    /// First offset in the file.
    pub offset: u64,
    /// Number of bytes up to the last one that is not zero.
    pub bytes: u64,
}

/// Returns what [`repair`] would change, and changes nothing. For a log that no process has open.
///
/// # Errors
/// As [`repair`].
pub fn preview(dir: &Path) -> Result<RepairReport, OpenError> {
    Plan::of(dir).map(|plan| plan.report)
}

/// Truncates the log in `dir` at its first damage. An intact log is not changed.
///
/// # Errors
/// [`OpenError`] when another process has it open, a later release wrote it, or a system call
/// fails.
pub fn repair(dir: &Path) -> Result<RepairReport, OpenError> {
    let _lock = Lock::take(dir)?;
    let Plan { mut report, identity, cuts, cursors } = Plan::of(dir)?;
    if let Some(identity) = identity {
        // First, so that an interrupted repair starts again.
        identity.write(dir, &RealDisk)?;
    }
    for cut in &cuts {
        cut.make(&mut report)?;
    }
    let from = dir.join("cursors");
    if report.cursors_reset {
        let to = unused(&from);
        RealDisk.rename(&from, &to).map_err(|error| OpenError::io("rename", &from, &error))?;
        report.kept.push(to);
    } else if let Some(cursors) = cursors {
        CursorFile::write(&from, &cursors, &RealDisk)?;
    }
    if report.new_id.is_some() {
        let end = dir.join(END_FILE);
        RealDisk.remove(&end).map_err(|error| OpenError::io("remove", &end, &error))?;
    }
    Ok(report)
}

/// The changes of a repair.
struct Plan {
    report: RepairReport,
    /// The new identity, if there is one.
    identity: Option<Identity>,
    cuts: Vec<Cut>,
    /// The new cursors, if they change.
    cursors: Option<Cursors>,
}

impl Plan {
    fn of(dir: &Path) -> Result<Self, OpenError> {
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
        let mut found = Found {
            incarnation: old.as_ref().map(|identity| identity.incarnation),
            pending: Pending::of(cursors.as_ref()),
            ..Found::default()
        };
        for (i, (first_offset, path)) in segment_paths(dir)?.into_iter().enumerate() {
            found.segment(i == 0, first_offset, path)?;
        }
        let passed =
            cursors.iter().flatten().map(|(_, cursor)| cursor.sealed_to.max(cursor.done_to)).max().unwrap_or(0);
        let known = known_end(dir).max(passed).max(found.known);
        let mut report = RepairReport {
            end: found.end,
            lost: (known > found.end).then_some(found.end..known),
            cut_records: found.cut_records,
            places: found.cuts.iter().filter_map(Cut::damaged).collect(),
            kept: Vec::new(),
            cursors_reset: cursors.is_none(),
            cursors_set_back: Vec::new(),
            new_id: None,
        };
        let changed = report.lost.is_some() || !found.cuts.is_empty() || old.is_none();
        let identity = changed.then(|| Identity::after(old, found.incarnation));
        report.new_id = identity.as_ref().map(|identity| identity.id.clone());
        let cursors = cursors.filter(|_| passed > found.end).map(|mut cursors| {
            report.cursors_set_back = found.pending.set_back(&mut cursors, found.end);
            cursors
        });
        Ok(Self { report, identity, cuts: found.cuts, cursors })
    }
}

/// The cursors with what the log still holds for each of them.
#[derive(Default)]
struct Pending(Vec<(String, u64, BTreeMap<String, u64>)>);

impl Pending {
    fn of(cursors: Option<&Cursors>) -> Self {
        Self(cursors.into_iter().flatten().map(|(sink, at)| (sink.clone(), at.done_to, BTreeMap::new())).collect())
    }

    fn count(&mut self, header: &Header, frame: &Bytes) {
        if !self.0.iter().any(|(_, done_to, _)| *done_to < header.end_offset()) {
            return;
        }
        // Damage inside of a frame is damage of its checksum, which has been verified.
        // Contents are not needed: records of sealed frames appear as destroyed.
        let Ok(frame) = Frame::read(frame, &Reading::Outline) else { return };
        for (offset, record) in frame.records().filter(|(_, record)| record.is_telemetry()) {
            for (_, _, counts) in self.0.iter_mut().filter(|(_, done_to, _)| *done_to <= offset) {
                *counts.entry(record.tenant().to_string()).or_default() += 1;
            }
        }
    }

    /// Sets cursors past the `end` back to it. Each keeps its tallies, since the stores keep what
    /// they count. Readings that one sink had passed and another had not are gone for the other:
    /// they are entered as missed, so that the books of all sinks agree again. Returns the names
    /// of the cursors that were set back.
    fn set_back(&self, cursors: &mut Cursors, end: u64) -> Vec<String> {
        let mut totals: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        let mut most: BTreeMap<String, u64> = BTreeMap::new();
        for (sink, _, pending) in &self.0 {
            let tallies = cursors.get(sink).into_iter().flat_map(|cursor| &cursor.tallies);
            let mut total = pending.clone();
            for (tenant, tally) in tallies {
                *total.entry(tenant.clone()).or_default() += tally.total() - tally.other;
            }
            for (tenant, count) in &total {
                let most = most.entry(tenant.clone()).or_default();
                *most = (*most).max(*count);
            }
            totals.insert(sink.clone(), total);
        }
        let mut moved = Vec::new();
        for (sink, cursor) in cursors.iter_mut() {
            for (tenant, most) in &most {
                let own = totals.get(sink).and_then(|total| total.get(tenant)).copied().unwrap_or(0);
                if *most > own {
                    cursor.tallies.entry(tenant.clone()).or_default().missed += most - own;
                }
            }
            if cursor.done_to > end || cursor.sealed_to > end {
                moved.push(sink.clone());
            }
            cursor.done_to = cursor.done_to.min(end);
            cursor.sealed_to = cursor.sealed_to.min(end);
            cursor.rewound_from = cursor.rewound_from.min(end);
        }
        moved
    }
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
    pending: Pending,
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
                    self.pending.count(&header, &bytes.slice(place..place + header.frame_bytes()));
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
    /// The place, unless only zeros are removed.
    fn damaged(&self) -> Option<DamagedPlace> {
        let last = self.rest.iter().rposition(|byte| *byte != 0)?;
        Some(DamagedPlace { file: self.path.clone(), offset: self.place, bytes: last as u64 + 1 })
    }

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
