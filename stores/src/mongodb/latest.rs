//! Latest states, one document for each device.
//!
//! ```text
//! _id  tenant # device      w, d  tenant, device
//! first_seen, last_seen, readings; clock_skew  { size, ns }
//! values  name → { u: time that orders it, t: time, s: sequence, r: receive time, v: value }
//! ```
//! The server merges a state into the stored one: of each value the one with the later (u, time,
//! sequence, receive time) stays, so that writers may write in any order, and a writer that is
//! behind changes nothing. Plain `$max` costs the server half as much as a pipeline. It compares
//! names of fields too: `u` follows `t`, with which values without it begin.

use async_trait::async_trait;
use model::{DeviceKey, Value};
use mongodb::action::Action;
use mongodb::bson::{Document, RawBsonRef, RawDocument, doc};

use super::schema::DEVICES;
use super::server::{Server, compute};
use super::update::Updates;
use super::writer::{Key, Writer};
use super::{MongoStore, decode, names};
use crate::contract::{Latest, LatestState, LatestValue, Result};
use crate::ports::LatestView;

/// Devices in one request.
const KEYS: usize = 1_000;

fn id(device: &DeviceKey) -> String {
    format!("{}#{}", device.tenant, device.id)
}

/// Writes the update that merges a state into its document. Documents are compared field by field,
/// in the order of the fields, so the largest value is the newest, and the largest skew the one
/// farthest from zero.
fn update(w: &mut Writer, state: &LatestState) {
    w.nested("q", |w| w.text("_id", &id(&state.device)));
    w.nested("u", |w| {
        w.nested("$setOnInsert", |w| {
            w.text("w", &state.device.tenant);
            w.text("d", &state.device.id);
        });
        w.nested("$min", |w| w.long("first_seen", state.first_seen));
        w.nested("$max", |w| {
            w.long("last_seen", state.last_seen);
            // Each writer continues the count that it loaded: a sum would count a repeated write
            // twice.
            w.long("readings", i64::try_from(state.readings).unwrap_or(i64::MAX));
            w.nested("clock_skew", |w| {
                w.long("size", state.clock_skew.saturating_abs());
                w.long("ns", state.clock_skew);
            });
            for value in &state.values {
                w.nested(&*format!("values.{}", names::field(&value.name)), |w| {
                    w.long("u", value.order);
                    w.long("t", value.time);
                    w.optional_long("s", value.seq.map(u64::cast_signed));
                    w.long("r", value.received);
                    put(w, "v", &value.value);
                });
            }
        });
    });
    w.boolean("upsert", true);
}

fn put(w: &mut Writer, key: impl Key, value: &Value) {
    match value {
        Value::Float(v) => w.double(key, *v),
        Value::Int(v) => w.long(key, *v),
        Value::Bool(v) => w.boolean(key, *v),
        Value::Str(v) => w.text(key, v),
    }
}

fn read_value(field: &str, document: &RawDocument) -> Option<LatestValue> {
    let value = decode::value(document.get("v").ok()??)?;
    let (name, _) = names::name(field)?;
    let (time, received) = (decode::long(document, "t")?, decode::long(document, "r")?);
    let seq = decode::long(document, "s").map(i64::cast_unsigned);
    let order = decode::long(document, "u").unwrap_or(time);
    Some(LatestValue { name: name.into(), value, time, order, seq, received })
}

fn decode(collection: &str, document: &RawDocument) -> Result<LatestState> {
    let text = |field: &str| document.get(field).ok().flatten().and_then(RawBsonRef::as_str);
    let read = || {
        let mut values = Vec::new();
        if let Some(held) = document.get("values").ok()? {
            for entry in held.as_document()? {
                let (field, value) = entry.ok()?;
                values.push(read_value(field.as_str(), value.as_document()?)?);
            }
        }
        values.sort_by(|a, b| a.name.cmp(&b.name));
        Some(LatestState {
            device: DeviceKey { tenant: text("w")?.into(), id: text("d")?.into() },
            first_seen: decode::long(document, "first_seen")?,
            last_seen: decode::long(document, "last_seen")?,
            readings: decode::long(document, "readings")?.cast_unsigned(),
            clock_skew: decode::long(document.get_document("clock_skew").ok()?, "ns")?,
            values,
        })
    };
    read().ok_or_else(|| decode::damaged(collection, document, "a field is missing or has another type"))
}

#[async_trait]
impl Latest for MongoStore {
    async fn load(&self, after: Option<&DeviceKey>, limit: usize) -> Result<Vec<LatestState>> {
        let filter = after.map_or_else(Document::new, |after| doc! { "_id": { "$gt": id(after) } });
        self.server().await?.states(filter, Some(limit)).await
    }

    async fn store(&self, states: Vec<LatestState>) -> Result<()> {
        let server = self.server().await?;
        let count = states.len() as u64;
        let name = server.name(DEVICES);
        let updates = compute(move || {
            let mut updates = Updates::new(&name);
            states.iter().for_each(|state| updates.add(|w| update(w, state)));
            updates
        });
        server.update(updates.await?).await?;
        server.metrics.states.inc_by(count);
        Ok(())
    }
}

#[async_trait]
impl LatestView for MongoStore {
    async fn get(&self, devices: &[DeviceKey]) -> Result<Vec<Option<LatestState>>> {
        let server = self.server().await?;
        let mut found = std::collections::HashMap::new();
        for devices in devices.chunks(KEYS) {
            let keys: Vec<String> = devices.iter().map(id).collect();
            let states = server.states(doc! { "_id": { "$in": keys } }, None).await?;
            found.extend(states.into_iter().map(|state| (state.device.clone(), state)));
        }
        // A device may be requested twice.
        Ok(devices.iter().map(|device| found.get(device).cloned()).collect())
    }

    async fn list(&self, tenant: &str, after: Option<&str>, limit: usize) -> Result<Vec<LatestState>> {
        let from = format!("{tenant}#{}", after.unwrap_or_default());
        // `$` follows `#`.
        let filter = doc! { "_id": { "$gt": from, "$lt": format!("{tenant}$") } };
        self.server().await?.states(filter, Some(limit)).await
    }
}

impl Server {
    async fn states(&self, filter: Document, limit: Option<usize>) -> Result<Vec<LatestState>> {
        // The server takes 0 for no limit.
        if limit == Some(0) {
            return Ok(Vec::new());
        }
        let limit = limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
        let devices = self.collection(DEVICES);
        let request = devices.find(filter).sort(doc! { "_id": 1 }).batch_size(10_000);
        let request = request.optional(limit, mongodb::action::Find::limit);
        let cursor = self.send("find", request).await.map_err(|error| self.failed(&error))?;
        let name = self.name(DEVICES);
        self.gather(self.request_limit(), cursor, |document| decode(&name, document)).await
    }
}
