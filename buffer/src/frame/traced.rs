//! Readings of traced messages in a frame. Found once, when a frame is built or read, so that
//! readers of the log do not have to scan all records.

use std::sync::Arc;

use model::Nanos;
use model::trace::{TRACE_BYTES, TraceContext};

use super::record::{FIXED_BYTES, HAS_CLAIMED, HAS_SEQ, HAS_TRACE, KIND_READING};

/// A traced message, or the part of it in one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traced {
    /// Context of the span of its receipt.
    pub context: TraceContext,
    /// Time of receipt of its first reading here.
    pub received: Nanos,
    /// Offset of its first reading here.
    pub first: u64,
    /// Offset of its last reading here.
    pub last: u64,
}

/// Finds the traced messages of checked records, with positions in the frame as offsets; None
/// without any.
pub(super) fn find(records: &[u8]) -> Option<Arc<[Traced]>> {
    let mut found: Vec<Traced> = Vec::new();
    let mut rest = records;
    let mut place = 0;
    while let Some(length) = rest.first_chunk().map(|length| u32::from_le_bytes(*length) as usize) {
        let Some((record, tail)) = rest.split_at_checked(4 + length) else { break };
        if record[5] & HAS_TRACE != 0
            && let Some((context, received)) = read(record)
        {
            match found.last_mut() {
                // The readings of a message are consecutive.
                Some(last) if last.context == context && last.last + 1 == place => last.last = place,
                _ => found.push(Traced { context, received, first: place, last: place }),
            }
        }
        rest = tail;
        place += 1;
    }
    (!found.is_empty()).then(|| found.into())
}

fn read(record: &[u8]) -> Option<(TraceContext, Nanos)> {
    let (kind, flags) = (record[4], record[5]);
    let before = [HAS_SEQ, HAS_CLAIMED].iter().filter(|flag| flags & **flag != 0).count();
    let bytes = record.get(FIXED_BYTES + 8 * before..)?.first_chunk::<TRACE_BYTES>()?;
    let received = Nanos::from_le_bytes(*record.get(16..)?.first_chunk()?);
    (kind == KIND_READING).then(|| (TraceContext::from_bytes(bytes), received))
}
