//! The other side of the codec: packets of `mqtt-client` from the types of the broker. Used by the
//! fuzz targets too.

use mqtt_client::{DecodeError, Packet, PropertyList, Subscription, id};

use super::Version;
use super::auth::Auth;
use super::connect::Connect;
use super::subscribe::{Options, RetainHandling};

fn version(version: Version) -> mqtt_client::Version {
    match version {
        Version::V4 => mqtt_client::Version::V4,
        Version::V5 => mqtt_client::Version::V5,
    }
}

pub(super) fn decode(bytes: &[u8], v: Version) -> Result<Option<(Packet<'_>, usize)>, DecodeError> {
    mqtt_client::decode(bytes, version(v))
}

pub(super) fn connect(out: &mut Vec<u8>, asked: &Connect) {
    let mut list = PropertyList::new();
    if let Some(secs) = asked.session_expiry_secs {
        list = list.number(id::SESSION_EXPIRY, secs);
    }
    if asked.receive_maximum < u16::MAX {
        list = list.number(id::RECEIVE_MAXIMUM, asked.receive_maximum.into());
    }
    if let Some(bytes) = asked.maximum_packet_bytes {
        list = list.number(id::MAXIMUM_PACKET_SIZE, bytes);
    }
    if asked.topic_alias_maximum > 0 {
        list = list.number(id::TOPIC_ALIAS_MAXIMUM, asked.topic_alias_maximum.into());
    }
    if !asked.problem_information {
        list = list.number(id::REQUEST_PROBLEM, 0);
    }
    if let Some(method) = &asked.authentication_method {
        list = list.bytes(id::AUTHENTICATION_METHOD, method);
    }
    if let Some(data) = &asked.authentication_data {
        list = list.bytes(id::AUTHENTICATION_DATA, data);
    }
    let delay = asked.will.as_ref().map_or(0, |will| will.delay_secs);
    let mut own = asked.will.as_ref().map(|will| will.properties.clone()).unwrap_or_default();
    if delay > 0 {
        own.extend_from_slice(PropertyList::new().number(id::WILL_DELAY, delay).as_bytes());
    }
    let will = asked.will.as_ref().map(|will| mqtt_client::Will {
        topic: &will.topic,
        payload: &will.payload,
        qos: will.qos,
        retain: will.retain,
        properties: &own,
    });
    let packet = mqtt_client::Connect {
        version: version(asked.version),
        is_bridge: false,
        client_id: &asked.client,
        clean_start: asked.clean,
        keep_alive_secs: asked.keep_alive_secs,
        will,
        username: asked.user.as_deref(),
        password: asked.password.as_deref(),
        properties: list.as_bytes(),
    };
    let mut written = Vec::new();
    mqtt_client::connect(&mut written, &packet);
    let header_bytes = 1 + written[1..].iter().position(|byte| byte & 0x80 == 0).expect("a length") + 1;
    let (name, level, rest) = if asked.is_3_1 {
        (&b"\0\x06MQIsdp"[..], 3, &written[header_bytes + 7..])
    } else {
        let (front, rest) = written[header_bytes..].split_at(7);
        (&front[..6], front[6], rest)
    };
    let level = if asked.is_bridge { level | 0x80 } else { level };
    let body = [name, &[level], rest].concat();
    out.push(written[0]);
    let mut length = body.len();
    while length >= 128 {
        out.push((length % 128) as u8 | 128);
        length /= 128;
    }
    out.push(length as u8);
    out.extend_from_slice(&body);
}

pub(super) fn subscribe(
    out: &mut Vec<u8>,
    v: Version,
    packet_id: u16,
    subscription_id: Option<u32>,
    filters: &[(&str, Options)],
) {
    let list = subscription_id.map_or_else(PropertyList::new, |n| PropertyList::new().number(id::SUBSCRIPTION_ID, n));
    let subscriptions: Vec<Subscription<'_>> = filters.iter().map(|(f, options)| subscription(f, options)).collect();
    mqtt_client::subscribe(out, version(v), packet_id, list.as_bytes(), &subscriptions);
}

fn subscription<'a>(filter: &'a str, options: &Options) -> Subscription<'a> {
    Subscription {
        filter,
        qos: options.qos,
        no_local: options.no_local,
        retain_as_published: options.retain_as_published,
        retain_handling: match options.retain_handling {
            RetainHandling::Always => mqtt_client::RetainHandling::Always,
            RetainHandling::IfNew => mqtt_client::RetainHandling::IfNew,
            RetainHandling::Never => mqtt_client::RetainHandling::Never,
        },
    }
}

pub(super) fn unsubscribe(out: &mut Vec<u8>, v: Version, packet_id: u16, filters: &[&str]) {
    mqtt_client::unsubscribe(out, version(v), packet_id, filters);
}

pub(super) fn disconnect(out: &mut Vec<u8>, v: Version, reason: u8, session_expiry_secs: Option<u32>) {
    let list =
        session_expiry_secs.map_or_else(PropertyList::new, |secs| PropertyList::new().number(id::SESSION_EXPIRY, secs));
    mqtt_client::disconnect(out, version(v), reason, list.as_bytes());
}

pub(super) fn auth(out: &mut Vec<u8>, asked: &Auth<'_>) {
    let list = PropertyList::new().bytes(id::AUTHENTICATION_METHOD, asked.method);
    let list = asked.data.into_iter().fold(list, |list, data| list.bytes(id::AUTHENTICATION_DATA, data));
    mqtt_client::auth(out, asked.reason, list.as_bytes());
}
