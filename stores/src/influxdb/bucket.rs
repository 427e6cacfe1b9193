//! The start check: whether the token may write to the bucket, how long the bucket keeps points, which type each field
//! has. Asked before the first write, and again after an answer that puts one of these in question.

use std::time::{Duration, Instant};

use model::Nanos;
use serde::Deserialize;

use super::client::{Client, pack};
use super::config::Config;
use super::types::{FieldType, Known, Origin};
use crate::contract::{Result, StoreError};

/// What is known of the bucket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    /// Points older than this are refused; `None` when it keeps everything, or does not say.
    pub(super) retention: Option<Duration>,
    pub(super) asked: Instant,
}

#[derive(Deserialize)]
struct Buckets {
    buckets: Vec<BucketInfo>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BucketInfo {
    #[serde(default)]
    retention_rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    every_seconds: u64,
}

#[derive(Deserialize)]
struct Answer {
    results: Vec<Series>,
}

#[derive(Deserialize)]
struct Series {
    #[serde(default)]
    series: Vec<Table>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Table {
    #[serde(default)]
    values: Vec<Vec<serde_json::Value>>,
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
    let retention = match client.get("/api/v2/buckets", &parameters).await {
        Ok(body) => retention_of(&body),
        Err(error @ StoreError::Busy { .. }) => return Err(error),
        // A token that may only write does not see the bucket; the server then refuses what is too old.
        Err(_) => None,
    };
    Ok(Bucket { retention, asked: Instant::now() })
}

fn retention_of(body: &[u8]) -> Option<Duration> {
    let buckets: Buckets = serde_json::from_slice(body).ok()?;
    let rules = buckets.buckets.first()?.retention_rules.iter();
    rules.map(|rule| rule.every_seconds).filter(|seconds| *seconds > 0).min().map(Duration::from_secs)
}

/// The fields of the measurement that have one type in all of the bucket. `None` when the token may not read it.
///
/// # Errors
/// [`StoreError::Busy`] when the server does not answer.
pub(super) async fn fields(client: &Client, config: &Config) -> Result<Option<Vec<(String, Known)>>> {
    let query = format!("SHOW FIELD KEYS FROM {}", quoted(&config.measurement));
    let Some(rows) = select(client, config, &query).await? else { return Ok(None) };
    let mut found: Vec<(String, FieldType)> = Vec::new();
    for row in &rows {
        let [Some(name), Some(field)] = [row.first(), row.get(1)].map(|v| v.and_then(|v| v.as_str())) else { continue };
        if let Some(field) = FieldType::parse(field) {
            found.push((name.to_owned(), field));
        }
    }
    found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    // The types of a field may differ between spans of time; then only the server knows which one counts.
    let sole = found.chunk_by(|a, b| a.0 == b.0).filter(|same| same.len() == 1).flatten();
    let known = |field: FieldType| Known { field, origin: Origin::Bucket(None) };
    Ok(Some(sole.map(|(name, field)| (name.clone(), known(*field))).collect()))
}

/// The time of the first point that has the field.
///
/// # Errors
/// [`StoreError::Busy`] when the server does not answer.
pub(super) async fn since(client: &Client, config: &Config, field: &str) -> Result<Option<Nanos>> {
    let query = format!("SELECT FIRST({}) FROM {}", quoted(field), quoted(&config.measurement));
    let rows = select(client, config, &query).await?;
    Ok(rows.as_ref().and_then(|rows| rows.first()?.first()?.as_i64()))
}

/// The rows that InfluxQL selects; `None` when the server does not answer it, for lack of permission or altogether.
async fn select(client: &Client, config: &Config, query: &str) -> Result<Option<Vec<Vec<serde_json::Value>>>> {
    let parameters = [("org", &*config.org), ("db", &config.bucket), ("epoch", "ns"), ("q", query)];
    let body = match client.get("/query", &parameters).await {
        Ok(body) => body,
        Err(error @ StoreError::Busy { .. }) => return Err(error),
        Err(error) => {
            tracing::debug!(%error, "InfluxDB does not answer InfluxQL");
            return Ok(None);
        }
    };
    let Ok(answer) = serde_json::from_slice::<Answer>(&body) else { return Ok(None) };
    if answer.results.iter().any(|result| result.error.is_some()) {
        return Ok(None);
    }
    Ok(Some(answer.results.into_iter().flat_map(|r| r.series).flat_map(|table| table.values).collect()))
}

/// An identifier of InfluxQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
