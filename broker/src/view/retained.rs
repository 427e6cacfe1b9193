//! Retained messages, in the order of their topics.

use std::time::Duration;

use model::Nanos;

use super::Page;
use crate::Broker;
use crate::codec::properties::{self, Value, id};
use crate::codec::subscribe::Options;
use crate::message::Message;
use crate::retained::Walk;
use door::Inbox;

/// Steps of one page; each visits a bounded number of topics.
const STEPS: usize = 10;

/// A retained message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedReport {
    /// Topic.
    pub topic: String,
    /// Bytes of its payload.
    pub payload_bytes: usize,
    /// QoS it was published with.
    pub qos: u8,
    /// Time of its publication.
    pub published: Nanos,
    /// Time until it expires; `None` when it never does.
    pub expires_in: Option<Duration>,
    /// Its content type; `None` when the publisher gave none.
    pub content_type: Option<String>,
}

/// A retained message with its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedPayload {
    /// The message.
    pub report: RetainedReport,
    /// Its payload.
    pub payload: Vec<u8>,
    /// User properties in their order.
    pub user_properties: Vec<(String, String)>,
}

fn report(message: &Message) -> RetainedReport {
    RetainedReport {
        topic: message.topic.to_string(),
        payload_bytes: message.payload.len(),
        qos: message.qos,
        published: message.at,
        expires_in: message.seconds_left().map(|secs| Duration::from_secs(secs.into())),
        content_type: properties::text(&message.properties, id::CONTENT_TYPE).map(str::to_owned),
    }
}

impl<I: Inbox> Broker<I> {
    /// Returns at most `limit` retained messages of a tenant whose topics match `filter` and come
    /// behind `after`, and the topic behind which the next page begins. As in a subscription, a
    /// leading wildcard matches no topic that begins with `$`.
    pub fn retained(
        &self,
        tenant: &str,
        filter: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Page<RetainedReport, String> {
        let Some(tenant) = self.tenants.find(tenant) else { return Page::empty() };
        let (messages, next) = tenant.retained.some(filter, after, limit, STEPS);
        Page { items: messages.iter().map(|message| report(message)).collect(), next }
    }

    /// Returns the retained message of a topic.
    pub fn retained_message(&self, tenant: &str, topic: &str) -> Option<RetainedPayload> {
        let message = self.tenants.find(tenant)?.retained.get(topic)?;
        if message.seconds_left() == Some(0) {
            return None;
        }
        let pairs = properties::iterate(&message.properties).filter_map(|property| match property.value {
            Value::Pair(name, value) => Some((name.to_owned(), value.to_owned())),
            _ => None,
        });
        let user_properties = pairs.collect();
        Some(RetainedPayload { report: report(&message), payload: message.payload.to_vec(), user_properties })
    }
}

impl crate::retained::Retained {
    /// Returns at most `limit` messages that match, and the topic behind which there may be more.
    pub(super) fn some(
        &self,
        filter: &str,
        after: Option<&str>,
        limit: usize,
        steps: usize,
    ) -> (Vec<std::sync::Arc<Message>>, Option<String>) {
        let after = after.map(Into::into);
        let mut walk = Walk { filter: filter.into(), options: Options::default(), id: None, after };
        let mut found = Vec::new();
        for _ in 0..steps {
            walk.after = self.step(&walk, limit - found.len(), &mut found);
            if walk.after.is_none() || found.len() >= limit {
                break;
            }
        }
        (found, walk.after.map(String::from))
    }
}
