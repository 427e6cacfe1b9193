//! How many readings the bucket holds. A reading is a point: one time of one series, however many fields it has, and
//! none of the fields need be there. So the times of each series are counted once each, in spans of time that are small
//! enough for the server's memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{Nanos, TimeRange, time};
use serde_json::json;

use super::client::Client;
use super::config::Config;
use crate::contract::{Result, StoreError};

/// Field values of one span; one with more is halved.
const SPAN_VALUES: u64 = 1_000_000;
/// A span is not made smaller than this.
const LEAST: Nanos = time::SECOND;
/// Point times differ from ordering times within a millisecond.
const MILLI: Nanos = 1_000_000;

/// Readings with ordering times in `range`, widened to whole milliseconds, by tenant.
///
/// # Errors
/// [`StoreError`], as the server answers a query.
pub(super) async fn readings(client: &Client, config: &Config, range: TimeRange) -> Result<Vec<(Arc<str>, u64)>> {
    let start = range.start.clamp(time::EARLIEST, time::LATEST);
    let end = range.end.clamp(time::EARLIEST, time::LATEST);
    let mut spans = vec![(start - start.rem_euclid(MILLI), end + (-end).rem_euclid(MILLI))];
    let mut counts: BTreeMap<Arc<str>, u64> = BTreeMap::new();
    while let Some((start, end)) = spans.pop() {
        if start >= end {
            continue;
        }
        match values(client, config, start, end).await? {
            0 => {}
            many if many > SPAN_VALUES && end - start >= 2 * LEAST => {
                let middle = start + (end - start) / 2;
                let middle = middle - middle.rem_euclid(MILLI);
                spans.extend([(middle, end), (start, middle)]);
            }
            _ => {
                for (tenant, count) in points(client, config, start, end).await? {
                    *counts.entry(tenant).or_default() += count;
                }
            }
        }
    }
    Ok(counts.into_iter().collect())
}

/// Field values between two times: the storage counts them by itself.
async fn values(client: &Client, config: &Config, start: Nanos, end: Nanos) -> Result<u64> {
    let query = format!("{} |> count() |> group() |> sum()", source(config, start, end));
    let rows = ask(client, &query, ["_value"]).await?;
    Ok(rows.iter().map(|([_], count)| count).sum())
}

async fn points(client: &Client, config: &Config, start: Nanos, end: Nanos) -> Result<Vec<(Arc<str>, u64)>> {
    let (tenant, device) = (literal(&config.tags.tenant), literal(&config.tags.device));
    let query = format!(
        "{} |> keep(columns: [\"_time\", {tenant}, {device}]) |> group(columns: [{tenant}, {device}]) \
         |> unique(column: \"_time\") |> duplicate(column: {device}, as: \"_value\") |> count() \
         |> group(columns: [{tenant}]) |> sum()",
        source(config, start, end)
    );
    let rows = ask(client, &query, [config.tags.tenant.as_str()]).await?;
    Ok(rows.into_iter().map(|([tenant], count)| (tenant.into(), count)).collect())
}

fn source(config: &Config, start: Nanos, end: Nanos) -> String {
    format!(
        "from(bucket: {}) |> range(start: time(v: {start}), stop: time(v: {end})) |> filter(fn: (r) => r._measurement == {})",
        literal(&config.bucket),
        literal(&config.measurement)
    )
}

/// A text in Flux.
fn literal(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace("${", "\\${");
    format!("\"{}\"", text.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t"))
}

/// Rows of an answer: the named columns, and the number in `_value`.
async fn ask<const N: usize>(client: &Client, query: &str, names: [&str; N]) -> Result<Vec<([String; N], u64)>> {
    let dialect = json!({ "header": true, "annotations": [], "delimiter": ",", "commentPrefix": "#" });
    let body =
        client.post_json("/api/v2/query", &json!({ "query": query, "type": "flux", "dialect": dialect })).await?;
    read(&body, names).map_err(|reason| StoreError::Busy {
        reason: format!("InfluxDB answers a count with what cannot be read: {reason}"),
        retry_after: None,
    })
}

fn read<const N: usize>(body: &[u8], names: [&str; N]) -> std::result::Result<Vec<([String; N], u64)>, String> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(body);
    let mut header: Option<csv::StringRecord> = None;
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| error.to_string())?;
        let Some(head) = header.as_ref().filter(|_| record.get(1) != Some("result")) else {
            // An error stands in a table of its own, in the middle of a success.
            if record.iter().any(|name| name == "error") {
                return Err(String::from_utf8_lossy(body).trim().chars().take(500).collect());
            }
            header = Some(record);
            continue;
        };
        let place = |name: &str| head.iter().position(|held| held == name).ok_or(format!("no column {name}"));
        let text = |at: usize| record.get(at).unwrap_or_default().to_owned();
        let mut found: [String; N] = std::array::from_fn(|_| String::new());
        for (slot, name) in found.iter_mut().zip(names) {
            *slot = text(place(name)?);
        }
        let count = text(place("_value")?);
        rows.push((found, count.parse().map_err(|_| format!("{count:?} is no count"))?));
    }
    Ok(rows)
}
