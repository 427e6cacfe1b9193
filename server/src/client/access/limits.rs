//! `weir tenants set` and `weir tenants usage`.

use std::collections::HashMap;
use std::num::NonZeroU64;

use anyhow::{Context, ensure};
use door::quota::Limits;
use proto::v1::tenant::DeviceAdmission;
use proto::v1::{GetTenantUsageRequest, Tenant, UpdateTenantRequest};

use super::super::access_cli::{Admission, TenantId, TenantSet, TenantUsageOf};
use super::super::output::{Cell, Table};
use super::super::{names, refused};

/// Lifts a limit, removes a feature.
const NONE: &str = "none";
const ON: &str = "on";
const OFF: &str = "off";

pub(super) async fn set(options: &TenantSet) -> anyhow::Result<()> {
    let TenantId { common, id } = &options.tenant;
    let (limits, mut paths) = parse(&options.limits)?;
    let (features, of_features) = parse_features(&options.features)?;
    paths.extend(of_features);
    paths.extend(options.name.iter().map(|_| "display_name".to_owned()));
    paths.extend(options.device_admission.iter().map(|_| "device_admission".to_owned()));
    ensure!(
        !paths.is_empty(),
        "nothing to change: use `--name`, `--limit messages_per_second=1000`, `--feature x-beta=on` or \
         `--device-admission refuse`"
    );
    let admission = match options.device_admission {
        None => DeviceAdmission::Unspecified,
        Some(Admission::Auto) => DeviceAdmission::Auto,
        Some(Admission::Refuse) => DeviceAdmission::Refuse,
        Some(Admission::Quarantine) => DeviceAdmission::Quarantine,
    };
    let tenant = Tenant {
        name: names::tenant(id),
        display_name: options.name.clone().unwrap_or_default(),
        limits: Some(api::limits::to_proto(&limits)),
        features,
        device_admission: admission.into(),
        ..Default::default()
    };
    let update_mask = Some(prost_types::FieldMask { paths });
    let request = UpdateTenantRequest { tenant: Some(tenant), update_mask };
    let mut client = super::open_tenants(&common.server).await?;
    let changed = client.update_tenant(request).await.map_err(|s| refused(&s))?.into_inner();
    let mut table = Table::new(["name", "value"]);
    for (name, limit) in api::limits::from_proto(&changed.limits.unwrap_or_default()).iter() {
        if let Some(limit) = limit {
            table.row([name.to_owned().into(), limit.get().into()]);
        }
    }
    let mut features: Vec<_> = changed.features.iter().collect();
    features.sort();
    for (name, is_on) in features {
        let value = if *is_on { ON } else { OFF };
        table.row([name.clone().into(), value.to_owned().into()]);
    }
    let admission = match changed.device_admission() {
        DeviceAdmission::Unspecified | DeviceAdmission::Auto => None,
        DeviceAdmission::Refuse => Some("refuse"),
        DeviceAdmission::Quarantine => Some("quarantine"),
    };
    if let Some(admission) = admission {
        table.row(["device_admission".to_owned().into(), admission.to_owned().into()]);
    }
    table.print(common.format)
}

/// Reads `NAME=on`, `NAME=off` and `NAME=none`; returns the features and the fields to change.
fn parse_features(given: &[String]) -> anyhow::Result<(HashMap<String, bool>, Vec<String>)> {
    let (mut features, mut paths) = (HashMap::new(), Vec::new());
    for text in given {
        let shape = || format!("cannot parse {text:?} as a feature: use NAME={ON}, NAME={OFF} or NAME={NONE}");
        let (name, value) = text.split_once('=').with_context(shape)?;
        let value = match value {
            ON => Some(true),
            OFF => Some(false),
            NONE => None,
            _ => anyhow::bail!(shape()),
        };
        features.extend(value.map(|value| (name.to_owned(), value)));
        paths.push(format!("features.{name}"));
    }
    Ok((features, paths))
}

/// Reads `NAME=NUMBER`; returns the limits and the fields to change.
fn parse(given: &[String]) -> anyhow::Result<(Limits, Vec<String>)> {
    let mut limits = Limits::default();
    let mut paths = Vec::with_capacity(given.len());
    for text in given {
        let shape = || format!("cannot parse {text:?} as a limit: use NAME=NUMBER, or NAME={NONE} to lift it");
        let (name, value) = text.split_once('=').with_context(shape)?;
        let value = match value {
            NONE => None,
            number => Some(number.parse::<NonZeroU64>().with_context(shape)?),
        };
        limits.set(name, value)?;
        paths.push(format!("limits.{name}"));
    }
    Ok((limits, paths))
}

pub(super) async fn usage(options: &TenantUsageOf) -> anyhow::Result<()> {
    let request = GetTenantUsageRequest { name: names::tenant(&options.id) };
    let mut client = super::open_tenants(&options.common.server).await?;
    let usage = client.get_tenant_usage(request).await.map_err(|s| refused(&s))?.into_inner();
    let mut table = Table::new(["name", "used", "limit", "limited"]);
    let limits: Vec<_> = api::limits::from_proto(&usage.limits.unwrap_or_default()).iter().collect();
    let limit_of = |name: &str| limits.iter().find(|(known, _)| *known == name).and_then(|(_, limit)| *limit);
    let limited_of = |name: &str| usage.limited.iter().find(|one| one.limit == name).map_or(0, |one| one.count);
    let mut row = |name: &str, used: Option<u64>| {
        let cell = |number: Option<u64>| number.map_or(Cell::None, Cell::from);
        let limit = limit_of(name).map(NonZeroU64::get);
        table.row([name.to_owned().into(), cell(used), cell(limit), limited_of(name).into()]);
    };
    row("processes", Some(usage.process_count));
    row("messages", Some(usage.messages));
    row("bytes", Some(usage.bytes));
    row("calls", Some(usage.calls));
    for (name, limit) in &limits {
        let used = match *name {
            "connections" => Some(usage.connections),
            "streams" => Some(usage.streams),
            "devices" => usage.devices,
            "series" => usage.series,
            "storage_bytes" => usage.storage_bytes,
            _ => None,
        };
        if used.is_some() || limit.is_some() || limited_of(name) > 0 {
            row(name, used);
        }
    }
    table.print(options.common.format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_set_and_removed_by_name() {
        let given = ["x-beta=on", "x-old=off", "x-gone=none"].map(str::to_owned);
        let (features, paths) = parse_features(&given).unwrap();
        assert_eq!(features, [("x-beta".to_owned(), true), ("x-old".to_owned(), false)].into());
        assert_eq!(paths, ["features.x-beta", "features.x-old", "features.x-gone"]);
        for bad in ["x-beta", "x-beta=yes"] {
            assert!(parse_features(&[bad.to_owned()]).unwrap_err().to_string().contains("use NAME=on"));
        }
    }

    #[test]
    fn limits_are_set_and_lifted_by_name() {
        let given = ["messages_per_second=1000", "connections=none"].map(str::to_owned);
        let (limits, paths) = parse(&given).unwrap();
        assert_eq!(limits.messages_per_second, NonZeroU64::new(1000));
        assert_eq!(paths, ["limits.messages_per_second", "limits.connections"]);
        for (bad, error) in [
            ("messages", "use NAME=NUMBER"),
            ("connections=0", "use NAME=NUMBER"),
            ("connections=-1", "use NAME=NUMBER"),
            ("messages=1", "there is no limit \"messages\": use connections, "),
        ] {
            let refused = parse(&[bad.to_owned()]).unwrap_err().to_string();
            assert!(refused.contains(error), "{bad}: {refused}");
        }
    }
}
