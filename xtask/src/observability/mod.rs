//! `cargo xtask observability`: checks rules, alerts and dashboards.
//!
//! First the files: rules, their tests, routes of alerts, dashboards. Then a real Prometheus with
//! these rules scrapes a Weir under load, every panel must have data, and the Weir is killed, so
//! that the alert reaches a simulated PagerDuty. The queries of the telemetry dashboard run on a
//! real InfluxDB.

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

/// Folder of rules, dashboards and examples.
const DEPLOY: &str = "deploy";

/// Runs all checks.
pub(crate) fn run() -> anyhow::Result<()> {
    let boards = dashboards::read(&Path::new(DEPLOY).join("grafana/dashboards"))?;
    none("dashboards", boards.iter().flat_map(dashboards::faults).collect())?;
    let scratch = tempfile::tempdir().context("a temporary folder")?;
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
    println!("observability: all checks passed");
    Ok(())
}

/// Skips a check without its tool, with a message; fails if CI is set.
fn or_skipped<T>(what: &str, found: anyhow::Result<T>) -> anyhow::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if std::env::var_os("CI").is_none() => {
            println!("observability: SKIPPED checks with {what}: {error:#}");
            Ok(None)
        }
        Err(error) => Err(error.context(format!("{what} must be available when CI is set"))),
    }
}

/// Fails with all faults, one on each line.
fn none(what: &str, faults: Vec<String>) -> anyhow::Result<()> {
    anyhow::ensure!(faults.is_empty(), "{what}:\n  {}", faults.join("\n  "));
    println!("observability: {what}: good");
    Ok(())
}
