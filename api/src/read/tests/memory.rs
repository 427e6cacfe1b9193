//! Reads within the memory for all calls.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use model::{Budget, DeviceKey, TimeRange};
use stores::contract::{Result, Tail, TailAnswer};
use stores::testing::MemoryStore;
use stores::{Block, Column, ColumnData};
use tonic::{Code, Status};

use super::super::{Order, SLICE_ROWS, Source, Sweep};
use super::{block, device};
use crate::glob::Metrics;

const MIB: usize = 1 << 20;
/// Rows of a block.
const ROWS: usize = 4_096;

struct Unflushed(Vec<Block>);

#[async_trait]
impl Tail for Unflushed {
    async fn tail(&self, _: &DeviceKey, range: TimeRange, _: Option<&[Arc<str>]>) -> Result<TailAnswer> {
        let inside = |block: &&Block| range.touches(block.times[0], block.times[block.times.len() - 1]);
        Ok(TailAnswer { blocks: self.0.iter().filter(inside).cloned().collect(), complete_until: 0 })
    }
}

/// Readings of a device, each with another value: so many of one time, 7.
fn of_one_time(count: usize) -> Vec<Block> {
    blocks(count, |_| 7)
}

fn blocks(count: usize, time: impl Fn(usize) -> i64) -> Vec<Block> {
    let some = |from: usize| {
        let rows = from..(from + ROWS).min(count);
        let values = rows.clone().map(|row| row as i64).collect();
        block(from as u64, rows.map(&time).collect(), values)
    };
    (0..count).step_by(ROWS).map(some).collect()
}

/// The block with `count` columns of floats in place of its own.
fn widened(block: Block, count: usize) -> Block {
    let column = |number: usize| Column {
        name: format!("metric-{number}").into(),
        present: Vec::new(),
        data: ColumnData::Float(vec![number as f64; block.times.len()]),
    };
    Block { columns: (0..count).map(column).collect(), ..block }
}

struct World {
    history: Arc<MemoryStore>,
    tail: Arc<Unflushed>,
    memory: Budget,
}

impl World {
    fn new(stored: Vec<Block>, unflushed: Vec<Block>, memory: usize) -> Self {
        let history = Arc::new(MemoryStore::default());
        stored.into_iter().for_each(|block| history.put_block(block));
        Self { history, tail: Arc::new(Unflushed(unflushed)), memory: Budget::new("queries", memory) }
    }

    fn source(&self) -> Source {
        Source::of(self.history.clone(), self.tail.clone(), &self.memory)
    }

    /// Opens a read of all metrics, or of one.
    async fn sweep(&self, metrics: &[&str], order: Order) -> std::result::Result<Sweep, Status> {
        let metrics = Metrics::new(&metrics.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        Sweep::open(self.source(), &device(), TimeRange::ALL, &metrics, order, SLICE_ROWS).await
    }

    /// Reads everything: the number of rows, and the most memory that a slice left held.
    async fn read(&self, metrics: &[&str], order: Order) -> std::result::Result<(usize, usize), Status> {
        let mut sweep = self.sweep(metrics, order).await?;
        let (mut rows, mut held) = (0, 0);
        while let Some(slice) = sweep.next().await? {
            rows += slice.rows().len();
            held = held.max(self.memory.held());
            assert!(held <= self.memory.capacity());
        }
        Ok((rows, held))
    }
}

const ORDERS: [Order; 2] = [Order::Ascending, Order::Descending];

#[tokio::test]
async fn readings_of_one_time_are_answered_when_there_is_memory_and_refused_by_name_when_not() {
    const COUNT: usize = 200_000;
    // A quarter of 96 MiB is enough for them, a quarter of 12 MiB is not.
    let mut world = World::new(of_one_time(COUNT), Vec::new(), 96 * MIB);
    for metrics in [&[] as &[&str], &["n"], &["n*"]] {
        for order in ORDERS {
            world.memory = Budget::new("queries", 96 * MIB);
            assert_eq!(world.read(metrics, order).await.unwrap().0, COUNT);
            assert_eq!(world.memory.held(), 0);

            world.memory = Budget::new("queries", 12 * MIB);
            let status = world.read(metrics, order).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
            let message = status.message();
            assert!(message.contains("`tenants/t/devices/d` has 200000 readings with the one time 1970-"), "{message}");
            assert!(message.contains("fewer metrics, or raise `memory.max_bytes`"), "{message}");
            assert_eq!(world.memory.held(), 0, "after an error too");
        }
    }
    let before = world.history.faults().largest_fetch.swap(0, Ordering::SeqCst);
    assert!(before as usize <= SLICE_ROWS + ROWS, "also many readings are fetched in portions: {before}");
}

#[tokio::test]
async fn each_of_many_equal_readings_is_counted_once_within_the_memory() {
    const COUNT: usize = 100_000;
    // All of them in the store and half of them not flushed.
    let tail = of_one_time(COUNT / 2).into_iter().map(|mut block| {
        block.id.log = "m".into();
        block
    });
    let world = World::new(of_one_time(COUNT), tail.collect(), 96 * MIB);
    for metrics in [&[] as &[&str], &["n"], &["other"]] {
        let expected = if metrics == ["other"] { 0 } else { COUNT };
        for order in ORDERS {
            assert_eq!(world.read(metrics, order).await.unwrap().0, expected);
            assert_eq!(world.memory.held(), 0);
        }
    }
}

#[tokio::test]
async fn unflushed_readings_are_counted_and_refused_beyond_the_share() {
    let unflushed = |memory: usize| World::new(Vec::new(), of_one_time(100_000), memory);
    let world = unflushed(96 * MIB);
    assert_eq!(world.read(&[], Order::Ascending).await.unwrap().0, 100_000);
    let sweep = world.sweep(&[], Order::Ascending).await.unwrap();
    assert!(world.memory.held() >= 100_000 * 24, "held while the read lasts: {}", world.memory.held());
    drop(sweep);
    assert_eq!(world.memory.held(), 0);

    let world = unflushed(12 * MIB);
    let status = world.read(&[], Order::Ascending).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("`tenants/t/devices/d` has 100000 readings"), "{status}");
    assert_eq!(world.memory.held(), 0);
}

#[tokio::test]
async fn a_long_range_of_wide_rows_is_read_in_slices_of_the_memory_there_is() {
    // 40,960 rows of 100 columns: 32 MiB.
    let all = blocks(40_960, |row| row as i64).into_iter().map(|block| widened(block, 100));
    let mut world = World::new(all.collect(), Vec::new(), 0);
    // With a quarter of 12 MiB, one block is more than a call may hold, and is read alone.
    for memory in [12 * MIB, 24 * MIB, 96 * MIB] {
        world.memory = Budget::new("queries", memory);
        world.history.faults().largest_fetch.store(0, Ordering::SeqCst);
        for order in ORDERS {
            let (rows, held) = world.read(&[], order).await.unwrap();
            assert_eq!(rows, 40_960);
            assert!(held <= memory / 2, "{held} of {memory}");
        }
        assert_eq!(world.memory.held(), 0);
    }
    // Narrow rows of the same blocks need no more portions than before.
    world.history.faults().largest_fetch.store(0, Ordering::SeqCst);
    assert_eq!(world.read(&["metric-7"], Order::Ascending).await.unwrap().0, 40_960);
    assert!(world.history.faults().largest_fetch.load(Ordering::SeqCst) as usize > SLICE_ROWS / 2);
}

#[tokio::test]
async fn a_block_wider_than_those_before_does_not_end_a_read() {
    // One thousand narrow blocks, then some with a thousand columns, of 16 rows each.
    let some = |number: usize| {
        let times = (number * 16..(number + 1) * 16).map(|row| row as i64).collect();
        let narrow = block(number as u64, times, vec![0; 16]);
        if number < 1_000 { narrow } else { widened(narrow, 1_000) }
    };
    let world = World::new((0..1_200).map(some).collect(), Vec::new(), 16 * MIB);
    for order in ORDERS {
        assert_eq!(world.read(&[], order).await.unwrap().0, 1_200 * 16);
        assert_eq!(world.memory.held(), 0);
    }
}

#[tokio::test]
async fn reads_at_once_share_the_memory_and_those_without_room_may_try_again() {
    let world = Arc::new(World::new(blocks(100_000, |row| row as i64), Vec::new(), 12 * MIB));
    // As many reads as the memory is too small for with slices of full size.
    let mut sweeps = Vec::new();
    let mut slices = Vec::new();
    for _ in 0..12 {
        let mut sweep = world.sweep(&[], Order::Ascending).await.unwrap();
        slices.push(sweep.next().await.unwrap());
        sweeps.push(sweep);
    }
    assert!(world.memory.held() <= world.memory.capacity());
    drop(slices);
    for mut sweep in sweeps {
        let mut rows = 0;
        while let Some(slice) = sweep.next().await.unwrap() {
            rows += slice.rows().len();
        }
        assert!(rows > 0 && rows <= 100_000, "the rest of them: {rows}");
    }
    assert_eq!(world.memory.held(), 0);

    // Without memory, a read waits for a while and is refused; then it can be repeated.
    let all = world.memory.acquire(12 * MIB).unwrap();
    let status = world.read(&[], Order::Ascending).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("try again later"), "{status}");
    assert_eq!(world.memory.held(), 12 * MIB);
    drop(all);
    let reads = (0..40).map(|_| {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.read(&[], Order::Descending).await })
    });
    for read in futures::future::join_all(reads).await {
        match read.unwrap() {
            Ok((rows, _)) => assert_eq!(rows, 100_000),
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status}"),
        }
    }
    assert_eq!(world.memory.held(), 0);
}

#[tokio::test]
async fn streams_leave_memory_to_calls_with_one_answer() {
    let world = World::new(blocks(100_000, |row| row as i64), Vec::new(), 12 * MIB);
    let _streams = world.memory.acquire(9 * MIB).unwrap();
    let metrics = Metrics::new(&[]);
    let open = |source: Source| {
        let metrics = metrics.clone();
        async move { Sweep::open(source, &device(), TimeRange::ALL, &metrics, Order::Ascending, SLICE_ROWS).await }
    };
    let status = open(world.source().streamed()).await.unwrap().next().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(open(world.source()).await.unwrap().next().await.is_ok());
}
