//! `StreamReadings`.

use std::pin::Pin;

use futures::{Stream, stream};
use model::{DeviceKey, TimeRange};
use proto::v1::{ReadingChunk, StreamReadingsRequest, StreamReadingsResponse};
use tonic::Status;

use super::{Shared, StreamPermit};
use crate::auth::Caller;
use crate::read::{self, Details, Freshness, Order, Position, Slice, Sweep};
use crate::select::{Selector, Walk};
use crate::subscribe;
use crate::token::{Query, Reader, Writer};
use crate::{convert, errors, names};

/// Approximate bytes of rows in one message: leaves room below 256 KiB for the parts not counted.
const MESSAGE_BYTES: usize = 224 << 10;
/// Approximate bytes of a chunk besides its rows.
const CHUNK_BYTES: usize = 200;

/// The stream of an answer.
pub(crate) type Chunks = Pin<Box<dyn Stream<Item = Result<StreamReadingsResponse, Status>> + Send>>;

/// Position of the stream, kept in its resume token, and the state that the last message reports.
#[derive(Debug, Clone)]
struct Progress {
    device: Option<String>,
    position: Option<Position>,
    freshness: Freshness,
    /// Ends of the logs when the stream was first opened: later records may be missing from the
    /// answer.
    ends: Vec<(String, u64)>,
}

impl Progress {
    fn write(&self, writer: &mut Writer) {
        writer.text(self.device.as_deref().unwrap_or_default());
        let position = self.position.unwrap_or(Position { time: 0, sent: 0 });
        writer.i64(position.time);
        writer.u64(position.sent);
        writer.i64(self.freshness.complete_until);
        writer.u64(u64::from(self.freshness.unflushed));
        subscribe::write_positions(writer, self.ends.iter().map(|(log, end)| (log.as_str(), *end)));
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let device = Some(reader.text()?).filter(|id| !id.is_empty());
        let position = Position { time: reader.i64()?, sent: reader.u64()? };
        let position = Some(position).filter(|position| position.sent > 0);
        let freshness = Freshness { complete_until: reader.i64()?, unflushed: reader.u64()? != 0 };
        Some(Self { device, position, freshness, ends: subscribe::read_positions(reader)? })
    }
}

pub(super) async fn open(
    shared: &Shared,
    caller: &Caller,
    mut request: StreamReadingsRequest,
) -> Result<Chunks, Status> {
    let tenant = caller.tenant(&mut request.parent)?;
    let token = std::mem::take(&mut request.resume_token);
    let selector = Selector::read(caller, &tenant, Some(request.selector.get_or_insert_default()))?;
    let range = convert::range(request.range.as_ref())?;
    let limit = match u64::try_from(request.limit) {
        Ok(0) => u64::MAX,
        Ok(limit) => limit,
        Err(_) => return Err(errors::invalid("limit", "must not be negative")),
    };
    let query = Query::new(&shared.config.token_secret, "StreamReadings", &request);
    let progress = query.read_token(&token, Progress::read).map_err(|e| errors::token("resume_token", e))?;
    let logs = shared.backend.logs.open(Some(&*tenant)).await.map_err(errors::store)?;
    let progress = progress.unwrap_or_else(|| Progress {
        device: None,
        position: None,
        freshness: Freshness::COMPLETE,
        ends: logs.iter().map(|log| (log.id().to_owned(), log.end())).collect(),
    });
    let selected = request.selector.as_ref().expect("inserted above");
    let lives = limit == u64::MAX && selected.device_filter.is_empty();
    let export = Export {
        walk: Walk::new(&selector, progress.device.as_deref()),
        live: lives.then(|| subscribe::query(&shared.config.token_secret, &request.parent, selected)),
        details: if request.include_details { Details::Yes } else { Details::No },
        current: None,
        left: limit,
        progress,
        selector,
        range,
        query,
        over: false,
        _permit: shared.open_stream()?,
        shared: shared.clone(),
    };
    Ok(Box::pin(stream::unfold(export, |mut export| async move {
        if export.over {
            return None;
        }
        let message = export.message().await;
        export.over |= message.is_err();
        Some((message, export))
    })))
}

/// A stream of history.
struct Export {
    shared: Shared,
    selector: Selector,
    range: TimeRange,
    details: Details,
    query: Query,
    live: Option<Query>,
    walk: Walk,
    current: Option<Current>,
    progress: Progress,
    left: u64,
    over: bool,
    _permit: StreamPermit,
}

/// The device being read.
struct Current {
    key: DeviceKey,
    name: String,
    sweep: Sweep,
    /// A slice and the index of its first row that was not sent.
    slice: Option<(Slice, usize)>,
    /// Rows to skip: they were sent before the stream was resumed.
    skip: Option<Position>,
}

impl Export {
    /// Makes the next message: full, or the last one.
    async fn message(&mut self) -> Result<StreamReadingsResponse, Status> {
        let mut chunks = Vec::new();
        let mut bytes = 0;
        while bytes < MESSAGE_BYTES && self.left > 0 {
            if self.shared.draining.is_cancelled() {
                return Err(errors::stopping());
            }
            match self.chunk(MESSAGE_BYTES - bytes).await? {
                Some((chunk, size)) => {
                    bytes += size + CHUNK_BYTES;
                    chunks.push(chunk);
                }
                None => {
                    self.over = true;
                    break;
                }
            }
        }
        self.over |= self.left == 0;
        let resume_token = self.query.token(|writer| self.progress.write(writer));
        let live = self.live.filter(|_| self.over).map(|query| {
            let ends = self.progress.ends.iter().map(|(log, end)| (log.as_str(), *end));
            query.token(|writer| subscribe::write_positions(writer, ends))
        });
        Ok(StreamReadingsResponse {
            chunks,
            resume_token,
            freshness: self.over.then(|| self.progress.freshness.to_proto()),
            live_token: live.unwrap_or_default(),
        })
    }

    /// Makes the next chunk of at most about `budget` bytes, and returns it with its size; `None`
    /// when every device is read.
    async fn chunk(&mut self, budget: usize) -> Result<Option<(ReadingChunk, usize)>, Status> {
        loop {
            if let Some(current) = &self.current
                && !self.walk.admits(&current.key)?
            {
                self.current = None;
            }
            let Some(current) = &mut self.current else {
                match self.walk.next(&self.shared).await? {
                    Some(device) => self.current = Some(self.open_device(device).await?),
                    None => return Ok(None),
                }
                continue;
            };
            let Some((slice, from)) = &mut current.slice else {
                match current.sweep.next().await? {
                    Some(slice) => {
                        let from = skipped(&slice, &mut current.skip);
                        current.slice = Some((slice, from));
                    }
                    None => self.current = None,
                }
                continue;
            };
            let rows = &slice.rows()[*from..];
            let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(rows.len());
            if most == 0 {
                current.slice = None;
                continue;
            }
            let (count, size) = read::take_rows(slice, &rows[..most], budget);
            let rows = &rows[..count];
            let chunk = read::chunk(slice, rows, &current.name, self.details);
            for at in rows {
                self.progress.position = Some(Position::after(self.progress.position, slice.time(*at)));
            }
            self.progress.device = Some(current.key.id.to_string());
            *from += count;
            self.left -= count as u64;
            self.shared.metrics.rows_sent.inc_by(count as u64);
            return Ok(Some((chunk, size)));
        }
    }

    async fn open_device(&mut self, key: DeviceKey) -> Result<Current, Status> {
        // A resumed stream begins inside the device at which it stopped.
        let same = self.progress.device.as_deref() == Some(&*key.id);
        let skip = if same { self.progress.position } else { None };
        self.progress.position = skip;
        let range = skip.map_or(self.range, |position| position.rest(self.range, Order::Ascending));
        let metrics = &self.selector.metrics;
        let source = self.shared.source().streamed();
        let sweep = Sweep::open(source, &key, range, metrics, Order::Ascending, read::SLICE_ROWS).await?;
        self.progress.freshness = self.progress.freshness.and(sweep.freshness());
        Ok(Current { name: names::device(&key.tenant, &key.id), key, sweep, slice: None, skip })
    }
}

/// Number of rows at the start of a slice that were sent before.
fn skipped(slice: &Slice, skip: &mut Option<Position>) -> usize {
    let Some(position) = skip else { return 0 };
    let at_time = slice.rows().iter().take_while(|at| slice.time(**at) == position.time).count();
    let skipped = at_time.min(usize::try_from(position.sent).unwrap_or(usize::MAX));
    // A slice with later rows holds all rows of that time.
    if at_time < slice.rows().len() {
        *skip = None;
    } else {
        position.sent -= skipped as u64;
    }
    skipped
}
