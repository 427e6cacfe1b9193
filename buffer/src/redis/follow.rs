//! The follower: reads new frames and caches them for the sinks of this process.

use std::sync::{Arc, Weak};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};

use super::error::words;
use super::read::{Entry, decode, place};
use super::{RedisLog, Task};
use crate::log::{Log, now};
use crate::ring::Ring;

/// Maximum time that the server waits for new frames, in ms.
const BLOCK_MS: u64 = 1000;
/// Frames in one response.
const FRAMES: u32 = 16;
/// Wait before a retry.
const PAUSE: Duration = Duration::from_millis(500);

/// Follows the log from its current end until it is dropped or removed.
pub(super) async fn start(log: &Arc<RedisLog>) -> RedisResult<bool> {
    let asked = now();
    let mut ask = redis::cmd("HGET");
    let end: Option<u64> = log.servers.run(&log.keys.meta, ask.arg(&log.keys.meta).arg("end")).await?;
    let (Some(end), true) = (end, log.refresh().await?) else { return Ok(false) };
    log.end.send_replace(end);
    log.held.lock().confirmed = asked;
    let weak = Arc::downgrade(log);
    let task = tokio::spawn(follow(weak));
    *log.task.lock() = Some(Task(task));
    Ok(true)
}

async fn follow(log: Weak<RedisLog>) {
    let mut connection = None;
    loop {
        let Some(log) = log.upgrade() else { return };
        let asked = now();
        match step(&log, &mut connection).await {
            Ok(true) => log.held.lock().confirmed = asked,
            Ok(false) => match log.was_removed(&log.servers).await {
                Ok(true) => {
                    log.held.lock().gone = true;
                    return;
                }
                Ok(false) => {
                    log.note_missing();
                    drop(log);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => tracing::debug!(log = log.id, "look for the log: {}", words(&error)),
            },
            Err(error) => {
                tracing::debug!(log = log.id, "follow the log: {}", words(&error));
                connection = None;
                // The log may have moved to another server.
                log.servers.forget(None);
                drop(log);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Waits for new frames for a bounded time. Returns false when the log is gone.
async fn step(log: &RedisLog, held: &mut Option<MultiplexedConnection>) -> RedisResult<bool> {
    let mut connection = match held.take() {
        Some(connection) => connection,
        None => {
            let patience = Duration::from_millis(BLOCK_MS) + log.config.response_timeout();
            log.servers.dedicated(&log.keys.log, patience).await?
        }
    };
    let end = log.end();
    // Entries after this id start at the end or later.
    let after = if end == 0 { "0-0".to_owned() } else { format!("{}-{}", end - 1, u64::MAX) };
    let mut ask = redis::cmd("XREAD");
    ask.arg("COUNT").arg(FRAMES).arg("BLOCK").arg(BLOCK_MS).arg("STREAMS").arg(&log.keys.log).arg(after);
    let answer: Value = ask.query_async(&mut connection).await?;
    *held = Some(connection);
    let streams: Option<Vec<(String, Vec<Entry>)>> = redis::from_redis_value(answer)?;
    let Some((_, entries)) = streams.and_then(|streams| streams.into_iter().next()) else {
        return log.refresh().await;
    };
    let mut end = end;
    for entry in entries {
        let (first, count) = place(&entry.0)?;
        let frame = decode(&log.keys.log, entry);
        let mut held = log.held.lock();
        match frame {
            Ok(frame) if first == end => held.ring.push(frame),
            // Readers of that offset get the error.
            _ => held.ring = Ring::new(log.config.ring_bytes),
        }
        end = first + count;
    }
    log.end.send_replace(end);
    Ok(true)
}
