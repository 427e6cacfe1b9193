//! One record of a frame, as bytes.
//!
//! ```text
//!  0 length u32 of what follows   4 kind u8   5 flags u8   6 reserved u16
//!  8 device u32 (dictionary)     12 schema u32 (dictionary; NONE unless a reading)
//! 16 received i64 ns             24 time i64 ns             32 identity u64
//! 40 reading:     [seq u64] [claimed time i64] [trace 25 bytes], as flagged, then per schema name a tagged value:
//!                 0 absent | 1 f64 | 2 i64 | 3 false | 4 true | 5 length u32, text
//!    dead letter: reason, topic, client, payload; each length u32, bytes
//!    retained:    qos u8, topic, payload, properties; each length u32, bytes
//! ```

use std::sync::Arc;

use model::{DeviceKey, Nanos, Reading, Schema, ValueRef};

use super::FrameError;

pub(super) const FIXED_BYTES: usize = 40;
/// In the schema or device place of a record that has none.
pub(super) const NONE: u32 = u32::MAX;

pub(super) const KIND_READING: u8 = 0;
pub(super) const KIND_DEAD_LETTER: u8 = 1;
pub(super) const KIND_RETAINED: u8 = 2;

pub(super) const DEVICE_TIMED: u8 = 1;
pub(super) const HAS_SEQ: u8 = 2;
pub(super) const HAS_CLAIMED: u8 = 4;
pub(super) const HAS_TRACE: u8 = 8;
/// The sender marked it as possibly sent before (MQTT DUP): the writer looks its identity up.
pub(super) const RESENT: u8 = 16;

pub use model::trace::TRACE_BYTES;

/// One record.
#[derive(Debug, Clone, Copy)]
pub enum Record<'a> {
    /// A reading.
    Reading(ReadingRef<'a>),
    /// A message that could not be read.
    DeadLetter(DeadLetterRef<'a>),
    /// A retained message was set, or cleared by an empty payload.
    Retained(RetainedRef<'a>),
}

/// A reading inside a frame.
#[derive(Debug, Clone, Copy)]
pub struct ReadingRef<'a> {
    /// Who.
    pub device: &'a Arc<DeviceKey>,
    /// Names of the values.
    pub schema: &'a Arc<Schema>,
    /// The time that orders it.
    pub time: Nanos,
    /// When Weir took it.
    pub received: Nanos,
    /// Hash of what makes it one and the same message when sent again.
    pub identity: u64,
    /// The device's own counter.
    pub seq: Option<u64>,
    /// `time` came from the device.
    pub device_timed: bool,
    /// The device's time, when too far ahead to be used.
    pub claimed_time: Option<Nanos>,
    /// Trace context of a sampled message.
    pub trace: Option<&'a [u8; TRACE_BYTES]>,
    values: &'a [u8],
}

impl<'a> ReadingRef<'a> {
    /// Names and values; a name whose value was absent is left out.
    pub fn values(&self) -> impl Iterator<Item = (&'a str, ValueRef<'a>)> + use<'a> {
        self.columns().enumerate_names(self.schema)
    }

    /// One entry per schema name, in order; `None` where absent.
    pub fn columns(&self) -> Columns<'a> {
        Columns { cursor: Cursor::new(self.values), left: self.schema.names().len() }
    }

    /// The encoded values: equal bytes under an equal schema are equal values.
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
        // Every frame was checked when it was decoded or built.
        self.cursor.value().ok()
    }
}

/// A message that could not be read, inside a frame.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetterRef<'a> {
    /// Who, as far as is known.
    pub device: Option<&'a Arc<DeviceKey>>,
    /// When Weir took it.
    pub received: Nanos,
    /// Hash of what makes it one and the same message when sent again.
    pub identity: u64,
    /// Why, for a person.
    pub reason: &'a str,
    /// Where it was published.
    pub topic: &'a str,
    /// MQTT client id of the sender.
    pub client: &'a str,
    /// The payload as it came.
    pub payload: &'a [u8],
}

/// A retained message, inside a frame.
#[derive(Debug, Clone, Copy)]
pub struct RetainedRef<'a> {
    /// When Weir took it.
    pub received: Nanos,
    /// Quality of service it was published with.
    pub qos: u8,
    /// Where it was published.
    pub topic: &'a str,
    /// The payload; empty clears.
    pub payload: &'a [u8],
    /// MQTT 5 properties, encoded by the broker; empty for 3.1.1.
    pub properties: &'a [u8],
}

/// Walks checked records.
#[derive(Debug, Clone)]
pub(super) struct Records<'a> {
    cursor: Cursor<'a>,
    devices: &'a [Arc<DeviceKey>],
    schemas: &'a [Arc<Schema>],
}

impl<'a> Records<'a> {
    pub(super) fn new(bytes: &'a [u8], devices: &'a [Arc<DeviceKey>], schemas: &'a [Arc<Schema>]) -> Self {
        Self { cursor: Cursor::new(bytes), devices, schemas }
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
        read(&mut self.cursor, self.devices, self.schemas).ok()
    }
}

/// Checks that `bytes` hold exactly `count` well-formed records.
pub(super) fn check(bytes: &[u8], count: u32, devices: usize, schemas: &[Arc<Schema>]) -> Result<(), FrameError> {
    let mut cursor = Cursor::new(bytes);
    let dummy: Vec<Arc<DeviceKey>> = Vec::new();
    for _ in 0..count {
        let mut at = cursor.clone();
        at.take(8)?;
        let device = at.u32()?;
        if device != NONE && device as usize >= devices {
            return Err(FrameError::Malformed("record names a device that the dictionary lacks"));
        }
        read_checked(&mut cursor, &dummy, schemas, false)?;
    }
    if cursor.rest().is_empty() { Ok(()) } else { Err(FrameError::Malformed("bytes after the last record")) }
}

fn read<'a>(
    cursor: &mut Cursor<'a>,
    devices: &'a [Arc<DeviceKey>],
    schemas: &'a [Arc<Schema>],
) -> Result<Record<'a>, FrameError> {
    read_checked(cursor, devices, schemas, true)?.ok_or(FrameError::Malformed("record names no device"))
}

/// Reads one record. With `resolve` false the devices are not looked up, every value is walked, and nothing is returned.
fn read_checked<'a>(
    cursor: &mut Cursor<'a>,
    devices: &'a [Arc<DeviceKey>],
    schemas: &'a [Arc<Schema>],
    resolve: bool,
) -> Result<Option<Record<'a>>, FrameError> {
    let length = cursor.u32()? as usize;
    let mut body = Cursor::new(cursor.take(length)?);
    let kind = body.u8()?;
    let flags = body.u8()?;
    body.take(2)?;
    let device = body.u32()?;
    let schema = body.u32()?;
    let received = body.i64()?;
    let time = body.i64()?;
    let identity = body.u64()?;
    let record = match kind {
        KIND_READING => {
            let seq = if flags & HAS_SEQ != 0 { Some(body.u64()?) } else { None };
            let claimed_time = if flags & HAS_CLAIMED != 0 { Some(body.i64()?) } else { None };
            let trace = if flags & HAS_TRACE != 0 {
                Some(body.take(TRACE_BYTES)?.try_into().expect("took that many"))
            } else {
                None
            };
            let schema = schemas.get(schema as usize).ok_or(FrameError::Malformed("record names no schema"))?;
            let values = body.rest();
            if !resolve {
                if device == NONE {
                    return Err(FrameError::Malformed("reading names no device"));
                }
                for _ in schema.names() {
                    body.value()?;
                }
                return if body.rest().is_empty() {
                    Ok(None)
                } else {
                    Err(FrameError::Malformed("bytes after the last value"))
                };
            }
            let Some(device) = devices.get(device as usize) else { return Ok(None) };
            let device_timed = flags & DEVICE_TIMED != 0;
            Record::Reading(ReadingRef {
                device,
                schema,
                time,
                received,
                identity,
                seq,
                device_timed,
                claimed_time,
                trace,
                values,
            })
        }
        KIND_DEAD_LETTER => {
            let device = if device == NONE { None } else { devices.get(device as usize) };
            let (reason, topic, client, payload) = (body.text()?, body.text()?, body.text()?, body.blob()?);
            Record::DeadLetter(DeadLetterRef { device, received, identity, reason, topic, client, payload })
        }
        KIND_RETAINED => {
            let qos = body.u8()?;
            let (topic, payload, properties) = (body.text()?, body.blob()?, body.blob()?);
            Record::Retained(RetainedRef { received, qos, topic, payload, properties })
        }
        _ => return Err(FrameError::Malformed("record of an unknown kind")),
    };
    if !resolve && !body.rest().is_empty() {
        return Err(FrameError::Malformed("bytes after the record"));
    }
    Ok(Some(record))
}

type Dictionary = (Vec<Arc<DeviceKey>>, Vec<Arc<Schema>>);

pub(super) fn read_dictionary(cursor: &mut Cursor<'_>) -> Result<Dictionary, FrameError> {
    let count = cursor.u32()? as usize;
    let mut devices = Vec::with_capacity(count.min(cursor.rest().len() / 4));
    for _ in 0..count {
        let tenant = cursor.short_text()?;
        let id = cursor.short_text()?;
        devices.push(Arc::new(DeviceKey { tenant: tenant.into(), id: id.into() }));
    }
    let count = cursor.u32()? as usize;
    let mut schemas = Vec::with_capacity(count.min(cursor.rest().len() / 2));
    for _ in 0..count {
        let names = cursor.u16()?;
        let names: Result<Vec<&str>, _> = (0..names).map(|_| cursor.short_text()).collect();
        schemas.push(Arc::new(Schema::new(names?)));
    }
    Ok((devices, schemas))
}

/// Reads little-endian fields from a slice; running out is an error, never a panic.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], FrameError> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(FrameError::Malformed("a field is cut short"))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        Ok(self.take(N)?.try_into().expect("took N bytes"))
    }

    fn u8(&mut self) -> Result<u8, FrameError> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, FrameError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
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

    fn short_text(&mut self) -> Result<&'a str, FrameError> {
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
