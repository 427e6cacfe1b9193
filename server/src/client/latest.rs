//! `weir latest`.

use proto::v1::telemetry_service_client::TelemetryServiceClient;
use proto::v1::{BatchGetLatestRequest, LatestState, SeriesSelector};

use super::output::{Cell, Table};
use super::{cli, client, connect, names, refused, time};

/// Maximum number of devices in one request, from the protocol.
const MOST_DEVICES: usize = 500;

pub(crate) async fn run(options: &cli::Latest) -> anyhow::Result<()> {
    let mut client = client!(TelemetryServiceClient<_>, connect(&options.common.server).await?);
    let mut table = Table::new(["device", "metric", "value", "time", "received", "seq"]);
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
            for state in &page.states {
                add(&mut table, state);
            }
            missing.extend(page.missing_devices.iter().map(|name| names::device_id(name)));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
    }
    table.print(options.common.format)?;
    anyhow::ensure!(
        missing.is_empty(),
        "no reading was ever accepted from {}: `weir devices` lists the devices that have sent readings",
        missing.join(", ")
    );
    Ok(())
}

fn add(table: &mut Table, state: &LatestState) {
    for value in &state.values {
        table.row([
            names::device_id(&state.device).into(),
            value.metric.as_str().into(),
            value.value.as_ref().map_or(Cell::None, Cell::from),
            time::show_proto(value.measure_time.as_ref()).into(),
            time::show_proto(value.ingest_time.as_ref()).into(),
            value.sequence.into(),
        ]);
    }
}
