//! Readings that a store refused, given to that store again: after a person has repaired what it was about.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{DeviceKey, Nanos};
use serde_json::Value as Json;
use stores::contract::{DeadLetters, Deadletter, Result, StoreError};
use stores::{Block, BlockId, Column, ColumnData};

use crate::sink::hour_of;
use crate::{HISTORY, POINTS, Stores};

/// Marks the blocks of readings that were given again: no range has so many parts.
const PART: u16 = u16::MAX;
/// Places in one millisecond, as points have them.
const PLACES: u64 = 1_000_000;

/// Gives the reading of a letter to the store that refused it; there already, it changes nothing. False for a letter of another
/// stage: that is a message, to be read again.
///
/// # Errors
/// [`StoreError::Refused`] when the store still does not take it.
pub async fn store_again(stores: &Stores, letter: &Deadletter) -> Result<bool> {
    match letter.stage.as_str() {
        HISTORY => {
            let block = block(letter, None)?;
            stores.history.write(vec![block]).await?;
            stores.history.sync().await?;
        }
        POINTS => {
            let store = stores
                .points
                .as_ref()
                .ok_or_else(|| StoreError::Refused("InfluxDB is not configured here: set `influxdb.url`".to_owned()))?;
            // The same each time, so that a second replay writes the same point.
            let hash = xxhash_rust::xxh3::xxh3_64_with_seed(letter.log.as_bytes(), letter.offset);
            store.write(vec![block(letter, Some(hash % PLACES))?]).await?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// The reading as a block of one row; `place` is where in its millisecond it is put when it says nothing of that.
fn block(letter: &Deadletter, place: Option<u64>) -> Result<Block> {
    let refused = |what: &str| StoreError::Refused(format!("the letter's payload {what}"));
    let payload: Json = serde_json::from_slice(&letter.payload).map_err(|_| refused("is no JSON"))?;
    let Json::Object(mut fields) = payload else { return Err(refused("is no object")) };
    let device = letter.device.clone().ok_or_else(|| StoreError::Refused("the letter names no device".to_owned()))?;
    let told = fields.remove("ts").and_then(|ts| ts.as_i64());
    let seq = fields.remove("seq").and_then(|seq| seq.as_u64());
    let time: Nanos = told.unwrap_or(letter.received);
    let within = time.rem_euclid(1_000_000).unsigned_abs();
    let within = (told.is_some() && within != 0).then_some(within);
    let seq = seq.or_else(|| place.map(|place| within.unwrap_or(place)));
    let mut columns = Vec::new();
    for (name, value) in fields {
        let data = match value {
            Json::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) => ColumnData::Int(vec![integer]),
                (None, Some(float)) => ColumnData::Float(vec![float]),
                (None, None) => return Err(refused("holds a number that is none")),
            },
            Json::Bool(value) => ColumnData::Bool(vec![value]),
            Json::String(text) => ColumnData::Str(vec![text.as_str().into()]),
            _ => return Err(refused("holds what is no value")),
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
        device_timed: if told.is_some() { Vec::new() } else { vec![false] },
        columns,
    })
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
                let hour = block(letter, None).ok().and_then(|block| block.times.first().map(|time| hour_of(*time)));
                if let Some(hour) = hour {
                    *found.entry((Arc::clone(&tenant), hour)).or_default() += 1;
                }
            }
            let full = page.len() == PAGE;
            last = page.into_iter().last();
            if !full {
                break;
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::letter::payload;

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
            stage: POINTS.to_owned(),
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
        assert_eq!(place(r#"{"v":1}"#), Some(42), "the time of receipt says nothing");
    }

    #[test]
    fn what_is_no_reading_is_refused_with_what_is_wrong() {
        for (text, wrong) in [("{", "no JSON"), ("[]", "no object"), (r#"{"a":[1]}"#, "no value")] {
            let error = block(&letter(text), None).unwrap_err();
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }
}
