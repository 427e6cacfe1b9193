//! Recently appended records by identity: a device that lost a PUBACK resends a message that is
//! already in the log.
//!
//! The index costs nothing until the first resent message; it is then built from the recent frames,
//! updated, and dropped when no message was resent for many frames.

use std::collections::HashSet;

use crate::frame::{Frame, FrameBuilder, Record};

/// Identities in each of the two halves of the index, 16 bytes each.
const HALF: usize = 1 << 20;
/// Frames without a resent message after which the index is dropped.
const QUIET_FRAMES: u32 = 100_000;

#[derive(Debug, Default)]
pub(crate) struct Recent {
    active: bool,
    quiet: u32,
    young: HashSet<u64, foldhash::fast::FixedState>,
    old: HashSet<u64, foldhash::fast::FixedState>,
}

impl Recent {
    /// True while appended records are indexed.
    pub(crate) fn is_active(&self) -> bool {
        self.active
    }

    /// Drops resent records of `batch` that are in the log, in frames of other logs, or earlier in
    /// the batch. Returns their number.
    pub(crate) fn drop_known(
        &mut self,
        batch: &mut FrameBuilder,
        frames: impl FnOnce() -> Vec<Frame>,
        elsewhere: &[Frame],
    ) -> u32 {
        if !self.active {
            self.active = true;
            frames().iter().for_each(|frame| self.index(frame));
        }
        elsewhere.iter().for_each(|frame| self.index(frame));
        self.quiet = 0;
        let mut here: HashSet<u64, foldhash::fast::FixedState> = HashSet::default();
        let (young, old) = (&self.young, &self.old);
        batch.retain(|identity, resent| {
            let known = resent && (young.contains(&identity) || old.contains(&identity) || here.contains(&identity));
            here.insert(identity);
            !known
        })
    }

    /// Indexes an appended frame.
    pub(crate) fn add(&mut self, frame: &Frame) {
        if !self.active {
            return;
        }
        self.quiet += 1;
        if self.quiet > QUIET_FRAMES {
            *self = Self::default();
            return;
        }
        self.index(frame);
    }

    fn index(&mut self, frame: &Frame) {
        for (_, record) in frame.records() {
            let identity = match record {
                Record::Reading(reading) => reading.identity,
                Record::DeadLetter(letter) => letter.identity,
                Record::Retained(_) => continue,
            };
            if self.young.len() >= HALF {
                self.old = std::mem::take(&mut self.young);
            }
            self.young.insert(identity);
        }
    }
}
