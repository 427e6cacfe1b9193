//! `weir devices`.

use proto::v1::device_service_client::DeviceServiceClient;
use proto::v1::{Device, ListDevicesRequest};

use super::access_cli::{DevicesAndSecrets, DevicesCommand};
use super::output::Table;
use super::{cli, client, connect, device_access, names, refused, time};

pub(crate) async fn run(options: &DevicesAndSecrets) -> anyhow::Result<()> {
    match &options.command {
        None => list(&options.list).await,
        Some(DevicesCommand::List(options)) => list(options).await,
        Some(DevicesCommand::Add(options)) => device_access::add_device(options).await,
        Some(DevicesCommand::Secrets(options)) => device_access::secrets(options).await,
        Some(DevicesCommand::Revoke(options)) => device_access::revoke(options).await,
    }
}

async fn list(options: &cli::Devices) -> anyhow::Result<()> {
    let mut client = client!(DeviceServiceClient<_>, connect(&options.common.server).await?);
    let mut table = Table::new(["device", "last_seen", "first_seen", "readings", "clock_skew", "metrics"]);
    let most = options.limit.unwrap_or(usize::MAX);
    let mut shown = 0;
    let mut page_token = String::new();
    loop {
        let request = ListDevicesRequest {
            parent: names::tenant(&options.common.tenant),
            filter: options.filter.clone(),
            page_size: i32::try_from((most - shown).min(1000)).unwrap_or(1000),
            page_token,
            ..Default::default()
        };
        let page = client.list_devices(request).await.map_err(|s| refused(&s))?.into_inner();
        for device in page.devices.iter().take(most - shown) {
            table.row(row(device));
            shown += 1;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() || shown >= most {
            break;
        }
    }
    table.print(options.common.format)
}

fn row(device: &Device) -> [super::output::Cell; 6] {
    let skew = device.clock_skew.as_ref().filter(|d| d.seconds != 0 || d.nanos.abs() >= 1_000_000);
    let metrics: Vec<&str> = device.metrics.iter().map(|metric| metric.name.as_str()).collect();
    [
        names::device_id(&device.name).into(),
        time::show_proto(device.last_seen_time.as_ref()).into(),
        time::show_proto(device.create_time.as_ref()).into(),
        device.reading_count.into(),
        skew.map(time::show_duration).into(),
        metrics.join(" ").into(),
    ]
}
