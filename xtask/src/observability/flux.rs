//! The telemetry dashboard against a real InfluxDB with readings in Weir's format.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};

use super::dashboards::{Dashboard, Query};
use super::process::{Running, free_address, wait};
use super::{http, none};

const TOKEN: &str = "observability-token";

/// Checks that every InfluxDB query of every dashboard is valid and finds readings.
pub(super) fn check(influxd: &Path, boards: &[Dashboard]) -> anyhow::Result<()> {
    let queries: Vec<Query> = boards.iter().flat_map(Dashboard::queries).filter(|q| q.source == "influxdb").collect();
    ensure!(!queries.is_empty(), "no dashboard has queries for InfluxDB");
    let scratch = tempfile::tempdir().context("a folder for influxd")?;
    let (server, _running) = start(influxd, scratch.path())?;
    write(server)?;
    let mut faults = Vec::new();
    for query in &queries {
        if let Err(error) = ask(server, query) {
            faults.push(format!("{}: {error:#}\n{}", query.from, query.text));
        }
    }
    none("queries of InfluxDB", faults)
}

fn start(influxd: &Path, scratch: &Path) -> anyhow::Result<(SocketAddr, Running)> {
    let server = free_address()?;
    let mut command = Command::new(influxd);
    command.arg(format!("--http-bind-address={server}")).args(["--reporting-disabled", "--log-level=error"]);
    for (option, name) in [("--bolt-path", "bolt"), ("--sqlite-path", "sqlite"), ("--engine-path", "engine")] {
        command.arg(format!("{option}={}", scratch.join(name).display()));
    }
    let mut running = Running::start(&mut command, &scratch.join("influxd.log"))?;
    wait("influxd is healthy", || {
        running.alive()?;
        ensure!(http::get(server, "/health")?.status == 200, "it is not healthy");
        Ok(())
    })?;
    let setup = serde_json::json!({
        "username": "weir", "password": "observability", "org": "weir", "bucket": "telemetry", "token": TOKEN,
    });
    let answer = http::post(server, "/api/v2/setup", &[], &setup.to_string())?;
    ensure!(answer.status == 201, "influxd cannot be set up: {}", answer.body);
    Ok((server, running))
}

/// Readings in Weir's format, of two tenants, with a text and a boolean; one device is silent for
/// some time.
fn write(server: SocketAddr) -> anyhow::Result<()> {
    const MINUTE: u128 = 60_000_000_000;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let mut lines = String::new();
    for minute in 0..30 {
        let at = now - minute * MINUTE;
        lines.push_str(&format!(
            "telemetry,tenant=a,device=hall/1 temperature=2{minute}.5,state=\"on\",open=true {at}\n"
        ));
        if minute > 15 {
            lines.push_str(&format!("telemetry,tenant=b,device=d\\ 2 temperature=1{minute},humidity=40 {at}\n"));
        }
    }
    let answer = http::post(server, "/api/v2/write?org=weir&bucket=telemetry&precision=ns", &token(), &lines)?;
    ensure!(answer.status == 204, "influxd rejects readings: {}", answer.body);
    Ok(())
}

fn token() -> [(&'static str, &'static str); 1] {
    [("Authorization", "Token observability-token")]
}

/// The query as Grafana sends it for all devices, then for one device with characters that are
/// special in a regular expression.
fn ask(server: SocketAddr, query: &Query) -> anyhow::Result<()> {
    let all = [("device", ".*"), ("tenant", ".*"), ("field", "(temperature|humidity|state|open)")];
    // `hall/1` as escaped by Grafana.
    let one = [("device", "hall\\/1"), ("tenant", "a"), ("field", "temperature")];
    for chosen in [&all, &one] {
        let mut text = query.text.clone();
        for (name, value) in chosen {
            text = text.replace(&format!("${{{name}:regex}}"), value);
        }
        let (imports, rest): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with("import "));
        let options =
            "option v = {timeRangeStart: -1h, timeRangeStop: now(), windowPeriod: 1m, defaultBucket: \"telemetry\"}";
        let script = format!("{}\n{options}\n{}", imports.join("\n"), rest.join("\n"));
        let body = serde_json::json!({ "query": script, "type": "flux" }).to_string();
        let headers = [token()[0], ("Content-Type", "application/json"), ("Accept", "application/csv")];
        let answer = http::post(server, "/api/v2/query?org=weir", &headers, &body)?;
        ensure!(answer.status == 200, "influxd answers {}: {}", answer.status, answer.body);
        ensure!(!answer.body.contains(",error,"), "influxd answers {}", answer.body);
        let rows = answer.body.lines().filter(|line| line.starts_with(",,") || line.starts_with(",_result,")).count();
        // No device is silent when only the other one is chosen.
        let silent = query.from.ends_with("Silent devices") && chosen[0].1 != ".*";
        ensure!(rows > 0 || silent, "it finds nothing: {}", answer.body);
    }
    Ok(())
}
