//! The start check: whether the token may write to the bucket, how long the bucket keeps points, under which name InfluxQL
//! knows it. Asked before the first write, and again after an answer that puts one of these in question.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::client::{Client, pack};
use super::config::Config;
use crate::contract::{Result, StoreError};

/// What is known of the bucket.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    /// Points older than this are refused; `None` when it keeps everything, or does not say.
    pub(super) retention: Option<Duration>,
    pub(super) place: Place,
    pub(super) asked: Instant,
}

/// What InfluxQL calls the bucket.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Place {
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
struct Places {
    content: Vec<Place>,
}

/// Whether the token may write to the bucket, and how long the bucket keeps points.
///
/// # Errors
/// [`StoreError::Paused`] naming the key to change; [`StoreError::Busy`] when the server does not answer.
pub(super) async fn ask(client: &Client, config: &Config) -> Result<Bucket> {
    // A write without lines changes nothing, and is answered as any other.
    match client.write(pack(b"")).await {
        // Releases that want lines say so only after they have looked at token, organization and bucket.
        Ok(()) | Err(StoreError::Refused(_)) => {}
        Err(error) => return Err(error),
    }
    let parameters = [("org", &*config.org), ("name", &config.bucket)];
    let known = match visible(client.get("/api/v2/buckets", &parameters).await)? {
        Some(body) => serde_json::from_slice::<Buckets>(&body).ok().and_then(|known| known.buckets.into_iter().next()),
        None => None,
    };
    let (mut retention, mut place) = (None, None);
    if let Some(bucket) = known {
        let every = bucket.retention_rules.iter().map(|rule| rule.every_seconds).filter(|seconds| *seconds > 0);
        retention = every.min().map(Duration::from_secs);
        let parameters = [("org", &*config.org), ("bucketID", &bucket.id)];
        if let Some(body) = visible(client.get("/api/v2/dbrps", &parameters).await)? {
            place = serde_json::from_slice::<Places>(&body).ok().and_then(|places| places.content.into_iter().next());
        }
    }
    let place = place.unwrap_or_else(|| by_name(&config.bucket));
    Ok(Bucket { retention, place, asked: Instant::now() })
}

/// What the token is allowed to see. One that may only write does not see the bucket: the server then refuses what is too
/// old, and types are learnt.
fn visible(answer: Result<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    match answer {
        Ok(body) => Ok(Some(body)),
        Err(error @ StoreError::Busy { .. }) => Err(error),
        Err(_) => Ok(None),
    }
}

/// The name that a bucket has in InfluxQL when nobody gave it another.
fn by_name(bucket: &str) -> Place {
    let (database, policy) = bucket.split_once('/').unwrap_or((bucket, "autogen"));
    Place { database: database.to_owned(), retention_policy: policy.to_owned() }
}
