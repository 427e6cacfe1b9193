//! A block as bytes.
//!
//! ```text
//! version u8, row count varint, section count varint,
//! per section: kind u8, name length varint, name, length varint
//! the sections' bytes, end to end
//! CRC-32C u32 of everything before it
//! ```
//! Sections: 1 times, 2 receive times, 3 sequences, 4 claimed times, 5 device-timed bits, 6 receive
//! times as distances from the times, in place of 2 where that is shorter, and for each column 16 +
//! value type, whose bytes begin with the presence bits when some row lacks a value. Times are
//! nanoseconds since 1970; the receive times of version 1 were milliseconds. Only requested columns
//! are unpacked.

mod bits;
mod numbers;
mod texts;

use std::collections::HashSet;
use std::sync::Arc;

use model::Nanos;

use crate::block::{Block, BlockId, Column, ColumnData};
use bits::{read_bits, write_bits};
use numbers::{read_floats, read_integers, write_floats, write_integers};

const VERSION: u8 = 2;
/// With receive times in milliseconds.
const MILLISECONDS: u8 = 1;
const TIMES: u8 = 1;
const RECEIVED: u8 = 2;
const SEQS: u8 = 3;
const CLAIMED: u8 = 4;
const TIMED: u8 = 5;
const DELAYS: u8 = 6;
const COLUMN: u8 = 16;
const MILLISECOND: Nanos = 1_000_000;
/// More rows than any writer makes: a greater length is damage.
const MAX_ROWS: usize = 1 << 22;

/// The reason why bytes cannot be read as a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The checksum does not match.
    #[error("checksum does not match")]
    Checksum,
    /// A later release wrote it.
    #[error("block has format version {0}, this release reads up to {VERSION}")]
    Version(u8),
    /// The checksum matches and the contents are malformed.
    #[error("block contents are malformed")]
    Malformed,
}

/// Writes a block. Its id is not part of the bytes: it is in the key.
pub fn encode(block: &Block) -> Vec<u8> {
    let mut sections: Vec<(u8, &str, Vec<u8>)> = vec![(TIMES, "", integers(&block.times)), received(block)];
    if !block.seqs.is_empty() {
        sections.push((SEQS, "", optional(block.seqs.iter().map(|s| s.map(u64::cast_signed)))));
    }
    if !block.claimed.is_empty() {
        sections.push((CLAIMED, "", optional(block.claimed.iter().copied())));
    }
    if !block.device_timed.is_empty() {
        let mut bytes = Vec::new();
        write_bits(&mut bytes, &block.device_timed);
        sections.push((TIMED, "", bytes));
    }
    for column in &block.columns {
        sections.push((COLUMN + column.data.kind() as u8, &column.name, column_bytes(column)));
    }
    let mut out = vec![VERSION];
    varint(&mut out, block.times.len() as u64);
    varint(&mut out, sections.len() as u64);
    for (kind, name, bytes) in &sections {
        out.push(*kind);
        varint(&mut out, name.len() as u64);
        out.extend_from_slice(name.as_bytes());
        varint(&mut out, bytes.len() as u64);
    }
    for (_, _, bytes) in &sections {
        out.extend_from_slice(bytes);
    }
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// Reads a block, with the named columns only.
///
/// # Errors
/// [`CodecError`]; never panics, for any bytes.
pub fn decode(bytes: &[u8], id: BlockId, names: Option<&[Arc<str>]>) -> Result<Block, CodecError> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or(CodecError::Malformed)?;
    if crc32c::crc32c(body).to_le_bytes() != *crc {
        return Err(CodecError::Checksum);
    }
    let mut input = Input(body);
    let unit = match input.u8()? {
        VERSION => 1,
        MILLISECONDS => MILLISECOND,
        other => return Err(CodecError::Version(other)),
    };
    let rows = input.length(MAX_ROWS)?;
    let count = input.length(body.len())?;
    let wanted: Option<HashSet<&str>> = names.map(|names| names.iter().map(|name| &**name).collect());
    let mut directory = Vec::new();
    for _ in 0..count {
        let kind = input.u8()?;
        let length = input.length(body.len())?;
        let name = std::str::from_utf8(input.take(length)?).map_err(|_| CodecError::Malformed)?;
        directory.push((kind, name, input.length(body.len())?));
    }
    let mut block = Block {
        id,
        times: Vec::new(),
        received: Vec::new(),
        seqs: Vec::new(),
        claimed: Vec::new(),
        device_timed: Vec::new(),
        columns: Vec::new(),
    };
    for (kind, name, length) in directory {
        let section = input.take(length)?;
        match kind {
            TIMES => block.times = read_integers(section, rows)?,
            RECEIVED => {
                block.received = read_integers(section, rows)?;
                block.received.iter_mut().for_each(|t| *t = t.saturating_mul(unit));
            }
            DELAYS => {
                let delays = read_integers(section, rows)?.into_iter();
                block.received = delays.zip(&block.times).map(|(delay, time)| time.wrapping_add(delay)).collect();
            }
            SEQS => block.seqs = read_optional(section, rows)?.map(|v| v.map(i64::cast_unsigned)).collect(),
            CLAIMED => block.claimed = read_optional(section, rows)?.collect(),
            TIMED => block.device_timed = read_bits(&mut Input(section), rows)?,
            kind if wanted.as_ref().is_some_and(|wanted| !wanted.contains(name)) && kind > COLUMN => {}
            kind => block.columns.push(read_column(kind, name, section, rows)?),
        }
    }
    if block.times.len() != rows || block.received.len() != rows {
        return Err(CodecError::Malformed);
    }
    Ok(block)
}

/// Receive times, or the distances from the times: 0 where a reading has no time of its own.
fn received(block: &Block) -> (u8, &'static str, Vec<u8>) {
    let delays = block.received.iter().zip(&block.times).map(|(received, time)| received.wrapping_sub(*time));
    let (times, delays) = (integers(&block.received), integers(&delays.collect::<Vec<_>>()));
    if delays.len() < times.len() { (DELAYS, "", delays) } else { (RECEIVED, "", times) }
}

fn integers(values: &[i64]) -> Vec<u8> {
    let mut out = Vec::new();
    write_integers(&mut out, values);
    out
}

fn optional(values: impl Iterator<Item = Option<i64>> + Clone) -> Vec<u8> {
    let mut out = Vec::new();
    write_bits(&mut out, &values.clone().map(|v| v.is_some()).collect::<Vec<_>>());
    write_integers(&mut out, &values.flatten().collect::<Vec<_>>());
    out
}

fn read_optional(bytes: &[u8], rows: usize) -> Result<impl Iterator<Item = Option<i64>>, CodecError> {
    let mut input = Input(bytes);
    let present = read_bits(&mut input, rows)?;
    let count = present.iter().filter(|p| **p).count();
    let mut values = read_integers(input.0, count)?.into_iter();
    Ok(present.into_iter().map(move |p| if p { values.next() } else { None }))
}

fn column_bytes(column: &Column) -> Vec<u8> {
    let mut out = vec![u8::from(!column.present.is_empty())];
    if !column.present.is_empty() {
        write_bits(&mut out, &column.present);
    }
    match &column.data {
        ColumnData::Float(values) => write_floats(&mut out, values),
        ColumnData::Int(values) => write_integers(&mut out, values),
        ColumnData::Bool(values) => write_bits(&mut out, values),
        ColumnData::Str(values) => texts::write(&mut out, values),
    }
    out
}

fn read_column(kind: u8, name: &str, bytes: &[u8], rows: usize) -> Result<Column, CodecError> {
    let mut input = Input(bytes);
    let present = match input.u8()? {
        0 => Vec::new(),
        1 => read_bits(&mut input, rows)?,
        _ => return Err(CodecError::Malformed),
    };
    let count = if present.is_empty() { rows } else { present.iter().filter(|p| **p).count() };
    let data = match kind.checked_sub(COLUMN) {
        Some(1) => ColumnData::Float(read_floats(input.0, count)?),
        Some(2) => ColumnData::Int(read_integers(input.0, count)?),
        Some(3) => ColumnData::Bool(read_bits(&mut input, count)?),
        Some(4) => ColumnData::Str(texts::read(&mut input, count)?),
        _ => return Err(CodecError::Malformed),
    };
    Ok(Column { name: name.into(), present, data })
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 128 {
        out.push((value % 128) as u8 | 128);
        value /= 128;
    }
    out.push(value as u8);
}

/// Bytes to read; their end is an error.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], CodecError> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(CodecError::Malformed)?;
        self.0 = tail;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(self.take(1)?[0])
    }

    fn varint(&mut self) -> Result<u64, CodecError> {
        let mut value = 0_u64;
        for i in 0..10 {
            let byte = self.u8()?;
            value |= u64::from(byte & 127).checked_shl(7 * i).ok_or(CodecError::Malformed)?;
            if byte & 128 == 0 {
                return Ok(value);
            }
        }
        Err(CodecError::Malformed)
    }

    fn length(&mut self, most: usize) -> Result<usize, CodecError> {
        usize::try_from(self.varint()?).ok().filter(|n| *n <= most).ok_or(CodecError::Malformed)
    }
}

#[cfg(test)]
mod tests;
