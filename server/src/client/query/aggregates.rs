//! Aggregates in buckets of time.

use std::collections::BTreeSet;

use anyhow::Context;
use proto::v1::telemetry_service_client::TelemetryServiceClient;
use proto::v1::{
    AggregateBucket, AggregateFunction, AggregateSpec, FillMode, QueryAggregatesRequest, SeriesSelector, TimeRange,
};

use crate::client::output::{Cell, Table};
use crate::client::{cli, client, connect, latest, names, refused, time};

/// Range without --since.
const USUAL_RANGE: &str = "1d";

pub(super) async fn run(options: &cli::Query) -> anyhow::Result<()> {
    let request = request(options)?;
    let channel = connect(&options.common.server).await?;
    let mut client = client!(TelemetryServiceClient<_>, channel.clone());
    let mut seen = BTreeSet::new();
    let fixed = ["device", "metric", "start", "end"];
    let functions = options.aggregate.iter().map(|f| f.trim());
    let mut table = Table::new(fixed.into_iter().chain(functions).chain(["note"]));
    let most = options.limit.unwrap_or(usize::MAX);
    let mut left = most;
    let mut series_at = (String::new(), String::new());
    let mut page_token = String::new();
    loop {
        let request = QueryAggregatesRequest { page_token, ..request.clone() };
        let page = client.query_aggregates(request).await.map_err(|s| refused(&s))?.into_inner();
        for series in page.series {
            seen.insert(names::device_id(&series.device));
            let here = (series.device.clone(), series.metric.clone());
            if here != series_at {
                series_at = here;
                left = most;
            }
            for bucket in series.buckets.iter().take(left) {
                table.row(row(&series.device, &series.metric, bucket));
            }
            left = left.saturating_sub(series.buckets.len());
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            super::report_missing(page.freshness.as_ref());
            break;
        }
    }
    table.print(options.common.format)?;
    let silent: Vec<&String> = options.devices.iter().filter(|id| !seen.contains(*id)).collect();
    latest::explain_silence(channel, &options.common.tenant, &silent).await
}

fn row(device: &str, metric: &str, bucket: &AggregateBucket) -> Vec<Cell> {
    let mut cells: Vec<Cell> = vec![
        names::device_id(device).into(),
        metric.into(),
        time::show_proto(bucket.start_time.as_ref()).into(),
        time::show_proto(bucket.end_time.as_ref()).into(),
    ];
    cells.extend(bucket.values.iter().map(Cell::from));
    cells.push(note(bucket));
    cells
}

fn note(bucket: &AggregateBucket) -> Cell {
    let mut notes = Vec::new();
    match (bucket.filled, bucket.partial) {
        (true, _) => notes.push("filled".to_owned()),
        (false, true) => notes.push("partial".to_owned()),
        (false, false) => {}
    }
    match bucket.non_numeric_count {
        0 => {}
        others if others == bucket.count => notes.push("not numbers".to_owned()),
        others => notes.push(format!("{others} of {} are not numbers", bucket.count)),
    }
    if notes.is_empty() { Cell::None } else { notes.join(", ").into() }
}

fn request(options: &cli::Query) -> anyhow::Result<QueryAggregatesRequest> {
    let tenant = &options.common.tenant;
    let mut range = options.range.clone();
    range.since.get_or_insert_with(|| USUAL_RANGE.to_owned());
    let mut range = super::range(&range)?.unwrap_or(TimeRange { start_time: None, end_time: None });
    // Rounded up to whole seconds, so that the end of the last bucket is readable and includes the
    // newest readings.
    let end = time::now().div_euclid(model::time::SECOND) * model::time::SECOND + model::time::SECOND;
    range.end_time.get_or_insert_with(|| time::to_proto(end));
    let mut request = QueryAggregatesRequest {
        parent: names::tenant(tenant),
        selector: Some(SeriesSelector {
            devices: options.devices.iter().map(|id| names::device(tenant, id)).collect(),
            metrics: options.metrics.clone(),
            ..Default::default()
        }),
        range: Some(range),
        time_zone: options.zone.clone(),
        aggregates: options.aggregate.iter().map(|text| aggregate(text.trim())).collect::<anyhow::Result<_>>()?,
        page_size: 10_000,
        ..Default::default()
    };
    match options.every.as_deref().map(width).transpose()? {
        Some(Width::Fixed(duration)) => request.bucket = Some(duration),
        Some(Width::Calendar(period)) => request.bucket_calendar = period,
        None => {}
    }
    request.set_fill(match options.fill {
        cli::Fill::None => FillMode::Unspecified,
        cli::Fill::Null => FillMode::Null,
        cli::Fill::Previous => FillMode::Previous,
        cli::Fill::Linear => FillMode::Linear,
    });
    Ok(request)
}

#[derive(Debug, PartialEq)]
enum Width {
    Fixed(prost_types::Duration),
    Calendar(String),
}

/// Parses a width: seconds, minutes and hours are durations; days and more belong to the calendar.
fn width(text: &str) -> anyhow::Result<Width> {
    let wrong = || format!("cannot parse --every {text:?} as a width: use 30s, 15m, 1h, 1d, 1w, 1mo or 1y");
    if text.starts_with('P') {
        return Ok(Width::Calendar(text.to_owned()));
    }
    let split = text.find(|c: char| !c.is_ascii_digit()).with_context(wrong)?;
    let (number, unit) = text.split_at(split);
    let number: u32 = number.parse().ok().filter(|n| *n > 0).with_context(wrong)?;
    Ok(match unit {
        "d" => Width::Calendar(format!("P{number}D")),
        "w" => Width::Calendar(format!("P{number}W")),
        "mo" => Width::Calendar(format!("P{number}M")),
        "y" => Width::Calendar(format!("P{number}Y")),
        _ => {
            let nanos = time::span(text).with_context(wrong)?;
            let seconds = i64::try_from(nanos / 1_000_000_000).ok().filter(|s| *s > 0);
            Width::Fixed(prost_types::Duration { seconds: seconds.with_context(wrong)?, nanos: 0 })
        }
    })
}

fn aggregate(text: &str) -> anyhow::Result<AggregateSpec> {
    let function = match text {
        "count" => AggregateFunction::Count,
        "mean" | "avg" => AggregateFunction::Mean,
        "time-weighted-mean" | "twa" => AggregateFunction::TimeWeightedMean,
        "min" => AggregateFunction::Min,
        "max" => AggregateFunction::Max,
        "sum" => AggregateFunction::Sum,
        "first" => AggregateFunction::First,
        "last" => AggregateFunction::Last,
        "stddev" => AggregateFunction::Stddev,
        "increase" => AggregateFunction::Increase,
        "median" => return Ok(percentile(50.0)),
        _ => {
            let number = text.strip_prefix('p').and_then(|n| n.parse().ok()).filter(|p| (0.0..=100.0).contains(p));
            return number.map(percentile).with_context(|| {
                format!(
                    "unknown --aggregate {text:?}: use count, mean, time-weighted-mean, min, max, sum, first, last, \
                     stddev, increase, median, or a percentile such as p95"
                )
            });
        }
    };
    Ok(AggregateSpec { function: function.into(), percentile: 0.0 })
}

fn percentile(percentile: f64) -> AggregateSpec {
    AggregateSpec { function: AggregateFunction::Percentile.into(), percentile }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_durations_and_days_belong_to_the_calendar() {
        assert_eq!(width("90s").unwrap(), Width::Fixed(prost_types::Duration { seconds: 90, nanos: 0 }));
        assert_eq!(width("1d").unwrap(), Width::Calendar("P1D".into()));
        assert_eq!(width("2mo").unwrap(), Width::Calendar("P2M".into()));
        for bad in ["", "1", "0s", "d", "500ms", "1 h", "-1h"] {
            assert!(width(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn aggregates_are_known_by_name() {
        assert_eq!(aggregate("p99.9").unwrap(), percentile(99.9));
        assert_eq!(aggregate("twa").unwrap().function(), AggregateFunction::TimeWeightedMean);
        for bad in ["p", "p101", "average", ""] {
            assert!(aggregate(bad).is_err(), "{bad}");
        }
    }
}
