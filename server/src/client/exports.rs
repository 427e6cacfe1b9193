//! `weir exports`.

use std::process::ExitCode;

use crate::client::Connection;
use proto::v1::export::State;
use proto::v1::export_service_client::ExportServiceClient;
use proto::v1::{Export, ListExportsRequest, PauseExportRequest, ResumeExportRequest, RewindExportRequest};

use super::cli::Server;
use super::output::{self, Format, Table, json_line};
use super::{cli, client, connect, names, refused, time};

pub(crate) async fn run(options: &cli::Exports) -> anyhow::Result<ExitCode> {
    match &options.command {
        None => list(&options.list).await?,
        Some(cli::ExportsCommand::List(options)) => list(options).await?,
        Some(cli::ExportsCommand::Pause(options)) => pause(options).await?,
        Some(cli::ExportsCommand::Resume(options)) => resume(options).await?,
        Some(cli::ExportsCommand::Rewind(options)) => rewind(options).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn open(server: &Server) -> anyhow::Result<ExportServiceClient<Connection>> {
    Ok(client!(ExportServiceClient<_>, connect(server).await?))
}

async fn list(options: &cli::ExportsList) -> anyhow::Result<()> {
    let mut client = open(&options.common.server).await?;
    let exports = client.list_exports(ListExportsRequest {}).await.map_err(|s| refused(&s))?.into_inner().exports;
    if exports.is_empty() && options.common.format == Format::Table {
        output::remark("no exports: add an [[export]] table to the configuration");
        return Ok(());
    }
    print(&exports, options.common.format)
}

async fn pause(options: &cli::ExportsName) -> anyhow::Result<()> {
    let mut client = open(&options.common.server).await?;
    let request = PauseExportRequest { name: names::export(&options.name) };
    let export = client.pause_export(request).await.map_err(|s| refused(&s))?.into_inner();
    print(&[export], options.common.format)?;
    output::remark(&format!(
        "{0} is paused and the log keeps its backlog; continue with: weir exports resume {0}",
        options.name
    ));
    Ok(())
}

async fn resume(options: &cli::ExportsName) -> anyhow::Result<()> {
    let mut client = open(&options.common.server).await?;
    let request = ResumeExportRequest { name: names::export(&options.name) };
    let export = client.resume_export(request).await.map_err(|s| refused(&s))?.into_inner();
    print(&[export], options.common.format)
}

async fn rewind(options: &cli::ExportsRewind) -> anyhow::Result<()> {
    let to = time::parse(&options.to, time::now())?;
    let mut client = open(&options.common.server).await?;
    let request = RewindExportRequest { name: names::export(&options.name), to_time: Some(time::to_proto(to)) };
    let answer = client.rewind_export(request).await.map_err(|s| refused(&s))?.into_inner();
    print(answer.export.as_slice(), options.common.format)?;
    let (name, start) = (&options.name, time::show_proto(answer.start_time.as_ref()));
    output::remark(&if answer.truncated {
        format!(
            "the log no longer holds {}: {name} delivers again from {start} on; earlier readings are in the history \
             (`weir query`, `weir export`)",
            time::show(to)
        )
    } else {
        format!("{name} delivers again from {start} on")
    });
    Ok(())
}

fn print(exports: &[Export], format: Format) -> anyhow::Result<()> {
    if format == Format::Json {
        let mut out = std::io::stdout().lock();
        return exports.iter().try_for_each(|export| json_line(&mut out, &json(export)));
    }
    let columns = ["export", "type", "state", "lag_records", "lag", "dead_letters", "filter", "reason"];
    let mut table = Table::new(columns);
    for export in exports {
        table.row([
            names::export_id(&export.name).into(),
            export.r#type.as_str().into(),
            state_name(export.state()).into(),
            export.lag_records.into(),
            export.lag.as_ref().map(time::show_duration).into(),
            export.dead_letter_count.into(),
            export.filter.as_str().into(),
            export.reason.as_str().into(),
        ]);
    }
    table.print(format)
}

/// The state of an export in one word.
fn state_name(state: State) -> &'static str {
    match state {
        State::Unspecified => "unknown",
        State::Running => "running",
        State::Retrying => "retrying",
        State::NeedsOperator => "needs-operator",
        State::Paused => "paused",
    }
}

fn json(export: &Export) -> serde_json::Value {
    serde_json::json!({
        "export": names::export_id(&export.name),
        "type": export.r#type,
        "state": state_name(export.state()),
        "reason": export.reason,
        "filter": export.filter,
        "lag_records": export.lag_records,
        "lag_bytes": export.lag_bytes,
        "lag_seconds": export.lag.as_ref().map_or(0.0, time::seconds),
        "dead_letters": export.dead_letter_count,
        "logs": export.logs.iter().map(|log| serde_json::json!({
            "log": log.log, "state": state_name(log.state()), "reason": log.reason, "done_offset": log.done_offset,
            "lag_records": log.lag_records, "lag_bytes": log.lag_bytes,
            "lag_seconds": log.lag.as_ref().map_or(0.0, time::seconds), "dead_letters": log.dead_letter_count,
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use proto::v1::ExportLog;

    use super::*;

    #[test]
    fn json_has_the_lag_of_each_log_in_seconds() {
        let lag = Some(prost_types::Duration { seconds: 2, nanos: 500_000_000 });
        let log = ExportLog { log: "a".into(), lag, state: State::Retrying.into(), ..Default::default() };
        let export = Export { name: "exports/a%2Fb".into(), lag, logs: vec![log], ..Default::default() };
        let json = json(&export);
        assert_eq!((&json["export"], &json["lag_seconds"]), (&"a/b".into(), &2.5.into()));
        assert_eq!((&json["logs"][0]["state"], &json["logs"][0]["lag_seconds"]), (&"retrying".into(), &2.5.into()));
    }
}
