//! Latest states, one document for each device.
//!
//! ```text
//! _id  tenant # device      w, d  tenant, device
//! first_seen, last_seen, readings; clock_skew  { size, ns }
//! values  name → { t: time, s: sequence, r: receive time, v: value }
//! ```
//! A state is merged into what is there by the server: of each value the one with the later (time, sequence, receive time) stays, so
//! that writers may come in any order, and a writer that was left behind changes nothing. Plain `$max` does that at half of what a
//! pipeline costs the server.

use model::{DeviceKey, Value};
use mongodb::action::Action;
use mongodb::bson::{Document, RawBsonRef, RawDocument, doc};

use super::schema::DEVICES;
use super::update::Updates;
use super::writer::{Key, Writer};
use super::{Inner, compute, decode, names};
use crate::contract::{LatestState, LatestValue, Result};

/// Devices asked for in one request.
const KEYS: usize = 1_000;

fn id(device: &DeviceKey) -> String {
    format!("{}#{}", device.tenant, device.id)
}

/// The update that merges a state into its document. Documents are compared field by field, in the order of the fields: so the
/// largest value is the newest, and the largest skew the one farthest from zero.
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
            // Each writer counts on from what it loaded: a sum would count twice what is written again.
            w.long("readings", i64::try_from(state.readings).unwrap_or(i64::MAX));
            w.nested("clock_skew", |w| {
                w.long("size", state.clock_skew.saturating_abs());
                w.long("ns", state.clock_skew);
            });
            for value in &state.values {
                w.nested(&*format!("values.{}", names::field(&value.name)), |w| {
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
    Some(LatestValue { name: name.into(), value, time, seq, received })
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

impl Inner {
    pub(super) async fn store_states(&self, states: Vec<LatestState>) -> Result<()> {
        let count = states.len() as u64;
        let name = self.name(DEVICES);
        let updates = compute(move || {
            let mut updates = Updates::new(&name);
            states.iter().for_each(|state| updates.add(|w| update(w, state)));
            updates
        });
        self.update(updates.await?).await?;
        self.metrics.states.inc_by(count);
        Ok(())
    }

    pub(super) async fn load_states(&self) -> Result<Vec<LatestState>> {
        self.states(doc! {}, None).await
    }

    pub(super) async fn get_states(&self, devices: &[DeviceKey]) -> Result<Vec<Option<LatestState>>> {
        let mut found = std::collections::HashMap::new();
        for devices in devices.chunks(KEYS) {
            let keys: Vec<String> = devices.iter().map(id).collect();
            let states = self.states(doc! { "_id": { "$in": keys } }, None).await?;
            found.extend(states.into_iter().map(|state| (state.device.clone(), state)));
        }
        // A device may be asked for twice.
        Ok(devices.iter().map(|device| found.get(device).cloned()).collect())
    }

    pub(super) async fn list_states(
        &self,
        tenant: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<LatestState>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let from = format!("{tenant}#{}", after.unwrap_or_default());
        // `$` follows `#`.
        let filter = doc! { "_id": { "$gt": from, "$lt": format!("{tenant}$") } };
        self.states(filter, Some(i64::try_from(limit).unwrap_or(i64::MAX))).await
    }

    async fn states(&self, filter: Document, limit: Option<i64>) -> Result<Vec<LatestState>> {
        let devices = self.collection(DEVICES);
        let request = devices.find(filter).sort(doc! { "_id": 1 }).batch_size(10_000);
        let request = request.optional(limit, mongodb::action::Find::limit);
        let cursor = self.send("find", request).await.map_err(|error| self.failed(&error))?;
        let name = self.name(DEVICES);
        self.gather(self.request_limit(), cursor, |document| decode(&name, document)).await
    }
}
