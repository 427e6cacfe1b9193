//! The port of the writer: a log that stores frames.

use std::sync::Arc;

use crate::backlog::Backlog;
use crate::frame::{Frame, FrameBuilder};

/// Bytes of a log that a frame takes are a multiple of this.
const SECTOR: u64 = 512;

/// The place of an appended frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Placed {
    /// Its end in the log that has the cursors.
    pub end: u64,
    /// Its end in the spill, until it is in that log.
    pub spilled: Option<u64>,
    /// Bytes that it takes there.
    pub bytes: u64,
}

/// Stores the batches of a log. Runs on the writer thread and may block.
pub trait LogBackend: Send {
    /// Stores the records in `builder` as a frame. When it returns, the frame is durable and the
    /// builder is empty.
    ///
    /// # Errors
    /// [`AppendError`]; after `Retry` the caller repeats it with the same builder until it
    /// succeeds.
    fn append(&mut self, builder: &mut FrameBuilder) -> Result<Frame, AppendError>;

    /// Recent frames, oldest first, for detecting resent messages.
    fn recent(&self) -> Vec<Frame>;

    /// The frame that holds this offset, as long as it is in memory.
    fn recent_at(&self, offset: u64) -> Option<Frame> {
        let _ = offset;
        None
    }

    /// True when the records fit into one frame of this log. Those of one message always do.
    fn fits(&self, builder: &FrameBuilder) -> bool {
        let _ = builder;
        true
    }

    /// Key of the hashes by which resent messages are recognised: random, secret, and the same for
    /// all nodes and starts of an installation.
    fn key(&self) -> [u64; 2] {
        [0; 2]
    }

    /// Frames that other writers appended since the last successful call, or recently when `anew`.
    /// Called for every batch with resent messages: their senders may have been connected to
    /// another node.
    ///
    /// # Errors
    /// [`AppendError`]; after `Retry` the caller repeats it until it succeeds: without these frames
    /// a resent message might be stored twice.
    fn recent_elsewhere(&mut self, anew: bool) -> Result<Vec<Frame>, AppendError> {
        let _ = anew;
        Ok(Vec::new())
    }

    /// Returns the backlog of the log, when tenants are held to a share of it.
    fn backlog(&self) -> Option<Arc<Backlog>> {
        None
    }

    /// The place of the frame that was appended last.
    fn placed(&self, frame: &Frame) -> Placed {
        let bytes = (frame.bytes().len() as u64).next_multiple_of(SECTOR);
        Placed { end: frame.header().end_offset(), spilled: None, bytes }
    }

    /// Called when appends become blocked, with the reason, or unblocked.
    fn blocked(&self, reason: Option<&str>);

    /// Ends the backend; no append follows.
    ///
    /// # Errors
    /// When the end of the log cannot be recorded; no record is lost.
    fn close(&mut self) -> Result<(), AppendError> {
        Ok(())
    }
}

/// The reason why an append failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// No space, or the server is unavailable: the batch is kept and retried until it succeeds.
    #[error("{0}")]
    Retry(String),
    /// The state of the disk is unknown: the append is never retried.
    #[error("{0}")]
    Fatal(String),
}
