use model::{Budget, DeviceKey, TimeRange};
use proto::v1::column::Values;
use stores::testing::assert_linear;
use stores::{Block, BlockId, BlockMeta, Column, ColumnData};

use super::columns::{Details, chunk, take_rows};
use super::merge::{Draft, Piece};
use super::room::Counted;
use super::{Order, Slice};

mod memory;

fn device() -> DeviceKey {
    DeviceKey { tenant: "t".into(), id: "d".into() }
}

/// Rows at `times`, with the values of `n`.
fn block(first_offset: u64, times: Vec<i64>, values: Vec<i64>) -> Block {
    Block {
        id: BlockId { device: device(), log: "l".into(), first_offset, part: 0 },
        received: times.clone(),
        times,
        seqs: Vec::new(),
        claimed: Vec::new(),
        device_timed: Vec::new(),
        columns: vec![Column { name: "n".into(), present: Vec::new(), data: ColumnData::Int(values) }],
    }
}

/// A block of the store or of the tail.
fn of(block: Block, stored: bool) -> Piece {
    let block = Counted::new(block, Budget::new("tests", 0).hold());
    let meta = BlockMeta { place: [].into(), first_time: 0, last_time: 0, rows: 0 };
    Piece { shown: block.clone(), whole: Some(block), meta: stored.then_some(meta) }
}

fn piece(first_offset: u64, times: Vec<i64>, values: Vec<i64>, stored: bool) -> Piece {
    of(block(first_offset, times, values), stored)
}

fn slice(pieces: Vec<Piece>) -> Slice {
    let held = Budget::new("tests", 0).hold();
    Draft::new(pieces, TimeRange::ALL, false, held).finish(Order::Ascending)
}

#[test]
fn readings_of_one_time_are_merged_in_linear_time() {
    let halves = |n: usize| {
        let values: Vec<i64> = (0..n as i64 / 2).collect();
        vec![piece(0, vec![7; n / 2], values.clone(), true), piece(1, vec![7; n / 2], values, false)]
    };
    assert_linear(halves, |pieces| assert_eq!(slice(pieces.clone()).rows().len(), pieces[0].shown.times.len()));
}

#[test]
fn names_make_columns_in_linear_time_and_no_message_larger_than_its_budget() {
    // Blocks of 100 rows, each row with a name of its own.
    let pieces = |n: usize| {
        let named = |number: usize| {
            let first = number * 100;
            let times: Vec<i64> = (first..first + 100).map(|row| row as i64).collect();
            let rows = block(number as u64, times, vec![0; 100]);
            let column = |row: usize| Column {
                name: format!("name-{}", first + row).into(),
                present: (0..100).map(|at| at == row).collect(),
                data: ColumnData::Bool(vec![true]),
            };
            of(Block { columns: (0..100).map(column).collect(), ..rows }, true)
        };
        (0..n / 100).map(named).collect::<Vec<_>>()
    };
    assert_linear(pieces, |pieces| {
        let slice = slice(pieces.clone());
        let (mut rows, mut values) = (slice.rows(), 0);
        while !rows.is_empty() {
            let (count, _) = take_rows(&slice, rows, 200_000);
            let chunk = chunk(&slice, &rows[..count], "d", Details::No);
            let bits: usize = chunk.columns.iter().map(|column| column.present.len()).sum();
            assert!(bits <= 200_000);
            let bools = |values: &Values| if let Values::Bools(values) = values { values.values.len() } else { 0 };
            values += chunk.columns.iter().filter_map(|column| column.values.as_ref()).map(bools).sum::<usize>();
            rows = &rows[count..];
        }
        assert_eq!(values, slice.rows().len());
    });
}
