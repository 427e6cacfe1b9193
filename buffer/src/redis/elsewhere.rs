//! Recently appended frames of other writers: a device that lost a PUBACK may reconnect to another
//! node, or to this one after a restart, and resend a message that is in another log.

use std::collections::HashMap;
use std::sync::Arc;

use redis::RedisResult;

use super::config::Config;
use super::keys::{Common, Keys};
use super::read::{fetch, marks_before};
use super::servers::Servers;
use crate::frame::Frame;

/// Bytes to read in total, divided among the logs ...
const ALL_BYTES: usize = 64 << 20;
/// ... and the minimum for each log.
const LEAST_BYTES: usize = 1 << 20;
/// Maximum number of frames of one log.
const FRAMES: usize = 256;

/// The other logs and the positions read so far.
pub(super) struct Elsewhere {
    servers: Arc<Servers>,
    config: Arc<Config>,
    common: Common,
    own: String,
    seen: HashMap<String, u64>,
}

impl Elsewhere {
    pub(super) fn new(servers: Arc<Servers>, config: Arc<Config>, common: Common, own: String) -> Self {
        Self { servers, config, common, own, seen: HashMap::new() }
    }

    /// Reads the newest frames that were not read yet; `anew` starts over.
    pub(super) async fn look(&mut self, anew: bool) -> RedisResult<Vec<Frame>> {
        if anew {
            self.seen.clear();
        }
        let mut list = redis::cmd("HKEYS");
        let logs: Vec<String> = self.servers.run(&self.common.index, list.arg(&self.common.index)).await?;
        let others: Vec<String> = logs.into_iter().filter(|log| *log != self.own).collect();
        self.seen.retain(|log, _| others.contains(log));
        let share = (ALL_BYTES / others.len().max(1)).max(LEAST_BYTES);
        let (mut found, mut left) = (Vec::new(), ALL_BYTES);
        for log in others {
            let frames = self.look_into(&log, share.min(left)).await?;
            left = left.saturating_sub(frames.iter().map(|frame| frame.bytes().len()).sum());
            found.extend(frames);
        }
        Ok(found)
    }

    async fn look_into(&mut self, log: &str, bytes: usize) -> RedisResult<Vec<Frame>> {
        let keys = Keys::of(&self.config.prefix, log);
        let from = self.seen.get(log).copied().unwrap_or(0);
        let marks = marks_before(&self.servers, &keys, from, FRAMES).await?;
        let Some(newest) = marks.first() else { return Ok(Vec::new()) };
        let enough = marks.iter().take_while(|mark| newest.bytes - mark.bytes <= bytes as u64).last();
        let oldest = enough.unwrap_or(newest);
        // Trimmed frames are not needed: every sink has them.
        let frames = fetch(&self.servers, &keys, oldest, newest).await?;
        self.seen.insert(log.to_owned(), newest.first + newest.count);
        // Sinks report unreadable frames.
        Ok(frames.into_iter().filter_map(Result::ok).collect())
    }
}
