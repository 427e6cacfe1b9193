//! The cost of a reading in InfluxDB: writes readings of many devices as the export does, and
//! prints the rate and the processor time of the server.
//!
//! `cargo run --release -p weir-stores --example influxdb_writes -- URL TOKEN ORG BUCKET [PID]`,
//! with an empty bucket and the process id of influxd.

use std::sync::Arc;
use std::time::Instant;

use model::{DeviceKey, TimeRange};
use weir_stores::contract::{DeviceBatch, Export};
use weir_stores::influxdb::{Config, InfluxDb, Metrics};
use weir_stores::{Block, BlockId, Column, ColumnData};

const DEVICES: usize = 10_000;
/// Readings of a device in one write.
const ROWS: usize = 5;
const WRITES: usize = 20;
const START: i64 = 1_750_000_000_000_000_000;
const MILLI: i64 = 1_000_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, token, org, bucket, rest @ ..] = &arguments[..] else {
        return Err(
            "give the url, the token, the organization and the bucket, and the process id of influxd if it is here"
                .into(),
        );
    };
    let pid = rest.first();
    for batch_lines in [500, 5_000] {
        for in_flight in [1, 4] {
            let metrics = Arc::new(Metrics::default());
            let config = Config {
                url: url.clone(),
                token: token.clone(),
                org: org.clone(),
                bucket: bucket.clone(),
                measurement: format!("telemetry_{batch_lines}_{in_flight}"),
                batch_lines,
                in_flight,
                ..Config::default()
            };
            let points = InfluxDb::new(config, Arc::clone(&metrics))?;
            points.check().await?;
            let (begun, before) = (Instant::now(), processor_seconds(pid));
            for write in 0..WRITES {
                points.write("log", (0..DEVICES).map(|device| batch(device, write)).collect()).await?;
            }
            let (took, used) = (begun.elapsed().as_secs_f64(), processor_seconds(pid) - before);
            let lines = metrics.lines.get();
            let per_line = |bytes: u64| bytes / lines;
            println!(
                "{batch_lines} lines a request, {in_flight} at once: {:.0} readings/s, {:.2} us of influxd per reading, {} B a line, {} B sent",
                lines as f64 / took,
                used * 1e6 / lines as f64,
                per_line(metrics.line_bytes.get()),
                per_line(metrics.sent_bytes.get()),
            );
            let begun = Instant::now();
            let held = points.count(TimeRange::ALL).await?;
            println!("  counted {held:?} in {:.1} s", begun.elapsed().as_secs_f64());
        }
    }
    Ok(())
}

/// Three values per reading, one reading a second.
fn batch(device: usize, write: usize) -> DeviceBatch {
    let at = |row: usize| i64::try_from(write * ROWS + row).unwrap_or_default();
    let times: Vec<i64> = (0..ROWS).map(|row| START + at(row) * 1_000 * MILLI).collect();
    let values = |scale: f64| {
        ColumnData::Float(
            (0..ROWS).map(|row| ((at(row) as f64 * scale + device as f64) * 100.0).round() / 100.0).collect(),
        )
    };
    let columns = [("humidity", values(0.3)), ("pressure", values(0.7)), ("temperature", values(0.1))];
    let block = Block {
        id: BlockId {
            device: DeviceKey { tenant: "plant".into(), id: format!("device-{device:05}").into() },
            log: "log".into(),
            first_offset: 0,
            part: 0,
        },
        received: times.clone(),
        seqs: (0..ROWS).map(|row| u64::try_from(at(row)).ok()).collect(),
        times,
        claimed: Vec::new(),
        device_timed: Vec::new(),
        columns: columns.map(|(name, data)| Column { name: name.into(), present: Vec::new(), data }).into(),
    };
    DeviceBatch { block, offsets: (0..ROWS as u64).collect(), traces: Vec::new() }
}

/// User and system time of a process, in ticks of a hundredth of a second.
fn processor_seconds(pid: Option<&String>) -> f64 {
    let stat = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}
