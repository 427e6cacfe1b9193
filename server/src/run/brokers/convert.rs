//! From the reports of the broker to messages of the api.

use std::time::Duration;

use api::names;
use broker::fleet::StoredSummary;
use broker::{RetainedPayload, RetainedReport, SessionReport, SubscriptionReport};
use model::Nanos;
use proto::v1;

fn timestamp(time: Nanos) -> prost_types::Timestamp {
    const SECOND: i64 = model::time::SECOND;
    let nanos = i32::try_from(time.rem_euclid(SECOND)).unwrap_or(0);
    prost_types::Timestamp { seconds: time.div_euclid(SECOND), nanos }
}

fn seconds(seconds: u32) -> Option<prost_types::Duration> {
    (seconds > 0).then(|| prost_types::Duration { seconds: seconds.into(), nanos: 0 })
}

/// The time in so long.
fn time_in(left: Duration) -> prost_types::Timestamp {
    let left = i64::try_from(left.as_nanos()).unwrap_or(i64::MAX);
    timestamp(model::clock::now().saturating_add(left))
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn session_name(tenant: &str, client: &str) -> String {
    names::child(tenant, "sessions", client)
}

pub(super) fn session(tenant: &str, node: &str, of: SessionReport) -> v1::Session {
    let device = of.device().map(|id| names::device(tenant, id)).unwrap_or_default();
    let connection = of.connection.as_deref();
    v1::Session {
        name: session_name(tenant, &of.client),
        client_id: of.client.to_string(),
        device,
        node: node.to_owned(),
        connected: of.connected,
        connect_time: connection.map(|connection| timestamp(connection.since)),
        disconnect_time: of.left.map(timestamp),
        address: connection.map(|connection| connection.peer.to_string()).unwrap_or_default(),
        listener: connection.map(|connection| connection.listener.to_string()).unwrap_or_default(),
        protocol_version: connection.map(|connection| connection.protocol_version.to_owned()).unwrap_or_default(),
        keep_alive: connection.and_then(|connection| seconds(connection.keep_alive_secs.into())),
        clean_start: connection.is_some_and(|connection| connection.clean_start),
        expiry: seconds(of.expiry_secs),
        expire_time: of.expires_in.map(time_in),
        queued_message_count: count(of.queued_messages),
        queued_bytes: count(of.queued_bytes),
        in_flight_count: count(of.in_flight),
        unreleased_count: count(of.receipts),
        subscription_count: count(of.subscriptions),
    }
}

/// A session that only the store of the fleet has.
pub(super) fn stored_session(tenant: &str, of: StoredSummary) -> v1::Session {
    // It was left so long ago; not known of one that does not end.
    let away = of.expires_in.map(|left| Duration::from_secs(of.expiry_secs.into()).saturating_sub(left));
    let before =
        |away: Duration| model::clock::now().saturating_sub(i64::try_from(away.as_nanos()).unwrap_or(i64::MAX));
    v1::Session {
        name: session_name(tenant, &of.client),
        client_id: of.client.to_string(),
        node: of.node.map(|node| node.to_string()).unwrap_or_default(),
        connected: of.is_connected,
        disconnect_time: away.map(before).map(timestamp),
        expiry: seconds(of.expiry_secs),
        expire_time: of.expires_in.map(time_in),
        queued_message_count: count(of.messages),
        unreleased_count: count(of.receipts),
        subscription_count: count(of.subscriptions),
        ..v1::Session::default()
    }
}

pub(super) fn subscription(tenant: &str, node: &str, of: SubscriptionReport) -> v1::Subscription {
    v1::Subscription {
        session: session_name(tenant, &of.client),
        client_id: of.client.to_string(),
        device: of.device.map(|id| names::device(tenant, &id)).unwrap_or_default(),
        node: node.to_owned(),
        connected: of.connected,
        filter: of.filter,
        qos: of.qos.into(),
        no_local: of.no_local,
        retain_as_published: of.retain_as_published,
        retain_handling: of.retain_handling.into(),
        subscription_id: of.id.map(Into::into),
    }
}

pub(super) fn retained(tenant: &str, node: &str, of: RetainedReport) -> v1::RetainedMessage {
    v1::RetainedMessage {
        name: names::child(tenant, "retainedMessages", &of.topic),
        topic: of.topic,
        node: node.to_owned(),
        payload_bytes: count(of.payload_bytes),
        qos: of.qos.into(),
        publish_time: Some(timestamp(of.published)),
        expire_time: of.expires_in.map(time_in),
        content_type: of.content_type.unwrap_or_default(),
        payload: Vec::new(),
        user_properties: Vec::new(),
    }
}

pub(super) fn retained_payload(tenant: &str, node: &str, of: RetainedPayload) -> v1::RetainedMessage {
    let pair = |(name, value)| v1::retained_message::UserProperty { name, value };
    v1::RetainedMessage {
        payload: of.payload,
        user_properties: of.user_properties.into_iter().map(pair).collect(),
        ..retained(tenant, node, of.report)
    }
}
