//! `weir devices`.

use anyhow::Context;
use prost_types::{Duration, FieldMask};
use proto::v1::device_service_client::DeviceServiceClient;
use proto::v1::{
    AdoptDeviceRequest, DeleteDeviceRequest, Device, GetDeviceRequest, ListDevicesRequest, UndeleteDeviceRequest,
    UpdateDeviceRequest,
};

use super::access_cli::DeviceName;
use super::cli::Server;
use super::devices_cli::{DeviceSet, Devices, DevicesAdopt, DevicesCommand, DevicesList};
use super::output::{self, Cell, Format, Table};
use super::{Connection, client, connect, device_access, device_import, names, refused, time};

pub(crate) async fn run(options: &Devices) -> anyhow::Result<()> {
    match &options.command {
        None => list(&options.list).await,
        Some(DevicesCommand::List(options)) => list(options).await,
        Some(DevicesCommand::Show(options)) => show(options).await,
        Some(DevicesCommand::Set(options)) => set(options).await,
        Some(DevicesCommand::Import(options)) => device_import::run(options).await,
        Some(DevicesCommand::Adopt(options)) => adopt(options).await,
        Some(DevicesCommand::Delete(options)) => delete(options).await,
        Some(DevicesCommand::Undelete(options)) => undelete(options).await,
        Some(DevicesCommand::Add(options)) => device_access::add_device(options).await,
        Some(DevicesCommand::Secrets(options)) => device_access::secrets(options).await,
        Some(DevicesCommand::Revoke(options)) => device_access::revoke(options).await,
    }
}

pub(super) async fn open(server: &Server) -> anyhow::Result<DeviceServiceClient<Connection>> {
    Ok(client!(DeviceServiceClient<_>, connect(server).await?))
}

fn name(device: &DeviceName) -> String {
    names::device(&device.common.tenant, &device.device)
}

async fn list(options: &DevicesList) -> anyhow::Result<()> {
    let mut client = open(&options.common.server).await?;
    let columns = if options.deleted { COLUMNS.len() } else { LISTED };
    let mut table = Table::new(COLUMNS[..columns].iter().copied());
    let most = options.limit.unwrap_or(usize::MAX);
    let mut shown = 0;
    let mut page_token = String::new();
    loop {
        let request = ListDevicesRequest {
            parent: names::tenant(&options.common.tenant),
            filter: options.filter.clone(),
            page_size: i32::try_from((most - shown).min(1000)).unwrap_or(1000),
            page_token,
            show_deleted: options.deleted,
            ..Default::default()
        };
        let page = client.list_devices(request).await.map_err(|s| refused(&s))?.into_inner();
        for device in page.devices.iter().take(most - shown) {
            table.row(row(device).into_iter().take(columns));
            shown += 1;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() || shown >= most {
            break;
        }
    }
    table.print(options.common.format)
}

async fn show(options: &DeviceName) -> anyhow::Result<()> {
    let mut client = open(&options.common.server).await?;
    let device = client.get_device(GetDeviceRequest { name: name(options) }).await.map_err(|s| refused(&s))?;
    print(&device.into_inner(), options.common.format)
}

async fn set(options: &DeviceSet) -> anyhow::Result<()> {
    let (device, paths) = changed(options)?;
    let update_mask = Some(FieldMask { paths });
    let request = UpdateDeviceRequest { device: Some(device), update_mask, allow_missing: true };
    let mut client = open(&options.device.common.server).await?;
    let changed = client.update_device(request).await.map_err(|s| refused(&s))?.into_inner();
    print(&changed, options.device.common.format)
}

/// Returns the new values, and the fields that they are of. Without any, the device is registered
/// as it is.
fn changed(options: &DeviceSet) -> anyhow::Result<(Device, Vec<String>)> {
    let mut device = Device { name: name(&options.device), ..Device::default() };
    let mut paths = Vec::new();
    if let Some(name) = &options.name {
        device.display_name.clone_from(name);
        paths.push("display_name".to_owned());
    }
    for label in &options.labels {
        let (key, value) =
            label.split_once('=').with_context(|| format!("cannot parse {label:?}: use --label KEY=VALUE"))?;
        if !value.is_empty() {
            device.labels.insert(key.to_owned(), value.to_owned());
        }
        paths.push(format!("labels.{key}"));
    }
    if let Some(device_type) = &options.device_type {
        device.device_type.clone_from(device_type);
        paths.push("device_type".to_owned());
    }
    if let Some(interval) = &options.interval {
        device.expected_interval = Some(interval).filter(|text| !text.is_empty()).map(|text| span(text)).transpose()?;
        paths.push("expected_interval".to_owned());
    }
    anyhow::ensure!(!paths.is_empty(), "nothing to set: give --name, --label, --type or --interval");
    Ok((device, paths))
}

pub(super) fn span(text: &str) -> anyhow::Result<Duration> {
    let nanos = time::span(text).with_context(|| format!("cannot parse {text:?} as a duration: use 30s, 10m or 1h"))?;
    let (seconds, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    Ok(Duration { seconds: i64::try_from(seconds)?, nanos: i32::try_from(nanos)? })
}

async fn adopt(options: &DevicesAdopt) -> anyhow::Result<()> {
    let mut client = open(&options.common.server).await?;
    let mut table = Table::new(COLUMNS);
    let mut names: Vec<String> = options.devices.iter().map(|id| names::device(&options.common.tenant, id)).collect();
    loop {
        if options.all {
            names = quarantined(&mut client, options).await?;
        }
        for name in &names {
            let request = AdoptDeviceRequest { name: name.clone(), ..AdoptDeviceRequest::default() };
            let adopted = client.adopt_device(request).await;
            table.row(row(&adopted.map_err(|s| refused(&s))?.into_inner()));
        }
        if !options.all || names.is_empty() {
            break;
        }
    }
    table.print(options.common.format)
}

/// Returns names of devices in quarantine: those that were adopted are no longer among them.
async fn quarantined(
    client: &mut DeviceServiceClient<Connection>,
    options: &DevicesAdopt,
) -> anyhow::Result<Vec<String>> {
    let filter = match options.filter.as_str() {
        "" => "quarantined = true".to_owned(),
        filter => format!("quarantined = true AND ({filter})"),
    };
    let parent = names::tenant(&options.common.tenant);
    let mut request = ListDevicesRequest { parent, filter, page_size: 1000, ..Default::default() };
    loop {
        let page = client.list_devices(request.clone()).await.map_err(|s| refused(&s))?.into_inner();
        // A page may be empty before the end.
        if !page.devices.is_empty() || page.next_page_token.is_empty() {
            return Ok(page.devices.into_iter().map(|device| device.name).collect());
        }
        request.page_token = page.next_page_token;
    }
}

async fn delete(options: &DeviceName) -> anyhow::Result<()> {
    let mut client = open(&options.common.server).await?;
    let request = DeleteDeviceRequest { name: name(options), ..DeleteDeviceRequest::default() };
    client.delete_device(request).await.map_err(|s| refused(&s))?;
    output::remark(&format!("{0} is deleted (`weir devices undelete {0}` restores it).", options.device));
    Ok(())
}

async fn undelete(options: &DeviceName) -> anyhow::Result<()> {
    let mut client = open(&options.common.server).await?;
    let request = UndeleteDeviceRequest { name: name(options) };
    let restored = client.undelete_device(request).await.map_err(|s| refused(&s))?.into_inner();
    print(&restored, options.common.format)
}

/// Columns of a list, and behind them those of a device that is shown alone.
const COLUMNS: [&str; 12] = [
    "device",
    "type",
    "labels",
    "last_seen",
    "created",
    "readings",
    "clock_skew",
    "metrics",
    "name",
    "interval",
    "quarantined",
    "deleted",
];
/// Columns of a list.
const LISTED: usize = 8;

fn print(device: &Device, format: Format) -> anyhow::Result<()> {
    let mut table = Table::new(COLUMNS);
    table.row(row(device));
    table.print(format)
}

fn row(device: &Device) -> [Cell; COLUMNS.len()] {
    let skew = device.clock_skew.as_ref().filter(|d| d.seconds != 0 || d.nanos.abs() >= 1_000_000);
    let metrics: Vec<&str> = device.metrics.iter().map(|metric| metric.name.as_str()).collect();
    let mut labels: Vec<String> = device.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.sort_unstable();
    [
        names::device_id(&device.name).into(),
        device.device_type.clone().into(),
        labels.join(" ").into(),
        time::show_proto(device.last_seen_time.as_ref()).into(),
        time::show_proto(device.create_time.as_ref()).into(),
        device.reading_count.into(),
        skew.map(time::show_duration).into(),
        metrics.join(" ").into(),
        device.display_name.clone().into(),
        device.expected_interval.as_ref().map(time::show_duration).into(),
        time::show_proto(device.quarantine_time.as_ref()).into(),
        time::show_proto(device.delete_time.as_ref()).into(),
    ]
}
