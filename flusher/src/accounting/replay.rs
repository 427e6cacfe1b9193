//! Replay of readings that a store refused into that store, after an operator has repaired the
//! cause.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use model::{DeviceKey, Nanos};
use serde_json::Value as Json;
use stores::contract::{DeadLetters, Deadletter, DeviceBatch, Export, History, Result, StoreError, is_last};
use stores::{Block, BlockId, Column, ColumnData};

use crate::accounting::tallies::hour_of;
use crate::{INGEST, Projections};

/// Marks the blocks of replayed readings: no range has so many parts.
const PART: u16 = u16::MAX;
/// Places in one millisecond.
const PLACES: u64 = 1_000_000;
/// Replayed readings have a writer of their own, so that they are not part of a delivery that is
/// under way.
const WRITER: &str = "replay";

/// Takes a reading that the store refused earlier.
#[async_trait]
pub trait ReplayInto: Send + Sync + 'static {
    /// Writes the reading of a dead letter, durably; one that is there already changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the store still refuses it.
    async fn replay(&self, letter: &Deadletter) -> Result<()>;
}

/// Gives the reading of a dead letter to the store that refused it. False for a letter that is a
/// message, which has to be read again.
///
/// # Errors
/// [`StoreError::Refused`] when the store still refuses it, or is not configured.
pub async fn replay_into_store(projections: &Projections, letter: &Deadletter) -> Result<bool> {
    if letter.stage == INGEST {
        return Ok(false);
    }
    if projections.purged().has(&letter.tenant) {
        return Err(StoreError::Refused("the tenant is deleted".to_owned()));
    }
    let Some(store) = projections.get(&letter.stage).and_then(|projection| projection.replay.as_ref()) else {
        let reason = format!("no export {:?} is configured here: configure it, or replay elsewhere", letter.stage);
        return Err(StoreError::Refused(reason));
    };
    store.replay(letter).await?;
    Ok(true)
}

/// Replays into the history.
pub(crate) struct IntoHistory(pub(crate) Arc<dyn History>);

#[async_trait]
impl ReplayInto for IntoHistory {
    async fn replay(&self, letter: &Deadletter) -> Result<()> {
        self.0.write(vec![block(letter, None)?]).await?;
        self.0.sync().await
    }
}

/// Replays into an export.
pub(crate) struct IntoExport {
    pub(crate) store: Arc<dyn Export>,
}

#[async_trait]
impl ReplayInto for IntoExport {
    async fn replay(&self, letter: &Deadletter) -> Result<()> {
        // The same place each time, so that a second replay writes the same reading.
        let hash = xxhash_rust::xxh3::xxh3_64_with_seed(letter.log.as_bytes(), letter.offset);
        let place = self.store.needs_distinct_times().then_some(hash % PLACES);
        let batch = DeviceBatch { block: block(letter, place)?, offsets: vec![letter.offset], traces: Vec::new() };
        // Later replays fence earlier ones that are still under way.
        self.store.join(WRITER, u64::try_from(crate::flusher::now()).unwrap_or_default()).await?;
        self.store.write(WRITER, vec![batch]).await?;
        self.store.commit(WRITER, 0).await
    }
}

/// The reading as a block of one row; `place` is its place within its millisecond when it has none
/// of its own.
fn block(letter: &Deadletter, place: Option<u64>) -> Result<Block> {
    let refused = |what: &str| StoreError::Refused(format!("the payload of the dead letter {what}"));
    let payload: Json = serde_json::from_slice(&letter.payload).map_err(|_| refused("is not JSON"))?;
    let Json::Object(mut fields) = payload else { return Err(refused("is not an object")) };
    let device =
        letter.device.clone().ok_or_else(|| StoreError::Refused("the dead letter has no device".to_owned()))?;
    let device_time = fields.remove("ts").and_then(|ts| ts.as_i64());
    let seq = fields.remove("seq").and_then(|seq| seq.as_u64());
    let time: Nanos = device_time.unwrap_or(letter.received);
    let within = time.rem_euclid(1_000_000).unsigned_abs();
    let within = (device_time.is_some() && within != 0).then_some(within);
    let seq = seq.or_else(|| place.map(|place| within.unwrap_or(place)));
    let mut columns = Vec::new();
    for (name, value) in fields {
        let data = match value {
            Json::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) => ColumnData::Int(vec![integer]),
                (None, Some(float)) => ColumnData::Float(vec![float]),
                (None, None) => return Err(refused("holds a number that cannot be represented")),
            },
            Json::Bool(value) => ColumnData::Bool(vec![value]),
            Json::String(text) => ColumnData::Str(vec![text.as_str().into()]),
            _ => return Err(refused("holds a value of no known type")),
        };
        columns.push(Column { name: name.into(), present: Vec::new(), data });
    }
    let device = DeviceKey { tenant: Arc::clone(&letter.tenant), id: device };
    Ok(Block {
        id: BlockId { device, log: Arc::clone(&letter.log), first_offset: letter.offset, part: PART },
        times: vec![time],
        received: vec![letter.received],
        seqs: seq.map(|seq| vec![Some(seq)]).unwrap_or_default(),
        claimed: Vec::new(),
        device_timed: if device_time.is_some() { Vec::new() } else { vec![false] },
        columns,
    })
}

/// The hour of the reading in a dead letter.
pub(crate) fn hour(letter: &Deadletter) -> Option<i64> {
    let block = block(letter, None).ok()?;
    block.times.first().map(|time| hour_of(*time))
}

/// Readings of a sink that were replayed, by tenant and hour.
///
/// # Errors
/// As [`DeadLetters::list`].
pub(crate) async fn by_hour(letters: &dyn DeadLetters, sink: &str) -> Result<BTreeMap<(Arc<str>, i64), u64>> {
    const PAGE: usize = 1_000;
    let mut found = BTreeMap::new();
    for (tenant, count) in letters.count_replayed(sink).await? {
        let mut last: Option<Deadletter> = None;
        if count == 0 {
            continue;
        }
        loop {
            let after = last.as_ref().map(|letter| (&*letter.log, letter.offset, &*letter.stage));
            let page = letters.list(&tenant, after, PAGE).await?;
            for letter in page.iter().filter(|letter| letter.stage == sink && letter.replayed.is_some()) {
                if let Some(hour) = hour(letter) {
                    *found.entry((Arc::clone(&tenant), hour)).or_default() += 1;
                }
            }
            let end = is_last(&page, PAGE);
            last = page.into_iter().last();
            if end {
                break;
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::history::letter::payload;

    fn letter(payload: &str) -> Deadletter {
        Deadletter {
            log: "l".into(),
            offset: 7,
            tenant: "t".into(),
            device: Some("d".into()),
            client: String::new(),
            topic: String::new(),
            payload: payload.into(),
            received: 5_000_000_123,
            stage: "influxdb".to_owned(),
            reason: String::new(),
            replayed: None,
        }
    }

    #[test]
    fn a_reading_comes_back_from_its_letter_with_its_types() {
        let text = r#"{"ts":3000000000,"seq":9,"f":1.0,"i":2,"b":true,"s":"x"}"#;
        let block = block(&letter(text), Some(1)).unwrap();
        assert_eq!((&block.times[..], &block.seqs[..]), (&[3_000_000_000][..], &[Some(9)][..]));
        let again: Json = serde_json::from_slice(&payload(&block)).unwrap();
        assert_eq!(again, serde_json::from_str::<Json>(text).unwrap());
        let kinds: Vec<_> = block.columns.iter().map(|column| column.data.kind()).collect();
        assert_eq!(kinds, [model::Kind::Bool, model::Kind::Float, model::Kind::Int, model::Kind::Str]);
    }

    #[test]
    fn a_reading_without_a_sequence_has_a_place_and_the_same_each_time() {
        let place = |text: &str| block(&letter(text), Some(42)).unwrap().seqs[0];
        assert_eq!(place(r#"{"ts":3000000000,"v":1}"#), Some(42));
        assert_eq!(place(r#"{"ts":3000000017,"v":1}"#), Some(17));
        assert_eq!(place(r#"{"v":1}"#), Some(42), "the receive time has no place");
    }

    #[test]
    fn a_payload_that_is_not_a_reading_is_refused_with_the_reason() {
        for (text, wrong) in [("{", "not JSON"), ("[]", "not an object"), (r#"{"a":[1]}"#, "no known type")] {
            let error = block(&letter(text), None).unwrap_err();
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }
}
