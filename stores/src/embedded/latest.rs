//! Latest states, one entry for each device.

use async_trait::async_trait;
use model::{DeviceKey, Nanos, Value};
use redb::ReadableDatabase;
use serde::{Deserialize, Serialize};

use super::file::Outcome;
use super::meta::LATEST;
use super::{EmbeddedStore, Inner, keys};
use crate::contract::{Latest, LatestState, LatestValue, Result};
use crate::ports::LatestView;

#[derive(Serialize, Deserialize)]
struct Row {
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
    /// Absent where it is the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    order: Option<Nanos>,
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

#[async_trait]
impl LatestView for EmbeddedStore {
    async fn get(&self, devices: &[DeviceKey]) -> Result<Vec<Option<LatestState>>> {
        let keys: Vec<Vec<u8>> = devices.iter().map(keys::device).collect();
        self.blocking(move |inner| {
            let found = inner.meta.open()?.run(|meta| {
                let table = meta.begin_read()?.open_table(LATEST)?;
                let value = |key: &Vec<u8>| Ok(table.get(&key[..])?.map(|value| value.value().to_vec()));
                keys.iter().map(value).collect::<Outcome<Vec<_>>>()
            })?;
            let state = |(key, value): (&Vec<u8>, Option<Vec<u8>>)| match value {
                Some(value) => inner.state(key, &value),
                None => Ok(None),
            };
            keys.iter().zip(found).map(state).collect()
        })
        .await
    }

    async fn list(&self, tenant: &str, after: Option<&str>, limit: usize) -> Result<Vec<LatestState>> {
        let (start, end) = keys::of_tenant(tenant);
        let from = match after {
            Some(after) => keys::after_device(&DeviceKey { tenant: tenant.into(), id: after.into() }),
            None => start,
        };
        self.blocking(move |inner| inner.states(&from, Some(&end), limit)).await
    }
}

impl Inner {
    fn states(&self, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Vec<LatestState>> {
        let mut from = from.to_vec();
        let mut states = Vec::new();
        // A short answer is the last one, so that states that cannot be read must not shorten it.
        while states.len() < limit {
            let asked = limit - states.len();
            let entries = self.entries(LATEST, &from, to, asked)?;
            let is_last = entries.len() < asked;
            for (key, value) in entries {
                states.extend(self.state(&key, &value)?);
                from = key;
            }
            if is_last {
                break;
            }
            // The next key after the last one.
            from.push(0);
        }
        Ok(states)
    }

    /// Reads a state; `None` when it cannot be read any longer.
    fn state(&self, key: &[u8], value: &[u8]) -> Result<Option<LatestState>> {
        let Some(row) = self.row::<Row>(&LATEST, key, value)? else { return Ok(None) };
        Ok(Some(LatestState {
            device: keys::read_device(key)?,
            first_seen: row.first_seen,
            last_seen: row.last_seen,
            readings: row.readings,
            clock_skew: row.clock_skew,
            values: row.values.into_iter().map(read).collect(),
        }))
    }
}

#[async_trait]
impl Latest for EmbeddedStore {
    async fn load(&self, after: Option<&DeviceKey>, limit: usize) -> Result<Vec<LatestState>> {
        let from = after.map_or_else(Vec::new, keys::after_device);
        self.blocking(move |inner| inner.states(&from, None, limit)).await
    }

    async fn store(&self, states: Vec<LatestState>) -> Result<()> {
        self.blocking(move |inner| {
            inner.sealing.prepare(states.iter().map(|state| &*state.device.tenant))?;
            let mut rows = Vec::with_capacity(states.len());
            for state in &states {
                let row = Row {
                    first_seen: state.first_seen,
                    last_seen: state.last_seen,
                    readings: state.readings,
                    clock_skew: state.clock_skew,
                    values: state.values.iter().map(row).collect(),
                };
                let key = keys::device(&state.device);
                let value = inner.value(&LATEST, &key, &row)?;
                rows.push((key, value));
            }
            inner.change(|write| {
                let mut table = write.open_table(LATEST)?;
                for (key, value) in &rows {
                    table.insert(&key[..], &value[..])?;
                }
                Ok(())
            })
        })
        .await
    }
}

fn row(latest: &LatestValue) -> ValueRow {
    let value = match &latest.value {
        Value::Float(v) => StoredValue::FloatBits(v.to_bits()),
        Value::Int(v) => StoredValue::Int(*v),
        Value::Bool(v) => StoredValue::Bool(*v),
        Value::Str(v) => StoredValue::Text(v.to_string()),
    };
    let order = (latest.order != latest.time).then_some(latest.order);
    let LatestValue { name, time, seq, received, .. } = latest;
    ValueRow { name: name.to_string(), value, time: *time, seq: *seq, received: *received, order }
}

fn read(row: ValueRow) -> LatestValue {
    let value = match row.value {
        StoredValue::FloatBits(bits) => Value::Float(f64::from_bits(bits)),
        StoredValue::Int(v) => Value::Int(v),
        StoredValue::Bool(v) => Value::Bool(v),
        StoredValue::Text(v) => Value::Str(v.into()),
    };
    let ValueRow { name, time, seq, received, order, .. } = row;
    LatestValue { name: name.into(), value, time, order: order.unwrap_or(time), seq, received }
}
