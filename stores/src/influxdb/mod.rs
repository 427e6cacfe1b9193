//! InfluxDB 2: readings as points, over line protocol.
//!
//! **A point** is one reading: the measurement and the two tags (tenant, device) of the configuration, a field for each value, and
//! a time of its own (`line::point_time`): the millisecond × 10^6 + (sequence mod 10^6). Series and time are its identity: a write
//! that is repeated changes nothing, so a batch may be sent again for any reason and in any cut.
//!
//! **Fields** are floats for numbers, booleans for booleans, strings for texts, unless the configuration or the bucket says
//! otherwise. A value that its field holds exactly is written; any other is refused, coerced or put aside, as configured, before the
//! server sees it. Field types are read from the bucket at the start and learnt from what was written, never from what is absent.
//!
//! **A write** turns blocks into lines, refuses what cannot be stored before anything is sent, and sends what is left in requests of some
//! thousand lines, several at once. Whatever the server answers is taken for what `answer` says, nowhere else.
//!
//! A point that is older than the bucket's retention is refused. InfluxDB keeps types per span of time (shard group); a field may
//! change its type from one span to the next. A name that has several types in the bucket is written as it comes, and what the server refuses is refused.

mod answer;
mod bucket;
mod client;
pub mod config;
mod encode;
mod influxql;
mod line;
mod metrics;
#[cfg(test)]
mod tests;
mod types;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use model::{Nanos, TimeRange};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::block::Block;
use crate::contract::{Points, Result, StoreError};
use bucket::Bucket;
use client::Client;
pub use config::{Config, ConfigError, OnConflict, Tags};
use encode::{Chunk, Encoded, Encoder, Refusal};
use influxql::InfluxQl;
pub use metrics::Metrics;
pub use types::FieldType;
use types::{Catalogue, Known, Origin};

/// The retention is asked again before a point is refused for it, when it was asked longer ago than this.
const RETENTION_AGE: Duration = Duration::from_secs(10);
/// Type conflicts of one write that are resolved as the server tells of them, where values may be made to fit.
const CONFLICTS: u32 = 8;

/// Writes points to one bucket.
#[derive(Debug)]
pub struct InfluxDb {
    config: Arc<Config>,
    client: Client,
    /// `None` until the bucket was asked, and after an answer that puts it in question.
    bucket: Mutex<Option<Bucket>>,
    catalogue: Mutex<Catalogue>,
    metrics: Arc<Metrics>,
}

impl InfluxDb {
    /// A writer; nothing is sent before the first check or write.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key of a setting that cannot be used.
    pub fn new(config: Config, metrics: Arc<Metrics>) -> std::result::Result<Self, ConfigError> {
        config.check()?;
        let config = Arc::new(config);
        let catalogue = Catalogue::declared(&config.types);
        let client = Client::new(Arc::clone(&config))?;
        Ok(Self { config, client, bucket: Mutex::default(), catalogue: Mutex::new(catalogue), metrics })
    }

    /// Asks whether the token may write to the bucket, and what the bucket holds. A write does the same by itself when
    /// nobody did; a start may want to know at once.
    ///
    /// # Errors
    /// [`StoreError::Paused`] with one line that names the key to change; [`StoreError::Busy`] when there is no answer.
    pub async fn check(&self) -> Result<()> {
        self.ask().await.map(drop)
    }

    async fn ask(&self) -> Result<Bucket> {
        let bucket = bucket::ask(&self.client, &self.config).await?;
        self.load_types(&bucket).await?;
        *self.bucket.lock() = Some(bucket.clone());
        Ok(bucket)
    }

    async fn load_types(&self, bucket: &Bucket) -> Result<()> {
        match self.ask_in(bucket).types().await {
            Ok(fields) => {
                let mut catalogue = self.catalogue.lock();
                fields.iter().for_each(|(name, known)| catalogue.correct(name, *known));
            }
            Err(error @ StoreError::Busy { .. }) => return Err(error),
            Err(error) => tracing::info!(
                bucket = self.config.bucket, %error,
                "the bucket cannot be read: field types are learnt from writes, the books of points cannot be checked"
            ),
        }
        Ok(())
    }

    fn ask_in<'a>(&'a self, bucket: &'a Bucket) -> InfluxQl<'a> {
        InfluxQl { client: &self.client, config: &self.config, place: &bucket.place }
    }

    async fn bucket(&self) -> Result<Bucket> {
        let held = self.bucket.lock().clone();
        match held {
            Some(bucket) => Ok(bucket),
            None => self.ask().await,
        }
    }

    /// The lines of the blocks. Done twice when a refusal for age rests on an old answer.
    async fn encode(&self, blocks: Arc<Vec<Block>>, corrections: &[(String, FieldType)]) -> Result<Encoded> {
        loop {
            let bucket = self.bucket().await?;
            let mut catalogue = self.catalogue.lock().clone();
            for (name, field) in corrections {
                catalogue.correct(name, Known { field: *field, origin: Origin::Bucket(None) });
            }
            match self.encode_for(&bucket, catalogue, Arc::clone(&blocks)).await? {
                Ok(encoded) => return Ok(encoded),
                Err(Refusal::TooOld(_)) if bucket.asked.elapsed() > RETENTION_AGE => *self.bucket.lock() = None,
                Err(refusal) => {
                    self.metrics.refused.inc();
                    return Err(StoreError::Refused(self.reason(&bucket, &refusal).await));
                }
            }
        }
    }

    async fn encode_for(
        &self,
        bucket: &Bucket,
        catalogue: Catalogue,
        blocks: Arc<Vec<Block>>,
    ) -> Result<std::result::Result<Encoded, Refusal>> {
        let now = now();
        let keeps_from = bucket
            .retention
            .map_or(Nanos::MIN, |kept| now.saturating_sub(i64::try_from(kept.as_nanos()).unwrap_or(i64::MAX)));
        let encoder = Encoder::new(Arc::clone(&self.config), catalogue, now, keeps_from);
        blocking(move || encoder.encode(&blocks)).await
    }

    /// Why it is refused, with the time since when a field has its type.
    async fn reason(&self, bucket: &Bucket, refusal: &Refusal) -> String {
        let Refusal::Conflict { name, known: Known { field, origin: Origin::Bucket(None) }, .. } = refusal else {
            return refusal.reason(&self.config.bucket, None);
        };
        let since = self.ask_in(bucket).since(name).await.ok().flatten();
        if since.is_some() {
            let known = Known { field: *field, origin: Origin::Bucket(since) };
            self.catalogue.lock().correct(name, known);
        }
        refusal.reason(&self.config.bucket, since)
    }

    /// Sends all chunks, several at once. What one answers does not stop the others.
    async fn send(&self, chunks: Vec<Chunk>) -> Result<()> {
        let mut under_way = JoinSet::new();
        let mut waiting = chunks.into_iter();
        let mut worst = None;
        loop {
            while under_way.len() < self.config.in_flight {
                let Some(chunk) = waiting.next() else { break };
                under_way.spawn(send_one(self.client.clone(), chunk, Arc::clone(&self.metrics)));
            }
            let Some(done) = under_way.join_next().await else { break };
            let done = done.unwrap_or_else(|error| Err(gone(&error)));
            if let Err(error) = done {
                let ends = !matches!(error, StoreError::Refused(_) | StoreError::TooLarge(_));
                worst = Some(worse(worst, error));
                if ends {
                    // Nothing more is asked of a server that is away or closed to us.
                    waiting = Vec::new().into_iter();
                }
            }
        }
        worst.map_or(Ok(()), Err)
    }

    /// An answer that puts in question what is known of the bucket: it is asked again before the next write.
    fn doubt(&self, error: &StoreError) {
        if matches!(error, StoreError::Paused(_)) || is_conflict(error).is_some() {
            *self.bucket.lock() = None;
        }
    }
}

/// The words of the server about a type that is not the field's.
fn is_conflict(error: &StoreError) -> Option<&str> {
    match error {
        StoreError::Refused(reason) if reason.contains("field type conflict") => Some(reason),
        _ => None,
    }
}

#[async_trait]
impl Points for InfluxDb {
    async fn write(&self, blocks: Vec<Block>) -> Result<()> {
        let blocks = Arc::new(blocks);
        let mut attempts = if self.config.on_conflict == OnConflict::DeadLetter { 1 } else { CONFLICTS };
        let mut corrections = Vec::new();
        loop {
            let Encoded { chunks, learnt } = self.encode(Arc::clone(&blocks), &corrections).await?;
            let Err(error) = self.send(chunks).await else {
                self.catalogue.lock().learn(learnt);
                return Ok(());
            };
            self.doubt(&error);
            attempts -= 1;
            // For these points and this time the server has told the type.
            let Some(told) = is_conflict(&error).and_then(answer::conflicting_field).filter(|_| attempts > 0) else {
                return Err(error);
            };
            corrections.push(told);
        }
    }

    async fn count(&self, range: TimeRange) -> Result<Vec<(Arc<str>, u64)>> {
        let bucket = self.bucket().await?;
        self.ask_in(&bucket).count(range).await
    }

    async fn keeps_everything(&self) -> Result<bool> {
        Ok(self.bucket().await?.retention.is_none())
    }
}

async fn send_one(client: Client, chunk: Chunk, metrics: Arc<Metrics>) -> Result<()> {
    let (lines, bytes) = (chunk.lines as u64, chunk.text.len() as u64);
    let packed = blocking(move || client::pack(chunk.text.as_bytes())).await?;
    let sent = packed.len() as u64;
    metrics.requests.inc();
    if let Err(error) = client.write(packed).await {
        metrics.failures.inc();
        return Err(error);
    }
    metrics.lines.inc_by(lines);
    metrics.line_bytes.inc_by(bytes);
    metrics.sent_bytes.inc_by(sent);
    Ok(())
}

/// Of two answers, the one that decides for the whole: a person first, then a wait, then the guilty lines.
fn worse(held: Option<StoreError>, new: StoreError) -> StoreError {
    let rank = |error: &StoreError| match error {
        StoreError::Paused(_) | StoreError::Damaged(_) => 3,
        StoreError::Busy { .. } | StoreError::Moved => 2,
        StoreError::TooLarge(_) => 1,
        StoreError::Refused(_) => 0,
    };
    match held {
        Some(held) if rank(&held) >= rank(&new) => held,
        _ => new,
    }
}

/// Runs work that takes the processor for a while beside the tasks that wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| gone(&error))
}

fn gone(error: &tokio::task::JoinError) -> StoreError {
    StoreError::Busy { reason: format!("a write was broken off: {error}"), retry_after: None }
}

fn now() -> Nanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
