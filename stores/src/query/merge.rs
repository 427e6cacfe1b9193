//! Several blocks of a device as one.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use model::{Kind, ValueRef};

use super::distinct::Distinct;
use super::same::BlockRows;
use crate::block::{Block, Column, ColumnData, is_sparse};

type Rows<'a> = BlockRows<&'a Block>;
/// Columns by name and type.
type Places<'a> = HashMap<(&'a str, Kind), usize, RandomState>;

/// Returns how many of the first blocks make one that is not [too sparse](is_sparse), at least one.
pub fn fitting(blocks: &[Block]) -> usize {
    let mut columns: HashSet<(&str, Kind), RandomState> = HashSet::default();
    let (mut rows, mut values) = (0, 0);
    for (at, block) in blocks.iter().enumerate() {
        columns.extend(block.columns.iter().map(|column| (&*column.name, column.data.kind())));
        rows += block.times.len();
        values += block.columns.iter().map(|column| column.data.len()).sum::<usize>();
        if at > 0 && is_sparse(rows, columns.len(), values) {
            return at;
        }
    }
    blocks.len().max(1)
}

/// Returns one block with the rows of all, by time and sequence, the [same](super::same_reading)
/// reading once: the one that was received first. It has the identity of the first block. `None`
/// without blocks.
pub fn merge_blocks(blocks: &[Block]) -> Option<Block> {
    let first = blocks.first()?;
    let readers: Vec<Rows<'_>> = blocks.iter().map(BlockRows::new).collect();
    let mut rows: Vec<(usize, usize)> =
        blocks.iter().enumerate().flat_map(|(b, block)| (0..block.times.len()).map(move |r| (b, r))).collect();
    // Stable: rows that are equal in all keep their order.
    rows.sort_by_key(|(b, r)| (readers[*b].moment(*r), blocks[*b].received[*r]));
    Distinct::default().retain(&mut rows, |_| false, |_| true, |(b, r)| (&readers[b], r));
    Some(gather(first, blocks, &readers, &rows))
}

fn gather(first: &Block, blocks: &[Block], readers: &[Rows<'_>], rows: &[(usize, usize)]) -> Block {
    let some = |any: &dyn Fn(&Block) -> bool| blocks.iter().any(any);
    let all = || rows.iter().map(|(b, r)| (&blocks[*b], *r));
    let mut names: Vec<(&Arc<str>, Kind)> = Vec::new();
    names.extend(blocks.iter().flat_map(|b| &b.columns).map(|column| (&column.name, column.data.kind())));
    names.sort_unstable();
    names.dedup();
    let places: Vec<Places<'_>> = blocks.iter().map(places).collect();
    Block {
        id: first.id.clone(),
        times: all().map(|(b, r)| b.times[r]).collect(),
        received: all().map(|(b, r)| b.received[r]).collect(),
        seqs: if some(&|b| !b.seqs.is_empty()) {
            rows.iter().map(|(b, r)| readers[*b].sequence(*r)).collect()
        } else {
            Vec::new()
        },
        claimed: if some(&|b| !b.claimed.is_empty()) {
            all().map(|(b, r)| b.claimed.get(r).copied().flatten()).collect()
        } else {
            Vec::new()
        },
        device_timed: if some(&|b| !b.device_timed.is_empty()) {
            rows.iter().map(|(b, r)| readers[*b].device_timed(*r)).collect()
        } else {
            Vec::new()
        },
        columns: names.into_iter().map(|(name, kind)| column(name, kind, readers, &places, rows)).collect(),
    }
}

fn places(block: &Block) -> Places<'_> {
    block.columns.iter().enumerate().map(|(place, column)| ((&*column.name, column.data.kind()), place)).collect()
}

fn column(name: &Arc<str>, kind: Kind, readers: &[Rows<'_>], places: &[Places<'_>], rows: &[(usize, usize)]) -> Column {
    let places: Vec<Option<usize>> = places.iter().map(|of_block| of_block.get(&(&**name, kind)).copied()).collect();
    let values: Vec<Option<ValueRef<'_>>> =
        rows.iter().map(|(b, r)| places[*b].and_then(|c| readers[*b].value(c, *r))).collect();
    let present: Vec<bool> = values.iter().map(Option::is_some).collect();
    let there = values.into_iter().flatten();
    let data = match kind {
        Kind::Float => {
            ColumnData::Float(there.filter_map(|v| if let ValueRef::Float(v) = v { Some(v) } else { None }).collect())
        }
        Kind::Int => {
            ColumnData::Int(there.filter_map(|v| if let ValueRef::Int(v) = v { Some(v) } else { None }).collect())
        }
        Kind::Bool => {
            ColumnData::Bool(there.filter_map(|v| if let ValueRef::Bool(v) = v { Some(v) } else { None }).collect())
        }
        Kind::Str => ColumnData::Str(
            there.filter_map(|v| if let ValueRef::Str(v) = v { Some(v.into()) } else { None }).collect(),
        ),
    };
    let name = Arc::clone(name);
    Column { name, present: if present.iter().all(|p| *p) { Vec::new() } else { present }, data }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::BlockId;
    use crate::testing::assert_linear;

    /// Rows of one device: times, and the values of `n`.
    fn block(first_offset: u64, times: Vec<i64>, values: Vec<i64>) -> Block {
        let device = model::DeviceKey { tenant: "t".into(), id: "d".into() };
        Block {
            id: BlockId { device, log: "l".into(), first_offset, part: 0 },
            received: times.iter().map(|_| first_offset.cast_signed()).collect(),
            times,
            seqs: Vec::new(),
            claimed: Vec::new(),
            device_timed: Vec::new(),
            columns: vec![Column { name: "n".into(), present: Vec::new(), data: ColumnData::Int(values) }],
        }
    }

    /// One row with `count` names of its own.
    fn names(number: usize, count: usize) -> Block {
        let column = |name: usize| Column {
            name: format!("name-{number}-{name}").into(),
            present: Vec::new(),
            data: ColumnData::Bool(vec![true]),
        };
        let mut block = block(number as u64, vec![number as i64], vec![0]);
        block.columns = (0..count).map(column).collect();
        block
    }

    #[test]
    fn of_the_same_reading_the_one_that_was_received_first_is_kept() {
        let merged = merge_blocks(&[block(9, vec![5, 7], vec![1, 2]), block(3, vec![5, 5], vec![1, 3])]).unwrap();
        assert_eq!((merged.times, merged.received), (vec![5, 5, 7], vec![3, 3, 9]));
        assert_eq!(merged.columns[0].data, ColumnData::Int(vec![1, 3, 2]));
    }

    #[test]
    fn readings_of_one_time_are_merged_in_linear_time() {
        let halves = |n: usize| {
            let values: Vec<i64> = (0..n as i64 / 2).collect();
            [0, 1].map(|at| block(at, vec![7; values.len()], values.clone()))
        };
        assert_linear(halves, |blocks| assert_eq!(merge_blocks(blocks).unwrap().times.len(), blocks[0].times.len()));
    }

    #[test]
    fn blocks_with_names_of_their_own_are_merged_in_linear_time_and_stay_apart_when_they_would_be_sparse() {
        let blocks = |n: usize| (0..n / 1_000).map(|number| names(number, 1_000)).collect::<Vec<_>>();
        assert_linear(blocks, |blocks| {
            let mut from = 0;
            while from < blocks.len() {
                let count = fitting(&blocks[from..]);
                let merged = merge_blocks(&blocks[from..from + count]).unwrap();
                let values: usize = merged.columns.iter().map(|column| column.data.len()).sum();
                assert!(!is_sparse(merged.times.len(), merged.columns.len(), values));
                from += count;
            }
        });
    }
}
