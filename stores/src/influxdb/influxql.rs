//! Queries of the bucket, in InfluxQL: it knows the types of fields, and it merges the fields of a
//! point into a row as it reads, which Flux does not.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use model::{Nanos, TimeRange, time};
use serde::Deserialize;
use serde_json::Value as Json;

use super::bucket::Mapping;
use super::client::Client;
use super::config::Config;
use super::types::{FieldType, KnownField, Origin};
use crate::contract::{Result, StoreError};

/// Time limit of a count, which reads every point.
const COUNT_TIME: Duration = Duration::from_secs(600);
/// Point times differ from ordering times within a millisecond.
const MILLI: Nanos = 1_000_000;
/// The name of the device within a count: one that no field has.
const COUNTED: &str = "_counted_by_weir";

#[derive(Deserialize)]
struct Answer {
    results: Vec<StatementResult>,
}

#[derive(Deserialize)]
struct StatementResult {
    #[serde(default)]
    series: Vec<Table>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Table {
    #[serde(default)]
    tags: serde_json::Map<String, Json>,
    #[serde(default)]
    values: Vec<Vec<Json>>,
}

/// Queries of one bucket.
#[derive(Debug)]
pub(super) struct InfluxQl<'a> {
    pub(super) client: &'a Client,
    pub(super) config: &'a Config,
    pub(super) mapping: &'a Mapping,
}

impl InfluxQl<'_> {
    /// Returns the fields of the measurement and their types in the bucket.
    ///
    /// # Errors
    /// The [`StoreError`] that the answer means; [`StoreError::NeedsOperator`] when the token may
    /// not read the bucket.
    pub(super) async fn types(&self) -> Result<Vec<(String, KnownField)>> {
        let fields = self.fields().await?;
        let known = |same: &[(String, FieldType)]| {
            let (name, field) = same.first()?;
            let origin = if same.len() == 1 { Origin::Bucket(None) } else { Origin::Varies };
            Some((name.clone(), KnownField { field: *field, origin }))
        };
        Ok(fields.chunk_by(|a, b| a.0 == b.0).filter_map(known).collect())
    }

    /// Returns names and types, by name.
    async fn fields(&self) -> Result<Vec<(String, FieldType)>> {
        let tables = self.select(&format!("SHOW FIELD KEYS FROM {}", self.measurement()), None).await?;
        let field =
            |row: &Vec<Json>| Some((row.first()?.as_str()?.to_owned(), FieldType::parse(row.get(1)?.as_str()?)?));
        let mut fields: Vec<_> = tables.iter().flat_map(|table| &table.values).filter_map(field).collect();
        fields.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(fields)
    }

    /// Returns the time of the first point that has the field, of all tenants or of one.
    ///
    /// # Errors
    /// As [`InfluxQl::types`].
    pub(super) async fn first(&self, field: &str, tenant: Option<&str>) -> Result<Option<Nanos>> {
        let mut query = format!("SELECT FIRST({}::field) FROM {}", quoted(field), self.measurement());
        if let Some(tenant) = tenant {
            let key = quoted(&self.config.tags.tenant);
            write!(query, " WHERE {key}::tag = {}", text(tenant)).expect("writing into a string does not fail");
        }
        let tables = self.select(&query, None).await?;
        Ok(tables.first().and_then(|table| table.values.first()?.first()?.as_i64()))
    }

    /// Returns the time of the earliest point of a tenant.
    ///
    /// # Errors
    /// As [`InfluxQl::types`].
    pub(super) async fn earliest(&self, tenant: &str) -> Result<Option<Nanos>> {
        let (key, measurement) = (quoted(&self.config.tags.tenant), self.measurement());
        let query = format!("SELECT *::field FROM {measurement} WHERE {key}::tag = {} LIMIT 1", text(tenant));
        let tables = self.select(&query, Some(COUNT_TIME)).await?;
        Ok(tables.first().and_then(|table| table.values.first()?.first()?.as_i64()))
    }

    /// Counts the readings with ordering times in `range`, widened to whole milliseconds, by
    /// tenant, or those of one. A reading is a point: one time of one series, with any of the
    /// fields. So the rows are counted into which the server merges the fields of a point.
    ///
    /// # Errors
    /// As [`InfluxQl::types`].
    pub(super) async fn count(&self, range: TimeRange, of: Option<&str>) -> Result<Vec<(Arc<str>, u64)>> {
        let fields = self.fields().await?;
        if fields.is_empty() {
            return Ok(Vec::new());
        }
        let start = range.start.clamp(time::EARLIEST, time::LATEST);
        let end = range.end.clamp(time::EARLIEST, time::LATEST);
        let (start, end) = (start - start.rem_euclid(MILLI), end + (-end).rem_euclid(MILLI));
        let (tenant, device) = (&self.config.tags.tenant, quoted(&self.config.tags.device));
        let mut rows = format!("SELECT {device}::tag AS \"{COUNTED}\"");
        for (name, field) in &fields {
            // With its type: a name that had two is two columns.
            write!(rows, ", {}::{field}", quoted(name)).expect("writing into a string does not fail");
        }
        let only = of.map(|of| format!(" AND {}::tag = {}", quoted(tenant), text(of))).unwrap_or_default();
        let query = format!(
            "SELECT COUNT(\"{COUNTED}\") FROM ({rows} FROM {} WHERE time >= {start} AND time < {end}{only}) GROUP BY {}",
            self.measurement(),
            quoted(tenant)
        );
        let tables = self.select(&query, Some(COUNT_TIME)).await?;
        let count = |table: &Table| {
            let tenant = table.tags.get(tenant)?.as_str()?;
            Some((Arc::from(tenant), table.values.first()?.get(1)?.as_u64()?))
        };
        let mut counts: Vec<(Arc<str>, u64)> = tables.iter().filter_map(count).collect();
        counts.sort_unstable();
        Ok(counts)
    }

    fn measurement(&self) -> String {
        quoted(&self.config.measurement)
    }

    async fn select(&self, query: &str, limit: Option<Duration>) -> Result<Vec<Table>> {
        let form = [
            ("org", &*self.config.org),
            ("db", &self.mapping.database),
            ("rp", &self.mapping.retention_policy),
            ("epoch", "ns"),
            ("q", query),
        ];
        let body = self.client.post_form("/query", &form, limit).await?;
        let answer: Answer = serde_json::from_slice(&body).map_err(|error| self.unreadable(&error.to_string()))?;
        if answer.results.is_empty() {
            return Err(self.unreadable("the answer has no result of the query"));
        }
        if let Some(error) = answer.results.iter().find_map(|result| result.error.as_ref()) {
            return Err(self.unreadable(error));
        }
        Ok(answer.results.into_iter().flat_map(|result| result.series).collect())
    }

    fn unreadable(&self, reason: &str) -> StoreError {
        let key = self.config.key("bucket");
        StoreError::NeedsOperator(format!("InfluxDB does not answer InfluxQL about {key}: {reason}"))
    }
}

/// Returns the predicate that selects the points of a tenant for a deletion.
pub(super) fn points_of(config: &Config, tenant: &str) -> String {
    let (measurement, key) = (quoted(&config.measurement), quoted(&config.tags.tenant));
    // Without the quotes, a key may hold letters and `_` only.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let key = if config.tags.tenant.chars().all(is_plain) { config.tags.tenant.clone() } else { key };
    format!("_measurement={measurement} AND {key}={}", quoted(tenant))
}

/// Quotes a text.
fn text(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Quotes an identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
