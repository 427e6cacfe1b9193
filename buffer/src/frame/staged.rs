//! Staged records and the frame builder.
//!
//! A connection writes records into its own [`Staged`] without a lock; a [`FrameBuilder`] copies
//! them once and assigns numbers in the frame's dictionary.

use std::sync::Arc;

use bytes::Bytes;
use model::{DeviceKey, Nanos, Schema, ValueRef};

use super::record::{
    self, CONTINUES, DEVICE_TIMED, FIXED_BYTES, HAS_CLAIMED, HAS_SENDER, HAS_SEQ, HAS_TRACE, IN_FLIGHT,
    KIND_DEAD_LETTER, KIND_READING, KIND_RETAINED, KIND_SESSION_END, NONE, RESENT, TRACE_BYTES,
};
use super::sealed::push_short;
use super::{Frame, HEADER_BYTES, Header, MAX_BODY_BYTES, Sent, raw_records, traced};

/// Fields before the values of a reading.
#[derive(Debug, Clone, Copy)]
pub struct ReadingHeader<'a> {
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
    /// The sender marked the message as possibly resent.
    pub resent: bool,
}

/// Bytes of records that a producer keeps room for.
const KEEP_BYTES: usize = 128 << 10;

/// Records of one producer that are not in a frame yet. Reused: after a submit it is empty and
/// keeps its allocations, unless they are large.
#[derive(Debug, Default)]
pub struct Staged {
    records: Vec<u8>,
    count: u32,
    tenants: Vec<Arc<str>>,
    devices: Vec<Arc<DeviceKey>>,
    schemas: Vec<Arc<Schema>>,
    tenant_places: Vec<u32>,
    schema_places: Vec<u32>,
    message: Message,
}

/// The message whose records are being staged.
#[derive(Debug, Default, Clone, Copy)]
enum Message {
    /// It is never sent again.
    #[default]
    Once,
    /// Its first record takes the sender.
    Begins(Sent),
    /// Its first record has the sender.
    Begun,
}

impl Staged {
    /// Begins a message; the records that follow are its records, up to the next call. With a
    /// sender, the message is recognised when it is sent again, and `resent` records of it are
    /// dropped by the log if they are there already.
    pub fn message(&mut self, sent: Option<Sent>) {
        self.message = sent.map_or(Message::Once, Message::Begins);
    }

    /// Number of staged records.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of the staged records.
    pub fn bytes(&self) -> usize {
        self.records.len()
    }

    /// Adds a reading: `values` has one entry for each name of `schema`, in order, `None` for an
    /// absent value.
    pub fn reading<'v>(
        &mut self,
        device: &Arc<DeviceKey>,
        schema: &Arc<Schema>,
        header: &ReadingHeader<'_>,
        values: impl IntoIterator<Item = Option<ValueRef<'v>>>,
    ) {
        let flags = [
            (header.device_timed, DEVICE_TIMED),
            (header.seq.is_some(), HAS_SEQ),
            (header.claimed_time.is_some(), HAS_CLAIMED),
            (header.trace.is_some(), HAS_TRACE),
            (header.resent, RESENT),
        ];
        let flags = flags.iter().filter(|(on, _)| *on).fold(0, |all, (_, bit)| all | bit);
        let (flags, sent) = self.part(flags);
        let device = place(&mut self.devices, device);
        let schema_place = place(&mut self.schemas, schema);
        let at = self.begin(KIND_READING, flags, device, schema_place, header.received, header.time, header.identity);
        if let Some(seq) = header.seq {
            self.records.extend_from_slice(&seq.to_le_bytes());
        }
        if let Some(claimed) = header.claimed_time {
            self.records.extend_from_slice(&claimed.to_le_bytes());
        }
        if let Some(trace) = header.trace {
            self.records.extend_from_slice(trace);
        }
        self.sender(at, sent);
        let mut values = values.into_iter();
        for _ in schema.names() {
            record::write_value(&mut self.records, values.next().flatten());
        }
        self.end(at);
    }

    /// Adds an unreadable message.
    pub fn dead_letter(&mut self, letter: &record::DeadLetterRef<'_>, resent: bool) {
        let tenant = place(&mut self.tenants, letter.tenant);
        let device = letter.device.map_or(NONE, |d| place(&mut self.devices, d));
        let (flags, sent) = self.part(if resent { RESENT } else { 0 });
        let at = self.begin(KIND_DEAD_LETTER, flags, device, tenant, letter.received, letter.received, letter.identity);
        self.sender(at, sent);
        for field in [letter.reason.as_bytes(), letter.topic.as_bytes(), letter.client.as_bytes(), letter.payload] {
            record::write_blob(&mut self.records, field);
        }
        self.end(at);
    }

    /// Adds a retained message; an empty payload clears the topic.
    pub fn retained(&mut self, message: &record::RetainedRef<'_>) {
        let tenant = place(&mut self.tenants, message.tenant);
        let at = self.begin(KIND_RETAINED, 0, NONE, tenant, message.received, message.received, 0);
        self.records.push(message.qos);
        for field in [message.topic.as_bytes(), message.payload, message.properties] {
            record::write_blob(&mut self.records, field);
        }
        self.end(at);
    }

    /// Adds the orderly end of the session of a client, a keyed hash of tenant and client id: the
    /// client sends none of its messages again.
    pub fn session_end(&mut self, tenant: &Arc<str>, client: u64, received: Nanos) {
        let tenant = place(&mut self.tenants, tenant);
        let at = self.begin(KIND_SESSION_END, 0, NONE, tenant, received, received, client);
        self.end(at);
    }

    /// Adds to the flags of a record its part in the message. Returns the sender that it takes.
    fn part(&mut self, flags: u8) -> (u8, Option<Sent>) {
        match self.message {
            Message::Once => (flags, None),
            Message::Begun => (flags | CONTINUES, None),
            Message::Begins(sent) => {
                self.message = Message::Begun;
                (flags | HAS_SENDER | if sent.in_flight { IN_FLIGHT } else { 0 }, Some(sent))
            }
        }
    }

    fn sender(&mut self, at: usize, sent: Option<Sent>) {
        if let Some(sent) = sent {
            self.records[at + 6..at + 8].copy_from_slice(&sent.packet.to_le_bytes());
            self.records.extend_from_slice(&sent.client.to_le_bytes());
            self.records.extend_from_slice(&sent.connection.to_le_bytes());
        }
    }

    /// Discards all staged records.
    pub fn clear(&mut self) {
        self.records.clear();
        // After a large message: every connection has such a buffer.
        self.records.shrink_to(KEEP_BYTES);
        self.tenants.clear();
        self.devices.clear();
        self.schemas.clear();
        self.count = 0;
    }

    #[expect(clippy::too_many_arguments, reason = "the fixed fields of a record, in their order")]
    fn begin(
        &mut self,
        kind: u8,
        flags: u8,
        device: u32,
        name: u32,
        received: Nanos,
        time: Nanos,
        identity: u64,
    ) -> usize {
        let at = self.records.len();
        let mut fixed = [0; FIXED_BYTES];
        fixed[4] = kind;
        fixed[5] = flags;
        fixed[8..12].copy_from_slice(&device.to_le_bytes());
        fixed[12..16].copy_from_slice(&name.to_le_bytes());
        fixed[16..24].copy_from_slice(&received.to_le_bytes());
        fixed[24..32].copy_from_slice(&time.to_le_bytes());
        fixed[32..40].copy_from_slice(&identity.to_le_bytes());
        self.records.extend_from_slice(&fixed);
        at
    }

    fn end(&mut self, at: usize) {
        let length = u32::try_from(self.records.len() - at - 4).expect("a record is shorter than 4 GiB");
        self.records[at..at + 4].copy_from_slice(&length.to_le_bytes());
        self.count += 1;
    }
}

/// Returns the index of `item` in `list`; adds it unless it is among the last few.
fn place<T: ?Sized>(list: &mut Vec<Arc<T>>, item: &Arc<T>) -> u32 {
    const LOOK_BACK: usize = 16;
    let from = list.len().saturating_sub(LOOK_BACK);
    let found = list[from..].iter().rposition(|held| Arc::ptr_eq(held, item)).map(|i| from + i);
    let index = found.unwrap_or_else(|| {
        list.push(Arc::clone(item));
        list.len() - 1
    });
    u32::try_from(index).expect("a frame holds fewer than 2^32 names")
}

/// Collects staged records into frames. Reused for consecutive frames.
#[derive(Debug, Default)]
pub struct FrameBuilder {
    pub(super) records: Vec<u8>,
    pub(super) count: u32,
    pub(super) tenants: Vec<Arc<str>>,
    pub(super) devices: Vec<Arc<DeviceKey>>,
    pub(super) schemas: Vec<Arc<Schema>>,
    schema_bytes: usize,
    /// Flags that records may have, and [`HAS_SENDER`] with an end of a session.
    flags: u8,
}

impl FrameBuilder {
    /// Number of collected records.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of the collected records and of the names of their values, without tenants and device
    /// ids, which add at most [`FrameBuilder::OWNER_BYTES`] for each record.
    pub fn bytes(&self) -> usize {
        self.records.len() + self.schema_bytes
    }

    /// Maximum bytes of the tenant and the device of one record in a frame's dictionary.
    pub const OWNER_BYTES: usize = 3 * (2 + model::device::MAX_ID_BYTES);

    /// True without records.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes all staged records in order and leaves `staged` empty.
    pub fn absorb(&mut self, staged: &mut Staged) {
        let first_device = u32::try_from(self.devices.len()).expect("a frame holds fewer than 2^32 names");
        self.devices.append(&mut staged.devices);
        staged.schema_places.clear();
        for schema in staged.schemas.drain(..) {
            let known = self.schemas.len();
            staged.schema_places.push(place(&mut self.schemas, &schema));
            if self.schemas.len() > known {
                self.schema_bytes += schema_bytes(&schema);
            }
        }
        staged.tenant_places.clear();
        for tenant in staged.tenants.drain(..) {
            staged.tenant_places.push(place(&mut self.tenants, &tenant));
        }
        let (mut at, mut flags) = (0, 0);
        while at < staged.records.len() {
            let field = |from: usize| -> [u8; 4] { staged.records[from..from + 4].try_into().expect("four bytes") };
            let length = u32::from_le_bytes(field(at)) as usize;
            let device = u32::from_le_bytes(field(at + 8));
            let name = u32::from_le_bytes(field(at + 12));
            if device != NONE {
                staged.records[at + 8..at + 12].copy_from_slice(&(first_device + device).to_le_bytes());
            }
            let kind = staged.records[at + 4];
            let is_reading = kind == KIND_READING;
            let places = if is_reading { &staged.schema_places } else { &staged.tenant_places };
            let place = places[name as usize];
            staged.records[at + 12..at + 16].copy_from_slice(&place.to_le_bytes());
            flags |= staged.records[at + 5] | if kind == KIND_SESSION_END { HAS_SENDER } else { 0 };
            at += 4 + length;
        }
        self.flags |= flags;
        self.records.extend_from_slice(&staged.records);
        self.count += staged.count;
        staged.clear();
    }

    /// True when a record may be marked as possibly resent.
    pub fn has_resent(&self) -> bool {
        self.flags & RESENT != 0
    }

    /// True when there may be a message with a sender, or an end of a session.
    pub(crate) fn has_senders(&self) -> bool {
        self.flags & HAS_SENDER != 0
    }

    /// Moves records from the front into a new builder: at least one, then as many as the limits
    /// allow, measured like [`FrameBuilder::bytes`].
    pub fn take_front(&mut self, max_records: u32, max_bytes: usize) -> Self {
        let mut front = Self { flags: self.flags, ..Self::default() };
        let mut tenants = vec![NONE; self.tenants.len()];
        let mut devices = vec![NONE; self.devices.len()];
        let mut schemas = vec![NONE; self.schemas.len()];
        for (bytes, head) in self.raw() {
            let is_new = head.is_reading && schemas[head.name as usize] == NONE;
            let names = if is_new { schema_bytes(&self.schemas[head.name as usize]) } else { 0 };
            let over = front.count >= max_records || front.bytes() + bytes.len() + names > max_bytes;
            if front.count > 0 && over {
                break;
            }
            let device = move_name(head.device, &mut devices, &self.devices, &mut front.devices);
            let name = if head.is_reading {
                move_name(head.name, &mut schemas, &self.schemas, &mut front.schemas)
            } else {
                move_name(head.name, &mut tenants, &self.tenants, &mut front.tenants)
            };
            front.push(bytes, device, name);
            front.schema_bytes += names;
        }
        self.records.drain(..front.records.len());
        self.count -= front.count;
        if self.is_empty() {
            self.clear();
        }
        front
    }

    /// Appends a record, with these numbers of its device and of its schema or tenant.
    pub(super) fn push(&mut self, record: &[u8], device: u32, name: u32) {
        let at = self.records.len();
        self.records.extend_from_slice(record);
        self.records[at + 8..at + 12].copy_from_slice(&device.to_le_bytes());
        self.records[at + 12..at + 16].copy_from_slice(&name.to_le_bytes());
        self.count += 1;
    }

    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.tenants.clear();
        self.devices.clear();
        self.schemas.clear();
        self.schema_bytes = 0;
        self.count = 0;
        self.flags = 0;
    }

    pub(super) fn raw(&self) -> impl Iterator<Item = (&[u8], RawHead)> {
        raw_records(&self.records).map(|bytes| {
            let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
            (bytes, RawHead { is_reading: bytes[4] == KIND_READING, device: number(8), name: number(12) })
        })
    }

    /// Builds the frame and starts the next one.
    ///
    /// # Panics
    /// When the frame would be longer than [`super::MAX_BODY_BYTES`] and could not be read.
    pub fn build(&mut self, first_offset: u64, incarnation: u64, appended: Nanos) -> Frame {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.records.len() + 64 * self.devices.len() + 256);
        out.resize(HEADER_BYTES, 0);
        self.write_body(&mut out);
        let records_at = out.len() - self.records.len();
        assert!(out.len() - HEADER_BYTES <= MAX_BODY_BYTES, "a frame of {} bytes cannot be read", out.len());
        let header = Header::of(&mut out, self.count, first_offset, incarnation, appended, false);
        let stored = Bytes::from(out);
        let traced = if self.has_traces() { traced::find(&self.records) } else { None };
        let dictionary = self.take_dictionary();
        let memory = stored.len() + dictionary.memory();
        let frame = Frame { header, records: stored.slice(records_at..), stored, dictionary, memory, traced };
        self.clear();
        frame
    }

    /// Appends dictionary and records.
    pub(super) fn write_body(&self, out: &mut Vec<u8>) {
        let count = |n: usize| u32::try_from(n).expect("a frame holds fewer than 2^32 names").to_le_bytes();
        out.extend_from_slice(&count(self.tenants.len()));
        self.tenants.iter().for_each(|tenant| push_short(out, tenant));
        out.extend_from_slice(&count(self.devices.len()));
        for device in &self.devices {
            push_short(out, &device.tenant);
            push_short(out, &device.id);
        }
        out.extend_from_slice(&count(self.schemas.len()));
        for schema in &self.schemas {
            let names = u16::try_from(schema.names().len()).expect("a reading has fewer than 65,536 values");
            out.extend_from_slice(&names.to_le_bytes());
            for name in schema.names() {
                push_short(out, name);
            }
        }
        out.extend_from_slice(&self.records);
    }

    /// Bytes of the names of values.
    pub(super) fn name_bytes(&self) -> usize {
        self.schema_bytes
    }

    /// True when a reading may have a trace context.
    pub(super) fn has_traces(&self) -> bool {
        self.flags & HAS_TRACE != 0
    }

    pub(super) fn take_dictionary(&mut self) -> record::Dictionary {
        record::Dictionary {
            tenants: self.tenants.drain(..).collect(),
            devices: self.devices.drain(..).collect(),
            schemas: self.schemas.drain(..).collect(),
        }
    }
}

pub(super) struct RawHead {
    pub(super) is_reading: bool,
    pub(super) device: u32,
    /// Number of the schema of a reading, or of the tenant of another record.
    pub(super) name: u32,
}

/// Bytes of a schema in a frame's dictionary.
fn schema_bytes(schema: &Schema) -> usize {
    2 + schema.names().iter().map(|name| 2 + name.len()).sum::<usize>()
}

/// Returns the index in `to` of the entry at `old` in `from`, which is added once. `places` caches
/// the indexes.
pub(super) fn move_name<T: ?Sized>(old: u32, places: &mut [u32], from: &[Arc<T>], to: &mut Vec<Arc<T>>) -> u32 {
    let Some(place) = places.get_mut(old as usize) else { return NONE };
    if *place == NONE {
        *place = u32::try_from(to.len()).expect("a frame holds fewer than 2^32 names");
        to.push(Arc::clone(&from[old as usize]));
    }
    *place
}
