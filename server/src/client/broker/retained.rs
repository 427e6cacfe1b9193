//! `weir retained`.

use std::io::Write;
use std::process::ExitCode;

use proto::v1::{ClearRetainedMessagesRequest, GetRetainedMessageRequest, ListRetainedMessagesRequest};

use super::super::broker_cli::{Retained, RetainedClear, RetainedCommand, RetainedList, RetainedShow};
use super::super::output::{self, Format, json_line};
use super::super::{names, refused, time};
use super::{List, open, page_size};

pub(crate) async fn retained(options: &Retained) -> anyhow::Result<ExitCode> {
    match &options.command {
        RetainedCommand::List(options) => list(options).await,
        RetainedCommand::Show(options) => show(options).await,
        RetainedCommand::Clear(options) => clear(options).await,
    }
}

async fn list(options: &RetainedList) -> anyhow::Result<ExitCode> {
    let common = &options.common;
    let mut client = open(&common.server).await?;
    let mut list = List::new(["topic", "bytes", "qos", "published", "expires", "content_type", "node"]);
    let mut next = (options.limit > 0).then(String::new);
    while let Some(page_token) = next {
        let request = ListRetainedMessagesRequest {
            parent: names::tenant(&common.tenant),
            page_size: page_size(options.limit - list.shown),
            page_token,
            topic_filter: options.filter.clone(),
        };
        let page = client.list_retained_messages(request).await.map_err(|s| refused(&s))?.into_inner();
        for message in &page.retained_messages {
            list.table.row([
                message.topic.as_str().into(),
                message.payload_bytes.into(),
                i64::from(message.qos).into(),
                time::show_proto(message.publish_time.as_ref()).into(),
                time::show_proto(message.expire_time.as_ref()).into(),
                message.content_type.as_str().into(),
                message.node.as_str().into(),
            ]);
        }
        next = list.end_page(page.retained_messages.len(), page.unreachable_nodes, page.next_page_token, options.limit);
    }
    list.print(common, "retained messages")
}

async fn show(options: &RetainedShow) -> anyhow::Result<ExitCode> {
    let mut client = open(&options.common.server).await?;
    let name = names::child(&options.common.tenant, "retainedMessages", &options.topic);
    let message = client.get_retained_message(GetRetainedMessageRequest { name }).await;
    let message = message.map_err(|s| refused(&s))?.into_inner();
    let properties: Vec<String> =
        message.user_properties.iter().map(|pair| format!("{}={}", pair.name, pair.value)).collect();
    let fields = [
        ("topic", message.topic.clone()),
        ("published", time::show_proto(message.publish_time.as_ref())),
        ("expires", time::show_proto(message.expire_time.as_ref())),
        ("qos", message.qos.to_string()),
        ("content_type", message.content_type.clone()),
        ("properties", properties.join(" ")),
        ("node", message.node.clone()),
    ];
    let fields = fields.into_iter().filter(|(_, value)| !value.is_empty());
    let mut out = std::io::stdout().lock();
    if options.common.format == Format::Table {
        for (name, value) in fields {
            writeln!(out, "{name:<14}{}", value.escape_debug())?;
        }
        writeln!(out, "payload       {} bytes", message.payload.len())?;
        // Text is printed as received; other bytes are escaped, so that they do not reach the
        // terminal.
        let readable = |text: &&str| !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'));
        match std::str::from_utf8(&message.payload).ok().filter(readable) {
            Some(text) => writeln!(out, "{text}")?,
            None => writeln!(out, "{}", message.payload.escape_ascii())?,
        }
    } else {
        let mut object: serde_json::Map<String, serde_json::Value> =
            fields.map(|(name, value)| (name.to_owned(), value.into())).collect();
        match String::from_utf8(message.payload) {
            Ok(text) => object.insert("payload".into(), text.into()),
            Err(bytes) => object.insert("payload_bytes".into(), bytes.into_bytes().into()),
        };
        json_line(&mut out, &object.into())?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn clear(options: &RetainedClear) -> anyhow::Result<ExitCode> {
    let RetainedClear { common, filter, yes } = options;
    anyhow::ensure!(
        *yes || !filter.contains(['+', '#']),
        "{filter:?} has wildcards: see what it matches with `weir retained list '{filter}'`, and add --yes to clear \
         all of that"
    );
    let mut client = open(&common.server).await?;
    let request = ClearRetainedMessagesRequest {
        parent: names::tenant(&common.tenant),
        topic_filter: filter.clone(),
        page_token: String::new(),
    };
    let (mut cleared, mut page_token) = (0, String::new());
    loop {
        let request = ClearRetainedMessagesRequest { page_token, ..request.clone() };
        let answer = client.clear_retained_messages(request).await.map_err(|s| refused(&s))?.into_inner();
        cleared += answer.cleared_count;
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output::remark(&format!("{cleared} retained messages cleared"));
    Ok(ExitCode::SUCCESS)
}
