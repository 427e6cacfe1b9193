//! Aggregates of the server are those of the blocks.

use std::collections::BTreeMap;

use model::{Kind, TimeRange, Value};
use proptest::prelude::*;
use weir_stores::contract::History;
use weir_stores::mongodb::WindowValues;
use weir_stores::query::{Accumulator, Aggregate, Window, merge_blocks};
use weir_stores::{Block, Column, ColumnData};

use super::shared_world;
use crate::data::{SECOND, block, device, some};
use crate::world::World;

/// The same from the blocks, by the code that answers queries.
fn expected(blocks: &[Block], range: TimeRange, name: &str, window: &Window) -> Vec<WindowValues> {
    let mut values = Vec::new();
    let merged = merge_blocks(blocks).unwrap();
    for column in merged.columns.iter().filter(|c| &*c.name == name) {
        let rows = (0..merged.times.len()).filter(|row| column.present.get(*row).copied().unwrap_or(true));
        values.extend(
            rows.enumerate().map(|(at, row)| (merged.times[row], row, column.data.get(at).unwrap().to_owned())),
        );
    }
    values.sort_by_key(|(time, row, _)| (*time, *row));
    values.retain(|(time, ..)| range.contains(*time));
    let mut windows: BTreeMap<i64, (TimeRange, Accumulator, u64)> = BTreeMap::new();
    for (time, _, value) in values {
        let within = window.around(time).unwrap();
        let (_, all, numbers) = windows.entry(within.start).or_insert_with(|| (within, Accumulator::new(&[]), 0));
        all.add(time, value.as_ref());
        *numbers += u64::from(value.kind() != Kind::Str);
    }
    let of = |(window, mut all, numbers): (TimeRange, Accumulator, u64)| {
        let mut float = |aggregate| match all.value(aggregate, window.end) {
            Some(Value::Float(v)) => Some(v),
            _ => None,
        };
        let (sum, min, max) = (float(Aggregate::Sum), float(Aggregate::Min), float(Aggregate::Max));
        let (first, last) = (all.value(Aggregate::First, window.end), all.value(Aggregate::Last, window.end));
        let (first, last) = (first.unwrap(), last.unwrap());
        WindowValues { window, count: all.count(), numbers, sum: sum.unwrap_or_default(), min, max, first, last }
    };
    windows.into_values().map(of).collect()
}

/// One value for each row of a second, or none; sums of these are exact.
fn rows() -> impl Strategy<Value = Vec<Option<Value>>> {
    let value = prop_oneof![
        (-8_000_i32..8_000).prop_map(|n| Value::Float(f64::from(n) / 8.0)),
        (-1_000_i64..1_000).prop_map(Value::Int),
        any::<bool>().prop_map(Value::Bool),
        "[$a-c]{0,3}".prop_map(|text| Value::Str(text.into())),
    ];
    prop::collection::vec(proptest::option::of(value), 1..40)
}

fn column(name: &str, kind: Kind, rows: &[Option<Value>]) -> Option<Column> {
    let of_kind = |value: &&Value| value.kind() == kind;
    let there: Vec<&Value> = rows.iter().flatten().filter(of_kind).collect();
    let present: Vec<bool> = rows.iter().map(|v| v.as_ref().is_some_and(|v| v.kind() == kind)).collect();
    let data = match kind {
        Kind::Float => ColumnData::Float(there.iter().map(|v| v.as_ref().as_f64().unwrap()).collect()),
        Kind::Int => ColumnData::Int(there.iter().map(|v| v.as_ref().as_f64().unwrap() as i64).collect()),
        Kind::Bool => ColumnData::Bool(there.iter().map(|v| **v == Value::Bool(true)).collect()),
        Kind::Str => ColumnData::Str(there.iter().map(|v| v.to_string().into()).collect()),
    };
    let present = if there.len() == rows.len() { Vec::new() } else { present };
    (!data.is_empty()).then(|| Column { name: name.into(), present, data })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_aggregates_as_the_blocks_do() {
    let mut world = shared_world!();
    let store = world.open().await;
    let device = device("a");
    let mut from = 0;
    let mut blocks = Vec::new();
    for rows in some(rows(), 120) {
        let mut next = block(&device, from, i64::try_from(rows.len()).unwrap());
        from += next.times.len() as i64 + 3;
        let kinds = [Kind::Float, Kind::Int, Kind::Bool, Kind::Str];
        next.columns.extend(kinds.into_iter().filter_map(|kind| column("x.$", kind, &rows)));
        blocks.push(next);
    }
    store.write(blocks.clone()).await.unwrap();
    // Ranges that begin and end inside of blocks.
    let middle = |block: &Block| block.times[block.times.len() / 2];
    let ranges = (0..10).map(|i| TimeRange { start: middle(&blocks[i]), end: middle(&blocks[60 + i]) });
    let one = TimeRange { start: middle(&blocks[7]), end: middle(&blocks[7]) + 1 };
    for range in ranges.chain([TimeRange::ALL, one]) {
        for seconds in [1, 7, 60, 3_600] {
            let window = Window::fixed(seconds * SECOND, "Asia/Kolkata").unwrap();
            let answer = store.aggregate(&device, range, "x.$", &window).await.unwrap();
            assert_eq!(answer.unwrap(), expected(&blocks, range, "x.$", &window), "{seconds} s, {range:?}");
        }
    }
    let hours = Window::fixed(3_600 * SECOND, "").unwrap();
    assert_eq!(store.aggregate(&device, TimeRange::ALL, "none", &hours).await.unwrap(), Some(Vec::new()));
    let nobody = crate::data::device("nobody");
    assert_eq!(store.aggregate(&nobody, TimeRange::ALL, "x.$", &hours).await.unwrap(), Some(Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_blocks_can_tell_is_not_aggregated() {
    let mut world = shared_world!();
    let store = world.open().await;
    let hours = Window::fixed(3_600 * SECOND, "").unwrap();
    let (late, twice) = (device("late"), device("twice"));
    let mut again = block(&late, 5, 10);
    again.id.first_offset = 1_000;
    let mut double = block(&twice, 0, 2);
    double.columns.insert(0, Column { name: "v".into(), present: Vec::new(), data: ColumnData::Float(vec![0.5, 1.5]) });
    store.write(vec![block(&late, 0, 10), again, double]).await.unwrap();
    assert_eq!(store.aggregate(&late, TimeRange::ALL, "v", &hours).await.unwrap(), None, "the same readings twice");
    assert_eq!(store.aggregate(&twice, TimeRange::ALL, "v", &hours).await.unwrap(), None, "two values of one name");
    let days = Window::calendar("P1D", "Europe/Berlin").unwrap();
    assert_eq!(store.aggregate(&late, TimeRange::ALL, "v", &days).await.unwrap(), None, "days differ in length");
}
