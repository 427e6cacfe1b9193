//! What the server says.

use std::time::Duration;

use anyhow::Context;
use proto::v1::operations_service_client::OperationsServiceClient;
use proto::v1::{GetBooksRequest, GetStatusRequest, Status};
use tonic::transport::Channel;

use super::Finding;
use crate::client::books::balances;
use crate::client::{client, connect, refused, time};

/// A clock that differs by more than this is wrong on one side.
const CLOCK_SECONDS: i64 = 5;

/// A server that is well answers sooner.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn server(url: &str) -> Vec<Finding> {
    const WHAT: &str = "server";
    let silent = || {
        Finding::fail(
            WHAT,
            format!("{url} gives no answer within {PATIENCE:?}: look into the server's log, then restart it"),
        )
    };
    tokio::time::timeout(PATIENCE, ask(url)).await.unwrap_or_else(|_| vec![silent()])
}

async fn ask(url: &str) -> Vec<Finding> {
    const WHAT: &str = "server";
    let channel = match connect(url).await {
        Ok(channel) => channel,
        Err(error) => return vec![Finding::fail(WHAT, format!("{error:#}"))],
    };
    let mut client = client!(OperationsServiceClient<_>, channel);
    let status = match client.get_status(GetStatusRequest {}).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return vec![Finding::fail(WHAT, format!("{url}: {:#}", refused(&status)))],
    };
    let mut findings = vec![Finding::ok(WHAT, format!("weir {} answers at {url}", status.version))];
    findings.extend(clock(&status));
    findings.extend(readiness(&status));
    findings.push(books(&mut client).await.unwrap_or_else(|error| Finding::fail("books", format!("{error:#}"))));
    findings
}

fn clock(status: &Status) -> Option<Finding> {
    let start = time::from_proto(status.start_time.as_ref()?);
    let uptime = status.uptime.as_ref()?.seconds;
    let ahead = start / model::time::SECOND + uptime - time::now() / model::time::SECOND;
    let text = format!("the server's clock is {} s from this one: set both by NTP", ahead.abs());
    (ahead.abs() > CLOCK_SECONDS).then(|| Finding::warn("clock", text))
}

fn readiness(status: &Status) -> Vec<Finding> {
    const WHAT: &str = "readiness";
    if status.ready {
        return vec![Finding::ok(WHAT, format!("ready, {} connections", status.connection_count))];
    }
    let blocked = status.logs.iter().any(|log| !log.blocked_reason.is_empty());
    let finding = |reason: &String| {
        let text = format!("{reason}; everything acknowledged is kept");
        if blocked { Finding::fail(WHAT, text) } else { Finding::warn(WHAT, text) }
    };
    status.reasons.iter().map(finding).collect()
}

async fn books(client: &mut OperationsServiceClient<Channel>) -> anyhow::Result<Finding> {
    const WHAT: &str = "books";
    let request = GetBooksRequest { parent: "tenants/-".into(), check: true };
    let books = client.get_books(request).await.map_err(|s| refused(&s)).context("cannot be had")?.into_inner();
    if books.balanced {
        let accepted = books.lines.iter().map(|line| line.accepted_count).max().unwrap_or(0);
        let dead = books.lines.iter().map(|line| line.dead_lettered_count).max().unwrap_or(0);
        let text = format!("they balance: {accepted} accepted, {dead} dead letters");
        return Ok(Finding::ok(WHAT, text));
    }
    let bad: Vec<&str> = books.lines.iter().filter(|line| !balances(line)).map(|line| line.sink.as_str()).collect();
    let text =
        format!("they do not balance in {}: keep the data folder as it is, see `weir books --check`", bad.join(", "));
    Ok(Finding::fail(WHAT, text))
}
