//! Blocks, states and letters to write.

use std::sync::Arc;

use model::{DeviceKey, Kind, Nanos};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use weir_stores::{Block, BlockId, Column, ColumnData};

pub(crate) const SECOND: Nanos = model::time::SECOND;
/// The beginning of a partition of the embedded store, and a round time.
pub(crate) const START: Nanos = weir_stores::block::PARTITION * 2_811;

pub(crate) fn device(id: &str) -> DeviceKey {
    DeviceKey::new("default", id).unwrap()
}

/// Rows one second apart, from `first` seconds on; value and sequence are the second.
pub(crate) fn block(device: &DeviceKey, first: i64, rows: i64) -> Block {
    let seconds: Vec<i64> = (first..first + rows).collect();
    Block {
        id: BlockId { device: device.clone(), log: "l".into(), first_offset: first.unsigned_abs(), part: 0 },
        times: seconds.iter().map(|s| START + s * SECOND).collect(),
        received: seconds.iter().map(|s| START + s * SECOND + 5_000_321).collect(),
        seqs: seconds.iter().map(|s| Some(s.unsigned_abs())).collect(),
        claimed: Vec::new(),
        device_timed: Vec::new(),
        columns: vec![Column { name: "v".into(), present: Vec::new(), data: ColumnData::Int(seconds) }],
    }
}

/// Returns the integers of the first column.
pub(crate) fn integers(block: &Block) -> &[i64] {
    let ColumnData::Int(values) = &block.columns[0].data else { panic!("integers: {block:?}") };
    values
}

/// Returns a text that differs when two blocks differ in any bit.
pub(crate) fn exact(block: &Block) -> String {
    let floats = |column: &Column| match &column.data {
        ColumnData::Float(values) => values.iter().map(|v| v.to_bits()).collect(),
        _ => Vec::new(),
    };
    format!("{block:?} {:?}", block.columns.iter().map(floats).collect::<Vec<_>>())
}

/// Draws values of a strategy.
pub(crate) fn some<S: Strategy>(strategy: S, count: usize) -> Vec<S::Value> {
    let mut runner = TestRunner::default();
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,8}",
        Just("$set.$a..b.$".to_owned()),
        Just("a．b＄％％e".to_owned()),
        Just("0".to_owned()),
        Just("ü\0ü".to_owned()),
        Just("_id".to_owned()),
        "[.$％a]{1,5}",
    ]
}

fn data(kind: Kind, count: usize) -> BoxedStrategy<ColumnData> {
    // No negative zero: the embedded store does not keep its sign.
    let finite = any::<f64>().prop_map(|v| if v.is_finite() { v } else { -0.0 });
    match kind {
        Kind::Float => prop::collection::vec(finite, count).prop_map(ColumnData::Float).boxed(),
        Kind::Int => prop::collection::vec(any::<i64>(), count).prop_map(ColumnData::Int).boxed(),
        Kind::Bool => prop::collection::vec(any::<bool>(), count).prop_map(ColumnData::Bool).boxed(),
        Kind::Str => {
            let text = prop_oneof![".{0,12}", Just("$a\0".to_owned())].prop_map(String::into_boxed_str);
            prop::collection::vec(text, count).prop_map(ColumnData::Str).boxed()
        }
    }
}

fn column(name: String, kind: Kind, rows: usize) -> impl Strategy<Value = Column> {
    let name: Arc<str> = name.into();
    let present = prop_oneof![Just(vec![true; rows]), prop::collection::vec(any::<bool>(), rows)];
    present.prop_flat_map(move |present| {
        let count = present.iter().filter(|p| **p).count();
        let name = Arc::clone(&name);
        let present = if count == rows { Vec::new() } else { present };
        data(kind, count).prop_map(move |data| Column { name: Arc::clone(&name), present: present.clone(), data })
    })
}

fn columns(rows: usize) -> impl Strategy<Value = Vec<Column>> {
    let kind = prop_oneof![Just(Kind::Float), Just(Kind::Int), Just(Kind::Bool), Just(Kind::Str)];
    prop::collection::btree_set((name(), kind), 0..6)
        .prop_flat_map(move |keys| keys.into_iter().map(|(name, kind)| column(name, kind, rows)).collect::<Vec<_>>())
}

/// Generates any block of a device, as a flusher makes it: columns by name and type, times in one
/// partition, receive times in milliseconds.
pub(crate) fn any_block(device: DeviceKey, first_offset: u64) -> impl Strategy<Value = Block> {
    let week = weir_stores::block::PARTITION;
    let optional = |rows| {
        let some = prop::collection::vec(proptest::option::of(any::<u64>()), rows);
        prop_oneof![Just(Vec::new()), some.boxed()]
    };
    (1_usize..30).prop_flat_map(move |rows| {
        let device = device.clone();
        let parts = (
            prop::collection::vec(0..week, rows),
            prop::collection::vec(0_i64..2_000_000_000_000, rows),
            optional(rows),
            optional(rows),
            prop_oneof![Just(Vec::new()), prop::collection::vec(any::<bool>(), rows)],
            columns(rows),
            any::<u16>(),
        );
        parts.prop_map(move |(mut times, received, seqs, claimed, device_timed, columns, part)| {
            times.sort_unstable();
            Block {
                id: BlockId { device: device.clone(), log: "log-1".into(), first_offset, part },
                times: times.into_iter().map(|t| START + t).collect(),
                received: received.into_iter().map(|ms| ms * 1_000_003).collect(),
                seqs,
                claimed: claimed.into_iter().map(|c: Option<u64>| c.map(u64::cast_signed)).collect(),
                device_timed,
                columns,
            }
        })
    })
}
