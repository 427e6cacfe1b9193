//! `cargo xtask observability`: what an operator is shown is true.
//!
//! First what can be told from the files: rules, their tests, routes of alerts, dashboards. Then a Weir under load is read by a
//! real Prometheus with our rules, every panel is asked for its data, and the Weir is killed, so that the alert arrives
//! at a PagerDuty that plays along. The telemetry dashboard asks a real InfluxDB.

mod alerting;
mod compose;
mod dashboards;
mod flux;
mod http;
mod live;
mod process;
mod promql;
mod rules;
mod tools;
mod unit;

use std::path::Path;

use anyhow::Context;

use crate::services;

/// Where rules, dashboards and examples lie.
const DEPLOY: &str = "deploy";

/// Does all of it.
pub(crate) fn run() -> anyhow::Result<()> {
    let boards = dashboards::read(&Path::new(DEPLOY).join("grafana/dashboards"))?;
    none("dashboards", boards.iter().flat_map(dashboards::faults).collect())?;
    let scratch = tempfile::tempdir().context("a folder for what is run")?;
    let analyze = tools::in_path("systemd-analyze").context("it is not in PATH");
    if let Some(analyze) = or_skipped("systemd-analyze", analyze)? {
        unit::check(&analyze, scratch.path())?;
    }
    if let Some(tools) =
        or_skipped("promtool, amtool, prometheus, alertmanager, node_exporter and docker compose", tools::install())?
    {
        compose::check(&tools)?;
        rules::check(&tools, &boards, scratch.path())?;
        live::check(&tools, &boards, scratch.path())?;
    }
    let influxd = services::install().and_then(|folder| tools::server("influxd", &folder));
    if let Some(influxd) = or_skipped("influxd", influxd)? {
        flux::check(&influxd, &boards)?;
    }
    println!("observability: all good");
    Ok(())
}

/// What cannot be had fails where CI is set; elsewhere it is said.
fn or_skipped<T>(what: &str, found: anyhow::Result<T>) -> anyhow::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if std::env::var_os("CI").is_none() => {
            println!("observability: SKIPPED what needs {what}: {error:#}");
            Ok(None)
        }
        Err(error) => Err(error.context(format!("{what} must be there when CI is set"))),
    }
}

/// Fails with all the faults, one in a line.
fn none(what: &str, faults: Vec<String>) -> anyhow::Result<()> {
    anyhow::ensure!(faults.is_empty(), "{what}:\n  {}", faults.join("\n  "));
    println!("observability: {what}: good");
    Ok(())
}
