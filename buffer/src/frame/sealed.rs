//! Frames whose contents are sealed, each tenant's with its own key (version 3).
//!
//! ```text
//! header as in version 2; the checksum covers the body as it is stored
//! body
//!   section count u32, then per section: tenant length u16, tenant, length u32
//!   run count u32, then per run of records in the order of their offsets:
//!     section u32, telemetry u8 (1: a reading or an unreadable message), record count u32
//!   sections end to end, each sealed: key id u32, nonce 12 bytes, contents, tag 16 bytes
//! ```
//! A section has the records of one tenant; its contents are a body of version 2 with only these.
//! One of length 0 was discarded, because the keys of its tenant were destroyed. Incarnation, first
//! offset, record count and the number of the section are authenticated, so a section is valid in
//! its own place only.
//!
//! Records that cannot be read keep their offsets, as [`Record::Destroyed`](super::Record).

use std::sync::Arc;

use bytes::Bytes;
use envelope::{HEAD_BYTES, Keyring, OVERHEAD_BYTES, SealError, UnsealError};
use hashbrown::{HashMap, HashSet};
use model::Nanos;

use super::record::{
    self, Cursor, Dictionary, FIXED_BYTES, KIND_DEAD_LETTER, KIND_DESTROYED, KIND_READING, NONE, TELEMETRY,
};
use super::staged::{FrameBuilder, move_name};
use super::{Frame, FrameError, HEADER_BYTES, Header, MAX_SEALED_BYTES, raw_records, traced};

/// More records than a batch has. Those that cannot be read have no bytes that bound their number.
const MAX_RECORDS: u32 = 1 << 20;

/// How sealed frames are read.
#[derive(Debug, Clone, Default)]
pub(crate) enum Reading {
    /// Contents of tenants appear as destroyed: for counts of records by tenant.
    #[default]
    Outline,
    /// With these keys; without keys, a sealed frame is an error.
    With(Option<Keyring>),
}

/// Consecutive records of one section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    section: u32,
    is_telemetry: bool,
    count: u32,
}

/// The body before the sealed sections.
struct Head<'a> {
    sections: Vec<(&'a str, &'a [u8])>,
    runs: Vec<Run>,
}

/// Authenticated with a section.
fn place(first_offset: u64, incarnation: u64, count: u32, section: usize) -> [u8; 31] {
    let mut place = [0; 31];
    place[..3].copy_from_slice(b"log");
    place[3..11].copy_from_slice(&incarnation.to_le_bytes());
    place[11..19].copy_from_slice(&first_offset.to_le_bytes());
    place[19..23].copy_from_slice(&count.to_le_bytes());
    place[23..].copy_from_slice(&(section as u64).to_le_bytes());
    place
}

impl FrameBuilder {
    /// Builds the frame like [`FrameBuilder::build`], sealed if the keyring seals.
    ///
    /// # Errors
    /// [`SealError::NoKey`]: nothing has changed, and it may work later.
    ///
    /// # Panics
    /// When the frame would be longer than [`MAX_SEALED_BYTES`] and could not be read: see
    /// `FrameBuilder::fits_sealed`.
    pub fn build_sealed(
        &mut self,
        first_offset: u64,
        incarnation: u64,
        appended: Nanos,
        keys: Option<&Keyring>,
    ) -> Result<Frame, SealError> {
        let Some(keys) = keys.filter(|keys| keys.seals()) else {
            return Ok(self.build(first_offset, incarnation, appended));
        };
        let Parts { tenants, parts, runs } = self.parts();
        keys.prepare(tenants.iter().map(|tenant| &**tenant))?;
        let mut out = Vec::with_capacity(HEADER_BYTES + 2 * FIXED_BYTES + self.bytes() + 64 * self.devices.len());
        out.resize(HEADER_BYTES, 0);
        push_count(&mut out, tenants.len());
        let mut lengths = Vec::with_capacity(tenants.len());
        for tenant in &tenants {
            push_short(&mut out, tenant);
            lengths.push(out.len());
            out.extend_from_slice(&[0; 4]);
        }
        push_count(&mut out, runs.len());
        for run in &runs {
            out.extend_from_slice(&run.section.to_le_bytes());
            out.push(run.is_telemetry.into());
            out.extend_from_slice(&run.count.to_le_bytes());
        }
        let mut discarded = 0;
        for (section, tenant) in tenants.iter().enumerate() {
            let part = if parts.is_empty() { &*self } else { &parts[section] };
            let at = out.len();
            out.resize(at + HEAD_BYTES, 0);
            part.write_body(&mut out);
            let place = place(first_offset, incarnation, self.count, section);
            match keys.seal(tenant, &place, &mut out, at) {
                Ok(()) => {
                    let length = u32::try_from(out.len() - at).expect("a frame is shorter than 4 GiB");
                    out[lengths[section]..][..4].copy_from_slice(&length.to_le_bytes());
                }
                Err(SealError::Destroyed(_)) => {
                    out.truncate(at);
                    discarded += u64::from(part.count);
                }
                Err(error) => return Err(error),
            }
        }
        assert!(out.len() - HEADER_BYTES <= MAX_SEALED_BYTES, "a frame of {} bytes cannot be read", out.len());
        let header = Header::of(&mut out, self.count, first_offset, incarnation, appended, true);
        let stored = Bytes::from(out);
        if discarded > 0 {
            keys.note_discarded(discarded);
            let frame = Frame::read(&stored, &Reading::With(Some(keys.clone())));
            self.clear();
            return Ok(frame.expect("a frame that was just built can be read"));
        }
        let traced = if self.has_traces() { traced::find(&self.records) } else { None };
        let records = Bytes::copy_from_slice(&self.records);
        let dictionary = self.take_dictionary();
        let memory = stored.len() + records.len() + dictionary.memory();
        self.clear();
        Ok(Frame { header, stored, records, dictionary, memory, traced })
    }

    /// True when the records fit into one sealed frame: names of values that several tenants send
    /// stand there once for each of them.
    pub(crate) fn fits_sealed(&self) -> bool {
        // The rest is for records and owners, within the limits of a batch.
        const NAMES_BYTES: usize = 40 << 20;
        let owners = self.devices.len() + self.tenants.len();
        if self.name_bytes().saturating_mul(owners) <= NAMES_BYTES {
            return true;
        }
        let of_devices = self.devices.iter().map(|device| &*device.tenant);
        let tenants: HashSet<&str> = of_devices.chain(self.tenants.iter().map(|tenant| &**tenant)).collect();
        self.name_bytes().saturating_mul(tenants.len()) <= NAMES_BYTES
    }

    /// The tenant of everything in the builder, if it is one.
    fn only_tenant(&self) -> Option<&Arc<str>> {
        let mut all = self.devices.iter().map(|device| &device.tenant).chain(&self.tenants);
        let first = all.next()?;
        all.all(|tenant| Arc::ptr_eq(first, tenant) || first == tenant).then_some(first)
    }

    /// Takes the records apart by their tenants.
    fn parts(&self) -> Parts {
        let mut runs: Vec<Run> = Vec::new();
        if let Some(tenant) = self.only_tenant() {
            self.raw().for_each(|(bytes, _)| count(&mut runs, 0, bytes));
            return Parts { tenants: vec![Arc::clone(tenant)], parts: Vec::new(), runs };
        }
        let (mut tenants, mut known): (Vec<Arc<str>>, HashMap<&Arc<str>, u32>) = (Vec::new(), HashMap::new());
        let (mut of_devices, mut of_tenants) = (vec![NONE; self.devices.len()], vec![NONE; self.tenants.len()]);
        let mut parts: Vec<FrameBuilder> = Vec::new();
        let (mut devices, mut names) = (vec![NONE; self.devices.len()], vec![NONE; self.tenants.len()]);
        let mut schemas: HashMap<(u32, u32), u32> = HashMap::new();
        for (bytes, head) in self.raw() {
            let (place, tenant) = match head.is_reading {
                true => (&mut of_devices[head.device as usize], &self.devices[head.device as usize].tenant),
                false => (&mut of_tenants[head.name as usize], &self.tenants[head.name as usize]),
            };
            if *place == NONE {
                *place = *known.entry(tenant).or_insert_with(|| {
                    tenants.push(Arc::clone(tenant));
                    parts.push(FrameBuilder::default());
                    u32::try_from(tenants.len() - 1).expect("a frame holds fewer than 2^32 names")
                });
            }
            let section = *place;
            count(&mut runs, section, bytes);
            let part = &mut parts[section as usize];
            let device = move_name(head.device, &mut devices, &self.devices, &mut part.devices);
            let name = match head.is_reading {
                true => *schemas.entry((section, head.name)).or_insert_with(|| {
                    part.schemas.push(Arc::clone(&self.schemas[head.name as usize]));
                    u32::try_from(part.schemas.len() - 1).expect("a frame holds fewer than 2^32 names")
                }),
                false => move_name(head.name, &mut names, &self.tenants, &mut part.tenants),
            };
            part.push(bytes, device, name);
        }
        Parts { tenants, parts, runs }
    }
}

/// Adds a record to the last run, or begins the next.
fn count(runs: &mut Vec<Run>, section: u32, record: &[u8]) {
    let is_telemetry = matches!(record[4], KIND_READING | KIND_DEAD_LETTER);
    match runs.last_mut() {
        Some(run) if run.section == section && run.is_telemetry == is_telemetry => run.count += 1,
        _ => runs.push(Run { section, is_telemetry, count: 1 }),
    }
}

/// The records of a builder, by tenant.
struct Parts {
    tenants: Vec<Arc<str>>,
    /// Empty when there is one tenant: the builder itself is its part.
    parts: Vec<FrameBuilder>,
    runs: Vec<Run>,
}

fn push_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).expect("a frame holds fewer than 2^32 names").to_le_bytes());
}

pub(super) fn push_short(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("ids and names are shorter than 64 KiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

impl<'a> Head<'a> {
    fn read(body: &'a [u8], count: u32) -> Result<Self, FrameError> {
        if count > MAX_RECORDS {
            return Err(FrameError::Malformed("more records than a frame has"));
        }
        let mut cursor = Cursor::new(body);
        let names = record::list(&mut cursor, |cursor| Ok((cursor.short_text()?, cursor.u32()? as usize)))?;
        let mut left = u64::from(count);
        let runs = record::list(&mut cursor, |cursor| {
            let run = Run { section: cursor.u32()?, is_telemetry: cursor.u8()? != 0, count: cursor.u32()? };
            left = left.checked_sub(run.count.into()).ok_or(FrameError::Malformed("a run is too long"))?;
            match (run.section as usize) < names.len() {
                true => Ok(run),
                false => Err(FrameError::Malformed("a run names no section")),
            }
        })?;
        if left > 0 {
            return Err(FrameError::Malformed("the runs are too short"));
        }
        let sections = names.iter().map(|(tenant, length)| Ok((*tenant, cursor.take(*length)?)));
        let sections = sections.collect::<Result<Vec<_>, FrameError>>()?;
        match cursor.rest() {
            [] => Ok(Self { sections, runs: runs.to_vec() }),
            _ => Err(FrameError::Malformed("bytes after the last section")),
        }
    }
}

/// The contents of a section; `None` when they cannot be read.
type Contents = Option<(Dictionary, Bytes)>;

/// Returns the dictionary and the records of a sealed body.
pub(super) fn open(header: &Header, body: &[u8], reading: &Reading) -> Result<(Dictionary, Bytes), FrameError> {
    let Head { sections, runs } = Head::read(body, header.count)?;
    let mut counts = vec![0; sections.len()];
    runs.iter().for_each(|run| counts[run.section as usize] += run.count);
    let mut opened: Vec<Contents> = Vec::with_capacity(sections.len());
    for (number, (tenant, sealed)) in sections.iter().enumerate() {
        let keys = match reading {
            _ if sealed.is_empty() => None,
            Reading::Outline => None,
            Reading::With(keys) => Some(keys.as_ref().ok_or(FrameError::Sealed)?),
        };
        let place = place(header.first_offset, header.incarnation, header.count, number);
        opened.push(match keys {
            Some(keys) => open_section(keys, tenant, &place, sealed, counts[number])?,
            None => None,
        });
    }
    match &mut opened[..] {
        // The usual frame: nothing has to be moved.
        [Some(_)] => Ok(opened.pop().flatten().expect("it is there")),
        _ => Ok(assemble(&sections, &runs, &opened)),
    }
}

fn open_section(keys: &Keyring, tenant: &str, place: &[u8], sealed: &[u8], count: u32) -> Result<Contents, FrameError> {
    let mut bytes = sealed.to_vec();
    match keys.open_sealed(tenant, place, &mut bytes) {
        Ok(_) => {}
        Err(UnsealError::Destroyed(_)) => {
            keys.note_unreadable(count.into());
            return Ok(None);
        }
        Err(error) => return Err(FrameError::Unseal(error)),
    }
    let body = Bytes::from(bytes).slice(HEAD_BYTES..sealed.len() + HEAD_BYTES - OVERHEAD_BYTES);
    record::read_body(&body, count).map(Some)
}

/// Puts the records of several sections in the order of their offsets, with one dictionary.
fn assemble(sections: &[(&str, &[u8])], runs: &[Run], opened: &[Contents]) -> (Dictionary, Bytes) {
    let (mut tenants, mut devices, mut schemas) = (Vec::new(), Vec::new(), Vec::new());
    // Numbers of the first tenant, device and schema of each section.
    let mut firsts = Vec::with_capacity(sections.len());
    for ((tenant, _), contents) in sections.iter().zip(opened) {
        firsts.push([tenants.len(), devices.len(), schemas.len()].map(|n| u32::try_from(n).unwrap_or(NONE)));
        match contents {
            Some((dictionary, _)) => {
                tenants.extend(dictionary.tenants.iter().cloned());
                devices.extend(dictionary.devices.iter().cloned());
                schemas.extend(dictionary.schemas.iter().cloned());
            }
            None => tenants.push(Arc::from(*tenant)),
        }
    }
    let mut records = Vec::new();
    let mut rests: Vec<_> = opened.iter().map(|contents| contents.as_ref().map(|(_, all)| raw_records(all))).collect();
    for run in runs {
        let [first_tenant, first_device, first_schema] = firsts[run.section as usize];
        let Some(rest) = &mut rests[run.section as usize] else {
            (0..run.count).for_each(|_| push_destroyed(&mut records, first_tenant, run.is_telemetry));
            continue;
        };
        for record in rest.take(run.count as usize) {
            let at = records.len();
            records.extend_from_slice(record);
            let is_reading = record[4] == KIND_READING;
            add(&mut records, at + 8, first_device);
            add(&mut records, at + 12, if is_reading { first_schema } else { first_tenant });
        }
    }
    let dictionary = Dictionary { tenants: tenants.into(), devices: devices.into(), schemas: schemas.into() };
    (dictionary, records.into())
}

/// Adds to the number at a place, unless it is [`NONE`].
fn add(records: &mut [u8], at: usize, more: u32) {
    let Some(field) = records.get_mut(at..at + 4) else { return };
    let number = u32::from_le_bytes(field.try_into().expect("four bytes"));
    if number != NONE {
        field.copy_from_slice(&number.saturating_add(more).to_le_bytes());
    }
}

fn push_destroyed(records: &mut Vec<u8>, tenant: u32, is_telemetry: bool) {
    let mut record = [0; FIXED_BYTES];
    record[..4].copy_from_slice(&(FIXED_BYTES as u32 - 4).to_le_bytes());
    record[4] = KIND_DESTROYED;
    record[5] = if is_telemetry { TELEMETRY } else { 0 };
    record[8..12].copy_from_slice(&NONE.to_le_bytes());
    record[12..16].copy_from_slice(&tenant.to_le_bytes());
    records.extend_from_slice(&record);
}

/// Returns an error unless the keyring has, or has destroyed, the key of every section of a checked
/// frame.
pub(crate) fn check_keys(bytes: &[u8], header: &Header, keys: Option<&Keyring>) -> Result<(), FrameError> {
    if !header.sealed {
        return Ok(());
    }
    let keys = keys.ok_or(FrameError::Sealed)?;
    let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
    for (tenant, sealed) in Head::read(body, header.count)?.sections {
        if !sealed.is_empty() {
            keys.check(tenant, sealed).map_err(FrameError::Unseal)?;
        }
    }
    Ok(())
}
