//! The same reading: the one definition, and the places that use it.
//!
//! A device may send a reading twice: it publishes again, in the same payload or in another, or a
//! broker in between does. Two readings are the same when they are of one device, with one time of
//! the device's own, one sequence and the same names and values to the last bit. The payload, the
//! order of its members and the time of receipt make no difference. A reading without a time of its
//! own has a receive time, which no other reading has: two equal messages are then two readings.
//!
//! | place | finds the same reading by | among |
//! |---|---|---|
//! | `buffer`, resent messages | `ingest::identity`, of messages that are marked as resent | messages whose acknowledgement the sender may have missed |
//! | `flusher`, cut of a range, unflushed readings | `sinks::history::same`: this definition on records | readings of one range |
//! | `flusher`, recent readings, in the history and in exports | a keyed hash of 128 bits of what is compared | a range and the readings delivered before it |
//! | `flusher`, places in a store of points | sequence, nanoseconds, or a hash of the values | points of one device and millisecond |
//! | [`merge_blocks`](super::merge_blocks) | [`same_reading`] through [`Distinct`](super::Distinct) | blocks of a store that become one |
//! | the API's reads | [`same_reading`] through [`Distinct`](super::Distinct), with all values, also of metrics that were not selected | blocks of the store and of the tail |
//! | the API's reads | [`same_row`] through [`Distinct`](super::Distinct) | a row of the tail that moved to the store meanwhile |
//!
//! A device time that was too far ahead to order a reading is still its own where records are
//! compared. One that lies behind is not: a clock that was never set returns to the same times.
//!
//! A store may hold a reading twice when it was sent again long after. Its readers get it once,
//! before and after it merges both; what a merge drops counts as held, so that the books agree.

use std::borrow::Borrow;
use std::sync::Arc;

use model::ValueRef;

use crate::block::{Block, Column};

const ABSENT: u32 = u32::MAX;

/// A block whose values can be reached by row.
#[derive(Debug)]
pub struct BlockRows<B> {
    block: B,
    /// For each column, for each row, the index of its value or [`ABSENT`]; empty when every row
    /// has a value.
    ranks: Vec<Vec<u32>>,
}

impl<B: Borrow<Block>> BlockRows<B> {
    /// Takes a block.
    pub fn new(block: B) -> Self {
        let ranks = block.borrow().columns.iter().map(rank).collect();
        Self { block, ranks }
    }

    /// Returns the block.
    pub fn block(&self) -> &Block {
        self.block.borrow()
    }

    /// Returns the value of a row in a column.
    pub fn value(&self, column: usize, row: usize) -> Option<ValueRef<'_>> {
        let index = match self.ranks[column].get(row) {
            Some(&ABSENT) => return None,
            Some(&index) => index as usize,
            None => row,
        };
        self.block().columns[column].data.get(index)
    }

    /// Returns names and values of a row.
    pub fn values(&self, row: usize) -> impl Iterator<Item = (&Arc<str>, ValueRef<'_>)> {
        let columns = self.block().columns.iter().enumerate();
        columns.filter_map(move |(i, column)| Some((&column.name, self.value(i, row)?)))
    }

    /// Returns the columns in which a row has values, by their places, and the values.
    pub fn cells(&self, row: usize) -> impl Iterator<Item = (usize, ValueRef<'_>)> {
        (0..self.ranks.len()).filter_map(move |column| Some((column, self.value(column, row)?)))
    }

    /// True when a row has a value in some column.
    pub fn has_value(&self, row: usize) -> bool {
        self.values(row).next().is_some()
    }

    /// Returns the sequence of a row.
    pub fn sequence(&self, row: usize) -> Option<u64> {
        self.block().seqs.get(row).copied().flatten()
    }

    /// True when the time of a row is the device's own.
    pub fn device_timed(&self, row: usize) -> bool {
        self.block().device_timed.get(row).copied().unwrap_or(true)
    }

    /// Returns time and sequence of a row.
    pub fn moment(&self, row: usize) -> (model::Nanos, Option<u64>) {
        (self.block().times[row], self.sequence(row))
    }
}

fn rank(column: &Column) -> Vec<u32> {
    let mut next = 0;
    let rank = |present: &bool| {
        if !*present {
            return ABSENT;
        }
        next += 1;
        next - 1
    };
    column.present.iter().map(rank).collect()
}

/// True when two rows of one device are the same reading.
pub fn same_reading<A: Borrow<Block>, B: Borrow<Block>>(
    (a, row_a): (&BlockRows<A>, usize),
    (b, row_b): (&BlockRows<B>, usize),
) -> bool {
    a.device_timed(row_a) && b.device_timed(row_b) && equal((a, row_a), (b, row_b))
}

/// True when two rows of one device are the same row, read from two places: the same reading, or
/// one without a time of its own that was received in the same moment.
pub fn same_row<A: Borrow<Block>, B: Borrow<Block>>(
    (a, row_a): (&BlockRows<A>, usize),
    (b, row_b): (&BlockRows<B>, usize),
) -> bool {
    let both = (a.device_timed(row_a), b.device_timed(row_b));
    let received = a.block().received[row_a] == b.block().received[row_b];
    (both == (true, true) || both == (false, false) && received) && equal((a, row_a), (b, row_b))
}

fn equal<A: Borrow<Block>, B: Borrow<Block>>(
    (a, row_a): (&BlockRows<A>, usize),
    (b, row_b): (&BlockRows<B>, usize),
) -> bool {
    if a.moment(row_a) != b.moment(row_b) {
        return false;
    }
    let (mut of_a, mut of_b): (Vec<_>, Vec<_>) = (a.values(row_a).collect(), b.values(row_b).collect());
    for values in [&mut of_a, &mut of_b] {
        // Most blocks have their columns in this order.
        values.sort_by_key(|(name, value)| (*name, value.kind()));
    }
    of_a.len() == of_b.len() && of_a.iter().zip(&of_b).all(|(a, b)| a.0 == b.0 && a.1.same(b.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{BlockId, ColumnData};

    fn block(seq: Option<u64>, timed: bool, received: i64, value: f64) -> Block {
        let device = model::DeviceKey { tenant: "t".into(), id: "d".into() };
        Block {
            id: BlockId { device, log: "l".into(), first_offset: 0, part: 0 },
            times: vec![7],
            received: vec![received],
            seqs: vec![seq],
            claimed: Vec::new(),
            device_timed: vec![timed],
            columns: vec![Column { name: "v".into(), present: Vec::new(), data: ColumnData::Float(vec![value]) }],
        }
    }

    #[test]
    fn the_same_reading_has_a_time_of_its_own_one_sequence_and_values_equal_to_the_bit() {
        let same = |a: Block, b: Block| same_reading((&BlockRows::new(&a), 0), (&BlockRows::new(&b), 0));
        let sent = || block(Some(1), true, 10, 0.0);
        assert!(same(sent(), block(Some(1), true, 99, 0.0)), "sent again later");
        assert!(!same(sent(), block(Some(2), true, 10, 0.0)));
        assert!(!same(sent(), block(Some(1), true, 10, -0.0)));
        assert!(!same(block(None, false, 10, 0.0), block(None, false, 10, 0.0)));
    }

    #[test]
    fn a_row_read_twice_is_one_though_its_device_gave_no_time() {
        let same = |a: Block, b: Block| same_row((&BlockRows::new(&a), 0), (&BlockRows::new(&b), 0));
        assert!(same(block(None, false, 10, 0.0), block(None, false, 10, 0.0)));
        assert!(!same(block(None, false, 10, 0.0), block(None, false, 11, 0.0)));
        assert!(!same(block(None, false, 10, 0.0), block(None, true, 10, 0.0)));
        assert!(same(block(None, true, 10, 0.0), block(None, true, 11, 0.0)));
    }
}
