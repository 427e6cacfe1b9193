//! Aggregates over windows, computed by the server: what crosses the network is one row for each window.
//!
//! Values are reduced inside their block, without taking the block apart into readings. That is right as long as no two blocks
//! overlap: only overlapping blocks can hold the same reading twice, and then only who reads them can count it once.

use model::{DeviceKey, Nanos, TimeRange, Value};
use mongodb::bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc};
use mongodb::options::Hint;

use super::schema::{BLOCKS, BY_TIME, LONG_BLOCKS};
use super::{Inner, LONG_REQUEST, decode, history, names};
use crate::contract::Result;
use crate::query::Window;

/// What a window holds of one name. Text has a count, a first and a last; booleans count as 0 and 1.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowValues {
    /// The window, whole, also where it reaches beyond the range that was asked for.
    pub window: TimeRange,
    /// Values.
    pub count: u64,
    /// Numbers among them.
    pub numbers: u64,
    /// Sum of the numbers.
    pub sum: f64,
    /// Smallest number.
    pub min: Option<f64>,
    /// Largest number.
    pub max: Option<f64>,
    /// First value in time.
    pub first: Value,
    /// Last value in time.
    pub last: Value,
}

impl WindowValues {
    /// Sum over count of the numbers.
    pub fn mean(&self) -> Option<f64> {
        (self.numbers > 0).then(|| self.sum / self.numbers as f64)
    }
}

/// Windows counted from the one that holds the first reading.
struct Windows {
    base: Nanos,
    width: Nanos,
}

impl Windows {
    /// `None` when the windows are not all of one length, or too many to be numbered.
    fn new(window: &Window, first: Nanos, last: Nanos) -> Option<Self> {
        let Window::Fixed { width, .. } = window else { return None };
        let base = window.around(first)?.start;
        let count = last.checked_sub(base)?.checked_div(*width)?;
        i32::try_from(count).ok()?;
        Some(Self { base, width: *width })
    }

    /// The number of the window that holds a time. Nothing is lost: what is divided is a multiple, and the quotient small.
    fn number(&self, time: Document) -> Document {
        let since = doc! { "$subtract": [time, self.base] };
        let rest = doc! { "$mod": [since.clone(), self.width] };
        doc! { "$toInt": { "$round": { "$divide": [{ "$subtract": [since, rest] }, self.width] } } }
    }
}

/// Time or value of the first (0) or last (-1) of some pairs.
fn part(pairs: &str, place: i32, half: i32) -> Document {
    doc! { "$arrayElemAt": [{ "$arrayElemAt": [pairs, place] }, half] }
}

/// One row for each window, from blocks that begin at `from` or later and do not overlap.
fn pipeline(device: &DeviceKey, from: Nanos, range: TimeRange, name: &str, windows: &Windows) -> Vec<Document> {
    let within = doc! {
        "w": &*device.tenant, "d": &*device.id,
        "t0": { "$gte": from, "$lt": range.end }, "t1": { "$gte": range.start },
    };
    let values = format!("$v.{}", names::field(name));
    let aside =
        names::fields(name).skip(1).map(|f| Bson::from(doc! { "$ne": [{ "$type": format!("$v.{f}") }, "missing"] }));
    let aside: Vec<Bson> = aside.collect();
    let (time, value) = (doc! { "$arrayElemAt": ["$$this", 0] }, doc! { "$arrayElemAt": ["$$this", 1] });
    let wanted = doc! { "$and": [
        { "$ne": [value.clone(), null] }, { "$gte": [time.clone(), range.start] }, { "$lt": [time.clone(), range.end] },
    ] };
    let this_window = doc! { "$eq": [windows.number(time), "$k"] };
    let kind = doc! { "$type": value.clone() };
    let number = doc! { "$cond": [{ "$eq": [kind.clone(), "bool"] }, { "$toInt": value.clone() }, value] };
    let numbers = doc! { "$filter": { "input": "$p", "cond": { "$ne": [kind, "string"] } } };
    let split = doc! { "$filter": { "input": "$p", "cond": this_window } };
    vec![
        doc! { "$match": within },
        doc! { "$sort": { "w": 1, "d": 1, "t0": 1 } },
        doc! { "$project": {
            "aside": { "$or": aside },
            "p": { "$filter": { "input": { "$zip": { "inputs": ["$t", values] } }, "cond": wanted } },
        } },
        doc! { "$match": { "$or": [{ "p.0": { "$exists": true } }, { "aside": true }] } },
        doc! { "$addFields": { "from": windows.number(part("$p", 0, 0)), "to": windows.number(part("$p", -1, 0)) } },
        doc! { "$addFields": { "k": { "$range": [
            { "$ifNull": ["$from", 0] }, { "$add": [{ "$ifNull": ["$to", 0] }, 1] },
        ] } } },
        doc! { "$unwind": "$k" },
        doc! { "$addFields": { "p": { "$cond": [{ "$eq": ["$from", "$to"] }, "$p", split] } } },
        doc! { "$project": {
            "k": 1, "aside": 1, "count": { "$size": { "$ifNull": ["$p", []] } },
            "first": part("$p", 0, 1), "last": part("$p", -1, 1),
            "x": { "$map": { "input": numbers, "in": number } },
        } },
        doc! { "$match": { "$or": [{ "count": { "$gt": 0 } }, { "aside": true }] } },
        doc! { "$group": {
            "_id": "$k", "aside": { "$max": "$aside" }, "count": { "$sum": "$count" },
            "numbers": { "$sum": { "$size": { "$ifNull": ["$x", []] } } }, "sum": { "$sum": { "$sum": "$x" } },
            "min": { "$min": { "$min": "$x" } }, "max": { "$max": { "$max": "$x" } },
            "first": { "$first": "$first" }, "last": { "$last": "$last" },
        } },
        doc! { "$sort": { "_id": 1 } },
    ]
}

impl Inner {
    pub(super) async fn aggregate(
        &self,
        device: &DeviceKey,
        range: TimeRange,
        name: &str,
        window: &Window,
    ) -> Result<Option<Vec<WindowValues>>> {
        let extents = self.extents(device, range).await?;
        let (Some(first), Some(last)) = (extents.first(), extents.last()) else { return Ok(Some(Vec::new())) };
        let apart = extents.windows(2).all(|pair| pair[0].1 < pair[1].0);
        let begin = first.0.max(range.start);
        let Some(windows) = Windows::new(window, begin, last.1).filter(|_| apart) else { return Ok(None) };
        let blocks = self.collection(BLOCKS);
        let request = blocks.aggregate(pipeline(device, first.0, TimeRange { start: begin, ..range }, name, &windows));
        let request = request.with_type::<RawDocumentBuf>().hint(Hint::Name(BY_TIME.into()));
        let cursor = self.send_within(LONG_REQUEST, "aggregate", request).await.map_err(|error| self.failed(&error))?;
        let fault = |row: &RawDocument| decode::damaged(BLOCKS, row, "an aggregate has another type");
        let read = |row: &RawDocument| {
            let aside = row.get_bool("aside").unwrap_or_default();
            Ok((aside, if aside { None } else { Some(values(row, &windows).ok_or_else(|| fault(row))?) }))
        };
        let rows = self.gather(LONG_REQUEST, cursor, read).await?;
        if rows.iter().any(|(aside, _)| *aside) {
            // Two values of one name in one row: only who reads the blocks knows both.
            return Ok(None);
        }
        Ok(Some(rows.into_iter().filter_map(|(_, values)| values).collect()))
    }

    /// First and last times of the blocks that touch a range, in order.
    async fn extents(&self, device: &DeviceKey, range: TimeRange) -> Result<Vec<(Nanos, Nanos)>> {
        let mut all = Vec::new();
        for (filter, hint) in [(history::short(device, range), BY_TIME), (history::long(device, range), LONG_BLOCKS)] {
            let blocks = self.collection(BLOCKS);
            let request = blocks.find(filter).hint(Hint::Name(hint.into())).batch_size(10_000);
            let request = request.projection(doc! { "_id": 0, "t0": 1, "t1": 1 });
            let cursor = self.send("find", request).await.map_err(|error| self.failed(&error))?;
            let read = |extent: &RawDocument| {
                let times = decode::long(extent, "t0").zip(decode::long(extent, "t1"));
                times.ok_or_else(|| decode::damaged(BLOCKS, extent, "t0 or t1 has another type"))
            };
            all.extend(self.gather(self.request_limit(), cursor, read).await?);
        }
        all.sort_unstable();
        Ok(all)
    }
}

fn values(row: &RawDocument, windows: &Windows) -> Option<WindowValues> {
    let start = windows.base + decode::long(row, "_id")? * windows.width;
    let count = |field: &str| decode::long(row, field).and_then(|n| u64::try_from(n).ok());
    let number = |field: &str| match row.get(field).ok().flatten()? {
        RawBsonRef::Double(v) => Some(v),
        RawBsonRef::Int64(v) => Some(v as f64),
        RawBsonRef::Int32(v) => Some(v.into()),
        _ => None,
    };
    let value = |field: &str| decode::value(row.get(field).ok().flatten()?);
    Some(WindowValues {
        window: TimeRange { start, end: start.checked_add(windows.width)? },
        count: count("count")?,
        numbers: count("numbers")?,
        sum: number("sum")?,
        min: number("min"),
        max: number("max"),
        first: value("first")?,
        last: value("last")?,
    })
}
