//! `weir devices import`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use prost::Message;
use proto::v1::{Device, ImportDevicesRequest};
use serde::Deserialize;

use super::cli::Common;
use super::devices::{open, span};
use super::devices_cli::{DevicesImport, ImportForm};
use super::output::{self, Table};
use super::{names, refused};

/// Devices of one call, and bytes of them, so that a call stays below what the server takes.
const CALL: usize = 1000;
const CALL_BYTES: usize = 1 << 19;
/// Beginning of the names of columns with labels.
const LABEL: &str = "label.";

/// A device of a file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    device: String,
    #[serde(default)]
    name: String,
    #[serde(default, rename = "type")]
    device_type: String,
    #[serde(default)]
    interval: String,
    #[serde(default)]
    labels: HashMap<String, String>,
}

impl Row {
    fn into_device(self, tenant: &str) -> anyhow::Result<Device> {
        ensure!(!self.device.is_empty(), "the device has no id");
        let interval = Some(self.interval).filter(|text| !text.is_empty());
        Ok(Device {
            name: names::device(tenant, &self.device),
            display_name: self.name,
            device_type: self.device_type,
            expected_interval: interval.map(|text| span(&text)).transpose()?,
            labels: self.labels,
            ..Device::default()
        })
    }
}

/// Rows of a file, with the number of the line of each.
type Rows = Box<dyn Iterator<Item = anyhow::Result<(u64, Row)>>>;

/// Reads rows of CSV.
///
/// # Errors
/// The header names no column `device`, or one that is not known.
fn csv(file: impl Read + 'static) -> anyhow::Result<Rows> {
    let mut reader = csv::ReaderBuilder::new().flexible(false).trim(csv::Trim::All).from_reader(file);
    let header = reader.headers().context("cannot read the header")?.clone();
    for column in &header {
        let is_label = column.strip_prefix(LABEL).is_some_and(|key| !key.is_empty());
        let is_known = is_label || matches!(column, "device" | "name" | "type" | "interval");
        ensure!(is_known, "there is no column {column:?}: use device, name, type, interval and {LABEL}KEY");
    }
    ensure!(header.iter().any(|column| column == "device"), "the header names no column \"device\"");
    let row = move |record: csv::Result<csv::StringRecord>| {
        let record = record?;
        let mut row = Row::default();
        for (column, text) in header.iter().zip(&record) {
            match column {
                "device" => text.clone_into(&mut row.device),
                "name" => text.clone_into(&mut row.name),
                "type" => text.clone_into(&mut row.device_type),
                "interval" => text.clone_into(&mut row.interval),
                label if !text.is_empty() => {
                    let key = label.strip_prefix(LABEL).unwrap_or(label);
                    row.labels.insert(key.to_owned(), text.to_owned());
                }
                _ => {}
            }
        }
        Ok((record.position().map_or(0, csv::Position::line), row))
    };
    Ok(Box::new(reader.into_records().map(row)))
}

/// Reads a JSON object from each line.
fn ndjson(file: impl Read + 'static) -> Rows {
    let row = |(line, text): (u64, std::io::Result<String>)| {
        let text = text.with_context(|| format!("line {line}"))?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        let row = serde_json::from_str(&text).with_context(|| format!("line {line}"))?;
        Ok(Some((line, row)))
    };
    Box::new((1..).zip(BufReader::new(file).lines()).map(row).filter_map(Result::transpose))
}

fn form(path: &Path, given: Option<ImportForm>) -> anyhow::Result<ImportForm> {
    if let Some(form) = given {
        return Ok(form);
    }
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("csv") => Ok(ImportForm::Csv),
        Some("ndjson" | "jsonl") => Ok(ImportForm::Ndjson),
        _ => bail!("the form of {} is not known: give --input csv or --input ndjson", path.display()),
    }
}

fn rows(path: &Path, form: ImportForm) -> anyhow::Result<Rows> {
    let file: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(File::open(path)?),
    };
    match form {
        ImportForm::Csv => csv(file),
        ImportForm::Ndjson => Ok(ndjson(file)),
    }
}

/// The numbers of an import.
#[derive(Debug, Default)]
struct Sum {
    created: i64,
    updated: i64,
    unchanged: i64,
    deleted: Vec<String>,
}

impl Sum {
    fn all(&self) -> i64 {
        self.created + self.updated + self.unchanged + i64::try_from(self.deleted.len()).unwrap_or(i64::MAX)
    }
}

pub(crate) async fn run(options: &DevicesImport) -> anyhow::Result<()> {
    let path = &options.file;
    let form = form(path, options.input)?;
    let mut sum = Sum::default();
    let imported = import(&options.common, (path, form), &mut sum).await;
    imported.with_context(|| match sum.all() {
        0 => format!("{}: nothing was imported", path.display()),
        count => format!(
            "{}: {count} devices were imported; run the command again once the cause is mended, they stay as they are",
            path.display()
        ),
    })?;
    if !sum.deleted.is_empty() {
        let shown = sum.deleted.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(" ");
        output::remark(&format!(
            "{} devices were deleted, and stay so (`weir devices undelete` restores one): {shown}",
            sum.deleted.len()
        ));
    }
    let mut table = Table::new(["created", "updated", "unchanged", "deleted"]);
    let deleted = i64::try_from(sum.deleted.len()).unwrap_or(i64::MAX);
    table.row([sum.created.into(), sum.updated.into(), sum.unchanged.into(), deleted.into()]);
    table.print(options.common.format)
}

async fn import(common: &Common, (path, form): (&Path, ImportForm), sum: &mut Sum) -> anyhow::Result<()> {
    let mut client = open(&common.server).await?;
    let mut rows = rows(path, form)?;
    loop {
        let (mut devices, mut bytes) = (Vec::new(), 0);
        while devices.len() < CALL && bytes < CALL_BYTES {
            let Some(row) = rows.next() else { break };
            let (line, row) = row?;
            let device = row.into_device(&common.tenant).with_context(|| format!("line {line}"))?;
            bytes += device.encoded_len();
            devices.push(device);
        }
        if devices.is_empty() {
            return Ok(());
        }
        let request = ImportDevicesRequest { parent: names::tenant(&common.tenant), devices };
        let made = client.import_devices(request).await.map_err(|s| refused(&s))?.into_inner();
        sum.created += i64::from(made.created_count);
        sum.updated += i64::from(made.updated_count);
        sum.unchanged += i64::from(made.unchanged_count);
        sum.deleted.extend(made.deleted_devices.iter().map(|name| names::device_id(name)));
    }
}
