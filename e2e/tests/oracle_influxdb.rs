//! The oracle with a real InfluxDB: it reports each kind of difference, and none when all points
//! are stored.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use weir_e2e::services::{Influxd, skipped};
use weir_e2e::{checked, program};

const SCENARIO: &str = r#"
name = "points"
duration = "2s"

[[group]]
name = "p"
count = 3
interval = "100ms"
mqtt = "3.1.1"

[group.values]
count = { model = "counter" }
level = { model = "random_walk", start = 5.0, step = 0.1 }
open = { model = "flag", probability = 0.5 }
"mode, \"a\"=b" = { model = "choice", of = ["heat \\ \"x\"", "cool"] }
"#;

/// A reading from the plan of the simulator.
struct Point {
    device: String,
    body: serde_json::Value,
}

/// Plays the scenario against a broker without a store. Returns the planned readings.
fn played(dir: &Path) -> anyhow::Result<Vec<Point>> {
    let (scenario, ledger) = (dir.join("points.toml"), dir.join("ledger"));
    std::fs::write(&scenario, SCENARIO)?;
    let mut null = Command::new(program("weir-bench")?).arg("null-broker").stdout(Stdio::piped()).spawn()?;
    let mut address = String::new();
    BufReader::new(null.stdout.take().context("its output")?).read_line(&mut address)?;
    let run = Command::new(program("weir-sim")?)
        .args(["run", "--quiet", "--broker", address.trim(), "--ledger"])
        .args([&ledger, &scenario])
        .output()?;
    null.kill()?;
    null.wait()?;
    checked("weir-sim run", run)?;
    let bytes = std::fs::read(&ledger)?;
    let length = u32::from_le_bytes(bytes[5..9].try_into()?) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[9..9 + length])?;
    let readings = Command::new(program("weir-sim")?)
        .arg("readings")
        .arg(&scenario)
        .args(["--start-nanos", &header["start"].to_string()])
        .output()?;
    let readings = checked("weir-sim readings", readings)?;
    let point = |line: &str| {
        let mut parts = line.split('\t').skip(1);
        let device = parts.next()?.split('/').nth(1)?.to_owned();
        Some(Point { device, body: serde_json::from_str(parts.next()?).ok()? })
    };
    Ok(readings.lines().filter_map(point).collect())
}

impl Point {
    /// Encodes the point as line protocol: the sequence in the digits below the millisecond,
    /// numbers as floats.
    fn line(&self) -> anyhow::Result<String> {
        let (time, sequence) = (self.body["ts"].as_i64().context("ts")?, self.body["seq"].as_i64().context("seq")?);
        let fields =
            self.body.as_object().context("an object")?.iter().filter(|(name, _)| *name != "ts" && *name != "seq");
        let fields = fields.map(|(name, value)| {
            let name = name.replace(',', "\\,").replace('=', "\\=").replace(' ', "\\ ");
            match value {
                serde_json::Value::String(text) => {
                    format!("{name}=\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
                }
                other => format!("{name}={other}"),
            }
        });
        let fields: Vec<String> = fields.collect();
        Ok(format!(
            "telemetry,tenant=default,device={} {} {}",
            self.device,
            fields.join(","),
            time * 1_000_000 + sequence
        ))
    }
}

fn write(influxd: &Influxd, points: &[&Point]) -> anyhow::Result<()> {
    let lines = points.iter().map(|point| point.line()).collect::<anyhow::Result<Vec<_>>>()?;
    influxd.post("/api/v2/write?org=weir&bucket=weir&precision=ns", "text/plain", &lines.join("\n"))?;
    Ok(())
}

fn verified(influxd: &Influxd, dir: &Path, clean: bool) -> anyhow::Result<serde_json::Value> {
    let output = Command::new(program("weir-sim")?)
        .args(["verify", "--json", "--within", "0", "--influxdb", &influxd.url()])
        .args([
            "--influxdb-token",
            &influxd.token,
            "--influxdb-org",
            &influxd.org,
            "--influxdb-bucket",
            &influxd.bucket,
        ])
        .arg("--ledger")
        .arg(dir.join("ledger"))
        .output()?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success() == clean, "{text}");
    let mut reports: serde_json::Value = serde_json::from_slice(&output.stdout).context(text)?;
    Ok(reports[0]["findings"].take())
}

#[test]
fn points_are_compared_value_by_value_and_each_fault_is_found() -> anyhow::Result<()> {
    if skipped("points_are_compared_value_by_value", &["influxd"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let influxd = Influxd::start(&dir.path().join("influxd"))?;
    let points = played(dir.path())?;
    ensure!(points.len() >= 55, "{} points", points.len());
    let (held_back, rest) = points.split_first().context("a point")?;
    write(&influxd, &rest.iter().collect::<Vec<_>>())?;
    let findings = verified(&influxd, dir.path(), false)?;
    ensure!(findings["counts"] == serde_json::json!({"missing": 1}), "{findings}");
    ensure!(findings["named"]["missing"][0]["device"] == held_back.device.as_str(), "{findings}");

    write(&influxd, &[held_back])?;
    let findings = verified(&influxd, dir.path(), true)?;
    ensure!(findings["counts"] == serde_json::json!({}), "{findings}");

    let mut body = held_back.body.clone();
    body["level"] = 123.25.into();
    write(&influxd, &[&Point { device: held_back.device.clone(), body: body.clone() }])?;
    body["seq"] = 999.into();
    write(&influxd, &[&Point { device: held_back.device.clone(), body }])?;
    let findings = verified(&influxd, dir.path(), false)?;
    ensure!(findings["counts"] == serde_json::json!({"altered": 1, "unexpected": 1}), "{findings}");
    let wrong = &findings["named"]["altered"][0]["detail"];
    ensure!(wrong.as_str().is_some_and(|detail| detail.contains("level is 123.25")), "{findings}");
    Ok(())
}
