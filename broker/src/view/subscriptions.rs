//! Subscriptions, in the order of their client ids and filters.

use std::ops::Bound;
use std::sync::Arc;

use model::glob::Glob;

use super::sessions::walk;
use super::{PAGE_BYTES, Page};
use crate::Broker;
use crate::codec::subscribe::RetainHandling;
use crate::session::Session;
use crate::trie::split;
use door::Inbox;

/// Filters of one session that are looked at one after another: messages for it wait meanwhile.
const FILTERS: usize = 2048;

/// The subscriptions that are asked for.
#[derive(Debug, Clone, Copy)]
pub struct SubscriptionQuery<'a> {
    /// Pattern of client ids.
    pub clients: &'a Glob,
    /// Pattern of topic filters as they were sent, with `$share` and the group.
    pub filters: &'a Glob,
    /// Only those that a message to this topic goes to.
    pub topic: Option<&'a str>,
    /// Client id and filter to begin with, or behind.
    pub from: Bound<(&'a str, &'a str)>,
}

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionReport {
    /// Client id of the subscriber.
    pub client: Arc<str>,
    /// The device that the client is, or was when it was last connected.
    pub device: Option<Arc<str>>,
    /// The subscriber is connected.
    pub connected: bool,
    /// Topic filter, with `$share` and the group.
    pub filter: String,
    /// Maximum QoS.
    pub qos: u8,
    /// Messages of the client itself are not sent.
    pub no_local: bool,
    /// Forwarded messages keep their retain flag.
    pub retain_as_published: bool,
    /// When retained messages are sent: 0 at each SUBSCRIBE, 1 if the subscription is new, 2 never.
    pub retain_handling: u8,
    /// Subscription id.
    pub id: Option<u32>,
}

impl<I: Inbox> Broker<I> {
    /// Returns at most `limit` subscriptions of a tenant, in the order of their client ids and
    /// filters, and the position behind which the next page begins.
    pub fn subscriptions(
        &self,
        tenant: &str,
        query: &SubscriptionQuery<'_>,
        limit: usize,
    ) -> Page<SubscriptionReport, (String, String)> {
        let Some(tenant) = self.tenants.find(tenant) else { return Page::empty() };
        let (client, mut first) = match query.from {
            Bound::Included((client, filter)) => (Bound::Included(client), Some(Bound::Included(filter))),
            Bound::Excluded((client, filter)) => (Bound::Included(client), Some(Bound::Excluded(filter))),
            Bound::Unbounded => (Bound::Unbounded, None),
        };
        let begins = client;
        let (mut items, mut last, mut bytes) = (Vec::new(), String::new(), 0);
        let next = walk(&tenant, query.clients, client, |session| {
            // Of the client that the page before ended with.
            let is_first = matches!(begins, Bound::Included(client) if *client == *session.client);
            let from = first.take().filter(|_| is_first).unwrap_or(Bound::Unbounded);
            let Found { reports, last: seen_to, is_cut, seen } = find(session, query, from, limit - items.len());
            for mut report in reports {
                // One that was removed meanwhile is left out.
                if let Some((options, id)) = tenant.trie.options(&report.filter, &report.client) {
                    let handling = options.retain_handling.number();
                    (report.qos, report.retain_handling, report.id) = (options.qos, handling, id);
                    (report.no_local, report.retain_as_published) = (options.no_local, options.retain_as_published);
                    bytes += report.client.len() + report.filter.len();
                    items.push(report);
                }
            }
            last = seen_to;
            (is_cut || items.len() >= limit || bytes > PAGE_BYTES, seen)
        });
        Page { items, next: next.map(|client| (client, last)) }
    }
}

impl RetainHandling {
    /// Its number in the options of a subscription.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Always => 0,
            Self::IfNew => 1,
            Self::Never => 2,
        }
    }
}

/// Filters of a session.
struct Found {
    /// The ones that match, without their options.
    reports: Vec<SubscriptionReport>,
    /// The last one that was looked at; empty without one.
    last: String,
    /// There may be more behind it.
    is_cut: bool,
    /// Number of those that were looked at.
    seen: usize,
}

fn find(session: &Session, query: &SubscriptionQuery<'_>, from: Bound<&str>, most: usize) -> Found {
    let state = session.state();
    let device = state.connection.as_ref().and_then(|connection| connection.device.clone());
    let is_wanted = |filter: &str| {
        let of_topic = query.topic.is_none_or(|topic| model::topic::matches(split(filter).1, topic));
        of_topic && query.filters.matches(filter)
    };
    let mut bytes = 0;
    let mut found = Found { reports: Vec::new(), last: String::new(), is_cut: false, seen: 0 };
    for filter in state.subscriptions.range::<str, _>((from, Bound::Unbounded)) {
        found.is_cut = found.reports.len() == most || found.seen == FILTERS || bytes > PAGE_BYTES;
        if found.is_cut {
            break;
        }
        found.seen += 1;
        if is_wanted(filter) {
            bytes += filter.len();
            found.reports.push(SubscriptionReport {
                client: Arc::clone(&session.client),
                device: device.clone(),
                connected: state.link.is_some(),
                filter: filter.clone(),
                qos: 0,
                no_local: false,
                retain_as_published: false,
                retain_handling: 0,
                id: None,
            });
        }
        filter.clone_into(&mut found.last);
    }
    found
}
