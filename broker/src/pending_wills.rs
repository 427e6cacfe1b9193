//! Will messages that outlast the process.
//!
//! While a connection with a will message is open, the will message is kept among the retained
//! messages, under a topic of Weir's own that no client can set. It is cleared in the step that
//! publishes it, or when it is no longer due. A will message that is still there at a start belongs
//! to a connection that ended with an earlier one: it is published before connections are accepted,
//! so that it comes before everything that its client sends now. Only a delayed one of a session
//! that has lasted waits for its delay, in which the client may come back.
//!
//! In a fleet, the store has the will messages of connections whose clients it knows: see
//! `fleet::wills`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::codec::connect::Will;
use crate::fleet::Owned;
use crate::will::LastWill;
use crate::{Broker, RetainedMessage};
use door::{Inbox, Intake, Retained, Sender};

/// Topics of Weir's own begin with this.
pub(crate) const OWN: &str = "$weir/";
const TOPIC: &str = "$weir/wills/";
/// Version 1 had no device.
/// Version 3 had an ownership in a fleet, which the store has now.
const VERSION: u8 = 2;
/// Will messages that are published at a time: one write of the log stores all of them.
const AT_ONCE: usize = 1024;
/// Time that connections wait for the will messages of earlier starts.
const SETTLE: Duration = Duration::from_secs(5);

/// A will message of an earlier start.
pub(crate) type Earlier = Box<LastWill>;

/// Returns the topic that keeps the will message of a connection, which no other connection of any
/// start of any node has.
pub(crate) fn topic(node: &str, started: u64, connection: u64) -> Box<str> {
    format!("{TOPIC}{node}/{started:x}-{connection}").into()
}

/// Separates the retained messages of earlier starts from the will messages that this node kept
/// before the start at `started`. Will messages of other nodes are left out.
pub(crate) fn split(messages: Vec<RetainedMessage>, node: &str, started: u64) -> (Vec<RetainedMessage>, Vec<Earlier>) {
    let own = format!("{TOPIC}{node}/");
    let of_now = format!("{own}{started:x}-");
    let (kept, retained): (Vec<_>, Vec<_>) = messages.into_iter().partition(|message| message.topic.starts_with(OWN));
    let is_earlier = |message: &RetainedMessage| message.topic.starts_with(&own) && !message.topic.starts_with(&of_now);
    let earlier = kept.into_iter().filter(is_earlier).filter_map(|message| {
        let topic = message.topic.clone();
        let will = decode(message);
        if will.is_none() {
            tracing::warn!("cannot read the will message of an earlier start under {topic}");
        }
        will
    });
    (retained, earlier.collect())
}

fn encode_last(LastWill { will, sender, .. }: &LastWill) -> Vec<u8> {
    encode(will, &sender.client, sender.user.as_deref(), sender.device.as_deref())
}

fn encode(will: &Will, client: &str, user: Option<&str>, device: Option<&str>) -> Vec<u8> {
    let mut out = vec![VERSION, will.retain.into(), user.is_some().into()];
    out.extend_from_slice(&will.delay_secs.to_be_bytes());
    // Devices have an id.
    for text in [&*will.topic, client, user.unwrap_or_default(), device.unwrap_or_default()] {
        // No text of a CONNECT has more than 65,535 bytes.
        out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    out.extend_from_slice(&will.payload);
    out
}

fn decode(message: RetainedMessage) -> Option<Earlier> {
    let ([version, retain, has_user], rest) = message.payload.split_first_chunk()?;
    let (delay, mut rest) = rest.split_first_chunk()?;
    if *version == 3 {
        rest = rest.split_at_checked(16)?.1;
    }
    let mut text = || {
        let (length, tail) = rest.split_first_chunk()?;
        let (text, tail) = tail.split_at_checked(u16::from_be_bytes(*length).into())?;
        rest = tail;
        std::str::from_utf8(text).ok()
    };
    let (topic, client, user) = (text()?.to_owned(), text()?, text()?);
    let device = if *version == 1 { "" } else { text()? };
    let sender = Sender {
        tenant: message.tenant,
        device: (!device.is_empty()).then(|| device.into()),
        meter: None,
        client: client.into(),
        user: (*has_user == 1).then(|| user.into()),
        peer: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        protocol: "mqtt",
    };
    let will = Will {
        topic,
        payload: rest.to_vec(),
        qos: message.qos,
        retain: *retain == 1,
        delay_secs: u32::from_be_bytes(*delay),
        properties: message.properties,
    };
    let kept_as = Some(message.topic.into());
    (1..=3)
        .contains(version)
        .then(|| Box::new(LastWill { will, sender, owned: None, kept_as, ended: None, meter: None }))
}

/// Returns the bytes of a will message for the store of a fleet: its QoS, the length of its
/// properties (u32, big endian), the properties, and as in the log.
pub(crate) fn encode_stored(will: &Will, client: &str, user: Option<&str>, device: Option<&str>) -> Box<[u8]> {
    // They are shorter than a packet.
    let length = u32::try_from(will.properties.len()).unwrap_or(u32::MAX);
    let mut out = vec![will.qos];
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&will.properties);
    out.extend_from_slice(&encode(will, client, user, device));
    out.into()
}

/// Returns a will message of the store, with the ownership that its connection had.
pub(crate) fn decode_stored(owned: &Owned, body: &[u8]) -> Option<Earlier> {
    let ([qos], rest) = body.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (properties, payload) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let message = RetainedMessage {
        tenant: Arc::clone(&owned.client.tenant),
        topic: String::new(),
        payload: payload.to_vec(),
        qos: *qos,
        properties: properties.to_vec(),
        published: 0,
    };
    let last = decode(message).filter(|last| last.sender.client == owned.client.id)?;
    Some(Box::new(LastWill { owned: Some(owned.clone()), kept_as: None, ..*last }))
}

/// Stages that a will message is kept.
pub(crate) fn keep(intake: &mut impl Intake, last: &LastWill) {
    if let Some(topic) = &last.kept_as {
        let payload = encode_last(last);
        let Will { qos, properties, .. } = &last.will;
        intake.retain(&Retained { topic, payload: &payload, qos: *qos, properties });
    }
}

/// Stages that a will message is no longer kept. False when it was not.
pub(crate) fn clear(intake: &mut impl Intake, last: &LastWill) -> bool {
    if let Some(topic) = &last.kept_as {
        intake.retain(&Retained { topic, payload: b"", qos: 0, properties: b"" });
    }
    last.kept_as.is_some()
}

impl<I: Inbox> Broker<I> {
    /// Publishes the will messages of earlier starts. Returns when they are durable, or after some
    /// time: a log that is full for longer does not keep clients out.
    pub(crate) async fn settle_earlier(self: &Arc<Self>, earlier: Vec<Earlier>) {
        if earlier.is_empty() {
            return;
        }
        tracing::info!("{} clients were connected when an earlier start ended: publishing their wills", earlier.len());
        let broker = Arc::clone(self);
        let all = self.tasks.spawn(async move {
            let mut earlier = earlier.into_iter();
            loop {
                let mut tasks = JoinSet::new();
                for last in earlier.by_ref().take(AT_ONCE) {
                    let broker = Arc::clone(&broker);
                    tasks.spawn(async move { broker.settle_one(last).await });
                }
                if tasks.is_empty() {
                    return;
                }
                tokio::select! {
                    _ = tasks.join_all() => {}
                    // They are kept for the next start.
                    () = broker.stopping.cancelled() => return,
                }
            }
        });
        if tokio::time::timeout(SETTLE, all).await.is_err() {
            tracing::warn!("accepting connections although the wills of an earlier start are not stored yet");
        }
    }

    async fn settle_one(self: &Arc<Self>, last: Earlier) {
        let tenant = self.tenants.get(&last.sender.tenant);
        // A session that has lasted waits for its client once more.
        let session = tenant.sessions.get(&last.sender.client).filter(|_| last.will.delay_secs > 0);
        if let Some(session) = session {
            let mut state = session.state();
            if state.link.is_none() && state.will.is_none() {
                self.publish_after_delay(&mut state, last, &tenant);
                return;
            }
        }
        // With retained messages that came late, the client may be back, or in time at another
        // node.
        let is_back = last.will.delay_secs > 0 && tenant.is_connected_elsewhere(&last.sender.client);
        let stored = if is_back || self.is_connected(&tenant, &last.sender.client) {
            let mut intake = self.inbox.open(&last.sender);
            clear(&mut intake, &last);
            door::store(&mut intake).await
        } else {
            self.publish_will(&last, &tenant).await
        };
        if let Err(error) = stored {
            tracing::warn!("cannot publish the will message of client {}: {error}", last.sender.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Client;

    fn kept(last: &LastWill, topic: &str) -> RetainedMessage {
        RetainedMessage {
            tenant: "t".into(),
            topic: topic.to_owned(),
            payload: encode_last(last),
            qos: last.will.qos,
            properties: last.will.properties.clone(),
            published: 0,
        }
    }

    fn last(user: Option<&str>, device: Option<&str>) -> LastWill {
        let will = Will {
            topic: "presence/d".into(),
            payload: b"\0off".to_vec(),
            qos: 1,
            retain: true,
            delay_secs: 70_000,
            properties: vec![1, 2],
        };
        let sender = Sender {
            tenant: "t".into(),
            device: device.map(Into::into),
            meter: None,
            client: "d".into(),
            user: user.map(Into::into),
            peer: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            protocol: "mqtt",
        };
        LastWill { will, sender, owned: None, kept_as: Some(topic("n", 255, 7)), ended: None, meter: None }
    }

    #[test]
    fn a_kept_will_is_read_as_it_was() {
        for (user, device) in [(None, None), (Some("u"), Some("d")), (Some(""), None), (None, Some("d"))] {
            let last = last(user, device);
            let now = split(vec![kept(&last, "$weir/wills/n/ff-7")], "n", 255);
            assert!(now.0.is_empty() && now.1.is_empty(), "of this start");
            let (retained, earlier) = split(vec![kept(&last, "$weir/wills/n/ff-7")], "n", 1);
            assert!(retained.is_empty());
            assert_eq!(earlier[0].will, last.will);
            assert_eq!(earlier[0].kept_as, last.kept_as);
            let of = |sender: &Sender| {
                (sender.tenant.clone(), sender.client.clone(), sender.user.clone(), sender.device.clone())
            };
            assert_eq!(of(&earlier[0].sender), of(&last.sender));
            let body = encode_stored(&last.will, "d", user, device);
            let client = Client { tenant: "t".into(), id: "d".into() };
            let owned = Owned { client, session: 1 << 40, epoch: u64::MAX };
            let stored = decode_stored(&owned, &body).unwrap();
            assert_eq!((&stored.will, &stored.owned, &stored.kept_as), (&last.will, &Some(owned.clone()), &None));
            assert_eq!(of(&stored.sender), of(&last.sender));
            for end in 0..body.len() - last.will.payload.len() {
                assert!(decode_stored(&owned, &body[..end]).is_none(), "{end} bytes");
            }
        }
    }

    #[test]
    fn a_will_kept_before_there_were_devices_is_read() {
        let last = last(Some("u"), None);
        let mut old = kept(&last, "$weir/wills/n/ff-7");
        // Version 1 ended with the user name and the payload.
        old.payload[0] = 1;
        let device_at = old.payload.len() - last.will.payload.len() - 2;
        old.payload.drain(device_at..device_at + 2);
        let (_, earlier) = split(vec![old], "n", 1);
        assert_eq!((&earlier[0].will, &earlier[0].sender.user), (&last.will, &last.sender.user));
        assert_eq!(earlier[0].sender.device, None);
    }

    #[test]
    fn only_wills_of_the_own_node_are_published_and_none_is_a_retained_message() {
        let last = last(None, None);
        let messages = ["$weir/wills/n/1-1", "$weir/wills/m/1-1", "a", "$weir/else"].map(|topic| kept(&last, topic));
        let (retained, earlier) = split(messages.to_vec(), "n", 2);
        assert_eq!(retained.iter().map(|message| &*message.topic).collect::<Vec<_>>(), ["a"]);
        assert_eq!(earlier.len(), 1);
    }

    #[test]
    fn a_will_kept_with_an_ownership_is_read() {
        let last = last(Some("u"), Some("d"));
        let mut old = kept(&last, "$weir/wills/n/ff-7");
        old.payload[0] = 3;
        old.payload.splice(7..7, [9; 16]);
        let (_, earlier) = split(vec![old], "n", 1);
        assert_eq!((&earlier[0].will, &earlier[0].sender.device), (&last.will, &last.sender.device));
    }

    #[test]
    fn damaged_bytes_are_no_will() {
        let whole = kept(&last(Some("u"), Some("d")), "$weir/wills/n/1-1");
        for end in 0..whole.payload.len() - 4 {
            let payload = whole.payload[..end].to_vec();
            assert!(split(vec![RetainedMessage { payload, ..whole.clone() }], "n", 2).1.is_empty(), "{end} bytes");
        }
    }
}
