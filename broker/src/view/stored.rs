//! Sessions of a fleet that last, as the shared store has them: also those that no node holds,
//! since the one that had them has ended or was started again.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use super::subscriptions::{SubscriptionQuery, SubscriptionReport};
use super::{Disconnected, PAGE_BYTES, Page, SCAN, STEP, SessionQuery, later};
use crate::Broker;
use crate::fleet::{Client, How, Node, StoredSummary, Strangers, Unavailable};
use crate::trie::split;
use door::Inbox;

/// Subscriptions that are looked at one after another: the routes are not followed meanwhile.
const FILTERS: usize = 2048;

/// A subscription of a session that lasts, with the node that its client was connected to last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSubscription {
    /// The subscription. Its device is not known.
    pub report: SubscriptionReport,
    /// The node.
    pub node: Option<Node>,
}

impl<I: Inbox> Broker<I> {
    /// Returns at most `limit` sessions of a tenant that last, as the store of the fleet has them,
    /// in the order of their client ids, and the client id behind which the next page begins.
    /// Without a fleet, the page is empty.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn stored_sessions(
        &self,
        tenant: &str,
        query: &SessionQuery<'_>,
        limit: usize,
    ) -> Result<Page<StoredSummary, String>, Unavailable> {
        let mut page = Page::empty();
        let Some(fleet) = &self.fleet else { return Ok(page) };
        let prefix = query.clients.prefix();
        let (mut bytes, mut seen) = (0, 0);
        let mut from = later(query.from, prefix).map(str::to_owned);
        loop {
            let ids = fleet.store.clients(tenant, from.as_ref().map(|id| &**id), STEP).await?;
            let of_prefix = ids.iter().take_while(|id| id.starts_with(prefix)).count();
            let wanted: Vec<_> = ids[..of_prefix].iter().filter(|id| query.clients.matches(id)).cloned().collect();
            let is_wanted = |of: &StoredSummary| query.connected.is_none_or(|is| is == of.is_connected);
            for of in fleet.store.summaries(tenant, &wanted).await?.into_iter().filter(is_wanted) {
                bytes += of.client.len();
                let last = of.client.to_string();
                page.items.push(of);
                if page.items.len() >= limit || bytes > PAGE_BYTES {
                    return Ok(Page { next: Some(last), ..page });
                }
            }
            seen += ids.len();
            let Some(last) = ids.last().filter(|_| ids.len() == STEP && of_prefix == STEP) else { return Ok(page) };
            if seen >= SCAN {
                return Ok(Page { next: Some(last.to_string()), ..page });
            }
            from = Bound::Excluded(last.to_string());
        }
    }

    /// Returns the session of a client as the store of the fleet has it, if it lasts.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn stored_session(&self, tenant: &str, client: &str) -> Result<Option<StoredSummary>, Unavailable> {
        match &self.fleet {
            Some(fleet) => Ok(fleet.store.summaries(tenant, &[client.into()]).await?.pop()),
            None => Ok(None),
        }
    }

    /// Returns at most `limit` subscriptions of sessions that last and are not here, in the order
    /// of their client ids and filters, and the position behind which the next page begins. Without
    /// a fleet, the page is empty.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn stored_subscriptions(
        &self,
        tenant: &str,
        query: &SubscriptionQuery<'_>,
        limit: usize,
    ) -> Result<Page<StoredSubscription, (String, String)>, Unavailable> {
        let (Some(fleet), Some(known)) = (&self.fleet, self.tenants.find(tenant)) else { return Ok(Page::empty()) };
        let mut at = query.from.map(|(client, filter)| (client.to_owned(), filter.to_owned()));
        let mut found = Found::default();
        let mut seen = 0;
        let next = loop {
            let from = at.as_ref().map(|(client, filter)| (&**client, &**filter));
            let Some(next) = find(&known.strangers, query, from, limit, &mut found) else { break None };
            seen += FILTERS;
            if found.all.len() >= limit || found.bytes > PAGE_BYTES || seen >= SCAN {
                break Some(next);
            }
            at = Bound::Excluded(next);
        };
        let mut clients: Vec<_> = found.all.iter().map(|of| Arc::clone(&of.client)).collect();
        clients.dedup();
        let summaries = fleet.store.summaries(tenant, &clients).await?;
        let summaries: HashMap<_, _> = summaries.into_iter().map(|of| (Arc::clone(&of.client), of)).collect();
        let with_node = |report: SubscriptionReport| {
            // One whose session has ended meanwhile is left out.
            let summary = summaries.get(&report.client)?;
            let report = SubscriptionReport { connected: summary.is_connected, ..report };
            Some(StoredSubscription { report, node: summary.node.clone() })
        };
        Ok(Page { items: found.all.into_iter().filter_map(with_node).collect(), next })
    }

    /// Ends the session of a client that is away, where no node holds it, with its subscriptions
    /// and the messages that wait. Returns the node that its client was connected to last, too;
    /// None when there is no such session.
    ///
    /// # Errors
    /// [`Unavailable`]: it may have ended.
    pub async fn end_stored(
        &self,
        tenant: &str,
        client: &str,
    ) -> Result<Option<(Disconnected, Option<Node>)>, Unavailable> {
        let Some(fleet) = &self.fleet else { return Ok(None) };
        let client = Client { tenant: tenant.into(), id: client.into() };
        let ended = fleet.store.end_away(&client).await?;
        Ok(ended.map(|of| (Disconnected { was_connected: false, discarded: of.messages }, of.node)))
    }
}

#[derive(Default)]
struct Found {
    all: Vec<SubscriptionReport>,
    bytes: usize,
}

/// Adds subscriptions to those that were found. Returns the position behind which there may be
/// more.
fn find(
    strangers: &Strangers,
    query: &SubscriptionQuery<'_>,
    from: Bound<(&str, &str)>,
    limit: usize,
    found: &mut Found,
) -> Option<(String, String)> {
    let prefix = query.clients.prefix();
    let is_wanted = |filter: &str| {
        let of_topic = query.topic.is_none_or(|topic| model::topic::matches(split(filter).1, topic));
        of_topic && query.filters.matches(filter)
    };
    let begins = match from {
        Bound::Included((client, _)) | Bound::Excluded((client, _)) => Bound::Included(client),
        Bound::Unbounded => Bound::Unbounded,
    };
    let (mut seen, mut next) = (0, None);
    strangers.walk(later(begins, prefix), |client, filters| {
        if !client.starts_with(prefix) {
            return false;
        }
        let of_first = from.map(|(first, filter)| (first == &**client).then_some(filter));
        let from = match of_first {
            Bound::Included(Some(filter)) => Bound::Included(filter),
            Bound::Excluded(Some(filter)) => Bound::Excluded(filter),
            _ => Bound::Unbounded,
        };
        seen += 1;
        if seen >= FILTERS {
            next = Some((client.to_string(), String::new()));
            return false;
        }
        if !query.clients.matches(client) {
            return true;
        }
        for (filter, how) in filters.range::<str, _>((from, Bound::Unbounded)) {
            seen += 1;
            if is_wanted(filter) {
                found.bytes += client.len() + filter.len();
                found.all.push(report(client, filter, *how));
            }
            if seen >= FILTERS || found.all.len() >= limit || found.bytes > PAGE_BYTES {
                next = Some((client.to_string(), filter.clone()));
                return false;
            }
        }
        true
    });
    next
}

fn report(client: &Arc<str>, filter: &str, (options, id): How) -> SubscriptionReport {
    SubscriptionReport {
        client: Arc::clone(client),
        device: None,
        connected: false,
        filter: filter.to_owned(),
        qos: options.qos,
        no_local: options.no_local,
        retain_as_published: options.retain_as_published,
        retain_handling: options.retain_handling.number(),
        id,
    }
}
