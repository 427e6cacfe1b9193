//! The frame: the readings that one durable append carries, in the bytes that every form of the log shares.
//!
//! ```text
//! header, 56 bytes, little endian
//!   0 magic "WEIR"   4 version u8   5 flags u8 (bit 0: body is LZ4)   6 header length u16
//!   8 stored body length u32       12 raw body length u32
//!  16 record count u32             20 reserved u32, zero
//!  24 first offset u64             32 log incarnation u64
//!  40 append time i64 ns           48 CRC-32C u32 of bytes 0..48 and the stored body     52 reserved u32, zero
//! body
//!   device count u32, then per device: tenant length u16, tenant, id length u16, id
//!   schema count u32, then per schema: name count u16, then per name: length u16, name
//!   records, see [`record`]
//! ```
//! Record `i` of a frame has the offset `first offset + i`.

pub mod record;
mod staged;
mod traced;

use std::sync::Arc;

use bytes::Bytes;
use model::{DeviceKey, Nanos, Schema};

pub use record::{DeadLetterRef, ReadingRef, Record, RetainedRef};
pub use staged::{FrameBuilder, ReadingHeader, Staged};
pub use traced::Traced;

/// The version this release writes.
pub const VERSION: u8 = 1;
/// Where the version stands, in every version.
pub const VERSION_AT: usize = 4;
/// Bytes before the body.
pub const HEADER_BYTES: usize = 56;
/// A body is never longer; a header that says so is damage.
pub const MAX_BODY_BYTES: usize = 48 << 20;

const MAGIC: [u8; 4] = *b"WEIR";
const FLAG_LZ4: u8 = 1;

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer bytes than the header or its lengths ask for.
    #[error("frame is cut short: {have} bytes of {want}")]
    Short {
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        want: usize,
    },
    /// Not the start of a frame.
    #[error("no frame starts here")]
    Magic,
    /// A later release wrote this. Never skipped.
    #[error("frame has format version {0}, this release reads up to {VERSION}: start the release that wrote it")]
    Version(u8),
    /// The checksum says no.
    #[error("checksum does not match")]
    Checksum,
    /// The checksum is right and the contents are not: a fault in the writer.
    #[error("frame contents are malformed: {0}")]
    Malformed(&'static str),
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of body as stored.
    pub body_bytes: u32,
    /// Bytes of body once unpacked.
    pub raw_bytes: u32,
    /// Records.
    pub count: u32,
    /// Offset of the first record.
    pub first_offset: u64,
    /// Incarnation of the log that wrote it.
    pub incarnation: u64,
    /// When it was appended, by the writer's clock.
    pub appended: Nanos,
    compressed: bool,
    crc: u32,
}

impl Header {
    /// Reads a header. Does not check the checksum: that covers the body too.
    ///
    /// # Errors
    /// [`FrameError::Short`], [`FrameError::Magic`], [`FrameError::Version`], or [`FrameError::Malformed`] for lengths
    /// that no writer makes.
    pub fn read(bytes: &[u8]) -> Result<Self, FrameError> {
        let short = FrameError::Short { have: bytes.len(), want: HEADER_BYTES };
        if bytes.len() < 8 {
            return Err(if MAGIC.starts_with(&bytes[..bytes.len().min(4)]) { short } else { FrameError::Magic });
        }
        if bytes[..4] != MAGIC {
            return Err(FrameError::Magic);
        }
        if bytes[VERSION_AT] != VERSION {
            return Err(FrameError::Version(bytes[VERSION_AT]));
        }
        if bytes.len() < HEADER_BYTES {
            return Err(short);
        }
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let header = Self {
            compressed: bytes[5] & FLAG_LZ4 != 0,
            body_bytes: u32_at(8),
            raw_bytes: u32_at(12),
            count: u32_at(16),
            first_offset: u64_at(24),
            incarnation: u64_at(32),
            appended: u64_at(40).cast_signed(),
            crc: u32_at(48),
        };
        let sane = usize::from(u16::from_le_bytes([bytes[6], bytes[7]])) == HEADER_BYTES
            && bytes[5] & !FLAG_LZ4 == 0
            && u32_at(20) == 0
            && u32_at(52) == 0
            && header.body_bytes as usize <= MAX_BODY_BYTES
            && header.raw_bytes as usize <= MAX_BODY_BYTES
            && header.first_offset.checked_add(u64::from(header.count)).is_some();
        if sane { Ok(header) } else { Err(FrameError::Malformed("header fields are out of range")) }
    }

    /// Reads a header and checks the checksum of the whole frame, without looking at what is in it.
    ///
    /// # Errors
    /// As [`Header::read`]; [`FrameError::Checksum`].
    pub fn check(bytes: &[u8]) -> Result<Self, FrameError> {
        let header = Self::read(bytes)?;
        let total = header.frame_bytes();
        let stored = bytes.get(..total).ok_or(FrameError::Short { have: bytes.len(), want: total })?;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&stored[..48]), &stored[HEADER_BYTES..]);
        if crc == header.crc { Ok(header) } else { Err(FrameError::Checksum) }
    }

    /// Offset after the last record.
    pub fn end_offset(&self) -> u64 {
        self.first_offset + u64::from(self.count)
    }

    /// Bytes of the whole frame as stored.
    pub fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.body_bytes as usize
    }

    fn write(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = VERSION;
        out[5] = if self.compressed { FLAG_LZ4 } else { 0 };
        out[6..8].copy_from_slice(&u16::try_from(HEADER_BYTES).expect("fits").to_le_bytes());
        out[8..12].copy_from_slice(&self.body_bytes.to_le_bytes());
        out[12..16].copy_from_slice(&self.raw_bytes.to_le_bytes());
        out[16..20].copy_from_slice(&self.count.to_le_bytes());
        out[24..32].copy_from_slice(&self.first_offset.to_le_bytes());
        out[32..40].copy_from_slice(&self.incarnation.to_le_bytes());
        out[40..48].copy_from_slice(&self.appended.to_le_bytes());
        out[48..52].copy_from_slice(&self.crc.to_le_bytes());
        out
    }
}

/// A frame, checked and with its dictionary resolved. Cheap to share.
#[derive(Debug, Clone)]
pub struct Frame {
    header: Header,
    stored: Bytes,
    records: Bytes,
    devices: Arc<[Arc<DeviceKey>]>,
    schemas: Arc<[Arc<Schema>]>,
    /// With places in the frame as offsets.
    traced: Option<Arc<[Traced]>>,
}

impl Frame {
    /// Reads the frame at the start of `bytes`; what follows it is ignored.
    ///
    /// # Errors
    /// [`FrameError`]; never panics, whatever the bytes.
    pub fn decode(bytes: &Bytes) -> Result<Self, FrameError> {
        let header = Header::check(bytes)?;
        let stored = bytes.slice(..header.frame_bytes());
        let body = if header.compressed {
            let raw = lz4_flex::block::decompress(&stored[HEADER_BYTES..], header.raw_bytes as usize)
                .map_err(|_| FrameError::Malformed("body does not unpack"))?;
            Bytes::from(raw)
        } else {
            stored.slice(HEADER_BYTES..)
        };
        if body.len() != header.raw_bytes as usize {
            return Err(FrameError::Malformed("body is not as long as the header says"));
        }
        let mut cursor = record::Cursor::new(&body);
        let (devices, schemas) = record::read_dictionary(&mut cursor)?;
        let at = body.len() - cursor.rest().len();
        record::check(cursor.rest(), header.count, devices.len(), &schemas)?;
        let records = body.slice(at..);
        let traced = traced::find(&records);
        Ok(Self { header, records, stored, devices: devices.into(), schemas: schemas.into(), traced })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The bytes to store: header and body.
    pub fn bytes(&self) -> &Bytes {
        &self.stored
    }

    /// The same records at another place: always the same bytes for the same place and incarnation.
    pub(crate) fn moved_to(&self, first_offset: u64, incarnation: u64) -> Self {
        let mut header = Header { first_offset, incarnation, ..self.header };
        let body = &self.stored[HEADER_BYTES..];
        header.crc = crc32c::crc32c_append(crc32c::crc32c(&header.write()[..48]), body);
        let mut stored = Vec::with_capacity(self.stored.len());
        stored.extend_from_slice(&header.write());
        stored.extend_from_slice(body);
        Self { header, stored: stored.into(), ..self.clone() }
    }

    /// The traced messages whose readings are in this frame, in order.
    pub fn traced(&self) -> impl Iterator<Item = Traced> {
        let from = self.header.first_offset;
        let all = self.traced.iter().flat_map(|traced| traced.iter());
        all.map(move |message| Traced { first: from + message.first, last: from + message.last, ..*message })
    }

    /// Devices that records of this frame name.
    pub fn devices(&self) -> &[Arc<DeviceKey>] {
        &self.devices
    }

    /// The records with their offsets, in order.
    pub fn records(&self) -> impl Iterator<Item = (u64, Record<'_>)> {
        record::Records::new(&self.records, &self.devices, &self.schemas)
            .enumerate()
            .map(|(i, record)| (self.header.first_offset + i as u64, record))
    }

    /// The records, each with its position for [`Frame::record_at`], in order.
    pub fn positions(&self) -> impl Iterator<Item = (u32, Record<'_>)> {
        let mut walk = record::Records::new(&self.records, &self.devices, &self.schemas);
        std::iter::from_fn(move || {
            let position = self.records.len() - walk.bytes_left();
            let record = walk.next()?;
            Some((u32::try_from(position).expect("a frame is shorter than 4 GiB"), record))
        })
    }

    /// The record at a position that [`Frame::positions`] gave, without walking those before it.
    pub fn record_at(&self, position: u32) -> Option<Record<'_>> {
        let bytes = self.records.get(position as usize..)?;
        record::Records::new(bytes, &self.devices, &self.schemas).next()
    }
}

#[cfg(test)]
mod tests;
