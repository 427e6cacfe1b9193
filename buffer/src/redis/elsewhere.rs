//! Recently appended frames of other writers: a device that lost a PUBACK may reconnect to another
//! node, or to this one after a restart, and resend a message that is in another log.

use std::collections::HashMap;
use std::sync::Arc;

use redis::RedisResult;

use super::config::Config;
use super::error::words;
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
/// Attempts to read one log while the list of logs can be read. In a cluster each log has its own
/// server, and one that stays away must not stop the nodes whose logs are elsewhere.
const ATTEMPTS: u32 = 20;

/// The other logs and the positions read so far.
pub(super) struct Elsewhere {
    servers: Arc<Servers>,
    config: Arc<Config>,
    common: Common,
    own: String,
    seen: HashMap<String, u64>,
    /// Attempts to read a log that have failed.
    failed: HashMap<String, u32>,
}

impl Elsewhere {
    pub(super) fn new(servers: Arc<Servers>, config: Arc<Config>, common: Common, own: String) -> Self {
        Self { servers, config, common, own, seen: HashMap::new(), failed: HashMap::new() }
    }

    /// Reads the newest frames that were not read yet; `anew` starts over, and so does the call
    /// after an error.
    pub(super) async fn look(&mut self, anew: bool) -> RedisResult<Vec<Frame>> {
        if anew {
            self.seen.clear();
        }
        let found = self.read_all().await;
        if found.is_err() {
            self.seen.clear();
        }
        found
    }

    async fn read_all(&mut self) -> RedisResult<Vec<Frame>> {
        let mut list = redis::cmd("HKEYS");
        let logs: Vec<String> = self.servers.run(&self.common.index, list.arg(&self.common.index)).await?;
        let others: Vec<String> = logs.into_iter().filter(|log| *log != self.own).collect();
        self.seen.retain(|log, _| others.contains(log));
        self.failed.retain(|log, _| others.contains(log));
        let share = (ALL_BYTES / others.len().max(1)).max(LEAST_BYTES);
        let (mut found, mut left) = (Vec::new(), ALL_BYTES);
        for log in others {
            let frames = match self.look_into(&log, share.min(left)).await {
                Ok(frames) => {
                    self.failed.remove(&log);
                    frames
                }
                Err(error) => {
                    let failed = self.failed.entry(log.clone()).or_default();
                    *failed += 1;
                    if *failed < ATTEMPTS {
                        return Err(error);
                    }
                    if *failed == ATTEMPTS {
                        tracing::warn!(
                            log,
                            "the log of another node cannot be read; messages that are in it and are sent again to \
                             this node may be stored twice: {}",
                            words(&error)
                        );
                    }
                    continue;
                }
            };
            left = left.saturating_sub(frames.iter().map(|frame| frame.bytes().len()).sum());
            found.extend(frames);
        }
        Ok(found)
    }

    async fn look_into(&mut self, log: &str, bytes: usize) -> RedisResult<Vec<Frame>> {
        let keys = Keys::of(&self.config.key_prefix(), log);
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
