//! The check of checkpoints that a target has.

use std::collections::{BTreeMap, HashMap};
use std::io::BufRead;

use super::{CheckpointKeys, SignedCheckpoint};
use crate::registry::Checkpoint;

/// Bytes of a line. A longer one is not a checkpoint.
const MAX_LINE_BYTES: usize = 4 << 10;
/// Incomplete lines that wait for their repetition.
const MAX_TORN: usize = 1000;

/// A fault among checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointFault {
    /// It is not a checkpoint.
    #[error("it is not a checkpoint")]
    Malformed,
    /// Its signature is not valid.
    #[error("its signature is not valid: it was forged or changed")]
    Forged,
    /// Its key is not among the public keys.
    #[error("its key is not among the public keys: name the file that has it with --public-key")]
    UnknownKey,
    /// A later one stands before it.
    #[error("it is older than the one before it: the lines were reordered")]
    Reordered,
    /// The one before it is missing.
    #[error("the checkpoint before it is missing: give all files, the oldest first")]
    Missing,
}

/// The reason why checkpoints cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A line is at fault.
    #[error("{place}, line {line}: {fault}")]
    Line {
        /// The file.
        place: String,
        /// Number of the line, from 1.
        line: usize,
        /// The fault.
        fault: CheckpointFault,
    },
    /// The file cannot be read.
    #[error("cannot read {place}: {source}")]
    Io {
        /// The file.
        place: String,
        /// The reason.
        source: std::io::Error,
    },
}

/// Checkpoints whose signatures and order are right.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckedCheckpoints {
    /// The events of each tenant, in order of their sequences.
    pub events: BTreeMap<String, Vec<Checkpoint>>,
    /// The newest sequence for each signer and tenant.
    pub newest: HashMap<(String, String), u64>,
    /// Number of lines.
    pub lines: usize,
    /// The place of a last line that is not complete; a process that was killed repeats it.
    pub incomplete: Option<String>,
}

/// Reads checkpoints, and checks their signatures and their order.
#[derive(Debug)]
pub struct CheckpointReader<'a> {
    keys: &'a CheckpointKeys,
    /// The newest one of each signer and tenant.
    last: HashMap<(String, String), SignedCheckpoint>,
    torn: Vec<Torn>,
    found: CheckedCheckpoints,
}

#[derive(Debug)]
struct Torn {
    place: String,
    line: usize,
    bytes: Vec<u8>,
}

impl Torn {
    fn error(self, fault: CheckpointFault) -> CheckpointError {
        CheckpointError::Line { place: self.place, line: self.line, fault }
    }
}

impl<'a> CheckpointReader<'a> {
    /// Checkpoints that these keys have signed.
    pub fn new(keys: &'a CheckpointKeys) -> Self {
        Self { keys, last: HashMap::new(), torn: Vec::new(), found: CheckedCheckpoints::default() }
    }

    /// Reads a file. Files of one target are read in the order in which they were written.
    ///
    /// # Errors
    /// [`CheckpointError`] of the first line at fault.
    pub fn read(&mut self, place: &str, from: impl BufRead) -> Result<(), CheckpointError> {
        let mut last = 0;
        for (line, bytes) in (1..).zip(from.split(b'\n')) {
            let bytes = bytes.map_err(|source| CheckpointError::Io { place: place.to_owned(), source })?;
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            last = line;
            self.line(&bytes).map_err(|fault| CheckpointError::Line { place: place.to_owned(), line, fault })?;
            if let Some(torn) = self.torn.last_mut().filter(|torn| torn.place.is_empty()) {
                (torn.place, torn.line) = (place.to_owned(), line);
            }
        }
        if let Some(torn) = self.torn.pop_if(|torn| torn.line == last && torn.place == place) {
            self.found.incomplete = Some(format!("{place}, line {}", torn.line));
        }
        Ok(())
    }

    fn line(&mut self, bytes: &[u8]) -> Result<(), CheckpointFault> {
        let parsed = Some(bytes).filter(|bytes| bytes.len() <= MAX_LINE_BYTES);
        let Some(checkpoint) = parsed.and_then(|bytes| serde_json::from_slice::<SignedCheckpoint>(bytes).ok()) else {
            // The process or the disk has stopped within the line: it is written again.
            let is_torn = bytes.first() == Some(&b'{') && bytes.len() <= MAX_LINE_BYTES && self.torn.len() < MAX_TORN;
            if !is_torn {
                return Err(CheckpointFault::Malformed);
            }
            self.torn.push(Torn { place: String::new(), line: 0, bytes: bytes.to_vec() });
            return Ok(());
        };
        self.torn.retain(|torn| !bytes.starts_with(&torn.bytes));
        self.found.lines += 1;
        match self.keys.verify(&checkpoint) {
            Some(true) => {}
            Some(false) => return Err(CheckpointFault::Forged),
            None => return Err(CheckpointFault::UnknownKey),
        }
        self.found.events.entry(checkpoint.tenant.clone()).or_default().push(checkpoint.point());
        if checkpoint.signer.is_empty() {
            return Ok(());
        }
        let key = (checkpoint.signer.clone(), checkpoint.tenant.clone());
        let last = self.last.get(&key);
        // It was handed over twice.
        if last == Some(&checkpoint) {
            return Ok(());
        }
        if last.is_some_and(|last| last.sequence >= checkpoint.sequence) {
            return Err(CheckpointFault::Reordered);
        }
        if checkpoint.previous != last.map(SignedCheckpoint::digest).unwrap_or_default() {
            return Err(CheckpointFault::Missing);
        }
        self.last.insert(key, checkpoint);
        Ok(())
    }

    /// Returns what was read.
    ///
    /// # Errors
    /// [`CheckpointError`] of a line that is not complete, and was not written again.
    pub fn finish(mut self) -> Result<CheckedCheckpoints, CheckpointError> {
        if !self.torn.is_empty() {
            return Err(self.torn.remove(0).error(CheckpointFault::Malformed));
        }
        for events in self.found.events.values_mut() {
            events.sort_by_key(|event| event.sequence);
            events.dedup();
        }
        self.found.newest = self.last.into_iter().map(|(key, last)| (key, last.sequence)).collect();
        Ok(self.found)
    }
}
