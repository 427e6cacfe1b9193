//! What is small: latest states, dead letters, retained messages, counts.
//!
//! Values are JSON behind a checksum: they are few, and a person with the file alone can read them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use model::{DeviceKey, Nanos, Value};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Inner;
use super::keys;
use super::partition::at;
use crate::contract::{Deadletter, LatestState, LatestValue, Result, RetainedMessage, StoreError};

type Bytes = TableDefinition<'static, &'static [u8], &'static [u8]>;

const LATEST: Bytes = TableDefinition::new("latest");
const LETTERS: Bytes = TableDefinition::new("dead_letters");
const RETAINED: Bytes = TableDefinition::new("retained");
/// Tenant to dead letters held.
const LETTER_COUNTS: TableDefinition<'static, &'static str, u64> = TableDefinition::new("dead_letter_counts");
/// (partition, tenant) to rows that went with it.
pub(super) const EXPIRED: TableDefinition<'static, (i64, &'static str), u64> = TableDefinition::new("expired");

type Outcome<T> = std::result::Result<T, redb::Error>;

pub(super) fn prepare(database: &Database) -> Outcome<()> {
    let write = database.begin_write()?;
    for table in [LATEST, LETTERS, RETAINED] {
        write.open_table(table)?;
    }
    write.open_table(LETTER_COUNTS)?;
    write.open_table(EXPIRED)?;
    write.commit()?;
    Ok(())
}

/// Rows of expired partitions, by tenant.
pub(super) fn counts(
    database: &Database,
    table: TableDefinition<'static, (i64, &'static str), u64>,
) -> Outcome<Vec<(Arc<str>, u64)>> {
    let table = database.begin_read()?.open_table(table)?;
    let mut counts: BTreeMap<Arc<str>, u64> = BTreeMap::new();
    for entry in table.iter()? {
        let (key, rows) = entry?;
        *counts.entry(Arc::from(key.value().1)).or_default() += rows.value();
    }
    Ok(counts.into_iter().collect())
}

/// Notes the rows of a partition that is about to be deleted. Noting it again changes nothing.
pub(super) fn note_expired(database: &Database, partition: i64, rows: &[(Arc<str>, u64)]) -> Outcome<()> {
    let write = database.begin_write()?;
    {
        let mut table = write.open_table(EXPIRED)?;
        for (tenant, rows) in rows {
            table.insert((partition, &**tenant), rows)?;
        }
    }
    write.commit()?;
    Ok(())
}

#[derive(Serialize, Deserialize)]
struct LatestRow {
    first_seen: Nanos,
    last_seen: Nanos,
    readings: u64,
    clock_skew: Nanos,
    values: Vec<ValueRow>,
}

#[derive(Serialize, Deserialize)]
struct ValueRow {
    name: String,
    value: StoredValue,
    time: Nanos,
    seq: Option<u64>,
    received: Nanos,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredValue {
    /// As bits: JSON has no way to write every float.
    FloatBits(u64),
    Int(i64),
    Bool(bool),
    Text(String),
}

#[derive(Serialize, Deserialize)]
struct LetterRow {
    device: Option<String>,
    client: String,
    topic: String,
    payload: Vec<u8>,
    received: Nanos,
    reason: String,
    replayed: Option<Nanos>,
}

#[derive(Serialize, Deserialize)]
struct RetainedRow {
    qos: u8,
    payload: Vec<u8>,
    properties: Vec<u8>,
    received: Nanos,
}

fn seal<T: Serialize>(row: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(row).expect("plain fields are JSON");
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn unseal<T: DeserializeOwned>(path: &Path, key: &[u8], bytes: &[u8]) -> Result<T> {
    let damaged =
        |what: &str| StoreError::Damaged(format!("{}: entry {}: {what}", path.display(), String::from_utf8_lossy(key)));
    let (json, crc) = bytes.split_last_chunk::<4>().ok_or_else(|| damaged("it is cut short"))?;
    if crc32c::crc32c(json).to_le_bytes() != *crc {
        return Err(damaged("its checksum does not match"));
    }
    serde_json::from_slice(json).map_err(|error| damaged(&error.to_string()))
}

impl Inner {
    /// Reads a range of a table whole.
    fn entries(&self, table: Bytes, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let read = || -> Outcome<_> {
            let table = self.meta.begin_read()?.open_table(table)?;
            let range = match to {
                Some(to) => table.range::<&[u8]>(from..to)?,
                None => table.range::<&[u8]>(from..)?,
            };
            let mut all = Vec::new();
            for entry in range.take(limit) {
                let (key, value) = entry?;
                all.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok(all)
        };
        read().map_err(at(&self.meta_path()))
    }

    pub(super) fn load_latest(&self) -> Result<Vec<LatestState>> {
        let path = self.meta_path();
        let entries = self.entries(LATEST, &[], None, usize::MAX)?;
        entries
            .into_iter()
            .map(|(key, value)| {
                let row: LatestRow = unseal(&path, &key, &value)?;
                let mut ids = key.split(|b| *b == 0).map(String::from_utf8_lossy);
                let (tenant, id) = (ids.next().unwrap_or_default(), ids.next().unwrap_or_default());
                Ok(LatestState {
                    device: DeviceKey { tenant: tenant.as_ref().into(), id: id.as_ref().into() },
                    first_seen: row.first_seen,
                    last_seen: row.last_seen,
                    readings: row.readings,
                    clock_skew: row.clock_skew,
                    values: row.values.into_iter().map(read_value).collect(),
                })
            })
            .collect()
    }

    pub(super) fn store_latest(&self, states: &[LatestState]) -> Result<()> {
        let store = || -> Outcome<()> {
            let write = self.meta.begin_write()?;
            {
                let mut table = write.open_table(LATEST)?;
                for state in states {
                    let row = LatestRow {
                        first_seen: state.first_seen,
                        last_seen: state.last_seen,
                        readings: state.readings,
                        clock_skew: state.clock_skew,
                        values: state.values.iter().map(write_value).collect(),
                    };
                    table.insert(&keys::device(&state.device)[..], &seal(&row)[..])?;
                }
            }
            write.commit()?;
            Ok(())
        };
        store().map_err(at(&self.meta_path()))
    }

    pub(super) fn put_letters(&self, letters: &[Deadletter]) -> Result<()> {
        let put = || -> Outcome<()> {
            let write = self.meta.begin_write()?;
            {
                let mut table = write.open_table(LETTERS)?;
                let mut counts = write.open_table(LETTER_COUNTS)?;
                for letter in letters {
                    let key = keys::letter(&letter.tenant, &letter.log, letter.offset, &letter.stage);
                    if table.get(&key[..])?.is_some() {
                        continue;
                    }
                    table.insert(&key[..], &seal(&letter_row(letter))[..])?;
                    let held = counts.get(&*letter.tenant)?.map_or(0, |c| c.value());
                    counts.insert(&*letter.tenant, held + 1)?;
                }
            }
            write.commit()?;
            Ok(())
        };
        put().map_err(at(&self.meta_path()))
    }

    pub(super) fn list_letters(&self, from: &[u8], end: &[u8], limit: usize) -> Result<Vec<Deadletter>> {
        let entries = self.entries(LETTERS, from, Some(end), limit)?;
        entries.into_iter().map(|(key, value)| self.read_letter(&key, &value)).collect()
    }

    pub(super) fn get_letter(&self, key: &[u8]) -> Result<Option<Deadletter>> {
        let mut end = key.to_vec();
        end.push(0);
        self.list_letters(key, &end, 1).map(|mut found| found.pop())
    }

    pub(super) fn mark_letter(&self, key: &[u8], replayed: Nanos) -> Result<()> {
        let Some(mut letter) = self.get_letter(key)? else { return Ok(()) };
        letter.replayed = Some(replayed);
        let mark = || -> Outcome<()> {
            let write = self.meta.begin_write()?;
            write.open_table(LETTERS)?.insert(key, &seal(&letter_row(&letter))[..])?;
            write.commit()?;
            Ok(())
        };
        mark().map_err(at(&self.meta_path()))
    }

    pub(super) fn count_letters(&self) -> Result<Vec<(Arc<str>, u64)>> {
        let read = || -> Outcome<_> {
            let table = self.meta.begin_read()?.open_table(LETTER_COUNTS)?;
            let mut all = Vec::new();
            for entry in table.iter()? {
                let (tenant, count) = entry?;
                all.push((Arc::from(tenant.value()), count.value()));
            }
            Ok(all)
        };
        read().map_err(at(&self.meta_path()))
    }

    fn read_letter(&self, key: &[u8], value: &[u8]) -> Result<Deadletter> {
        let path = self.meta_path();
        let row: LetterRow = unseal(&path, key, value)?;
        let parts = || {
            let (tenant, rest) = key.split_at_checked(key.iter().position(|b| *b == 0)?)?;
            let rest = &rest[1..];
            let (log, rest) = rest.split_at_checked(rest.iter().position(|b| *b == 0)?)?;
            let (offset, stage) = rest[1..].split_first_chunk::<8>()?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Some((text(tenant), text(log), u64::from_be_bytes(*offset), text(stage)))
        };
        let (tenant, log, offset, stage) = parts()
            .ok_or_else(|| StoreError::Damaged(format!("{}: a dead letter's key is malformed", path.display())))?;
        Ok(Deadletter {
            log: log.into(),
            offset,
            tenant: tenant.into(),
            device: row.device.map(Into::into),
            client: row.client,
            topic: row.topic,
            payload: row.payload,
            received: row.received,
            stage,
            reason: row.reason,
            replayed: row.replayed,
        })
    }

    pub(super) fn load_retained(&self) -> Result<Vec<RetainedMessage>> {
        let path = self.meta_path();
        let entries = self.entries(RETAINED, &[], None, usize::MAX)?;
        entries
            .into_iter()
            .map(|(key, value)| {
                let row: RetainedRow = unseal(&path, &key, &value)?;
                Ok(RetainedMessage {
                    topic: String::from_utf8_lossy(&key).into_owned(),
                    qos: row.qos,
                    payload: row.payload,
                    properties: row.properties,
                    received: row.received,
                })
            })
            .collect()
    }

    pub(super) fn apply_retained(&self, changes: &[RetainedMessage]) -> Result<()> {
        let apply = || -> Outcome<()> {
            let write = self.meta.begin_write()?;
            {
                let mut table = write.open_table(RETAINED)?;
                for change in changes {
                    if change.payload.is_empty() {
                        table.remove(change.topic.as_bytes())?;
                        continue;
                    }
                    let row = RetainedRow {
                        qos: change.qos,
                        payload: change.payload.clone(),
                        properties: change.properties.clone(),
                        received: change.received,
                    };
                    table.insert(change.topic.as_bytes(), &seal(&row)[..])?;
                }
            }
            write.commit()?;
            Ok(())
        };
        apply().map_err(at(&self.meta_path()))
    }
}

fn letter_row(letter: &Deadletter) -> LetterRow {
    LetterRow {
        device: letter.device.as_deref().map(str::to_owned),
        client: letter.client.clone(),
        topic: letter.topic.clone(),
        payload: letter.payload.clone(),
        received: letter.received,
        reason: letter.reason.clone(),
        replayed: letter.replayed,
    }
}

fn write_value(latest: &LatestValue) -> ValueRow {
    let value = match &latest.value {
        Value::Float(v) => StoredValue::FloatBits(v.to_bits()),
        Value::Int(v) => StoredValue::Int(*v),
        Value::Bool(v) => StoredValue::Bool(*v),
        Value::Str(v) => StoredValue::Text(v.to_string()),
    };
    ValueRow { name: latest.name.to_string(), value, time: latest.time, seq: latest.seq, received: latest.received }
}

fn read_value(row: ValueRow) -> LatestValue {
    let value = match row.value {
        StoredValue::FloatBits(bits) => Value::Float(f64::from_bits(bits)),
        StoredValue::Int(v) => Value::Int(v),
        StoredValue::Bool(v) => Value::Bool(v),
        StoredValue::Text(v) => Value::Str(v.into()),
    };
    LatestValue { name: row.name.into(), value, time: row.time, seq: row.seq, received: row.received }
}
