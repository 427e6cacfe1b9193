//! Readings that are not stored yet.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use buffer::frame::{Frame, Record};
use buffer::{Log, ReadError};
use model::{DeviceKey, TimeRange};
use stores::Block;
use stores::contract::{Result, StoreError, Tail, TailAnswer};

use super::scan;
use crate::Clock;
use crate::metrics::Metrics;
use crate::sinks::history::HistorySink;
use crate::sinks::history::cut::{self, Names, Placed};
use crate::sinks::history::memtable::{Row, Selected};
use crate::status::Shared;

/// Bytes asked of the log at a time.
const READ_BYTES: usize = 4 << 20;
/// How often the log may be trimmed under a reader before it gives up.
const ATTEMPTS: usize = 8;

/// One log's history sink, as the tail sees it.
pub(crate) struct Source {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) sink: Arc<HistorySink>,
    pub(crate) shared: Arc<Shared>,
}

/// The unflushed readings of all logs.
pub(crate) struct HistoryTail {
    pub(crate) sources: Vec<Source>,
    pub(crate) wait: Duration,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
}

#[async_trait]
impl Tail for HistoryTail {
    async fn tail(&self, device: &DeviceKey, range: TimeRange, names: Option<&[Arc<str>]>) -> Result<TailAnswer> {
        let mut answer = TailAnswer { blocks: Vec::new(), complete_until: (self.clock)() };
        for source in &self.sources {
            let (target, known_until) = source.log.confirm_end().await;
            answer.complete_until = answer.complete_until.min(known_until);
            answer.blocks.extend(self.one(source, target, &TailQuery { device, range, names }).await?);
        }
        Ok(answer)
    }
}

impl HistoryTail {
    async fn one(&self, source: &Source, target: u64, query: &TailQuery<'_>) -> Result<Vec<Block>> {
        for _ in 0..ATTEMPTS {
            source.shared.progress.reach(target, self.wait).await;
            let unflushed = source.sink.unflushed(query.device, query.range);
            let taken_to = unflushed.taken_to;
            let mut blocks = query.unflushed(source.sink.log(), unflushed.rows).await?;
            if taken_to >= target {
                return Ok(blocks);
            }
            // The sink has no memory left, or has ended: the log itself holds the rest.
            self.metrics.log_tails.inc();
            match query.read_rest(&*source.log, source.sink.log(), (taken_to, target), &mut blocks).await {
                Ok(()) => return Ok(blocks),
                // Stored, passed and trimmed since: the memory that is asked next knows.
                Err(ReadError::Trimmed { .. }) => {}
                Err(error) => return Err(scan::unread(error)),
            }
        }
        Err(outrun())
    }
}

/// The log was trimmed under the reader each time.
fn outrun() -> StoreError {
    scan::busy("unflushed readings move on faster than they are read; ask again".to_owned())
}

/// The readings that no history sink has stored, read from the log itself: for a log that no
/// process answers for.
pub(crate) async fn from_log(log: &dyn Log, query: &TailQuery<'_>, wait: Duration) -> Result<TailAnswer> {
    let name: Arc<str> = log.id().into();
    for _ in 0..ATTEMPTS {
        let (offsets, complete_until) = scan::not_passed(log, crate::HISTORY, wait).await?;
        let mut blocks = Vec::new();
        match query.read_rest(log, &name, (offsets.start, offsets.end), &mut blocks).await {
            Ok(()) => return Ok(TailAnswer { blocks, complete_until }),
            Err(ReadError::Trimmed { .. }) => {}
            Err(error) => return Err(scan::unread(error)),
        }
    }
    Err(outrun())
}

/// A query for readings of a device.
pub(crate) struct TailQuery<'a> {
    pub(crate) device: &'a DeviceKey,
    pub(crate) range: TimeRange,
    pub(crate) names: Option<&'a [Arc<str>]>,
}

/// Rows that are made into blocks at once; more are work for a thread that may take its time.
const AT_ONCE: usize = 4_096;
/// Most rows of a block.
const BLOCK_ROWS: usize = 16_384;

impl TailQuery<'_> {
    /// Makes blocks of the rows of a history sink.
    async fn unflushed(&self, log: &Arc<str>, tables: Vec<Selected>) -> Result<Vec<Block>> {
        if tables.iter().map(|table| table.rows.len()).sum::<usize>() <= AT_ONCE {
            return Ok(blocks_of(log, self.device, self.names, &tables));
        }
        let (log, device, names) = (Arc::clone(log), self.device.clone(), self.names.map(<[_]>::to_vec));
        let made = tokio::task::spawn_blocking(move || blocks_of(&log, &device, names.as_deref(), &tables)).await;
        made.map_err(|error| scan::busy(error.to_string()))
    }

    /// A block for each piece of the log that holds readings of the device, so that no more than a
    /// piece is in memory.
    async fn read_rest(
        &self,
        log: &dyn Log,
        name: &Arc<str>,
        (from, to): (u64, u64),
        found: &mut Vec<Block>,
    ) -> std::result::Result<(), ReadError> {
        let mut at = from;
        while at < to {
            let frames = log.read(at, READ_BYTES).await?;
            let with_device = |frame: &&Frame| frame.devices().iter().any(|d| **d == *self.device);
            let mut rows = Vec::new();
            for (offset, record) in frames.iter().filter(with_device).flat_map(Frame::records) {
                let Record::Reading(reading) = record else { continue };
                let in_place = (at..to).contains(&offset) && self.range.contains(reading.time);
                if in_place && **reading.device == *self.device {
                    rows.push((offset, reading));
                }
            }
            found.append(&mut blocks(name, self.device, self.names, rows));
            let Some(last) = frames.last() else { break };
            at = last.header().end_offset();
        }
        Ok(())
    }
}

/// Blocks of the rows, in portions, so that sorting them takes no more memory than a portion.
fn blocks_of(log: &Arc<str>, device: &DeviceKey, names: Option<&[Arc<str>]>, tables: &[Selected]) -> Vec<Block> {
    let portions = tables.iter().flat_map(|table| table.rows.chunks(BLOCK_ROWS).map(move |rows| (table, rows)));
    let placed = |(table, rows): (&'_ Selected, &[Row])| -> Vec<Block> {
        blocks(log, device, names, rows.iter().map(|row| (row.offset, table.reading(row))).collect())
    };
    portions.flat_map(placed).collect()
}

fn blocks(log: &Arc<str>, device: &DeviceKey, names: Option<&[Arc<str>]>, mut rows: Vec<Placed<'_>>) -> Vec<Block> {
    cut::sort_and_merge(&mut rows);
    let named: Option<HashSet<&str>> = names.map(|names| names.iter().map(|name| &**name).collect());
    let wanted = |name: &str| named.as_ref().is_none_or(|named| named.contains(name));
    let cuts = cut::blocks(log, device, &rows, &mut Names::default(), &wanted);
    cuts.into_iter().map(|cut| cut.block).collect()
}
