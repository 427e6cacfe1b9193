//! `weir latest`.

use crate::client::Connection;
use proto::v1::telemetry_service_client::TelemetryServiceClient;
use proto::v1::{BatchGetLatestRequest, LatestState, LatestValue, SeriesSelector};

use super::output::{self, Cell, Table};
use super::{cli, client, connect, names, refused, time};

/// Maximum number of devices in one request, from the protocol.
const MOST_DEVICES: usize = 500;
/// A clock that is ahead by more is noted, in seconds.
const AHEAD: i64 = 2;

pub(crate) async fn run(options: &cli::Latest) -> anyhow::Result<()> {
    let mut client = client!(TelemetryServiceClient<_>, connect(&options.common.server).await?);
    let mut states = Vec::new();
    let mut missing = Vec::new();
    let tenant = &options.common.tenant;
    let all: Vec<String> = options.devices.iter().map(|id| names::device(tenant, id)).collect();
    let batches: Vec<&[String]> = if all.is_empty() { vec![&[]] } else { all.chunks(MOST_DEVICES).collect() };
    for devices in batches {
        let mut page_token = String::new();
        loop {
            let selector =
                SeriesSelector { devices: devices.to_vec(), metrics: options.metrics.clone(), ..Default::default() };
            let request = BatchGetLatestRequest {
                parent: names::tenant(tenant),
                selector: Some(selector),
                page_token,
                ..Default::default()
            };
            let page = client.batch_get_latest(request).await.map_err(|s| refused(&s))?.into_inner();
            states.extend(page.states);
            missing.extend(page.missing_devices.iter().map(|name| names::device_id(name)));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
    }
    table_of(&states).print(options.common.format)?;
    refuse_unknown(&missing)
}

/// Refuses devices that no reading was ever accepted from.
fn refuse_unknown(missing: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(
        missing.is_empty(),
        "no reading was ever accepted from {}: `weir devices` lists the devices that have sent readings",
        missing.join(", ")
    );
    Ok(())
}

/// Returns those of `ids` that no reading was ever accepted from.
///
/// # Errors
/// One line, with advice.
pub(super) async fn unknown(channel: Connection, tenant: &str, ids: &[&String]) -> anyhow::Result<Vec<String>> {
    let mut client = client!(TelemetryServiceClient<_>, channel);
    let mut missing = Vec::new();
    for ids in ids.chunks(MOST_DEVICES) {
        let devices = ids.iter().map(|id| names::device(tenant, id)).collect();
        let mut request = BatchGetLatestRequest {
            parent: names::tenant(tenant),
            selector: Some(SeriesSelector { devices, ..Default::default() }),
            ..Default::default()
        };
        loop {
            let page = client.batch_get_latest(request.clone()).await.map_err(|s| refused(&s))?.into_inner();
            missing.extend(page.missing_devices.iter().map(|name| names::device_id(name)));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
    }
    Ok(missing)
}

/// Explains an answer without readings of the devices `ids`.
///
/// # Errors
/// One line that names those that no reading was ever accepted from.
pub(super) async fn explain_silence(channel: Connection, tenant: &str, ids: &[&String]) -> anyhow::Result<()> {
    let missing = unknown(channel, tenant, ids).await?;
    for id in ids.iter().filter(|id| !missing.contains(*id)) {
        output::remark(&format!("{id}: no reading in this range with these names: use another --since or --metrics"));
    }
    refuse_unknown(&missing)
}

/// A row for each value. The note is a column only where there is one.
fn table_of(states: &[LatestState]) -> Table {
    let values = || states.iter().flat_map(|state| state.values.iter().map(move |value| (&state.device, value)));
    let noted = values().any(|(_, value)| note(value).is_some());
    let fixed = ["device", "metric", "value", "time", "received", "seq"];
    let mut table = Table::new(fixed.into_iter().chain(noted.then_some("note")));
    for (device, value) in values() {
        let mut row: Vec<Cell> = vec![
            names::device_id(device).into(),
            value.metric.as_str().into(),
            value.value.as_ref().map_or(Cell::None, Cell::from),
            time::show_proto(value.measure_time.as_ref()).into(),
            time::show_proto(value.ingest_time.as_ref()).into(),
            value.sequence.into(),
        ];
        if noted {
            row.push(note(value).map_or(Cell::None, Cell::from));
        }
        table.row(row);
    }
    table
}

/// A warning about a clock that is ahead.
fn note(value: &LatestValue) -> Option<String> {
    let ahead = value.measure_time.as_ref()?.seconds - value.ingest_time.as_ref()?.seconds;
    (ahead > AHEAD).then(|| format!("clock {ahead} s ahead"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_ahead_is_noted() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let value = |measured| LatestValue { measure_time: at(measured), ingest_time: at(1_000), ..Default::default() };
        assert_eq!(note(&value(4_600)).as_deref(), Some("clock 3600 s ahead"));
        assert_eq!(note(&value(1_001)), None);
        assert_eq!(note(&value(10)), None);
    }
}
