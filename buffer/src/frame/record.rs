//! Encoding of a record in a frame.
//!
//! ```text
//!  0 length u32 of what follows   4 kind u8   5 flags u8   6 packet id u16 of a message with a sender
//!  8 device u32 (dictionary), or NONE
//! 12 schema u32 (dictionary) of a reading; tenant u32 (dictionary) of every other record
//! 16 received i64 ns             24 time i64 ns             32 identity u64, or client u64 of a session end
//! 40 reading:     [seq u64] [claimed time i64] [trace 25 bytes] [sender], as flagged, then per schema name a
//!                 tagged value:
//!                 0 absent | 1 f64 | 2 i64 | 3 false | 4 true | 5 length u32, text
//!    dead letter: [sender], as flagged; reason, topic, client, payload; each length u32, bytes
//!    retained:    qos u8, topic, payload, properties; each length u32, bytes
//!    session end: nothing
//!    destroyed:   nothing; in memory only, never in a stored frame
//! sender, in the first record of a message that may come again: client u64, connection u32
//! ```

use std::sync::Arc;

use bytes::Bytes;
use model::{DeviceKey, Nanos, Reading, Schema, ValueRef};

use super::FrameError;
use super::sent::SENDER_BYTES;

pub(super) const FIXED_BYTES: usize = 40;
/// Device number of a record without a device.
pub(super) const NONE: u32 = u32::MAX;

pub(super) const KIND_READING: u8 = 0;
pub(super) const KIND_DEAD_LETTER: u8 = 1;
pub(super) const KIND_RETAINED: u8 = 2;
pub(super) const KIND_SESSION_END: u8 = 3;
/// Contents that cannot be read, since the keys of their tenant were destroyed.
pub(super) const KIND_DESTROYED: u8 = 4;

/// Flag of [`KIND_DESTROYED`]: it was a reading or an unreadable message.
pub(super) const TELEMETRY: u8 = 1;

pub(super) const DEVICE_TIMED: u8 = 1;
pub(super) const HAS_SEQ: u8 = 2;
pub(super) const HAS_CLAIMED: u8 = 4;
pub(super) const HAS_TRACE: u8 = 8;
/// The sender set MQTT DUP: the writer looks for the message among those of the client.
pub(super) const RESENT: u8 = 16;
/// The first record of a message that may come again.
pub(super) const HAS_SENDER: u8 = 32;
/// See [`super::Sent::in_flight`].
pub(super) const IN_FLIGHT: u8 = 64;
/// A further record of the message whose first has a sender.
pub(super) const CONTINUES: u8 = 128;

pub use model::trace::TRACE_BYTES;

/// A record of a frame.
#[derive(Debug, Clone, Copy)]
pub enum Record<'a> {
    /// A reading.
    Reading(ReadingRef<'a>),
    /// An unreadable message.
    DeadLetter(DeadLetterRef<'a>),
    /// A retained message, or an empty payload that clears one.
    Retained(RetainedRef<'a>),
    /// The end of a session.
    SessionEnd(SessionEndRef<'a>),
    /// Any of these, of a tenant whose keys were destroyed.
    Destroyed(DestroyedRef<'a>),
}

impl<'a> Record<'a> {
    /// Tenant of the record.
    pub fn tenant(&self) -> &'a Arc<str> {
        match self {
            Self::Reading(reading) => &reading.device.tenant,
            Self::DeadLetter(letter) => letter.tenant,
            Self::Retained(message) => message.tenant,
            Self::SessionEnd(end) => end.tenant,
            Self::Destroyed(record) => record.tenant,
        }
    }

    /// True for a reading or an unreadable message, also when its contents cannot be read.
    pub fn is_telemetry(&self) -> bool {
        match self {
            Self::Reading(_) | Self::DeadLetter(_) => true,
            Self::Destroyed(record) => record.is_telemetry,
            Self::Retained(_) | Self::SessionEnd(_) => false,
        }
    }
}

/// A reading in a frame.
#[derive(Debug, Clone, Copy)]
pub struct ReadingRef<'a> {
    /// Device that sent it.
    pub device: &'a Arc<DeviceKey>,
    /// Schema of the values.
    pub schema: &'a Arc<Schema>,
    /// Ordering time.
    pub time: Nanos,
    /// Time of receipt.
    pub received: Nanos,
    /// Hash that identifies the message when it is sent again.
    pub identity: u64,
    /// The device's sequence.
    pub seq: Option<u64>,
    /// True when `time` is the device's.
    pub device_timed: bool,
    /// The device's time, when it was too far ahead to be used.
    pub claimed_time: Option<Nanos>,
    /// Trace context of a sampled message.
    pub trace: Option<&'a [u8; TRACE_BYTES]>,
    values: &'a [u8],
}

impl<'a> ReadingRef<'a> {
    /// Names and values, without absent ones.
    pub fn values(&self) -> impl Iterator<Item = (&'a str, ValueRef<'a>)> + use<'a> {
        self.columns().enumerate_names(self.schema)
    }

    /// One entry for each name of the schema, in order; `None` for an absent value.
    pub fn columns(&self) -> Columns<'a> {
        Columns { cursor: Cursor::new(self.values), left: self.schema.names().len() }
    }

    /// The encoded values: with equal schemas, equal bytes are equal values.
    pub fn value_bytes(&self) -> &'a [u8] {
        self.values
    }

    /// An owned copy.
    pub fn to_reading(&self) -> Reading {
        Reading {
            device: DeviceKey::clone(self.device),
            time: self.time,
            received: self.received,
            seq: self.seq,
            device_timed: self.device_timed,
            claimed_time: self.claimed_time,
            values: self.values().map(|(name, value)| (name.into(), value.to_owned())).collect(),
        }
    }
}

/// The values of a reading, in schema order.
#[derive(Debug, Clone)]
pub struct Columns<'a> {
    cursor: Cursor<'a>,
    left: usize,
}

impl<'a> Columns<'a> {
    fn enumerate_names(self, schema: &'a Schema) -> impl Iterator<Item = (&'a str, ValueRef<'a>)> + use<'a> {
        schema.names().iter().zip(self).filter_map(|(name, value)| Some((&**name, value?)))
    }
}

impl<'a> Iterator for Columns<'a> {
    type Item = Option<ValueRef<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        // Frames are checked when they are decoded or built.
        self.cursor.value().ok()
    }
}

/// An unreadable message in a frame.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetterRef<'a> {
    /// The sender's tenant, from its credential.
    pub tenant: &'a Arc<str>,
    /// The device, if it is known.
    pub device: Option<&'a Arc<DeviceKey>>,
    /// Time of receipt.
    pub received: Nanos,
    /// Hash that identifies the message when it is sent again.
    pub identity: u64,
    /// Reason, for operators.
    pub reason: &'a str,
    /// Topic it was published to.
    pub topic: &'a str,
    /// MQTT client id of the sender.
    pub client: &'a str,
    /// The unchanged payload.
    pub payload: &'a [u8],
}

/// A retained message in a frame.
#[derive(Debug, Clone, Copy)]
pub struct RetainedRef<'a> {
    /// The sender's tenant, from its credential.
    pub tenant: &'a Arc<str>,
    /// Time of receipt.
    pub received: Nanos,
    /// QoS of the PUBLISH.
    pub qos: u8,
    /// Topic it was published to.
    pub topic: &'a str,
    /// The payload; an empty one clears the topic.
    pub payload: &'a [u8],
    /// MQTT 5 properties, encoded by the broker; empty for 3.1.1.
    pub properties: &'a [u8],
}

/// The orderly end of a session, after which its client sends no message of it again.
#[derive(Debug, Clone, Copy)]
pub struct SessionEndRef<'a> {
    /// The client's tenant, from its credential.
    pub tenant: &'a Arc<str>,
    /// Time of the end.
    pub received: Nanos,
    /// Keyed hash of tenant and client id, as in [`super::Sent`].
    pub client: u64,
}

/// A record whose contents cannot be read.
#[derive(Debug, Clone, Copy)]
pub struct DestroyedRef<'a> {
    /// The tenant whose keys were destroyed.
    pub tenant: &'a Arc<str>,
    /// It was a reading or an unreadable message.
    pub is_telemetry: bool,
}

/// Dictionary of a frame: entries that records refer to by number.
#[derive(Debug, Clone)]
pub(super) struct Dictionary {
    /// Tenants of records that are not readings.
    pub(super) tenants: Arc<[Arc<str>]>,
    pub(super) devices: Arc<[Arc<DeviceKey>]>,
    pub(super) schemas: Arc<[Arc<Schema>]>,
}

/// Memory of a text that is shared, or of one that a schema has, besides its characters.
const TEXT_MEMORY: usize = 32;
/// Memory of a device besides its id.
const DEVICE_MEMORY: usize = 96;

impl Dictionary {
    /// Memory that it takes, near enough for a bound.
    pub(super) fn memory(&self) -> usize {
        let names = |schema: &Arc<Schema>| schema.names().iter().map(|name| TEXT_MEMORY + name.len()).sum::<usize>();
        let schemas: usize = self.schemas.iter().map(names).sum();
        (self.tenants.len() + self.schemas.len()) * TEXT_MEMORY + self.devices.len() * DEVICE_MEMORY + schemas
    }
}

/// Iterates over checked records.
#[derive(Debug, Clone)]
pub(super) struct Records<'a> {
    cursor: Cursor<'a>,
    dictionary: &'a Dictionary,
}

impl<'a> Records<'a> {
    pub(super) fn new(bytes: &'a [u8], dictionary: &'a Dictionary) -> Self {
        Self { cursor: Cursor::new(bytes), dictionary }
    }

    pub(super) fn bytes_left(&self) -> usize {
        self.cursor.rest().len()
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        if self.cursor.rest().is_empty() {
            return None;
        }
        read(&mut self.cursor, self.dictionary).ok()
    }
}

/// Checks that `bytes` are exactly `count` well-formed records.
fn check(bytes: &[u8], count: u32, dictionary: &Dictionary) -> Result<(), FrameError> {
    let mut cursor = Cursor::new(bytes);
    for _ in 0..count {
        match read(&mut cursor, dictionary)? {
            Record::Reading(reading) => {
                let mut values = Cursor::new(reading.values);
                for _ in reading.schema.names() {
                    values.value()?;
                }
                if !values.rest().is_empty() {
                    return Err(FrameError::Malformed("bytes after the last value"));
                }
            }
            Record::Destroyed(_) => return Err(FrameError::Malformed("record of an unknown kind")),
            Record::DeadLetter(_) | Record::Retained(_) | Record::SessionEnd(_) => {}
        }
    }
    if cursor.rest().is_empty() { Ok(()) } else { Err(FrameError::Malformed("bytes after the last record")) }
}

/// Reads one record without its values.
fn read<'a>(cursor: &mut Cursor<'a>, dictionary: &'a Dictionary) -> Result<Record<'a>, FrameError> {
    let length = cursor.u32()? as usize;
    let mut body = Cursor::new(cursor.take(length)?);
    let kind = body.u8()?;
    let flags = body.u8()?;
    body.take(2)?;
    let device = body.u32()?;
    let name = body.u32()? as usize;
    let received = body.i64()?;
    let time = body.i64()?;
    let identity = body.u64()?;
    let device = match device {
        NONE => None,
        place => {
            let device = dictionary.devices.get(place as usize);
            Some(device.ok_or(FrameError::Malformed("record names a device that the dictionary lacks"))?)
        }
    };
    if kind == KIND_READING {
        let seq = if flags & HAS_SEQ != 0 { Some(body.u64()?) } else { None };
        let claimed_time = if flags & HAS_CLAIMED != 0 { Some(body.i64()?) } else { None };
        let trace = if flags & HAS_TRACE != 0 {
            Some(body.take(TRACE_BYTES)?.try_into().expect("took that many"))
        } else {
            None
        };
        if flags & HAS_SENDER != 0 {
            body.take(SENDER_BYTES)?;
        }
        return Ok(Record::Reading(ReadingRef {
            device: device.ok_or(FrameError::Malformed("reading names no device"))?,
            schema: dictionary.schemas.get(name).ok_or(FrameError::Malformed("record names no schema"))?,
            time,
            received,
            identity,
            seq,
            device_timed: flags & DEVICE_TIMED != 0,
            claimed_time,
            trace,
            values: body.rest(),
        }));
    }
    let tenant = dictionary.tenants.get(name).ok_or(FrameError::Malformed("record names no tenant"))?;
    if flags & HAS_SENDER != 0 {
        body.take(SENDER_BYTES)?;
    }
    let record = match kind {
        KIND_DEAD_LETTER => {
            let (reason, topic, client, payload) = (body.text()?, body.text()?, body.text()?, body.blob()?);
            Record::DeadLetter(DeadLetterRef { tenant, device, received, identity, reason, topic, client, payload })
        }
        KIND_RETAINED => {
            let qos = body.u8()?;
            let (topic, payload, properties) = (body.text()?, body.blob()?, body.blob()?);
            Record::Retained(RetainedRef { tenant, received, qos, topic, payload, properties })
        }
        KIND_DESTROYED => Record::Destroyed(DestroyedRef { tenant, is_telemetry: flags & TELEMETRY != 0 }),
        KIND_SESSION_END => Record::SessionEnd(SessionEndRef { tenant, received, client: identity }),
        _ => return Err(FrameError::Malformed("record of an unknown kind")),
    };
    if !body.rest().is_empty() {
        return Err(FrameError::Malformed("bytes after the record"));
    }
    Ok(record)
}

/// Returns the dictionary and the records of a body in plain, checked.
pub(super) fn read_body(body: &Bytes, count: u32) -> Result<(Dictionary, Bytes), FrameError> {
    let mut cursor = Cursor::new(body);
    let dictionary = read_dictionary(&mut cursor)?;
    let at = body.len() - cursor.rest().len();
    check(cursor.rest(), count, &dictionary)?;
    Ok((dictionary, body.slice(at..)))
}

fn read_dictionary(cursor: &mut Cursor<'_>) -> Result<Dictionary, FrameError> {
    let tenants = list(cursor, |cursor| Ok(cursor.short_text()?.into()))?;
    let devices = list(cursor, |cursor| {
        let (tenant, id) = (cursor.short_text()?, cursor.short_text()?);
        Ok(Arc::new(DeviceKey { tenant: tenant.into(), id: id.into() }))
    })?;
    let schemas = list(cursor, |cursor| {
        let names: Result<Vec<&str>, _> = (0..cursor.u16()?).map(|_| cursor.short_text()).collect();
        Ok(Arc::new(Schema::new(names?)))
    })?;
    Ok(Dictionary { tenants, devices, schemas })
}

pub(super) fn list<'a, T>(
    cursor: &mut Cursor<'a>,
    mut read: impl FnMut(&mut Cursor<'a>) -> Result<T, FrameError>,
) -> Result<Arc<[T]>, FrameError> {
    let count = cursor.u32()? as usize;
    // An entry has at least two bytes: a wrong count reserves no more than the size of the frame.
    let mut items = Vec::with_capacity(count.min(cursor.rest().len() / 2));
    for _ in 0..count {
        items.push(read(cursor)?);
    }
    Ok(items.into())
}

/// Reads little-endian fields from a slice; a short slice is an error, never a panic.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], FrameError> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(FrameError::Malformed("a field is cut short"))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        Ok(self.take(N)?.try_into().expect("took N bytes"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, FrameError> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, FrameError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, FrameError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, FrameError> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Result<i64, FrameError> {
        self.array().map(i64::from_le_bytes)
    }

    fn blob(&mut self) -> Result<&'a [u8], FrameError> {
        let n = self.u32()? as usize;
        self.take(n)
    }

    fn text(&mut self) -> Result<&'a str, FrameError> {
        std::str::from_utf8(self.blob()?).map_err(|_| FrameError::Malformed("text is not UTF-8"))
    }

    pub(super) fn short_text(&mut self) -> Result<&'a str, FrameError> {
        let n = usize::from(self.u16()?);
        std::str::from_utf8(self.take(n)?).map_err(|_| FrameError::Malformed("text is not UTF-8"))
    }

    fn value(&mut self) -> Result<Option<ValueRef<'a>>, FrameError> {
        Ok(Some(match self.u8()? {
            TAG_ABSENT => return Ok(None),
            TAG_FLOAT => ValueRef::Float(f64::from_le_bytes(self.array()?)),
            TAG_INT => ValueRef::Int(self.i64()?),
            TAG_FALSE => ValueRef::Bool(false),
            TAG_TRUE => ValueRef::Bool(true),
            TAG_TEXT => ValueRef::Str(self.text()?),
            _ => return Err(FrameError::Malformed("value of an unknown type")),
        }))
    }
}

const TAG_ABSENT: u8 = 0;
const TAG_FLOAT: u8 = 1;
const TAG_INT: u8 = 2;
const TAG_FALSE: u8 = 3;
const TAG_TRUE: u8 = 4;
const TAG_TEXT: u8 = 5;

pub(super) fn write_value(out: &mut Vec<u8>, value: Option<ValueRef<'_>>) {
    match value {
        None => out.push(TAG_ABSENT),
        Some(ValueRef::Float(v)) => {
            out.push(TAG_FLOAT);
            out.extend_from_slice(&v.to_le_bytes());
        }
        Some(ValueRef::Int(v)) => {
            out.push(TAG_INT);
            out.extend_from_slice(&v.to_le_bytes());
        }
        Some(ValueRef::Bool(v)) => out.push(if v { TAG_TRUE } else { TAG_FALSE }),
        Some(ValueRef::Str(v)) => {
            out.push(TAG_TEXT);
            write_blob(out, v.as_bytes());
        }
    }
}

pub(super) fn write_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    let n = u32::try_from(bytes.len()).expect("a field is shorter than 4 GiB");
    out.extend_from_slice(&n.to_le_bytes());
    out.extend_from_slice(bytes);
}
