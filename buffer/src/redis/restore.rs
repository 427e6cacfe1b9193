//! A log that the server has lost: noticed by its absence, put there again from memory.
//!
//! A log has one writer, and its entry in the list of ended logs is written before its keys are
//! deleted. A log whose writer lives and that is neither there nor in the list was lost, by
//! `FLUSHALL`, a start without the AOF, or a failover to a server that never had it; so were the
//! records behind the end of a log that ends before its writer does.
//!
//! The writer still holds the newest frames and the offset of the next one. It puts them there
//! again at the same offsets: followers, cursors and blocks keep their meaning. Records that are in
//! no memory are gone: sinks that have not passed them count them as lost, and go on behind them.

use std::time::Duration;

use redis::RedisResult;

use super::append::command;
use super::config::Durability;
use super::error::{is_no_script, words};
use super::keys::Common;
use super::servers::Servers;
use super::{HEARTBEAT, RedisLog, millis, scripts, settings};
use crate::frame::Frame;
use crate::log::Log;

/// Longest time to read the settings of the server.
const PATIENCE: Duration = Duration::from_secs(5);

/// The state of a log that was found missing or short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restored {
    /// All of it is there.
    Whole,
    /// It was put there again.
    Again,
    /// Others have closed it.
    Taken,
    /// It ends behind the end that its writer knows.
    Ahead(u64),
}

impl RedisLog {
    /// True when the log was removed in order.
    pub(super) async fn was_removed(&self, servers: &Servers) -> RedisResult<bool> {
        let Common { ends, .. } = Common::of(&self.config.key_prefix());
        servers.run(&ends, redis::cmd("HEXISTS").arg(&ends).arg(&self.id)).await
    }

    /// Puts the log there again, for its writer.
    pub(super) async fn restore(&self, servers: &Servers, incarnation: u64) -> RedisResult<Restored> {
        // The writer and its heartbeat may find the loss at the same time.
        let _alone = self.restoring.lock().await;
        let keys = &self.keys;
        let mut ask = redis::cmd("HMGET");
        ask.arg(&keys.meta).arg("writer").arg("end").arg("state");
        let (writer, there, state): (Option<u64>, Option<u64>, Option<String>) = servers.run(&keys.meta, &ask).await?;
        if writer.is_some_and(|writer| writer != incarnation) || state.is_some() {
            return Ok(Restored::Taken);
        }
        if writer.is_none() && self.was_removed(servers).await? {
            return Ok(Restored::Taken);
        }
        let end = self.end();
        match there {
            Some(there) if there == end => return Ok(Restored::Whole),
            Some(there) if there > end => return Ok(Restored::Ahead(there)),
            _ => {}
        }
        let frames: Vec<Frame> = self.held.lock().ring.frames().cloned().collect();
        let first = frames.first().map_or(end, |frame| frame.header().first_offset);
        let from = match there {
            Some(there) if there >= first => there,
            _ => {
                let arguments = [incarnation.to_string(), first.to_string(), millis(HEARTBEAT)];
                let names = [&keys.meta, &keys.log, &keys.marks, &keys.writer].map(String::as_str);
                let arguments = arguments.each_ref().map(String::as_str);
                if !servers.script::<bool>(&scripts::RESTORE, &names, &arguments).await? {
                    return Ok(Restored::Taken);
                }
                first
            }
        };
        for frame in frames.iter().filter(|frame| frame.header().first_offset >= from) {
            self.put_again(servers, incarnation, frame).await?;
        }
        self.list_again(servers).await?;
        self.note_loss(there, first, end);
        Ok(Restored::Again)
    }

    async fn put_again(&self, servers: &Servers, incarnation: u64, frame: &Frame) -> RedisResult<()> {
        let command = command(self, incarnation, frame);
        let put = |answer: RedisResult<redis::Value>| answer.map(drop);
        match put(servers.run(&self.keys.log, &command).await) {
            Err(error) if is_no_script(&error) => {
                servers.load(&self.keys.log, &scripts::APPEND).await?;
                put(servers.run(&self.keys.log, &command).await)
            }
            other => other,
        }
    }

    async fn list_again(&self, servers: &Servers) -> RedisResult<()> {
        let Common { index, .. } = Common::of(&self.config.key_prefix());
        let now: (u64, u64) = servers.run(&index, &redis::cmd("TIME")).await?;
        let mut list = redis::cmd("HSETNX");
        servers.run(&index, list.arg(&index).arg(&self.id).arg(now.0 * 1000)).await
    }

    /// Reports the loss: `there` is the end that the server had, `first` the first record in
    /// memory, `end` the end of the log.
    fn note_loss(&self, there: Option<u64>, first: u64, end: u64) {
        let from = {
            let mut held = self.held.lock();
            let from = there.unwrap_or(held.start).min(end);
            if there.is_none() {
                held.start = held.start.max(first);
            }
            from
        };
        let (gone, restored) = (first.saturating_sub(from), end - first.max(from));
        let reason = format!(
            "redis has lost data: log {} was missing from offset {from} on; {restored} records were put there again \
             from memory, {gone} were in no memory and exist only where a store has them: check `weir books`, and \
             why the server lost its data (appendonly, FLUSHALL, another volume, a failover)",
            self.id
        );
        self.held.lock().loss = None;
        self.report(&reason);
    }

    /// Reports a log that is not on the server although no flusher has removed it. Its writer
    /// puts it there again; until then this process keeps what it holds.
    pub(super) fn note_missing(&self) {
        self.report(&format!(
            "redis has lost data: log {} is not there, and no flusher has removed it; its writer puts back what it \
             still holds: check `weir books`, and why the server lost its data",
            self.id
        ));
    }

    /// Reports a log that its writer has put on the server again.
    pub(super) fn note_lost_before(&self) {
        self.report(&format!(
            "redis has lost data of log {}, which its writer put there again as far as it held it: check `weir \
             books`, and why the server lost its data",
            self.id
        ));
    }

    /// Keeps the first report of a loss.
    fn report(&self, reason: &str) {
        let mut held = self.held.lock();
        if held.loss.is_none() {
            tracing::error!(log = self.id, "{reason}");
            self.metrics.losses.inc();
            held.loss = Some(reason.to_owned());
        }
    }

    /// Reads the settings of the server, so that unsafe ones are reported without an append too.
    pub(super) async fn look_at_settings(&self) {
        if self.config.durability != Durability::Always {
            return;
        }
        let ask = settings::ask();
        let read = self.servers.run::<Vec<(String, String)>>(&self.keys.log, &ask);
        let settings = match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(settings)) => settings,
            Ok(Err(error)) => return tracing::debug!(log = self.id, "read the settings: {}", words(&error)),
            Err(_) => return,
        };
        let doubt = settings::judge(&self.config.urls_for_people(), &settings).err().map(|error| error.to_string());
        let mut held = self.held.lock();
        match &doubt {
            Some(reason) if held.doubt != doubt => tracing::error!(log = self.id, "{reason}"),
            None if held.doubt.is_some() => tracing::info!(log = self.id, "the settings of redis are safe again"),
            _ => {}
        }
        held.doubt = doubt;
    }
}
