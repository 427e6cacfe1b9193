//! `weir sessions`.

use std::io::Write;
use std::process::ExitCode;

use proto::v1::list_sessions_request::State;
use proto::v1::{DisconnectSessionRequest, GetSessionRequest, ListSessionsRequest, Session};

use super::super::broker_cli::{Sessions, SessionsCommand, SessionsKick, SessionsList, SessionsShow};
use super::super::output::{self, Format, json_line};
use super::super::{names, refused, time};
use super::{List, open, page_size};

pub(crate) async fn sessions(options: &Sessions) -> anyhow::Result<ExitCode> {
    match &options.command {
        SessionsCommand::List(options) => list(options).await,
        SessionsCommand::Show(options) => show(options).await,
        SessionsCommand::Kick(options) => kick(options).await,
    }
}

fn name(options: &SessionsShow) -> String {
    names::child(&options.common.tenant, "sessions", &options.client)
}

fn device(session: &Session) -> String {
    if session.device.is_empty() { String::new() } else { names::device_id(&session.device) }
}

/// Time of the last change: since when it is connected, or away.
fn since(session: &Session) -> String {
    let at = if session.connected { &session.connect_time } else { &session.disconnect_time };
    time::show_proto(at.as_ref())
}

async fn list(options: &SessionsList) -> anyhow::Result<ExitCode> {
    let common = &options.common;
    let mut client = open(&common.server).await?;
    let state = match (options.connected, options.away) {
        (true, _) => State::Connected,
        (_, true) => State::Away,
        _ => State::Unspecified,
    };
    let mut list = List::new([
        "client",
        "device",
        "state",
        "since",
        "address",
        "mqtt",
        "queued",
        "in_flight",
        "subscriptions",
        "expires",
        "node",
    ]);
    let mut next = (options.limit > 0).then(String::new);
    while let Some(page_token) = next {
        let request = ListSessionsRequest {
            parent: names::tenant(&common.tenant),
            page_size: page_size(options.limit - list.shown),
            page_token,
            client_id: options.client.clone(),
            state: state.into(),
        };
        let page = client.list_sessions(request).await.map_err(|s| refused(&s))?.into_inner();
        for session in &page.sessions {
            list.table.row([
                session.client_id.as_str().into(),
                device(session).into(),
                if session.connected { "connected" } else { "away" }.into(),
                since(session).into(),
                session.address.as_str().into(),
                session.protocol_version.as_str().into(),
                session.queued_message_count.into(),
                session.in_flight_count.into(),
                session.subscription_count.into(),
                time::show_proto(session.expire_time.as_ref()).into(),
                session.node.as_str().into(),
            ]);
        }
        next = list.end_page(page.sessions.len(), page.unreachable_nodes, page.next_page_token, options.limit);
    }
    list.print(common, "sessions")
}

async fn show(options: &SessionsShow) -> anyhow::Result<ExitCode> {
    let mut client = open(&options.common.server).await?;
    let session = client.get_session(GetSessionRequest { name: name(options) }).await;
    let session = session.map_err(|s| refused(&s))?.into_inner();
    let seconds = |of: &Option<prost_types::Duration>| of.as_ref().map(|of| of.seconds.into());
    let time = |at: &Option<prost_types::Timestamp>| {
        let text = time::show_proto(at.as_ref());
        (!text.is_empty()).then(|| text.into())
    };
    let text = |text: &str| (!text.is_empty()).then(|| text.into());
    let fields: [(&str, Option<serde_json::Value>); 18] = [
        ("client", text(&session.client_id)),
        ("device", text(&device(&session))),
        ("state", text(if session.connected { "connected" } else { "away" })),
        ("connected_at", time(&session.connect_time)),
        ("left_at", time(&session.disconnect_time)),
        ("address", text(&session.address)),
        ("listener", text(&session.listener)),
        ("mqtt", text(&session.protocol_version)),
        ("keep_alive_secs", seconds(&session.keep_alive)),
        ("clean_start", Some(session.clean_start.into())),
        ("expiry_secs", seconds(&session.expiry)),
        ("expires", time(&session.expire_time)),
        ("subscriptions", Some(session.subscription_count.into())),
        ("queued", Some(session.queued_message_count.into())),
        ("queued_bytes", Some(session.queued_bytes.into())),
        ("in_flight", Some(session.in_flight_count.into())),
        ("unreleased", Some(session.unreleased_count.into())),
        ("node", text(&session.node)),
    ];
    let mut out = std::io::stdout().lock();
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
    if options.common.format == Format::Table {
        for (name, value) in fields {
            let value = value.as_str().map_or_else(|| value.to_string(), |text| text.escape_debug().to_string());
            writeln!(out, "{name:<17}{value}")?;
        }
    } else {
        let object: serde_json::Map<_, _> = fields.map(|(name, value)| (name.to_owned(), value)).collect();
        json_line(&mut out, &object.into())?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn kick(options: &SessionsKick) -> anyhow::Result<ExitCode> {
    let mut client = open(&options.session.common.server).await?;
    let request = DisconnectSessionRequest { name: name(&options.session), end_session: options.end_session };
    let done = client.disconnect_session(request).await;
    let done = done.map_err(|status| match (status.code(), options.end_session) {
        (tonic::Code::FailedPrecondition, false) => {
            anyhow::anyhow!("client {:?} is not connected: end its session with --end-session", options.session.client)
        }
        _ => refused(&status),
    })?;
    let done = done.into_inner();
    let closed = if done.was_connected { "closed the connection" } else { "was away" };
    let ended = match options.end_session {
        true => format!(", ended the session, discarded {} messages", done.discarded_message_count),
        false => String::new(),
    };
    output::remark(&format!("{}: {closed}{ended} (node {})", options.session.client, done.nodes.join(", ")));
    Ok(ExitCode::SUCCESS)
}
