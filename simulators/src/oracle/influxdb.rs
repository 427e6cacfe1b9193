//! Reads a run directly from InfluxDB 2: the points of one measurement, tagged with tenant and
//! device.
//!
//! A point is identified by its series and its time, and has no sequence. The time identifies the
//! reading: it is the device's time or, for a reading with a sequence, its millisecond with the
//! sequence in the digits below.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use model::{Nanos, Value};

use super::compare::{Allowance, Stored, check_as};
use super::findings::StoreReport;
use crate::ledger::Ledger;
use crate::plan::{Device, Reading};

const TENANT: &str = "default";
const ANSWER: Duration = Duration::from_secs(60);
const MILLISECOND: Nanos = 1_000_000;

/// Location of the points.
#[derive(Clone)]
pub struct Place {
    /// Address, `http://host:port`.
    pub url: String,
    /// Token with read access.
    pub token: String,
    /// Organization.
    pub org: String,
    /// Bucket.
    pub bucket: String,
    /// Measurement.
    pub measurement: String,
}

/// The points in InfluxDB.
pub struct Influx {
    place: Place,
    query: Uri,
    client: Client<HttpsConnector<HttpConnector>, Full<bytes::Bytes>>,
}

impl Influx {
    /// Reads from `place`; the first query connects.
    ///
    /// # Errors
    /// When the address is wrong.
    pub fn new(place: Place) -> anyhow::Result<Self> {
        let query = format!("{}/api/v2/query?org={}", place.url.trim_end_matches('/'), percent(&place.org));
        let query = query.parse().with_context(|| format!("{} is not an address", place.url))?;
        let https =
            hyper_rustls::HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1().build();
        Ok(Self { place, query, client: Client::builder(TokioExecutor::new()).build(https) })
    }

    /// Compares the points of all devices.
    ///
    /// # Errors
    /// When the server does not respond like InfluxDB.
    pub async fn check(&self, ledger: &Ledger, devices: &[Device], refused: &Refused) -> anyhow::Result<StoreReport> {
        let mut report = StoreReport::new("influxdb");
        for device in devices {
            let rows = self.points(device).await.with_context(|| format!("device {}", device.id))?;
            // A point has no time of receipt: points of earlier runs are recognized by their time.
            let start = ledger.header.start;
            let rows: Vec<_> = rows.into_iter().filter(|row| row.time >= start - lead(device)).collect();
            let allowance = Allowance { as_stored: &as_point, missing: &|reading| refused.holds(device, reading) };
            check_as(&mut report, ledger, device, &rows, &allowance);
        }
        Ok(report)
    }

    async fn points(&self, device: &Device) -> anyhow::Result<Vec<Stored>> {
        let Place { bucket, measurement, .. } = &self.place;
        let flux = format!(
            "from(bucket: {}) |> range(start: 1970-01-01T00:00:00Z, stop: 2100-01-01T00:00:00Z) \
             |> filter(fn: (r) => r._measurement == {} and r.tenant == {} and r.device == {}) \
             |> keep(columns: [\"_time\", \"_field\", \"_value\"])",
            quoted(bucket),
            quoted(measurement),
            quoted(TENANT),
            quoted(&device.id)
        );
        let body = serde_json::json!({
            "query": flux, "type": "flux", "dialect": { "annotations": ["datatype", "group", "default"], "header": true },
        });
        let request = Request::post(&self.query)
            .header("authorization", format!("Token {}", self.place.token))
            .header("content-type", "application/json")
            .header("accept", "application/csv")
            .body(Full::from(body.to_string()))?;
        let answer =
            tokio::time::timeout(ANSWER, self.client.request(request)).await.context("no response within 60 s")??;
        let status = answer.status();
        let text = String::from_utf8(answer.into_body().collect().await?.to_bytes().to_vec())?;
        match status {
            StatusCode::OK => tables(&text),
            _ => bail!("{status}: {}", text.trim()),
        }
    }
}

/// Longest time before the start that a device's clock may set.
fn lead(device: &Device) -> Nanos {
    let faults = &device.kind.group.faults;
    let most = faults.clock_skew + faults.clock_jump_by * 100 + device.kind.group.interval * 2;
    i64::try_from(most.as_nanos()).unwrap_or(i64::MAX / 4)
}

/// Readings that InfluxDB rejected and that are dead letters, by device and sequence.
#[derive(Debug, Default)]
pub struct Refused(pub std::collections::HashSet<(String, u64)>);

impl Refused {
    fn holds(&self, device: &Device, reading: &Reading) -> bool {
        reading.sequence.is_some_and(|sequence| self.0.contains(&(device.id.to_string(), sequence)))
    }
}

/// Turns a reading into its point: numbers are floats, integers that no float is equal to are in a
/// field beside, names with a meaning are mapped; the sequence is in the time.
fn as_point(reading: &Reading) -> Reading {
    let time = reading.time.and_then(|time| match reading.sequence {
        Some(sequence) => {
            let below = i64::try_from(sequence % 1_000_000).expect("below a million");
            Some(time.div_euclid(MILLISECOND) * MILLISECOND + below)
        }
        // Weir assigns such a reading a position within its millisecond that is unknown here: the
        // values identify it.
        None if time.rem_euclid(MILLISECOND) == 0 => None,
        None => Some(time),
    });
    let values = reading.values.iter().map(|(name, value)| {
        let name: Arc<str> = match &**name {
            "device" | "tenant" | "time" => format!("{name}_").into(),
            _ => Arc::clone(name),
        };
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "compared afterwards")]
        match value {
            Value::Int(v) if (*v as f64) as i128 == i128::from(*v) => (name, Value::Float(*v as f64)),
            Value::Int(_) => (format!("{name}_int").into(), value.clone()),
            other => (name, other.clone()),
        }
    });
    Reading { time, sequence: None, values: values.collect() }
}

/// Reads points from annotated CSV: fields of one time are one point.
fn tables(text: &str) -> anyhow::Result<Vec<Stored>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut points: BTreeMap<Nanos, Vec<(Arc<str>, Value)>> = BTreeMap::new();
    let (mut types, mut head): (Vec<String>, Vec<String>) = Default::default();
    for record in reader.records() {
        let record = record.context("CSV")?;
        let cells = || record.iter().map(str::to_owned).collect::<Vec<_>>();
        match record.get(0) {
            Some("#datatype") => {
                types = cells();
                head.clear();
            }
            Some(annotation) if annotation.starts_with('#') => {}
            _ if head.is_empty() => {
                head = cells();
                ensure!(!head.iter().any(|name| name == "error"), "{}", text.trim());
            }
            _ => {
                let cell = |name: &str| {
                    let place = head.iter().position(|column| column == name).with_context(|| format!("no {name}"))?;
                    Ok::<_, anyhow::Error>((
                        record.get(place).unwrap_or_default(),
                        types.get(place).map(String::as_str),
                    ))
                };
                let time: Timestamp = cell("_time")?.0.parse()?;
                let (value, kind) = cell("_value")?;
                let value = match kind {
                    Some("double") => Value::Float(value.parse()?),
                    Some("long") => Value::Int(value.parse()?),
                    Some("boolean") => Value::Bool(value.parse()?),
                    Some("string") => Value::Str(value.into()),
                    other => bail!("values of type {other:?}"),
                };
                let name = Arc::from(cell("_field")?.0);
                points.entry(Nanos::try_from(time.as_nanosecond())?).or_default().push((name, value));
            }
        }
    }
    let point = |(time, values)| Stored { time, claimed: None, sequence: None, values };
    Ok(points.into_iter().map(point).collect())
}

/// Quotes a string for Flux.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace("${", "\\${"))
}

fn percent(text: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
