//! `weir status`.

use std::io::Write;
use std::process::ExitCode;

use proto::v1::operations_service_client::OperationsServiceClient;
use proto::v1::sink_status::State;
use proto::v1::{GetStatusRequest, RepeatedTakeover, Status};

use super::output::{Format, Table, json_line};
use super::{cli, client, connect, refused, time, unrouted};

pub(crate) async fn run(options: &cli::Status) -> anyhow::Result<ExitCode> {
    let mut client = client!(OperationsServiceClient<_>, connect(&options.common.server).await?);
    let status = client.get_status(GetStatusRequest {}).await.map_err(|s| refused(&s))?.into_inner();
    let mut out = std::io::stdout();
    match options.common.format {
        Format::Json => json_line(&mut out, &json(&status))?,
        Format::Csv => sinks(&status).print(Format::Csv)?,
        Format::Table => {
            let uptime = status.uptime.as_ref().map(time::show_duration).unwrap_or_default();
            let state = word(status.ready, !status.reasons.is_empty());
            writeln!(out, "weir {}, {state}, up {uptime}, {} connections", status.version, status.connection_count)?;
            for reason in &status.reasons {
                writeln!(out, "  {reason}")?;
            }
            if let Some(unrouted) = unrouted::summary(&status) {
                writeln!(out, "  {unrouted}; `weir unrouted` lists them")?;
            }
            if let Some(deleted) = deleted_letters(&status) {
                writeln!(out, "  {deleted}")?;
            }
            if let Some(takeovers) = takeovers(&status) {
                writeln!(out, "  {takeovers}")?;
            }
            writeln!(out)?;
            if !status.listeners.is_empty() {
                listeners(&status).print(Format::Table)?;
                writeln!(out)?;
            }
            logs(&status).print(Format::Table)?;
            writeln!(out)?;
            sinks(&status).print(Format::Table)?;
        }
    }
    Ok(if status.ready && status.reasons.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One sentence about dead letters that left because of the bound; `None` when there are none.
pub(crate) fn deleted_letters(status: &Status) -> Option<String> {
    let deleted = status.deleted_dead_letter_count;
    (deleted > 0).then(|| {
        format!(
            "the {deleted} oldest dead letters were deleted since the start, as there are more than \
             dead_letters.max_count or dead_letters.max_bytes: repair their cause (`weir dead-letters`), or raise the keys"
        )
    })
}

/// One sentence about client ids that are taken over again and again; `None` when there are none.
pub(crate) fn takeovers(status: &Status) -> Option<String> {
    const NAMED: usize = 5;
    let all = &status.repeated_takeovers;
    let name = |takeover: &RepeatedTakeover| {
        let addresses = takeover.addresses.join(" and ");
        format!("{:?}, {} times in a row, from {addresses}", takeover.client, takeover.takeover_count)
    };
    let names: Vec<String> = all.iter().take(NAMED).map(name).collect();
    let more = if all.len() > NAMED { format!("; and {} more", all.len() - NAMED) } else { String::new() };
    (!all.is_empty()).then(|| {
        format!(
            "connections take a client id from each other: {}{more}; give each device an id of its own, or let it close \
             a connection before it connects again",
            names.join("; ")
        )
    })
}

fn listeners(status: &Status) -> Table {
    let mut table = Table::new(["listener", "protocol", "address", "connections", "blocked"]);
    for listener in &status.listeners {
        table.row([
            listener.listener.as_str().into(),
            listener.protocol.as_str().into(),
            listener.address.as_str().into(),
            listener.connection_count.into(),
            listener.blocked_reason.as_str().into(),
        ]);
    }
    table
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

/// Unrouted topics in the status as JSON.
const UNROUTED: usize = 20;

/// The state of a process in one word, the same in every place that shows it: `ready`, `degraded`
/// when devices are acknowledged and something else has a problem, or `not ready`.
pub(crate) fn word(ready: bool, has_problems: bool) -> &'static str {
    match (ready, has_problems) {
        (true, false) => "ready",
        (true, true) => "degraded",
        (false, _) => "not ready",
    }
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
        "state": word(status.ready, !status.reasons.is_empty()),
        "ready": status.ready,
        "reasons": status.reasons,
        "connections": status.connection_count,
        "listeners": status.listeners.iter().map(|listener| serde_json::json!({
            "listener": listener.listener, "protocol": listener.protocol, "address": listener.address,
            "connections": listener.connection_count, "blocked_reason": listener.blocked_reason,
        })).collect::<Vec<_>>(),
        "logs": status.logs.iter().map(|log| serde_json::json!({
            "log": log.log, "start_offset": log.start_offset, "end_offset": log.end_offset,
            "used_bytes": log.used_bytes, "capacity_bytes": log.capacity_bytes, "blocked_reason": log.blocked_reason,
        })).collect::<Vec<_>>(),
        "sinks": status.sinks.iter().map(|sink| serde_json::json!({
            "log": sink.log, "sink": sink.sink, "state": state_name(sink.state()), "reason": sink.reason,
            "done_offset": sink.done_offset, "lag_records": sink.lag_records,
            "lag_seconds": sink.lag.as_ref().map(time::seconds),
        })).collect::<Vec<_>>(),
        "unrouted": status.unrouted_topics.iter().take(UNROUTED).map(|topic| serde_json::json!({
            "tenant": topic.tenant, "topic": topic.topic, "client": topic.client, "messages": topic.message_count,
            "last": time::show_proto(topic.last_time.as_ref()),
        })).collect::<Vec<_>>(),
        "unrouted_topics": status.unrouted_topics.len(),
        "deleted_dead_letters": status.deleted_dead_letter_count,
        "repeated_takeovers": status.repeated_takeovers.iter().map(|takeover| serde_json::json!({
            "tenant": takeover.tenant, "client": takeover.client, "takeovers": takeover.takeover_count,
            "addresses": takeover.addresses, "last": time::show_proto(takeover.last_time.as_ref()),
        })).collect::<Vec<_>>(),
    })
}
