//! `weir status`.

use std::io::Write;
use std::process::ExitCode;

use proto::v1::operations_service_client::OperationsServiceClient;
use proto::v1::sink_status::State;
use proto::v1::{GetStatusRequest, Status};

use super::output::{Format, Table, json_line};
use super::{cli, client, connect, refused, time};

pub(crate) async fn run(options: &cli::Status) -> anyhow::Result<ExitCode> {
    let mut client = client!(OperationsServiceClient<_>, connect(&options.common.server).await?);
    let status = client.get_status(GetStatusRequest {}).await.map_err(|s| refused(&s))?.into_inner();
    let mut out = std::io::stdout();
    match options.common.format {
        Format::Json => json_line(&mut out, &json(&status))?,
        Format::Csv => sinks(&status).print(Format::Csv)?,
        Format::Table => {
            let uptime = status.uptime.as_ref().map(time::show_duration).unwrap_or_default();
            let ready = if status.ready { "ready" } else { "not ready" };
            writeln!(out, "weir {}, {ready}, up {uptime}, {} connections", status.version, status.connection_count)?;
            for reason in &status.reasons {
                writeln!(out, "  {reason}")?;
            }
            writeln!(out)?;
            logs(&status).print(Format::Table)?;
            writeln!(out)?;
            sinks(&status).print(Format::Table)?;
        }
    }
    Ok(if status.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn logs(status: &Status) -> Table {
    let mut table = Table::new(["log", "from", "to", "used_bytes", "capacity_bytes", "blocked"]);
    for log in &status.logs {
        table.row([
            log.log.as_str().into(),
            log.start_offset.into(),
            log.end_offset.into(),
            log.used_bytes.into(),
            log.capacity_bytes.into(),
            log.blocked_reason.as_str().into(),
        ]);
    }
    table
}

fn sinks(status: &Status) -> Table {
    let mut table = Table::new(["log", "sink", "state", "done_to", "lag_records", "lag", "reason"]);
    for sink in &status.sinks {
        table.row([
            sink.log.as_str().into(),
            sink.sink.as_str().into(),
            state_name(sink.state()).into(),
            sink.done_offset.into(),
            sink.lag_records.into(),
            sink.lag.as_ref().map(time::show_duration).into(),
            sink.reason.as_str().into(),
        ]);
    }
    table
}

/// The state of a sink in one word.
pub(crate) fn state_name(state: State) -> &'static str {
    match state {
        State::Unspecified => "unknown",
        State::Running => "running",
        State::Retrying => "retrying",
        State::Paused => "paused",
    }
}

/// The status as JSON, for this command and the status page.
pub(crate) fn json(status: &Status) -> serde_json::Value {
    serde_json::json!({
        "version": status.version,
        "start_time": time::show_proto(status.start_time.as_ref()),
        "uptime_seconds": status.uptime.as_ref().map(|d| d.seconds),
        "roles": status.roles,
        "ready": status.ready,
        "reasons": status.reasons,
        "connections": status.connection_count,
        "logs": status.logs.iter().map(|log| serde_json::json!({
            "log": log.log, "start_offset": log.start_offset, "end_offset": log.end_offset,
            "used_bytes": log.used_bytes, "capacity_bytes": log.capacity_bytes, "blocked_reason": log.blocked_reason,
        })).collect::<Vec<_>>(),
        "sinks": status.sinks.iter().map(|sink| serde_json::json!({
            "log": sink.log, "sink": sink.sink, "state": state_name(sink.state()), "reason": sink.reason,
            "done_offset": sink.done_offset, "lag_records": sink.lag_records,
            "lag_seconds": sink.lag.as_ref().map(time::seconds),
        })).collect::<Vec<_>>(),
    })
}
