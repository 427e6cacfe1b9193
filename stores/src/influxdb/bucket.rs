//! The start check: whether the token may write to the bucket, how long the bucket keeps points,
//! and its name in InfluxQL. Made before the first write, and again after an answer that puts one
//! of these in question.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::client::{Client, pack};
use super::config::Config;
use crate::contract::{Result, StoreError};

/// The known properties of the bucket.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    /// `None` when the token does not see the bucket: the server then refuses points that are too
    /// old, and types are learnt from writes.
    ///
    /// A bucket that was deleted and made anew under its name has another.
    pub(super) id: Option<Arc<str>>,
    /// Points older than this are refused; `None` when it keeps everything, or its retention is not
    /// visible.
    pub(super) retention: Option<Duration>,
    pub(super) mapping: Mapping,
    pub(super) read_at: Instant,
}

/// The name of the bucket in InfluxQL.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Mapping {
    pub(super) database: String,
    pub(super) retention_policy: String,
}

#[derive(Deserialize)]
struct Buckets {
    buckets: Vec<BucketInfo>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BucketInfo {
    id: String,
    #[serde(default)]
    retention_rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    every_seconds: u64,
}

#[derive(Deserialize)]
struct Mappings {
    content: Vec<Mapping>,
}

/// Checks that the token may write to the bucket, and reads how long the bucket keeps points.
///
/// # Errors
/// [`StoreError::NeedsOperator`] naming the key to change; [`StoreError::Busy`] when the server
/// does not answer.
pub(super) async fn read(client: &Client, config: &Config) -> Result<Bucket> {
    // A write without lines changes nothing, and is answered like any other.
    match client.write(pack(b"")).await {
        // Releases that require lines refuse only after they have checked token, organization and
        // bucket.
        Ok(()) | Err(StoreError::Refused(_)) => {}
        Err(error) => return Err(error),
    }
    let parameters = [("org", &*config.org), ("name", &config.bucket)];
    let known: Option<Buckets> = client.get("/api/v2/buckets", &parameters).await?;
    let (mut retention, mut mapping, mut id) = (None, None, None);
    if let Some(bucket) = known.and_then(|known| known.buckets.into_iter().next()) {
        let every = bucket.retention_rules.iter().map(|rule| rule.every_seconds).filter(|seconds| *seconds > 0);
        retention = every.min().map(Duration::from_secs);
        let parameters = [("org", &*config.org), ("bucketID", &bucket.id)];
        let mappings: Option<Mappings> = client.get("/api/v2/dbrps", &parameters).await?;
        mapping = mappings.and_then(|mappings| mappings.content.into_iter().next());
        id = Some(bucket.id.into());
    }
    let mapping = mapping.unwrap_or_else(|| by_name(&config.bucket));
    Ok(Bucket { id, retention, mapping, read_at: Instant::now() })
}

/// The name that a bucket has in InfluxQL by default.
fn by_name(bucket: &str) -> Mapping {
    let (database, policy) = bucket.split_once('/').unwrap_or((bucket, "autogen"));
    Mapping { database: database.to_owned(), retention_policy: policy.to_owned() }
}
