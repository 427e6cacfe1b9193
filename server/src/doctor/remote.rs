//! Checks of the server.

use std::time::Duration;

use crate::client::{Connection, Target};
use anyhow::Context;
use flusher::{DEAD_LETTERS, HISTORY, LATEST};
use proto::v1::export::State;
use proto::v1::export_service_client::ExportServiceClient;
use proto::v1::operations_service_client::OperationsServiceClient;
use proto::v1::sink_status::State as SinkState;
use proto::v1::{Export, GetBooksRequest, GetStatusRequest, ListExportsRequest, SinkStatus, Status};

use super::Finding;
use crate::client::status::{deleted_letters, state_name, takeovers, word};
use crate::client::{client, connect, names, refused, time, unrouted};
use crate::config::Auth;

/// Difference above which one of the two clocks is wrong.
const CLOCK_SECONDS: i64 = 5;

/// Age of the oldest undelivered record above which an export lags.
const LAG_SECONDS: f64 = 300.0;

const EXPORTS: &str = "exports";

/// Time within which a healthy server answers.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn server(target: &Target, auth: &Auth, bridges: &[bridge::Config]) -> Vec<Finding> {
    const WHAT: &str = "server";
    let silent = || {
        Finding::fail(
            WHAT,
            format!("{} does not answer within {PATIENCE:?}: check the server's log, then restart it", target.server),
        )
    };
    tokio::time::timeout(PATIENCE, ask(target, auth, bridges)).await.unwrap_or_else(|_| vec![silent()])
}

async fn ask(target: &Target, auth: &Auth, bridges: &[bridge::Config]) -> Vec<Finding> {
    const WHAT: &str = "server";
    let channel = match connect(target.clone()).await {
        Ok(channel) => channel,
        Err(error) => return vec![Finding::fail(WHAT, format!("{error:#}"))],
    };
    let url = &target.server;
    let mut client = client!(OperationsServiceClient<_>, channel.clone());
    let status = match client.get_status(GetStatusRequest {}).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return vec![Finding::fail(WHAT, format!("{url}: {:#}", refused(&status)))],
    };
    let mut findings = vec![Finding::ok(WHAT, format!("weir {} answers at {url}", status.version))];
    findings.extend(clock(&status));
    findings.extend(readiness(&status));
    findings.extend(super::bridges::running(bridges, &status.reasons));
    let unrouted = unrouted::summary(&status).map(|text| format!("{text}; `weir unrouted` lists them"));
    findings.extend(unrouted.map(|text| Finding::warn("routes", text)));
    findings.extend(deleted_letters(&status).map(|text| Finding::warn("dead letters", text)));
    findings.extend(takeovers(&status).map(|text| Finding::warn("clients", text)));
    findings
        .push(books(&mut client, &status).await.unwrap_or_else(|error| Finding::fail("books", format!("{error:#}"))));
    findings.extend(super::issuers::issuers(channel.clone(), auth).await);
    findings.extend(exports(channel).await.unwrap_or_else(|error| vec![Finding::fail(EXPORTS, format!("{error:#}"))]));
    findings
}

fn clock(status: &Status) -> Option<Finding> {
    let start = time::from_proto(status.start_time.as_ref()?);
    let uptime = status.uptime.as_ref()?.seconds;
    let ahead = start / model::time::SECOND + uptime - time::now() / model::time::SECOND;
    let text = format!("the clocks of the server and this machine differ by {} s: set both by NTP", ahead.abs());
    (ahead.abs() > CLOCK_SECONDS).then(|| Finding::warn("clock", text))
}

fn readiness(status: &Status) -> Vec<Finding> {
    const WHAT: &str = "readiness";
    let word = word(status.ready, !status.reasons.is_empty());
    if status.ready && status.reasons.is_empty() {
        return vec![Finding::ok(WHAT, format!("{word}, {} connections", status.connection_count))];
    }
    let finding = |reason: &String| {
        let text = format!("{word}: {reason} (every acknowledged reading is kept)");
        if status.ready { Finding::warn(WHAT, text) } else { Finding::fail(WHAT, text) }
    };
    status.reasons.iter().map(finding).collect()
}

async fn books(client: &mut OperationsServiceClient<Connection>, status: &Status) -> anyhow::Result<Finding> {
    const WHAT: &str = "books";
    // A store that takes nothing can hold a flush for ever, and answers no questions.
    let standard = |sink: &&SinkStatus| [HISTORY, LATEST, DEAD_LETTERS].contains(&sink.sink.as_str());
    let held = status.sinks.iter().filter(standard).find(|sink| sink.state() != SinkState::Running);
    let request = GetBooksRequest { parent: "tenants/-".into(), check: held.is_none() };
    let books = client.get_books(request).await.map_err(|s| refused(&s)).context("cannot read the books")?.into_inner();
    if books.balanced {
        let accepted = books.lines.iter().map(|line| line.accepted_count).max().unwrap_or(0);
        let dead = books.lines.iter().map(|line| line.dead_lettered_count).max().unwrap_or(0);
        let text = format!("the books balance: {accepted} accepted, {dead} dead letters");
        return Ok(match held {
            None => Finding::ok(WHAT, text),
            Some(sink) => {
                let (name, state) = (&sink.sink, state_name(sink.state()));
                Finding::warn(WHAT, format!("{text}; not compared with the store, since the sink {name} is {state}"))
            }
        });
    }
    let bad: Vec<&str> = books.lines.iter().filter(|line| !line.balanced).map(|line| line.sink.as_str()).collect();
    let text = format!(
        "the books do not balance in {}: keep the data folder unchanged, and check `weir books --check`",
        bad.join(", ")
    );
    Ok(Finding::fail(WHAT, text))
}

async fn exports(channel: Connection) -> anyhow::Result<Vec<Finding>> {
    let mut client = client!(ExportServiceClient<_>, channel);
    let exports =
        client.list_exports(ListExportsRequest {}).await.map_err(|s| refused(&s)).context("cannot list the exports")?;
    Ok(exports.into_inner().exports.iter().map(export).collect())
}

fn export(export: &Export) -> Finding {
    let name = names::export_id(&export.name);
    let lag = export.lag.as_ref().map(time::show_duration).unwrap_or_default();
    let backlog = match export.lag_records {
        0 => "without a backlog".to_owned(),
        records => format!("{records} records and {lag} behind"),
    };
    match export.state() {
        State::Paused => {
            Finding::warn(EXPORTS, format!("{name} is paused, {backlog}: `weir exports resume {name}` continues it"))
        }
        State::Retrying => Finding::warn(EXPORTS, format!("{name} retries, {backlog}: {}", export.reason)),
        State::NeedsOperator => Finding::fail(EXPORTS, format!("{name} has stopped, {backlog}: {}", export.reason)),
        State::Running | State::Unspecified if export.lag.as_ref().map_or(0.0, time::seconds) > LAG_SECONDS => {
            Finding::warn(EXPORTS, format!("{name} lags, {backlog}: its target accepts less than devices send"))
        }
        State::Running | State::Unspecified => Finding::ok(EXPORTS, format!("{name} is running, {backlog}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn exports_that_are_paused_retry_or_lag_are_named_with_their_backlog() {
        let finding = |state: State, seconds: i64| {
            let lag = Some(prost_types::Duration { seconds, nanos: 0 });
            let (name, reason) = ("exports/events".to_owned(), "the disk is full".to_owned());
            export(&Export { name, state: state.into(), reason, lag_records: 7, lag, ..Default::default() })
        };
        assert_eq!(finding(State::Running, 10).level, Level::Ok);
        let lags = finding(State::Running, 3600);
        assert_eq!(lags.level, Level::Warn);
        assert!(lags.text.contains("events lags, 7 records and 60 min behind"), "{}", lags.text);
        let paused = finding(State::Paused, 10);
        assert_eq!(paused.level, Level::Warn);
        assert!(paused.text.contains("weir exports resume events"), "{}", paused.text);
        assert_eq!(finding(State::Retrying, 10).level, Level::Warn);
        let stopped = finding(State::NeedsOperator, 10);
        assert_eq!(stopped.level, Level::Fail);
        assert!(stopped.text.ends_with("the disk is full"), "{}", stopped.text);
    }
}
