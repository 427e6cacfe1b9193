//! Reads a run through Weir's gRPC api.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use model::{Nanos, Value};
use proto::v1;
use proto::v1::dead_letter_service_client::DeadLetterServiceClient;
use proto::v1::telemetry_service_client::TelemetryServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::compare::{Letters, Stored, check_latest, check_with_letters};
use super::findings::StoreReport;
use super::influxdb::Refused;
use crate::broker::authorities;
use crate::ledger::Ledger;
use crate::plan::Device;

/// Readings on one page.
const PAGE: i32 = 10_000;

/// Stage of dead letters that InfluxDB rejected.
const INFLUXDB: &str = "influxdb";

/// The dead letters of a run.
#[derive(Debug, Default)]
struct AllLetters {
    /// Unreadable messages, by client.
    unread: HashMap<String, Letters>,
    refused: Refused,
}

/// A reading that a store rejected: its device and sequence.
fn sequence_of(letter: &v1::DeadLetter) -> Option<(String, u64)> {
    let payload: serde_json::Value = serde_json::from_slice(&letter.payload).ok()?;
    let device = letter.device.rsplit('/').next()?;
    Some((device.replace("%2F", "/").replace("%25", "%"), payload.get("seq")?.as_u64()?))
}

/// A connection to Weir.
#[derive(Debug, Clone)]
pub struct Weir {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Weir {
    /// Connects to `http://host:port`, or to `https://host:port` with the authorities in the file
    /// `ca`, or with the public ones.
    ///
    /// # Errors
    /// When no server responds there.
    pub async fn connect(address: &str, token: Option<&str>, ca: Option<&Path>) -> anyhow::Result<Self> {
        let channel = match address.strip_prefix("https://") {
            // The connector encrypts: the channel has nothing to do with it.
            Some(rest) => {
                let connector = tls::Connector::new(authorities(ca, &["h2"])?);
                let connected =
                    Endpoint::from_shared(format!("http://{rest}"))?.connect_with_connector(connector).await;
                connected.map_err(|error| match tls::explain(&error) {
                    Some(reason) => anyhow::anyhow!("cannot connect to {address}: {reason}"),
                    None => error.into(),
                })?
            }
            None => Endpoint::from_shared(address.to_owned())?.connect().await?,
        };
        let token = token.map(|token| format!("Bearer {token}").parse()).transpose().context("the token")?;
        Ok(Self { channel, token })
    }

    /// Compares the history, the latest values and the dead letters of all devices.
    ///
    /// # Errors
    /// When a call fails.
    pub async fn check(&self, ledger: &Ledger, devices: &[Device], parallel: usize) -> anyhow::Result<StoreReport> {
        let letters = Arc::new(self.letters(ledger.header.start).await.context("list the dead letters")?);
        let reports =
            stream::iter(devices).map(|device| {
                let letters = Arc::clone(&letters);
                async move {
                    self.check_device(ledger, device, &letters).await.with_context(|| format!("device {}", device.id))
                }
            });
        let all = StoreReport::new("weir");
        reports
            .buffered(parallel)
            .try_fold(all, |mut all, report| async move {
                all.merge(report);
                Ok(all)
            })
            .await
    }

    async fn check_device(
        &self,
        ledger: &Ledger,
        device: &Device,
        letters: &AllLetters,
    ) -> anyhow::Result<StoreReport> {
        let mut report = StoreReport::new("weir");
        let rows = self.readings(device, ledger.header.start).await.context("read the history")?;
        let none = Letters::default();
        let letters = letters.unread.get(&*device.id).unwrap_or(&none);
        check_with_letters(&mut report, ledger, device, &rows, letters);
        let latest = self.latest(device).await.context("read the latest values")?;
        check_latest(&mut report, ledger, device, &latest);
        Ok(report)
    }

    /// The readings of a device that were received since `start`.
    async fn readings(&self, device: &Device, start: Nanos) -> anyhow::Result<Vec<Stored>> {
        let mut client = TelemetryServiceClient::new(self.channel.clone());
        let (mut rows, mut page_token) = (Vec::new(), String::new());
        loop {
            let parent = device_name("-", &device.id);
            let request = v1::ListReadingsRequest { parent, page_size: PAGE, page_token, ..Default::default() };
            let answer = client.list_readings(self.request(request)).await?.into_inner();
            for reading in answer.readings {
                let taken = reading.ingest_time.map(nanos);
                if taken.is_none_or(|taken| taken >= start) {
                    rows.push(stored(reading)?);
                }
            }
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                return Ok(rows);
            }
        }
    }

    async fn latest(&self, device: &Device) -> anyhow::Result<Vec<Stored>> {
        let mut client = TelemetryServiceClient::new(self.channel.clone());
        let request = v1::BatchGetLatestRequest {
            parent: "tenants/-".into(),
            selector: Some(v1::SeriesSelector { devices: vec![device_name("-", &device.id)], ..Default::default() }),
            ..Default::default()
        };
        let answer = client.batch_get_latest(self.request(request)).await?.into_inner();
        let values = answer.states.into_iter().flat_map(|state| state.values);
        let rows = values.map(|latest| {
            let value = value(latest.value).context("a latest value without a value")?;
            Ok(Stored {
                time: latest.measure_time.map(nanos).context("a latest value without a time")?,
                claimed: None,
                sequence: latest.sequence,
                values: vec![(latest.metric.into(), value)],
            })
        });
        rows.collect()
    }

    /// Readings that InfluxDB rejected since `start`.
    ///
    /// # Errors
    /// When a call fails.
    pub async fn refused(&self, start: Nanos) -> anyhow::Result<Refused> {
        Ok(self.letters(start).await?.refused)
    }

    /// Dead letters of this run.
    async fn letters(&self, start: Nanos) -> anyhow::Result<AllLetters> {
        let mut client = DeadLetterServiceClient::new(self.channel.clone());
        let (mut letters, mut page_token) = (AllLetters::default(), String::new());
        loop {
            let request = v1::ListDeadLettersRequest {
                parent: "tenants/-".into(),
                page_size: 500,
                page_token,
                ..Default::default()
            };
            let answer = client.list_dead_letters(self.request(request)).await?.into_inner();
            for letter in answer.dead_letters {
                if letter.ingest_time.map(nanos).is_some_and(|taken| taken < start) {
                    continue;
                }
                if letter.stage == INFLUXDB {
                    letters.refused.0.extend(sequence_of(&letter));
                } else {
                    letters.unread.entry(letter.client_id).or_default().payloads.insert(letter.payload);
                }
            }
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                return Ok(letters);
            }
        }
    }

    /// Returns the connection.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Returns a request with the token.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }
}

/// The resource name of a device of a tenant; `-` is that of the caller.
pub(crate) fn device_name(tenant: &str, device: &str) -> String {
    // `/` separates the parts of a name.
    format!("tenants/{tenant}/devices/{}", device.replace('%', "%25").replace('/', "%2F"))
}

fn stored(reading: v1::Reading) -> anyhow::Result<Stored> {
    let values = reading.values.into_iter().map(|(name, found)| {
        let found = value(Some(found)).with_context(|| format!("{name} without a value"))?;
        Ok((Arc::from(name), found))
    });
    Ok(Stored {
        time: reading.measure_time.map(nanos).ok_or_else(|| Status::internal("a reading without a time"))?,
        claimed: reading.claimed_time.map(nanos),
        sequence: reading.sequence,
        values: values.collect::<anyhow::Result<_>>()?,
    })
}

fn value(value: Option<v1::Value>) -> Option<Value> {
    Some(match value?.kind? {
        v1::value::Kind::DoubleValue(v) => Value::Float(v),
        v1::value::Kind::IntValue(v) => Value::Int(v),
        v1::value::Kind::BoolValue(v) => Value::Bool(v),
        v1::value::Kind::StringValue(v) => Value::Str(v.into()),
    })
}

fn nanos(time: prost_types::Timestamp) -> Nanos {
    time.seconds * 1_000_000_000 + i64::from(time.nanos)
}
