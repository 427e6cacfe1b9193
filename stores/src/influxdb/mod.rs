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
//! change its type from one span to the next, so what the server refuses counts, whatever the catalogue says.

mod answer;
mod bucket;
mod client;
pub mod config;
mod count;
mod encode;
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
pub use metrics::Metrics;
pub use types::FieldType;
use types::{Catalogue, Known, Origin};

/// The retention is asked again before a point is refused for it, when it was asked longer ago than this.
const RETENTION_AGE: Duration = Duration::from_secs(10);

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
        self.load_types().await?;
        *self.bucket.lock() = Some(bucket);
        Ok(bucket)
    }

    async fn load_types(&self) -> Result<()> {
        match bucket::fields(&self.client, &self.config).await? {
            Some(fields) => {
                let mut catalogue = self.catalogue.lock();
                fields.iter().for_each(|(name, known)| catalogue.correct(name, *known));
            }
            None => tracing::info!(
                bucket = self.config.bucket,
                "the token may not read the bucket: field types are learnt from writes, the books of points cannot be checked"
            ),
        }
        Ok(())
    }

    async fn bucket(&self) -> Result<Bucket> {
        let held = *self.bucket.lock();
        match held {
            Some(bucket) => Ok(bucket),
            None => self.ask().await,
        }
    }

    /// The lines of the blocks. Done twice when a refusal for age rests on an old answer.
    async fn encode(&self, blocks: Arc<Vec<Block>>) -> Result<Encoded> {
        loop {
            let bucket = self.bucket().await?;
            match self.encode_for(bucket, Arc::clone(&blocks)).await? {
                Ok(encoded) => return Ok(encoded),
                Err(Refusal::TooOld(_)) if bucket.asked.elapsed() > RETENTION_AGE => *self.bucket.lock() = None,
                Err(refusal) => {
                    self.metrics.refused.inc();
                    return Err(StoreError::Refused(self.reason(&refusal).await));
                }
            }
        }
    }

    async fn encode_for(
        &self,
        bucket: Bucket,
        blocks: Arc<Vec<Block>>,
    ) -> Result<std::result::Result<Encoded, Refusal>> {
        let now = now();
        let keeps_from = bucket
            .retention
            .map_or(Nanos::MIN, |kept| now.saturating_sub(i64::try_from(kept.as_nanos()).unwrap_or(i64::MAX)));
        let catalogue = self.catalogue.lock().clone();
        let encoder = Encoder::new(Arc::clone(&self.config), catalogue, now, keeps_from);
        blocking(move || encoder.encode(&blocks)).await
    }

    /// Why it is refused, with the time since when a field has its type.
    async fn reason(&self, refusal: &Refusal) -> String {
        let Refusal::Conflict { name, known: Known { field, origin: Origin::Bucket(None) }, .. } = refusal else {
            return refusal.reason(&self.config.bucket, None);
        };
        let since = bucket::since(&self.client, &self.config, name).await.ok().flatten();
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

    /// Takes to heart what an answer says of the bucket. True when the same blocks may now be written otherwise.
    async fn learn_from(&self, error: &StoreError) -> bool {
        match error {
            StoreError::Paused(_) => *self.bucket.lock() = None,
            StoreError::Refused(reason) if reason.contains("field type conflict") => {
                let before = self.catalogue.lock().clone();
                if let Some((name, field)) = answer::conflicting_field(reason) {
                    let known = Known { field, origin: Origin::Bucket(None) };
                    self.catalogue.lock().correct(&name, known);
                    return before.get(&name) != self.catalogue.lock().get(&name);
                }
            }
            _ => {}
        }
        false
    }
}

#[async_trait]
impl Points for InfluxDb {
    async fn write(&self, blocks: Vec<Block>) -> Result<()> {
        let blocks = Arc::new(blocks);
        let mut again = self.config.on_conflict != OnConflict::DeadLetter;
        loop {
            let Encoded { chunks, learnt } = self.encode(Arc::clone(&blocks)).await?;
            match self.send(chunks).await {
                Ok(()) => {
                    self.catalogue.lock().learn(learnt);
                    return Ok(());
                }
                Err(error) => {
                    if !(self.learn_from(&error).await && std::mem::take(&mut again)) {
                        return Err(error);
                    }
                }
            }
        }
    }

    async fn count(&self, range: TimeRange) -> Result<Vec<(Arc<str>, u64)>> {
        count::readings(&self.client, &self.config, range).await
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
