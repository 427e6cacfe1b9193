//! Readings as rows.

use std::collections::BTreeSet;
use std::io::Write;

use crate::client::Connection;
use proto::v1::telemetry_service_client::TelemetryServiceClient;
use proto::v1::{ListReadingsRequest, Reading};

use crate::client::output::{self, Cell, Format, Table, json_line, value_json};
use crate::client::{cli, client, connect, latest, names, refused, time};

/// Maximum number of readings in one request, from the protocol.
const MOST_ROWS: usize = 10_000;

/// Number of readings shown without a range and a limit.
const SOME_ROWS: usize = 1000;

pub(super) async fn run(options: &cli::Query) -> anyhow::Result<()> {
    let channel = connect(&options.common.server).await?;
    let mut client = client!(TelemetryServiceClient<_>, channel.clone());
    // Without a range and a limit, the newest readings are shown, oldest first.
    let newest = options.range.since.is_none() && options.limit.is_none();
    let question = Question {
        range: super::range(&options.range)?,
        descending: options.desc || newest,
        limit: options.limit.unwrap_or(if newest { SOME_ROWS } else { usize::MAX }),
    };
    let mut out = std::io::BufWriter::new(std::io::stdout());
    let (mut kept, mut silent) = (Vec::new(), Vec::new());
    for id in &options.devices {
        let device = names::device(&options.common.tenant, id);
        let turn = newest && !options.desc;
        let streaming = options.common.format == Format::Json && !turn;
        let (mut rows, mut found) = (Vec::new(), 0);
        let cut = read(&mut client, options, &question, &device, |page| {
            found += page.len();
            if streaming {
                return page.iter().try_for_each(|reading| json_line(&mut out, &reading_json(reading)));
            }
            rows.extend(page);
            Ok(())
        })
        .await?;
        if found == 0 {
            silent.push(id);
        }
        if turn {
            rows.reverse();
        }
        if cut && newest {
            output::remark(&format!(
                "{id}: only the newest {SOME_ROWS} readings are shown: use --since or --limit for more"
            ));
        }
        kept.append(&mut rows);
    }
    if options.common.format == Format::Json {
        kept.iter().try_for_each(|reading| json_line(&mut out, &reading_json(reading)))?;
        out.flush()?;
    } else {
        let with_device = options.devices.len() > 1 || options.common.format == Format::Csv;
        table(&kept, with_device).print(options.common.format)?;
    }
    latest::explain_silence(channel, &options.common.tenant, &silent).await
}

struct Question {
    range: Option<proto::v1::TimeRange>,
    descending: bool,
    limit: usize,
}

/// Passes page after page to `take`; true when there is more than the limit.
async fn read(
    client: &mut TelemetryServiceClient<Connection>,
    options: &cli::Query,
    question: &Question,
    device: &str,
    mut take: impl FnMut(Vec<Reading>) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let mut left = question.limit;
    let mut page_token = String::new();
    while left > 0 {
        let request = ListReadingsRequest {
            parent: device.to_owned(),
            metrics: options.metrics.clone(),
            range: question.range,
            order_by: if question.descending { "measure_time desc".into() } else { String::new() },
            page_size: i32::try_from(left.min(MOST_ROWS)).unwrap_or(i32::MAX),
            page_token,
        };
        let mut page = client.list_readings(request).await.map_err(|s| refused(&s))?.into_inner();
        page.readings.truncate(left);
        left -= page.readings.len();
        take(page.readings)?;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            super::report_missing(page.freshness.as_ref());
            return Ok(false);
        }
    }
    Ok(true)
}

fn table(readings: &[Reading], with_device: bool) -> Table {
    let metrics: BTreeSet<&str> = readings.iter().flat_map(|r| r.values.keys().map(String::as_str)).collect();
    let with_sequence = readings.iter().any(|r| r.sequence.is_some());
    let fixed = [("device", with_device), ("time", true), ("received", true), ("seq", with_sequence)];
    let names = fixed.iter().filter(|(_, shown)| *shown).map(|(name, _)| (*name).to_owned());
    let mut table = Table::new(names.chain(metrics.iter().map(|name| heading(name, &metrics))));
    for reading in readings {
        let fields: [Cell; 4] = [
            names::device_id(&reading.device).into(),
            time::show_proto(reading.measure_time.as_ref()).into(),
            time::show_proto(reading.ingest_time.as_ref()).into(),
            reading.sequence.into(),
        ];
        let fields = fields.into_iter().zip(fixed).filter(|(_, (_, shown))| *shown).map(|(cell, _)| cell);
        let values = metrics.iter().map(|name| reading.values.get(*name).map_or(Cell::None, Cell::from));
        table.row(fields.chain(values));
    }
    table
}

/// The column of a value: its name, with `_` appended while that is the name of another column.
fn heading(name: &str, metrics: &BTreeSet<&str>) -> String {
    let mut heading = name.to_owned();
    while ["device", "time", "received", "seq"].contains(&heading.as_str())
        || (heading != name && metrics.contains(heading.as_str()))
    {
        heading.push('_');
    }
    heading
}

/// Converts a reading into JSON: `device`, `time`, `received`, `seq`, `values`.
pub(crate) fn reading_json(reading: &Reading) -> serde_json::Value {
    let mut names: Vec<&String> = reading.values.keys().collect();
    names.sort();
    let values: serde_json::Map<String, serde_json::Value> =
        names.into_iter().filter_map(|name| Some((name.clone(), value_json(reading.values.get(name)?)?))).collect();
    let mut object = serde_json::Map::new();
    object.insert("device".into(), names::device_id(&reading.device).into());
    object.insert("time".into(), time::show_proto(reading.measure_time.as_ref()).into());
    object.insert("received".into(), time::show_proto(reading.ingest_time.as_ref()).into());
    if let Some(sequence) = reading.sequence {
        object.insert("seq".into(), sequence.into());
    }
    if let Some(claimed) = &reading.claimed_time {
        object.insert("claimed_time".into(), time::show_proto(Some(claimed)).into());
    }
    object.insert("values".into(), values.into());
    object.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_named_as_a_fixed_column_has_a_column_of_its_own() {
        let metrics = BTreeSet::from(["time", "time_", "t", "seq"]);
        let headings: Vec<String> = metrics.iter().map(|name| heading(name, &metrics)).collect();
        assert_eq!(headings, ["seq_", "t", "time__", "time_"]);
    }
}
