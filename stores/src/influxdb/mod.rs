//! InfluxDB 2: readings as points, over line protocol.
//!
//! **A point** is one reading: the measurement and the two tags (tenant, device) of the
//! configuration, a field for each value, and a time of its own (`line::point_time`): the
//! millisecond × 10^6 + (sequence mod 10^6). Series and time are its identity: a write that is
//! repeated changes nothing, so a batch may be sent again for any reason and in any cut.
//!
//! **Fields** are floats for numbers, booleans for booleans, strings for texts, unless the
//! configuration or the tenant's points in the bucket have another type. A value that its field
//! holds exactly is written; any other is refused, coerced or written to another field, as
//! configured, before it is sent. Field types are read from the bucket at the start and learnt from
//! writes, never from absence; one tenant does not decide those of another (`encode`). Names that
//! mean something to InfluxDB are mapped (`names`).
//!
//! **A write** encodes blocks as lines, refuses readings that cannot be stored before anything is
//! sent, and sends the lines in requests of some thousands, several at once. The meaning of an
//! answer is decided in `answer` and nowhere else.
//!
//! A point that is older than the bucket's retention is refused. InfluxDB keeps types per span of
//! time (shard group); a field may change its type from one span to the next. A name that has
//! several types in the bucket is written as sent, and the server decides for each point.

mod answer;
mod bucket;
mod client;
pub mod config;
mod encode;
mod influxql;
mod line;
mod metrics;
mod names;
#[cfg(test)]
mod tests;
mod types;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use model::clock::now;
use model::{Nanos, TimeRange};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;

use crate::block::Block;
use crate::contract::{DeviceBatch, Export, ExportType, Result, StoreError, StoredPart};
use bucket::Bucket;
use client::Client;
pub use config::{Config, ConfigError, OnConflict, Tags};
use encode::{Chunk, Encoded, Encoder, Refusal};
use influxql::InfluxQl;
pub use metrics::Metrics;
pub use types::FieldType;
use types::{Catalogue, KnownField, Origin};

/// Before a point is refused for its age, the retention is read again if it was read longer ago
/// than this.
const RETENTION_AGE: Duration = Duration::from_secs(10);
/// Time whose points one deletion reads: that of a shard group, by default.
const SLICE: Nanos = 7 * 24 * 3600 * model::time::SECOND;
/// Type conflicts of one write that are resolved as the server reports them, where values may be
/// converted.
const CONFLICTS: u32 = 8;

/// Writes points to one bucket.
#[derive(Debug)]
pub struct InfluxDb {
    config: Arc<Config>,
    client: Client,
    /// `None` until the bucket was read, and after an answer that puts it in question.
    bucket: Mutex<Option<Bucket>>,
    /// The bucket that was last seen.
    id: Mutex<Option<Arc<str>>>,
    catalogue: Mutex<Catalogue>,
    metrics: Arc<Metrics>,
}

impl ExportType for Config {
    const TYPE: &'static str = "influxdb";
    type Metrics = Metrics;

    fn register(metrics: &Metrics, registry: &mut Registry) {
        metrics.register(registry);
    }

    fn check(&self, name: &str) -> std::result::Result<(), String> {
        if self.url.is_empty() {
            return Err("set `url` to the address of InfluxDB, as http://host:8086".to_owned());
        }
        let mut config = self.clone().of_export(name);
        if config.token.is_empty() {
            // It may come from the environment, which a check of a file does not read; opening the
            // export requires it.
            config.token = "-".to_owned();
        }
        Self::check(&config).map_err(|fault| fault.to_string())
    }

    async fn open(self, name: &str, metrics: Arc<Metrics>) -> std::result::Result<Arc<dyn Export>, String> {
        let store = InfluxDb::new(self.of_export(name), metrics).map_err(|fault| fault.to_string())?;
        Ok(Arc::new(store))
    }
}

impl InfluxDb {
    /// Returns a writer; nothing is sent before the first check or write.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key of a setting that cannot be used.
    pub fn new(config: Config, metrics: Arc<Metrics>) -> std::result::Result<Self, ConfigError> {
        config.check()?;
        let config = Arc::new(config);
        let catalogue = Mutex::new(declared(&config));
        let client = Client::new(Arc::clone(&config))?;
        Ok(Self { config, client, bucket: Mutex::default(), id: Mutex::default(), catalogue, metrics })
    }

    /// Checks that the token may write to the bucket, and reads the types of its fields. The first
    /// write does the same if this was not called; a start calls it to report a wrong setting at
    /// once.
    ///
    /// # Errors
    /// [`StoreError::NeedsOperator`] with one line that names the key to change;
    /// [`StoreError::Busy`] when there is no answer.
    pub async fn check(&self) -> Result<()> {
        self.read_bucket().await.map(drop)
    }

    async fn read_bucket(&self) -> Result<Bucket> {
        let bucket = bucket::read(&self.client, &self.config).await?;
        let held = self.id.lock().clone();
        if held.is_some() && bucket.id.is_some() && held != bucket.id {
            // The types of the bucket that was there before are not those of this one.
            *self.catalogue.lock() = declared(&self.config);
        }
        if bucket.id.is_some() {
            self.id.lock().clone_from(&bucket.id);
        }
        self.load_types(&bucket).await?;
        *self.bucket.lock() = Some(bucket.clone());
        Ok(bucket)
    }

    async fn load_types(&self, bucket: &Bucket) -> Result<()> {
        match self.queries(bucket).types().await {
            Ok(fields) => {
                let mut catalogue = self.catalogue.lock();
                fields.iter().for_each(|(name, known)| catalogue.correct(name, *known));
            }
            Err(error @ StoreError::Busy { .. }) => return Err(error),
            Err(error) => tracing::info!(
                bucket = self.config.bucket, %error,
                "cannot read the bucket: field types are learnt from writes, the books of this export cannot be checked"
            ),
        }
        Ok(())
    }

    fn queries<'a>(&'a self, bucket: &'a Bucket) -> InfluxQl<'a> {
        InfluxQl { client: &self.client, config: &self.config, mapping: &bucket.mapping }
    }

    async fn bucket(&self) -> Result<Bucket> {
        let held = self.bucket.lock().clone();
        match held {
            Some(bucket) => Ok(bucket),
            None => self.read_bucket().await,
        }
    }

    /// Returns the lines of the blocks. Encodes twice when a refusal for age rests on an old
    /// answer.
    async fn encode(&self, blocks: Arc<Vec<Block>>, corrections: &[(String, FieldType)]) -> Result<Encoded> {
        loop {
            let bucket = self.bucket().await?;
            let mut catalogue = self.catalogue.lock().clone();
            for (name, field) in corrections {
                catalogue.correct(name, KnownField { field: *field, origin: Origin::Bucket(None) });
            }
            match self.encode_for(&bucket, catalogue, Arc::clone(&blocks)).await? {
                Ok(encoded) => return Ok(encoded),
                Err(Refusal::TooOld(_)) if bucket.read_at.elapsed() > RETENTION_AGE => *self.bucket.lock() = None,
                Err(Refusal::Undecided { tenant, name, held, natural }) => {
                    let found = self.type_of_tenant(&bucket, &tenant, &name, held).await?;
                    self.catalogue.lock().learn_tenants([(tenant, name, found.unwrap_or(natural))]);
                }
                Err(refusal) => {
                    self.metrics.refused.inc();
                    return Err(StoreError::Refused(self.reason(&bucket, &refusal).await));
                }
            }
        }
    }

    /// Returns the type that a tenant's points have for a name: that of the field, which is `held`,
    /// or of one beside it. `None` for a tenant without such points, and where the bucket cannot be
    /// read: its values are then written beside, and none is lost.
    async fn type_of_tenant(
        &self,
        bucket: &Bucket,
        tenant: &str,
        name: &str,
        held: FieldType,
    ) -> Result<Option<FieldType>> {
        let known = self.catalogue.lock().clone();
        let beside = types::BESIDE.map(|field| (types::beside(name, field), field));
        let beside = beside.into_iter().filter(|(name, _)| known.get(name).is_some());
        for (field, kind) in std::iter::once((name.into(), held)).chain(beside) {
            match self.queries(bucket).first(&field, Some(tenant)).await {
                Ok(Some(_)) => return Ok(Some(kind)),
                Ok(None) => {}
                Err(error @ StoreError::Busy { .. }) => return Err(error),
                Err(_) => return Ok(None),
            }
        }
        Ok(None)
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

    /// Returns the reason of a refusal, with the time since when a field has its type.
    async fn reason(&self, bucket: &Bucket, refusal: &Refusal) -> String {
        let Refusal::Conflict { name, known: KnownField { field, origin: Origin::Bucket(None) }, .. } = refusal else {
            return refusal.reason(&self.config, None);
        };
        let since = self.queries(bucket).first(name, None).await.ok().flatten();
        if since.is_some() {
            let known = KnownField { field: *field, origin: Origin::Bucket(since) };
            self.catalogue.lock().correct(name, known);
        }
        refusal.reason(&self.config, since)
    }

    /// Sends all chunks, several at once. A refusal of one does not stop the others.
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
                    // Nothing more is sent to a server that is away or refuses the token.
                    waiting = Vec::new().into_iter();
                }
            }
        }
        worst.map_or(Ok(()), Err)
    }

    /// Forgets the bucket after an answer that puts it in question: it is read again before the
    /// next write.
    fn forget_bucket_after(&self, error: &StoreError) {
        if matches!(error, StoreError::NeedsOperator(_)) || is_conflict(error).is_some() {
            *self.bucket.lock() = None;
        }
    }
}

/// The types that the configuration declares.
fn declared(config: &Config) -> Catalogue {
    let field = |(name, field): (&String, &FieldType)| (names::field_of(name, &config.tags), *field);
    Catalogue::declared(config.types.iter().map(field))
}

/// Returns the server's message about a type conflict.
fn is_conflict(error: &StoreError) -> Option<&str> {
    match error {
        StoreError::Refused(reason) if reason.contains("field type conflict") => Some(reason),
        _ => None,
    }
}

#[async_trait]
impl Export for InfluxDb {
    async fn ready(&self) -> Result<()> {
        self.check().await
    }

    async fn parts(&self) -> Result<Vec<StoredPart>> {
        let bucket = self.bucket().await?;
        let part = |id| StoredPart { name: format!("bucket `{}`", self.config.bucket), id };
        Ok(bucket.id.map(part).into_iter().collect())
    }

    async fn write(&self, _: &str, batches: Vec<DeviceBatch>) -> Result<()> {
        let blocks = Arc::new(batches.into_iter().map(|batch| batch.block).collect::<Vec<_>>());
        let mut attempts = if self.config.on_conflict == OnConflict::DeadLetter { 1 } else { CONFLICTS };
        let mut corrections = Vec::new();
        loop {
            let Encoded { chunks, learnt, tenants } = self.encode(Arc::clone(&blocks), &corrections).await?;
            let Err(error) = self.send(chunks).await else {
                let mut catalogue = self.catalogue.lock();
                catalogue.learn(learnt);
                catalogue.learn_tenants(tenants);
                return Ok(());
            };
            self.forget_bucket_after(&error);
            attempts -= 1;
            // For these points and this time the server has named the type.
            let Some(correction) = is_conflict(&error).and_then(answer::conflicting_field).filter(|_| attempts > 0)
            else {
                return Err(error);
            };
            corrections.push(correction);
        }
    }

    async fn count(&self, range: TimeRange) -> Result<Option<Vec<(Arc<str>, u64)>>> {
        let bucket = self.bucket().await?;
        self.queries(&bucket).count(range, None).await.map(Some)
    }

    async fn count_of(&self, tenant: &str) -> Result<Option<u64>> {
        let bucket = self.bucket().await?;
        let counts = self.queries(&bucket).count(TimeRange::ALL, Some(tenant)).await?;
        Ok(Some(counts.into_iter().map(|(_, count)| count).sum()))
    }

    async fn delete_some_of(&self, tenant: &str) -> Result<Option<bool>> {
        let bucket = self.bucket().await?;
        let Some(first) = self.queries(&bucket).earliest(tenant).await? else { return Ok(Some(false)) };
        let rfc_3339 = |time: Nanos| match jiff::Timestamp::from_nanosecond(time.into()) {
            Ok(time) => Ok(time.to_string()),
            Err(error) => Err(StoreError::Damaged(format!("a point has the time {time} ns: {error}"))),
        };
        let (start, stop) = (rfc_3339(first)?, rfc_3339(first.saturating_add(SLICE))?);
        self.client.delete(&start, &stop, &influxql::points_of(&self.config, tenant)).await?;
        Ok(Some(true))
    }

    async fn keeps_everything(&self) -> Result<bool> {
        Ok(self.bucket().await?.retention.is_none())
    }

    fn needs_distinct_times(&self) -> bool {
        true
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

/// Returns the answer that decides for both: one that needs an operator first, then a wait, then a
/// refusal.
fn worse(held: Option<StoreError>, new: StoreError) -> StoreError {
    let rank = |error: &StoreError| match error {
        StoreError::NeedsOperator(_) | StoreError::Damaged(_) => 3,
        StoreError::Busy { .. } | StoreError::Aborted(_) | StoreError::Moved => 2,
        StoreError::TooLarge(_) => 1,
        StoreError::Refused(_) => 0,
    };
    match held {
        Some(held) if rank(&held) >= rank(&new) => held,
        _ => new,
    }
}

/// Runs work that takes a processor for a while on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| gone(&error))
}

fn gone(error: &tokio::task::JoinError) -> StoreError {
    StoreError::busy(format!("a write was interrupted: {error}"))
}
