//! The reading side: frames, cursors, trimming.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use redis::{RedisError, RedisResult};
use tokio::sync::watch;

use super::cursors;
use super::error::{explain, strange};
use super::keys::Keys;
use super::servers::Servers;
use super::{RedisLog, number, scripts};
use crate::cursor::Cursor;
use crate::frame::Frame;
use crate::log::{CursorError, Log, ReadError, State, now};

/// Maximum number of frames of one read.
const FRAMES: usize = 256;

/// An entry of the marks: position and size of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) first: u64,
    pub(super) count: u64,
    /// All bytes appended up to the end of this frame.
    pub(super) bytes: u64,
    /// Append time, ms.
    time: i64,
}

/// An entry of a stream: id, names and values.
pub(super) type Entry = (String, Vec<(String, Vec<u8>)>);

impl Mark {
    fn of((id, fields): Entry) -> RedisResult<Self> {
        let (first, count) = place(&id)?;
        let text = |name: &str| {
            let field = fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_slice());
            std::str::from_utf8(field.unwrap_or_default()).unwrap_or_default().to_owned()
        };
        Ok(Self { first, count, bytes: number(&text("b"))?, time: text("t").parse().map_err(|_| strange("no time"))? })
    }

    fn id(&self) -> String {
        format!("{}-{}", self.first, self.count)
    }

    fn end(&self) -> u64 {
        self.first + self.count
    }
}

/// First offset and count of the frame with this id.
pub(super) fn place(id: &str) -> RedisResult<(u64, u64)> {
    let (first, count) = id.split_once('-').ok_or_else(|| strange("no id of an entry"))?;
    Ok((number(first)?, number(count)?))
}

/// Reads marks backwards to the frame with `from`.
pub(super) async fn marks_before(servers: &Servers, keys: &Keys, from: u64, limit: usize) -> RedisResult<Vec<Mark>> {
    let mut ask = redis::cmd("XREVRANGE");
    ask.arg(&keys.marks).arg("+").arg(format!("{from}-0")).arg("COUNT").arg(limit);
    servers.run::<Vec<Entry>>(&keys.marks, &ask).await?.into_iter().map(Mark::of).collect()
}

/// Reads marks from the frame with `from` on.
async fn marks_from(servers: &Servers, keys: &Keys, from: u64, limit: usize) -> RedisResult<Vec<Mark>> {
    let mut holder = redis::cmd("XREVRANGE");
    holder.arg(&keys.marks).arg(format!("{from}-{}", u64::MAX)).arg("-").arg("COUNT").arg(1);
    let mut marks: Vec<Entry> = servers.run(&keys.marks, &holder).await?;
    let mut behind = redis::cmd("XRANGE");
    behind.arg(&keys.marks).arg(format!("{}-0", from + 1)).arg("+").arg("COUNT").arg(limit);
    marks.extend(servers.run::<Vec<Entry>>(&keys.marks, &behind).await?);
    marks.into_iter().map(Mark::of).collect()
}

/// Reads the frames between two marks.
pub(super) async fn fetch(
    servers: &Servers,
    keys: &Keys,
    from: &Mark,
    to: &Mark,
) -> RedisResult<Vec<Result<Frame, String>>> {
    let mut ask = redis::cmd("XRANGE");
    ask.arg(&keys.log).arg(from.id()).arg(to.id());
    let entries: Vec<Entry> = servers.run(&keys.log, &ask).await?;
    Ok(entries.into_iter().map(|entry| decode(&keys.log, entry)).collect())
}

/// Decodes the frame of an entry; the error names the entry and the fault.
pub(super) fn decode(key: &str, (id, fields): Entry) -> Result<Frame, String> {
    let bytes = fields.into_iter().find(|(name, _)| name == "f").map(|(_, bytes)| Bytes::from(bytes));
    let bytes = bytes.ok_or_else(|| format!("{key}, entry {id}: it holds no frame"))?;
    let frame = Frame::decode(&bytes).map_err(|error| format!("{key}, entry {id}: {error}"))?;
    let header = frame.header();
    if place(&id).ok() == Some((header.first_offset, u64::from(header.count))) {
        Ok(frame)
    } else {
        Err(format!("{key}, entry {id}: the frame in it is of another place"))
    }
}

impl RedisLog {
    /// Deletes frames that all sinks have passed, except for the retention.
    pub(super) async fn trim_to(&self, servers: &Servers, retain_bytes: u64, retain_ms: u64) -> RedisResult<u64> {
        let keys = [&self.keys.meta, &self.keys.log, &self.keys.marks, &self.keys.cursors].map(String::as_str);
        let arguments = [retain_bytes.to_string(), retain_ms.to_string()];
        let arguments = arguments.each_ref().map(String::as_str);
        let (what, start, used, passed): (String, String, String, String) =
            servers.script(&scripts::TRIM, &keys, &arguments).await?;
        if what == "trimmed" {
            self.note(number(&start)?, number(&used)?);
            self.note_passed(number(&passed)?);
        }
        Ok(self.start())
    }

    async fn read_server(&self, from: u64, end: u64, max_bytes: usize) -> Result<Vec<Frame>, ReadError> {
        let marks = marks_from(&self.servers, &self.keys, from, FRAMES).await.map_err(unavailable)?;
        let Some(holder) = marks.first().filter(|mark| mark.first <= from && from < mark.end()).copied() else {
            return Err(self.not_there(from).await);
        };
        let before = |mark: &&Mark| mark.first < end && mark.bytes - holder.bytes < max_bytes as u64;
        // Up to a gap: readers take the frames for consecutive ones.
        let joined = 1 + marks.windows(2).take_while(|pair| pair[0].end() == pair[1].first).count();
        let last = marks.iter().take(joined).take_while(before).last().unwrap_or(&holder);
        let frames = fetch(&self.servers, &self.keys, &holder, last).await.map_err(unavailable)?;
        let frames = frames.into_iter().collect::<Result<Vec<_>, _>>().map_err(ReadError::Damaged)?;
        self.metrics.disk_reads.inc();
        // Trimmed between the two commands.
        match frames.first().map(|frame| frame.header().first_offset) {
            Some(first) if first == holder.first => Ok(frames),
            _ => Err(self.not_there(from).await),
        }
    }

    /// The error for an offset below the end that is not in the log.
    async fn not_there(&self, offset: u64) -> ReadError {
        match self.refresh().await {
            Err(error) => unavailable(error),
            Ok(false) => ReadError::Unavailable(format!("log {} is not on the server", self.id)),
            Ok(true) if self.start() > offset => ReadError::Trimmed { offset, start: self.start() },
            Ok(true) if self.end_there().await.is_none_or(|end| end <= offset) => {
                ReadError::Unavailable(format!("redis has lost the end of log {}", self.id))
            }
            Ok(true) => match self.behind_gap(offset).await {
                Ok(Some(start)) => ReadError::Trimmed { offset, start },
                Ok(None) => ReadError::Damaged(format!("{}: no entry holds offset {offset}", self.keys.log)),
                Err(error) => unavailable(error),
            },
        }
    }

    /// Returns the first offset behind the gap that holds `offset`, in a log that the server has
    /// lost a part of.
    async fn behind_gap(&self, offset: u64) -> RedisResult<Option<u64>> {
        if !self.has_lost() {
            return Ok(None);
        }
        let marks = marks_from(&self.servers, &self.keys, offset, 1).await?;
        Ok(marks.iter().map(|mark| mark.first).find(|first| *first > offset))
    }

    /// The end of the log on the server, if it answers.
    async fn end_there(&self) -> Option<u64> {
        let mut ask = redis::cmd("HGET");
        self.servers.run(&self.keys.meta, ask.arg(&self.keys.meta).arg("end")).await.ok().flatten()
    }

    /// Reads the log's start and size. Returns false when the log no longer exists.
    pub(super) async fn refresh(&self) -> RedisResult<bool> {
        let mut ask = redis::cmd("HMGET");
        ask.arg(&self.keys.meta).arg("start").arg("bytes").arg("freed").arg("lost").arg("passed");
        type Numbers = (Option<u64>, Option<u64>, Option<u64>, Option<u8>, Option<u64>);
        let (start, bytes, freed, lost, passed): Numbers = self.servers.run(&self.keys.meta, &ask).await?;
        if lost.is_some() {
            self.note_lost_before();
        }
        if let (Some(start), Some(bytes), Some(freed)) = (start, bytes, freed) {
            self.note(start, bytes.saturating_sub(freed));
            self.note_passed(passed.unwrap_or(0));
        }
        Ok(start.is_some())
    }
}

fn unavailable(error: RedisError) -> ReadError {
    ReadError::Unavailable(explain(&error))
}

#[async_trait]
impl Log for RedisLog {
    fn id(&self) -> &str {
        &self.id
    }

    fn start(&self) -> u64 {
        self.held.lock().start
    }

    fn end(&self) -> u64 {
        *self.end.borrow()
    }

    async fn confirm_end(&self) -> (u64, model::Nanos) {
        let asked = now();
        if self.held.lock().written_here {
            let spilled = match self.spill.get() {
                Some(spill) => spill.complete_until().await,
                None => None,
            };
            return (self.end(), spilled.unwrap_or(asked));
        }
        let mut ask = redis::cmd("HGET");
        let end: RedisResult<Option<u64>> =
            self.servers.run(&self.keys.meta, ask.arg(&self.keys.meta).arg("end")).await;
        match end {
            Ok(Some(end)) => (end.max(self.end()), asked),
            // Removed: no frames followed the known end.
            Ok(None) => (self.end(), asked),
            Err(_) => (self.end(), self.held.lock().confirmed),
        }
    }

    fn watch_end(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    async fn read(&self, from: u64, max_bytes: usize) -> Result<Vec<Frame>, ReadError> {
        let end = self.end();
        {
            let held = self.held.lock();
            if from < held.start {
                return Err(ReadError::Trimmed { offset: from, start: held.start });
            }
            if from >= end {
                return Ok(Vec::new());
            }
            if let Some(frames) = held.ring.read(from, max_bytes).filter(|frames| !frames.is_empty()) {
                return Ok(frames);
            }
        }
        self.read_server(from, end, max_bytes).await
    }

    async fn cursors(&self) -> Result<BTreeMap<String, Cursor>, CursorError> {
        let mut ask = redis::cmd("HGETALL");
        let read: RedisResult<BTreeMap<String, String>> =
            self.servers.run(&self.keys.cursors, ask.arg(&self.keys.cursors)).await;
        let read = read.map_err(|error| CursorError::Unavailable(explain(&error)))?;
        let decode = |(sink, text): (String, String)| {
            let cursor = cursors::decode(&text).ok_or_else(|| {
                CursorError::Unavailable(format!("{}, sink {sink}: it holds no cursor", self.keys.cursors))
            })?;
            Ok((sink, cursor))
        };
        read.into_iter().map(decode).collect()
    }

    async fn move_cursor(&self, sink: &str, cursor: Cursor) -> Result<(), CursorError> {
        let keys = [self.keys.meta.as_str(), &self.keys.cursors];
        let Cursor { done_to, sealed_to, epoch, .. } = &cursor;
        let numbers = [epoch, done_to, sealed_to].map(u64::to_string);
        let value = cursors::encode(&cursor);
        let arguments = [sink, &numbers[0], &numbers[1], &numbers[2], &value];
        let moved: RedisResult<(String, String)> = self.servers.script(&scripts::MOVE, &keys, &arguments).await;
        let (what, held) = moved.map_err(|error| CursorError::Unavailable(explain(&error)))?;
        let held = number(&held).map_err(|error| CursorError::Unavailable(explain(&error)))?;
        match what.as_str() {
            "moved" => Ok(()),
            "fenced" => Err(CursorError::Fenced { sink: sink.to_owned(), held, tried: cursor.epoch }),
            "backwards" => Err(CursorError::Backwards { sink: sink.to_owned(), from: held, to: cursor.done_to }),
            "beyond" if cursor.sealed_to <= self.end() => {
                // The server has lost the end, and the writer puts it there again.
                Err(CursorError::Unavailable(format!("redis has lost the end of log {}", self.id)))
            }
            "beyond" => Err(CursorError::Backwards { sink: sink.to_owned(), from: held, to: cursor.done_to }),
            _ => Err(CursorError::Unavailable(format!("log {} was removed", self.id))),
        }
    }

    async fn rewind_cursor(&self, sink: &str, cursor: Cursor) -> Result<(), CursorError> {
        let keys = [self.keys.meta.as_str(), &self.keys.cursors];
        let numbers = [cursor.epoch, cursor.done_to].map(|number| number.to_string());
        let value = cursors::encode(&cursor);
        let arguments = [sink, &numbers[0], &numbers[1], &value];
        let answer: RedisResult<(String, String, String)> =
            self.servers.script(&scripts::REWIND, &keys, &arguments).await;
        let unavailable = |error: redis::RedisError| CursorError::Unavailable(explain(&error));
        let (what, first, second) = answer.map_err(unavailable)?;
        let (first, second) = (number(&first).map_err(unavailable)?, number(&second).map_err(unavailable)?);
        let sink = sink.to_owned();
        match what.as_str() {
            "rewound" => Ok(()),
            "fenced" => Err(CursorError::Fenced { sink, held: first, tried: cursor.epoch }),
            "outside" => Err(CursorError::Outside { sink, to: cursor.done_to, start: first, end: second }),
            _ => Err(CursorError::Unavailable(format!("log {} was removed", self.id))),
        }
    }

    async fn forget_cursor(&self, sink: &str, epoch: u64) -> Result<(), CursorError> {
        let keys = [self.keys.meta.as_str(), &self.keys.cursors];
        let tried = epoch.to_string();
        let answer: RedisResult<(String, String)> = self.servers.script(&scripts::FORGET, &keys, &[sink, &tried]).await;
        let (what, held) = answer.map_err(|error| CursorError::Unavailable(explain(&error)))?;
        match what.as_str() {
            "forgotten" => Ok(()),
            "fenced" => {
                let held = number(&held).map_err(|error| CursorError::Unavailable(explain(&error)))?;
                Err(CursorError::Fenced { sink: sink.to_owned(), held, tried: epoch })
            }
            _ => Err(CursorError::Unavailable(format!("log {} was removed", self.id))),
        }
    }

    async fn offset_at(&self, time: model::Nanos) -> Result<u64, ReadError> {
        self.refresh().await.map_err(unavailable)?;
        let (mut low, mut high) = (self.start(), self.end());
        // Marks have milliseconds: frames of the same millisecond are read.
        while low < high {
            let middle = low + (high - low) / 2;
            let marks = marks_from(&self.servers, &self.keys, middle, 1).await.map_err(unavailable)?;
            let Some(mark) = marks.first().filter(|mark| mark.first <= middle) else { break };
            if mark.time < time.div_euclid(1_000_000) {
                low = mark.end();
            } else {
                high = mark.first;
            }
        }
        while low < self.end() {
            let frames = self.read(low, 1).await?;
            let Some(frame) = frames.first() else { break };
            if frame.header().appended >= time {
                return Ok(frame.header().first_offset);
            }
            low = frame.header().end_offset();
        }
        Ok(self.end())
    }

    async fn trim(&self) -> Result<u64, ReadError> {
        let (bytes, time) = (self.config.retain_bytes, self.config.retain_ms());
        self.trim_to(&self.servers, bytes, time).await.map_err(unavailable)
    }

    fn state(&self) -> State {
        self.current()
    }

    fn concerns(&self) -> Vec<String> {
        let held = self.held.lock();
        held.loss.iter().chain(&held.doubt).cloned().collect()
    }

    fn has_lost(&self) -> bool {
        self.held.lock().loss.is_some()
    }
}
