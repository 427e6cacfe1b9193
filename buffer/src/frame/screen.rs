//! Messages of a batch that are dropped because they are in the log already.

use super::record::{CONTINUES, KIND_DEAD_LETTER, KIND_READING};
use super::{FrameBuilder, Place, Record, Sighting, raw_records, sent};

/// The first record of a message that is not in a frame yet.
pub(crate) struct FirstRecord<'a> {
    bytes: &'a [u8],
    builder: &'a FrameBuilder,
}

impl FrameBuilder {
    /// Drops the records of each message for which `keep` returns false. Its arguments are the
    /// message, its place if the batch began the log, and its first record. Called for ends of
    /// sessions too, which are kept. Returns the number of dropped records.
    pub(crate) fn retain_messages(&mut self, mut keep: impl FnMut(&Sighting, Place, &FirstRecord<'_>) -> bool) -> u32 {
        let mut kept: Option<Vec<u8>> = None;
        let mut place = Place { offset: 0, position: 0 };
        let (mut at, mut dropped, mut dropping) = (0, 0, false);
        for bytes in raw_records(&self.records) {
            match sent::sighting(bytes) {
                Some(sighting) => {
                    let keeps = keep(&sighting, place, &FirstRecord { bytes, builder: self });
                    dropping = !keeps && matches!(sighting, Sighting::Message(_));
                }
                None => dropping &= bytes[5] & CONTINUES != 0,
            }
            if dropping {
                kept.get_or_insert_with(|| self.records[..at].to_vec());
                dropped += 1;
            } else {
                place = place.after(bytes);
                if let Some(kept) = &mut kept {
                    kept.extend_from_slice(bytes);
                }
            }
            at += bytes.len();
        }
        if let Some(kept) = kept {
            self.records = kept;
        }
        self.count -= dropped;
        if self.is_empty() {
            self.clear();
        }
        dropped
    }
}

impl FirstRecord<'_> {
    /// True when a stored record has the same device, names and values, or is the same dead letter.
    pub(crate) fn has_contents_of(&self, record: &Record<'_>, contents: &[u8]) -> bool {
        let number = |at: usize| u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("four bytes")) as usize;
        let (kind, builder) = (self.bytes[4], self.builder);
        let owners = match record {
            Record::Reading(reading) => {
                kind == KIND_READING
                    && builder.devices.get(number(8)).is_some_and(|device| device == reading.device)
                    && builder.schemas.get(number(12)).is_some_and(|schema| schema == reading.schema)
            }
            Record::DeadLetter(letter) => {
                kind == KIND_DEAD_LETTER
                    && builder.tenants.get(number(12)).is_some_and(|tenant| tenant == letter.tenant)
            }
            Record::Retained(_) | Record::SessionEnd(_) | Record::Destroyed(_) => false,
        };
        owners && self.bytes.get(sent::contents_at(kind, self.bytes[5])..) == Some(contents)
    }
}
