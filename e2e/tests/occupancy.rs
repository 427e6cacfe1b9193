//! Real data: 20,560 readings of a room are stored and read back value by value.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use proto::v1::value::Kind;
use weir_e2e::device::Device;
use weir_e2e::{Weir, read};

const FILES: [&str; 3] = ["datatest.txt", "datatraining.txt", "datatest2.txt"];
const COLUMNS: [&str; 6] = ["Temperature", "Humidity", "Light", "CO2", "HumidityRatio", "Occupancy"];

/// One line of the files: the text of its time and of its values.
struct Line {
    time: String,
    values: Vec<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_room_is_read_back_value_by_value() -> anyhow::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/occupancy");
    if !folder.is_dir() {
        ensure!(std::env::var_os("CI").is_none(), "{} is missing", folder.display());
        println!("skipped: a_real_room_is_read_back_value_by_value: {} is missing", folder.display());
        return Ok(());
    }
    let lines = load(&folder)?;
    ensure!(lines.len() == 20_560, "the files hold {} readings", lines.len());
    let dir = tempfile::tempdir()?;
    // Flushes happen during the replay, so that a part is read from the store and a part from the
    // tail.
    let weir = Weir::start_with(dir.path(), "127.0.0.1:0", &[("WEIR_HISTORY_FLUSH_INTERVAL_MS", "500")])?;
    publish(&lines, weir.mqtt)?;
    compare(&lines, &read::all_readings(&weir.channel().await?, "room").await?)?;

    // Again after a restart, when nothing is in memory.
    weir.stop()?;
    let weir = Weir::start(dir.path())?;
    compare(&lines, &read::all_readings(&weir.channel().await?, "room").await?)?;
    weir.stop()
}

fn load(folder: &Path) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for file in FILES {
        let text = std::fs::read_to_string(folder.join(file))?;
        for line in text.lines().skip(1) {
            let mut fields = line.split(',').skip(1).map(|f| f.trim_matches('"').to_owned());
            let time = fields.next().with_context(|| format!("{file}: no time in {line}"))?;
            lines.push(Line { time, values: fields.collect() });
        }
    }
    Ok(lines)
}

fn publish(lines: &[Line], mqtt: std::net::SocketAddr) -> anyhow::Result<()> {
    let mut device = Device::new("room", mqtt);
    device.connect()?;
    for (number, line) in lines.iter().enumerate() {
        let fields: Vec<_> = COLUMNS.iter().zip(&line.values).map(|(n, v)| format!(r#""{n}":{v}"#)).collect();
        let payload = format!(r#"{{"time":"{}","seq":{number},{}}}"#, line.time, fields.join(","));
        device.send(number as u64, "devices/room/telemetry", payload.as_bytes())?;
        while device.in_flight() >= 100 {
            device.acknowledged()?;
        }
    }
    device.wait_for_all()?;
    Ok(())
}

fn compare(lines: &[Line], rows: &[read::Row]) -> anyhow::Result<()> {
    ensure!(rows.len() == lines.len(), "{} readings came back", rows.len());
    for row in rows {
        let number = usize::try_from(row.sequence.context("the sequence is kept")?)?;
        let line = &lines[number];
        ensure!(row.time == nanos(&line.time)?, "reading {number} has time {}, was {}", row.time, line.time);
        ensure!(row.values.len() == COLUMNS.len(), "reading {number} is {row:?}");
        for (name, text) in COLUMNS.iter().zip(&line.values) {
            let wanted = match text.parse::<i64>() {
                Ok(integer) => Kind::IntValue(integer),
                Err(_) => Kind::DoubleValue(text.parse()?),
            };
            let found = &row.values[*name];
            ensure!(*found == wanted, "reading {number}: {name} was {text}, is {found:?}");
        }
    }
    Ok(())
}

/// `2015-02-02 14:19:00`, UTC, without a library: the test should not share the product's parser.
fn nanos(text: &str) -> anyhow::Result<i64> {
    let number = |range: std::ops::Range<usize>| -> anyhow::Result<i64> {
        Ok(text.get(range).with_context(|| format!("time {text}"))?.parse()?)
    };
    ensure!(text.starts_with("2015-02-"), "the files lie in February 2015: {text}");
    let days = 16_467 + number(8..10)? - 1;
    let seconds = days * 86_400 + number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?;
    Ok(Duration::from_secs(seconds.unsigned_abs()).as_nanos().try_into()?)
}
