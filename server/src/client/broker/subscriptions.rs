//! `weir subscriptions`.

use std::process::ExitCode;

use proto::v1::subscription::RetainHandling;
use proto::v1::{ListSubscriptionsRequest, Subscription};

use super::super::broker_cli::{Subscriptions, SubscriptionsCommand};
use super::super::cli::Common;
use super::super::output::Cell;
use super::super::{names, refused};
use super::{List, open, page_size};

pub(crate) async fn subscriptions(options: &Subscriptions) -> anyhow::Result<ExitCode> {
    match &options.command {
        SubscriptionsCommand::List(options) => {
            let request = ListSubscriptionsRequest {
                client_id: options.client.clone(),
                filter: options.filter.clone(),
                ..ListSubscriptionsRequest::default()
            };
            list(&options.common, request, options.limit).await
        }
        SubscriptionsCommand::Match(options) => {
            anyhow::ensure!(!options.topic.is_empty(), "the topic is empty: give one, as plant/1/state");
            let request =
                ListSubscriptionsRequest { topic: options.topic.clone(), ..ListSubscriptionsRequest::default() };
            list(&options.common, request, options.limit).await
        }
    }
}

/// The options that differ from the usual ones.
fn options(of: &Subscription) -> String {
    let mut set = Vec::new();
    if of.no_local {
        set.push("no-local");
    }
    if of.retain_as_published {
        set.push("retain-as-published");
    }
    match of.retain_handling() {
        RetainHandling::Unspecified => {}
        RetainHandling::IfNew => set.push("retained-if-new"),
        RetainHandling::Never => set.push("no-retained"),
    }
    set.join(" ")
}

async fn list(common: &Common, request: ListSubscriptionsRequest, limit: usize) -> anyhow::Result<ExitCode> {
    let mut client = open(&common.server).await?;
    let mut list = List::new(["client", "device", "filter", "qos", "options", "id", "state", "node"]);
    let mut next = (limit > 0).then(String::new);
    while let Some(page_token) = next {
        let request = ListSubscriptionsRequest {
            parent: names::tenant(&common.tenant),
            page_size: page_size(limit - list.shown),
            page_token,
            ..request.clone()
        };
        let page = client.list_subscriptions(request).await.map_err(|s| refused(&s))?.into_inner();
        for of in &page.subscriptions {
            let device = if of.device.is_empty() { String::new() } else { names::device_id(&of.device) };
            list.table.row([
                of.client_id.as_str().into(),
                device.into(),
                of.filter.as_str().into(),
                i64::from(of.qos).into(),
                options(of).into(),
                of.subscription_id.map_or(Cell::None, Cell::from),
                if of.connected { "connected" } else { "away" }.into(),
                of.node.as_str().into(),
            ]);
        }
        next = list.end_page(page.subscriptions.len(), page.unreachable_nodes, page.next_page_token, limit);
    }
    list.print(common, "subscriptions")
}
