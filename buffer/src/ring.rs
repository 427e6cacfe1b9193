//! The newest frames in memory: sinks that keep up never read the disk.

use std::collections::VecDeque;

use envelope::Keyring;

use crate::frame::Frame;

#[derive(Debug)]
pub(crate) struct Ring {
    frames: VecDeque<Frame>,
    bytes: usize,
    capacity: usize,
}

impl Ring {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { frames: VecDeque::new(), bytes: 0, capacity }
    }

    pub(crate) fn push(&mut self, frame: Frame) {
        self.bytes += frame.memory();
        self.frames.push_back(frame);
        while self.bytes > self.capacity && self.frames.len() > 1 {
            self.pop_front();
        }
    }

    /// Opens frames again that have records of tenants whose keys were destroyed.
    pub(crate) fn reopen(&mut self, keys: &Keyring) {
        for frame in &mut self.frames {
            if let Some(opened) = frame.reopened(keys) {
                self.bytes = self.bytes - frame.memory() + opened.memory();
                *frame = opened;
            }
        }
    }

    pub(crate) fn pop_front(&mut self) {
        if let Some(frame) = self.frames.pop_front() {
            self.bytes -= frame.memory();
        }
    }

    pub(crate) fn first_offset(&self) -> Option<u64> {
        self.frames.front().map(|f| f.header().first_offset)
    }

    /// Frames from the one with `from` on; None when it is older than the ring.
    pub(crate) fn read(&self, from: u64, max_bytes: usize) -> Option<Vec<Frame>> {
        if self.first_offset().is_none_or(|first| from < first) {
            return None;
        }
        let at = self.frames.partition_point(|f| f.header().end_offset() <= from);
        let mut bytes = 0;
        let wanted = self.frames.range(at..).take_while(|frame| {
            let more = bytes < max_bytes;
            bytes += frame.bytes().len();
            more
        });
        Some(wanted.cloned().collect())
    }

    /// The frame that holds an offset; None when it is older than the ring, or newer.
    pub(crate) fn at(&self, offset: u64) -> Option<Frame> {
        let at = self.frames.partition_point(|frame| frame.header().end_offset() <= offset);
        self.frames.get(at).filter(|frame| frame.header().first_offset <= offset).cloned()
    }

    pub(crate) fn frames(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter()
    }
}
