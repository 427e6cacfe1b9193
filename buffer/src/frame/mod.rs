//! The frame: the records of one durable append, in a binary format shared by all forms of the log.
//!
//! ```text
//! header, 56 bytes, little endian
//!   0 magic "WEIR"   4 version u8   5 flags u8 (bit 0: body is LZ4)   6 header length u16
//!   8 stored body length u32       12 raw body length u32
//!  16 record count u32             20 reserved u32, zero
//!  24 first offset u64             32 log incarnation u64
//!  40 append time i64 ns           48 CRC-32C u32 of bytes 0..48 and the stored body     52 reserved u32, zero
//! body
//!   tenant count u32, then per tenant of a record that is not a reading: length u16, tenant
//!   device count u32, then per device: tenant length u16, tenant, id length u16, id
//!   schema count u32, then per schema: name count u16, then per name: length u16, name
//!   records, see [`record`]
//! ```
//! Record `i` of a frame has the offset `first offset + i`. With encryption at rest the contents
//! are sealed: version 3, see `sealed`.

pub mod record;
mod screen;
pub(crate) mod sealed;
mod sent;
mod staged;
mod traced;

use std::sync::Arc;

use bytes::Bytes;
use envelope::{Keyring, UnsealError};
use model::{DeviceKey, Nanos};

use record::Dictionary;

pub use record::{DeadLetterRef, DestroyedRef, ReadingRef, Record, RetainedRef, SessionEndRef};
pub use sent::Sent;
pub(crate) use sent::{Place, Seen, Sighting};
pub use staged::{FrameBuilder, ReadingHeader, Staged};
pub use traced::Traced;

/// Format version of frames in plain.
pub const VERSION: u8 = 2;
/// Format version of sealed frames, the latest one.
pub const SEALED_VERSION: u8 = 3;
/// Offset of the version byte, in every version.
pub const VERSION_AT: usize = 4;
/// Length of the header.
pub const HEADER_BYTES: usize = 56;
/// Maximum length of a body; a header with a longer one is damaged.
pub const MAX_BODY_BYTES: usize = 48 << 20;
/// Maximum length of a sealed body, in which names of values may stand once for each tenant.
pub const MAX_SEALED_BYTES: usize = 96 << 20;

const MAGIC: [u8; 4] = *b"WEIR";
const FLAG_LZ4: u8 = 1;

/// The reason why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer bytes than the lengths in the header.
    #[error("frame is truncated: {have} bytes of {want}")]
    Short {
        /// Available bytes.
        have: usize,
        /// Required bytes.
        want: usize,
    },
    /// Not the start of a frame.
    #[error("no frame starts here")]
    Magic,
    /// Written by another release. Never skipped.
    #[error("frame has format version {0}, this release reads up to {SEALED_VERSION}: start the release that wrote it")]
    Version(u8),
    /// The checksum does not match.
    #[error("checksum does not match")]
    Checksum,
    /// The checksum matches but the contents are invalid: a defect of the writer.
    #[error("frame contents are malformed: {0}")]
    Malformed(&'static str),
    /// There is no keyring.
    #[error("frame is sealed: set `encryption.key_file` to the key of then")]
    Sealed,
    /// The keyring does not open it.
    #[error(transparent)]
    Unseal(UnsealError),
}

/// Header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the stored body.
    pub body_bytes: u32,
    /// Bytes of the uncompressed body.
    pub raw_bytes: u32,
    /// Number of records.
    pub count: u32,
    /// Offset of the first record.
    pub first_offset: u64,
    /// Incarnation of the log.
    pub incarnation: u64,
    /// Append time, by the writer's clock.
    pub appended: Nanos,
    compressed: bool,
    sealed: bool,
    crc: u32,
}

impl Header {
    /// Reads a header. Does not verify the checksum, which covers the body too.
    ///
    /// # Errors
    /// [`FrameError::Short`], [`FrameError::Magic`], [`FrameError::Version`], or
    /// [`FrameError::Malformed`] for impossible lengths.
    pub fn read(bytes: &[u8]) -> Result<Self, FrameError> {
        let short = FrameError::Short { have: bytes.len(), want: HEADER_BYTES };
        if bytes.len() < 8 {
            return Err(if MAGIC.starts_with(&bytes[..bytes.len().min(4)]) { short } else { FrameError::Magic });
        }
        if bytes[..4] != MAGIC {
            return Err(FrameError::Magic);
        }
        if ![VERSION, SEALED_VERSION].contains(&bytes[VERSION_AT]) {
            return Err(FrameError::Version(bytes[VERSION_AT]));
        }
        if bytes.len() < HEADER_BYTES {
            return Err(short);
        }
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let header = Self {
            compressed: bytes[5] & FLAG_LZ4 != 0,
            sealed: bytes[VERSION_AT] == SEALED_VERSION,
            body_bytes: u32_at(8),
            raw_bytes: u32_at(12),
            count: u32_at(16),
            first_offset: u64_at(24),
            incarnation: u64_at(32),
            appended: u64_at(40).cast_signed(),
            crc: u32_at(48),
        };
        let most = if header.sealed { MAX_SEALED_BYTES } else { MAX_BODY_BYTES };
        let sane = usize::from(u16::from_le_bytes([bytes[6], bytes[7]])) == HEADER_BYTES
            && bytes[5] & !FLAG_LZ4 == 0
            && !(header.compressed && header.sealed)
            && u32_at(20) == 0
            && u32_at(52) == 0
            && header.body_bytes as usize <= most
            && header.raw_bytes as usize <= most
            && header.first_offset.checked_add(u64::from(header.count)).is_some();
        if sane { Ok(header) } else { Err(FrameError::Malformed("header fields are out of range")) }
    }

    /// Reads a header and verifies the checksum of the whole frame, without decoding its contents.
    ///
    /// # Errors
    /// Like [`Header::read`], and [`FrameError::Checksum`].
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

    /// Bytes of the whole stored frame.
    pub fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.body_bytes as usize
    }

    /// Completes a frame in `out`, whose body is behind the room for the header.
    fn of(out: &mut [u8], count: u32, first_offset: u64, incarnation: u64, appended: Nanos, sealed: bool) -> Self {
        let body_bytes = u32::try_from(out.len() - HEADER_BYTES).expect("a body has a bound");
        let raw_bytes = body_bytes;
        let mut header = Self {
            body_bytes,
            raw_bytes,
            count,
            first_offset,
            incarnation,
            appended,
            compressed: false,
            sealed,
            crc: 0,
        };
        header.crc = crc32c::crc32c_append(crc32c::crc32c(&header.write()[..48]), &out[HEADER_BYTES..]);
        out[..HEADER_BYTES].copy_from_slice(&header.write());
        header
    }

    fn write(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[VERSION_AT] = if self.sealed { SEALED_VERSION } else { VERSION };
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

/// A verified frame with its dictionary resolved. Cheap to share.
#[derive(Debug, Clone)]
pub struct Frame {
    header: Header,
    stored: Bytes,
    records: Bytes,
    dictionary: Dictionary,
    memory: usize,
    /// Traced readings, with positions in the frame as offsets.
    traced: Option<Arc<[Traced]>>,
}

impl Frame {
    /// Reads the frame at the start of `bytes`, in plain; following bytes are ignored.
    ///
    /// # Errors
    /// [`FrameError`]; never panics.
    pub fn decode(bytes: &Bytes) -> Result<Self, FrameError> {
        Self::open(bytes, None)
    }

    /// Reads the frame at the start of `bytes`, with the keys of sealed ones; following bytes are
    /// ignored.
    ///
    /// # Errors
    /// [`FrameError`]; never panics.
    pub fn open(bytes: &Bytes, keys: Option<&Keyring>) -> Result<Self, FrameError> {
        Self::read(bytes, &sealed::Reading::With(keys.cloned()))
    }

    pub(crate) fn read(bytes: &Bytes, reading: &sealed::Reading) -> Result<Self, FrameError> {
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
        let (dictionary, records) = if header.sealed {
            sealed::open(&header, &body, reading)?
        } else {
            record::read_body(&body, header.count)?
        };
        let traced = traced::find(&records);
        let own = if header.compressed || header.sealed { body.len().max(records.len()) } else { 0 };
        let memory = stored.len() + own + dictionary.memory();
        Ok(Self { header, records, stored, dictionary, memory, traced })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Header and body to store.
    pub fn bytes(&self) -> &Bytes {
        &self.stored
    }

    /// Memory that the frame takes, near enough for a bound. Names are counted for each frame,
    /// although frames may share them.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Moves the records to another offset: the same offset and incarnation always yield the same
    /// bytes.
    ///
    /// # Panics
    /// For a sealed frame, which is valid in its place only; logs that move frames have no keys.
    pub(crate) fn moved_to(&self, first_offset: u64, incarnation: u64) -> Self {
        assert!(!self.header.sealed, "a sealed frame cannot be moved");
        let mut header = Header { first_offset, incarnation, ..self.header };
        let body = &self.stored[HEADER_BYTES..];
        header.crc = crc32c::crc32c_append(crc32c::crc32c(&header.write()[..48]), body);
        let mut stored = Vec::with_capacity(self.stored.len());
        stored.extend_from_slice(&header.write());
        stored.extend_from_slice(body);
        Self { header, stored: stored.into(), ..self.clone() }
    }

    /// Traced messages with readings in this frame, in order.
    pub fn traced(&self) -> impl Iterator<Item = Traced> {
        let from = self.header.first_offset;
        let all = self.traced.iter().flat_map(|traced| traced.iter());
        all.map(move |message| Traced { first: from + message.first, last: from + message.last, ..*message })
    }

    /// Opens the frame again when a record is of a tenant whose keys were destroyed. `None` when
    /// there is none, and when it cannot be opened.
    pub(crate) fn reopened(&self, keys: &Keyring) -> Option<Self> {
        if !self.has_destroyed(keys) {
            return None;
        }
        let opened = Self::open(&self.stored, Some(keys));
        opened.inspect_err(|error| tracing::error!(%error, "cannot open a frame in memory again")).ok()
    }

    /// True when a record is of a tenant whose keys were destroyed.
    fn has_destroyed(&self, keys: &Keyring) -> bool {
        let Dictionary { tenants, devices, .. } = &self.dictionary;
        let mut all = devices.iter().map(|device| &device.tenant).chain(tenants.iter());
        self.header.sealed && all.any(|tenant| keys.has_destroyed(tenant))
    }

    /// Devices of the records in this frame.
    pub fn devices(&self) -> &[Arc<DeviceKey>] {
        &self.dictionary.devices
    }

    /// Records with their offsets, in order.
    pub fn records(&self) -> impl Iterator<Item = (u64, Record<'_>)> {
        record::Records::new(&self.records, &self.dictionary)
            .enumerate()
            .map(|(i, record)| (self.header.first_offset + i as u64, record))
    }

    /// Records with their positions for [`Frame::record_at`], in order.
    pub fn positions(&self) -> impl Iterator<Item = (u32, Record<'_>)> {
        let mut walk = record::Records::new(&self.records, &self.dictionary);
        std::iter::from_fn(move || {
            let position = self.records.len() - walk.bytes_left();
            let record = walk.next()?;
            Some((u32::try_from(position).expect("a frame is shorter than 4 GiB"), record))
        })
    }

    /// Messages with a sender, and ends of sessions, with their places, in order.
    pub(crate) fn sightings(&self) -> impl Iterator<Item = (Place, Sighting)> {
        let mut place = Place { offset: self.header.first_offset, position: 0 };
        let all = raw_records(&self.records).map(move |record| {
            let here = place;
            place = here.after(record);
            (here, record)
        });
        all.filter_map(|(place, record)| Some((place, sent::sighting(record)?)))
    }

    /// The record at a place, with the values of a reading or the fields of a dead letter as
    /// encoded. None, or another record, if the position of the place is wrong.
    pub(crate) fn contents(&self, place: Place) -> Option<(Record<'_>, &[u8])> {
        let bytes = raw_records(self.records.get(place.position as usize..)?).next()?;
        let record = record::Records::new(bytes, &self.dictionary).next()?;
        Some((record, bytes.get(sent::contents_at(bytes[4], bytes[5])..)?))
    }

    /// The record at a position from [`Frame::positions`], without reading those before it.
    pub fn record_at(&self, position: u32) -> Option<Record<'_>> {
        let bytes = self.records.get(position as usize..)?;
        record::Records::new(bytes, &self.dictionary).next()
    }
}

/// The bytes of each of these checked records.
fn raw_records(records: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = records;
    std::iter::from_fn(move || {
        let length = u32::from_le_bytes(*rest.first_chunk()?) as usize;
        let (record, tail) = rest.split_at_checked(4 + length)?;
        rest = tail;
        Some(record)
    })
}

#[cfg(test)]
mod tests;
