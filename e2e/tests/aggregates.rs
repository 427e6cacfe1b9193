//! Aggregates of random series against DuckDB, over zones and changes of clocks, from the embedded
//! store and from MongoDB, before and after the flush.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;
use proto::v1::telemetry_service_client::TelemetryServiceClient;
use proto::v1::value::Kind;
use proto::v1::{AggregateFunction, AggregateSpec, QueryAggregatesRequest, SeriesSelector, TimeRange, Value};
use serde_json::{Value as Json, json};
use tonic::transport::Channel;
use weir_e2e::device::Device;
use weir_e2e::services::{Mongod, skipped};
use weir_e2e::{Weir, checked, python};

const SECOND: i64 = 1_000_000_000;
const HOUR: i64 = 3600 * SECOND;
/// Days on which clocks change, 00:00 UTC: Berlin and St. John's in autumn and spring, Lord Howe by
/// half an hour, Cairo at midnight.
const DAYS: [i64; 5] = [1_761_436_800, 1_762_041_600, 1_774_742_400, 1_775_347_200, 1_777_075_200];
const ZONES: [&str; 8] = [
    "UTC",
    "Asia/Singapore",
    "Asia/Kathmandu",
    "Europe/Berlin",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Africa/Cairo",
    "Antarctica/Troll",
];

/// A generator of numbers that are the same in each run: SplitMix64 (Steele, Lea and Flood, OOPSLA
/// 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        i64::try_from((mixed ^ (mixed >> 31)) % limit.unsigned_abs()).unwrap_or(0)
    }
}

/// Values by name, with their times.
type Series = BTreeMap<String, Vec<(i64, Json)>>;

/// Random readings around the changes of clocks; each has some of the values.
fn readings(random: &mut Random) -> Vec<(i64, BTreeMap<&'static str, Json>)> {
    let mut readings = Vec::new();
    let mut meter = 9_007_199_254_740_993 + random.below(1000);
    for day in DAYS {
        let mut time = (day - 86_400) * SECOND + random.below(HOUR);
        while time < (day + 2 * 86_400) * SECOND {
            meter = if random.below(40) == 0 { random.below(5) } else { meter + random.below(9) };
            let all = [
                ("meter", json!(meter)),
                ("large", json!((1_i64 << 53) + random.below(1 << 20) - 500)),
                ("level", json!((random.below(2_000_001) - 1_000_000) as f64 / 7.0)),
                (
                    "mixed",
                    if random.below(2) == 0 { json!(random.below(100)) } else { json!(random.below(100) as f64 / 8.0) },
                ),
                (
                    "state",
                    [json!(true), json!("off"), json!(random.below(9))][usize::try_from(random.below(3)).unwrap_or(0)]
                        .clone(),
                ),
            ];
            let some: BTreeMap<_, _> = all.into_iter().filter(|_| random.below(4) > 0).collect();
            if !some.is_empty() {
                readings.push((time, some));
            }
            time += 1 + random.below(HOUR);
        }
    }
    readings
}

fn queries(random: &mut Random) -> Vec<(&'static str, Option<i64>, &'static str, i64, i64)> {
    const WIDTHS: [i64; 6] = [900, 3600, 7200, 6 * 3600, 86_400, 36 * 3600];
    const PERIODS: [&str; 5] = ["P1D", "P3D", "P1W", "P1M", "P1Y"];
    let mut queries = Vec::new();
    for zone in ZONES {
        let day = DAYS[usize::try_from(random.below(5)).unwrap_or(0)];
        let start = (day - 43_200 + random.below(20_000)) * SECOND + random.below(SECOND);
        let end = start + (30 + random.below(30)) * HOUR;
        for width in [random.below(6), random.below(6)] {
            queries.push((zone, Some(WIDTHS[usize::try_from(width).unwrap_or(0)]), "", start, end));
        }
        let period = PERIODS[usize::try_from(random.below(5)).unwrap_or(0)];
        queries.push((zone, None, period, DAYS[0] * SECOND, (DAYS[4] + 86_400) * SECOND));
    }
    queries
}

fn functions() -> Vec<AggregateSpec> {
    use AggregateFunction as F;
    let all =
        [F::Count, F::Mean, F::TimeWeightedMean, F::Min, F::Max, F::Sum, F::First, F::Last, F::Stddev, F::Increase];
    let plain = all.map(|function| AggregateSpec { function: function.into(), percentile: 0.0 });
    let percentiles = [5.0, 50.0, 95.0].map(|percentile| AggregateSpec { function: F::Percentile.into(), percentile });
    plain.into_iter().chain(percentiles).collect()
}

/// A value as its kind and its text.
fn shown(value: &Value) -> Json {
    match &value.kind {
        Some(Kind::IntValue(v)) => json!(["i", v.to_string()]),
        Some(Kind::DoubleValue(v)) => json!(["f", format!("{v:?}")]),
        Some(Kind::BoolValue(v)) => json!(["b", v.to_string()]),
        Some(Kind::StringValue(v)) => json!(["s", v]),
        None => Json::Null,
    }
}

fn timestamp(nanos: i64) -> Option<prost_types::Timestamp> {
    let within = i32::try_from(nanos.rem_euclid(SECOND)).ok()?;
    Some(prost_types::Timestamp { seconds: nanos.div_euclid(SECOND), nanos: within })
}

fn nanos(time: Option<&prost_types::Timestamp>) -> i64 {
    time.map_or(0, |t| t.seconds * SECOND + i64::from(t.nanos))
}

/// The answers to all queries.
async fn answers(channel: &Channel, seed: u64) -> anyhow::Result<Vec<Json>> {
    let mut client = TelemetryServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20);
    let mut answers = Vec::new();
    for (zone, width, period, start, end) in queries(&mut Random(seed)) {
        let mut request = QueryAggregatesRequest {
            parent: "tenants/-".to_owned(),
            selector: Some(SeriesSelector { devices: vec!["tenants/-/devices/d".to_owned()], ..Default::default() }),
            range: Some(TimeRange { start_time: timestamp(start), end_time: timestamp(end) }),
            bucket: width.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
            bucket_calendar: period.to_owned(),
            time_zone: zone.to_owned(),
            aggregates: functions(),
            page_size: 997,
            ..Default::default()
        };
        let mut buckets: BTreeMap<String, Vec<Json>> = BTreeMap::new();
        loop {
            let page = client.query_aggregates(request.clone()).await?.into_inner();
            for series in page.series {
                let all = series.buckets.iter().map(|bucket| {
                    json!({
                        "start": nanos(bucket.start_time.as_ref()), "end": nanos(bucket.end_time.as_ref()),
                        "count": bucket.count, "others": bucket.non_numeric_count,
                        "values": bucket.values.iter().map(shown).collect::<Vec<_>>(),
                    })
                });
                buckets.entry(series.metric).or_default().extend(all);
            }
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        answers.push(
            json!({"zone": zone, "width": width, "period": period, "start": start, "end": end, "buckets": buckets}),
        );
    }
    Ok(answers)
}

/// Runs the reference over series and answers.
fn compare(series: &Series, answers: &[Json]) -> anyhow::Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/aggregates.py");
    let mut reference = Command::new(python()?)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let series: BTreeMap<&String, Vec<Json>> =
        series.iter().map(|(name, values)| (name, values.iter().map(|(t, v)| sent(*t, v)).collect())).collect();
    let data = json!({"series": series, "queries": answers});
    reference.stdin.take().context("its input")?.write_all(data.to_string().as_bytes())?;
    println!("{}", checked("aggregates.py", reference.wait_with_output()?)?);
    Ok(())
}

fn sent(time: i64, value: &Json) -> Json {
    match value {
        Json::Number(v) if v.is_i64() => json!([time, "i", v.to_string()]),
        Json::Number(v) => json!([time, "f", v.to_string()]),
        Json::Bool(v) => json!([time, "b", v.to_string()]),
        other => json!([time, "s", other]),
    }
}

async fn hold(environment: &[(&str, &str)], seed: u64) -> anyhow::Result<()> {
    println!("seed {seed}");
    let dir = tempfile::tempdir()?;
    let weir = Weir::start_with(dir.path(), "127.0.0.1:0", environment)?;
    let readings = readings(&mut Random(seed));
    let mut series = Series::new();
    let mut device = Device::new("d", weir.mqtt);
    for (number, batch) in (0..).zip(readings.chunks(50)) {
        let rows: Vec<Json> = batch.iter().map(|(time, values)| json!({"ts": time, "values": values})).collect();
        device.send(number, "devices/d/telemetry", json!(rows).to_string().as_bytes())?;
        for (time, values) in batch {
            for (name, value) in values {
                series.entry((*name).to_owned()).or_default().push((*time, value.clone()));
            }
        }
    }
    device.wait_for_all()?;
    let fresh = answers(&weir.channel().await?, seed).await?;
    compare(&series, &fresh)?;
    weir.stop()?;
    let weir = Weir::start_with(dir.path(), "127.0.0.1:0", environment)?;
    let stored = answers(&weir.channel().await?, seed).await?;
    anyhow::ensure!(stored == fresh, "the answers after the flush are others than before");
    weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregates_of_the_embedded_store_are_those_of_duckdb() -> anyhow::Result<()> {
    for seed in [1, 2, 3] {
        hold(&[], seed).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregates_of_mongodb_are_those_of_duckdb() -> anyhow::Result<()> {
    if skipped("aggregates_of_mongodb", &["mongod"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mongod = Mongod::start(&dir.path().join("mongod")).await?;
    hold(&[("WEIR_MONGODB_URI", &mongod.uri())], 4).await
}
