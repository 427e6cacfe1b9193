//! A stream of packets, as a connection reads it: no bytes make it panic or stand still, and what
//! is taken survives being written again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_broker::fuzzing::{
    Framing, Version, acks, auth, check_flags, connect, encode, framing, packet_type as kind, properties, publish,
    subscribe,
};

#[path = "../../broker/src/codec/tests/client.rs"]
mod client;

/// Any answer will do: the point is that there is one.
fn answers<T>(_: T) {}

fuzz_target!(|bytes: &[u8]| {
    for version in [Version::V4, Version::V5] {
        let mut rest = bytes;
        while let Ok(Some(found)) = framing(rest, 1 << 20) {
            let Some(body) = rest.get(found.header_bytes..found.total_bytes) else { break };
            if check_flags(&found).is_ok() {
                from_client(&found, body, version);
                from_server(&rest[..found.total_bytes], version);
            }
            rest = &rest[found.total_bytes..];
        }
    }
});

fn from_client(found: &Framing, body: &[u8], version: Version) {
    match found.packet_type() {
        kind::CONNECT => {
            let form = connect::form(body);
            if let Ok(asked) = connect::decode(body) {
                assert_eq!(form, (asked.version, asked.maximum_packet_bytes));
                let mut out = Vec::new();
                client::connect(&mut out, &asked);
                let again = framing(&out, usize::MAX).expect("well formed").expect("whole");
                assert_eq!(connect::decode(&out[again.header_bytes..]).as_ref(), Ok(&asked));
            }
        }
        kind::PUBLISH => {
            if let Ok(read) = publish::decode(found, body, version) {
                write_again(&read, version);
            }
        }
        kind::PUBACK..=kind::PUBCOMP => answers(acks::decode(body, version)),
        kind::SUBSCRIBE => {
            if let Ok(asked) = subscribe::decode(body, version) {
                let filters: Vec<_> = asked.filters.iter().map(|(f, o)| (&**f, *o)).collect();
                let mut out = Vec::new();
                client::subscribe(&mut out, version, asked.packet_id, asked.subscription_id, &filters);
                let again = framing(&out, usize::MAX).expect("well formed").expect("whole");
                assert_eq!(subscribe::decode(&out[again.header_bytes..], version).as_ref(), Ok(&asked));
            }
        }
        kind::UNSUBSCRIBE => {
            if let Ok(asked) = subscribe::decode_unsubscribe(body, version) {
                let filters: Vec<_> = asked.filters.iter().map(|filter| &**filter).collect();
                let mut out = Vec::new();
                client::unsubscribe(&mut out, version, asked.packet_id, &filters);
                let again = framing(&out, usize::MAX).expect("well formed").expect("whole");
                assert_eq!(subscribe::decode_unsubscribe(&out[again.header_bytes..], version).as_ref(), Ok(&asked));
            }
        }
        kind::DISCONNECT => {
            if let Ok(asked) = acks::decode_disconnect(body, version) {
                let mut out = Vec::new();
                client::disconnect(&mut out, version, asked.reason, asked.session_expiry_secs);
                let again = framing(&out, usize::MAX).expect("well formed").expect("whole");
                assert_eq!(acks::decode_disconnect(&out[again.header_bytes..], version).as_ref(), Ok(&asked));
            }
        }
        kind::AUTH => {
            if let Ok(asked) = auth::decode(body, version) {
                let mut out = Vec::new();
                client::auth(&mut out, &asked);
                let again = framing(&out, usize::MAX).expect("well formed").expect("whole");
                assert_eq!(auth::decode(&out[again.header_bytes..], version).as_ref(), Ok(&asked));
            }
        }
        _ => {}
    }
}

/// A PUBLISH goes on to subscribers: its topic, payload and properties but alias and expiry arrive
/// as they were.
fn write_again(read: &publish::Publish<'_>, version: Version) {
    if read.topic.is_empty() {
        return;
    }
    let how = encode::Outgoing {
        qos: read.qos,
        dup: read.dup,
        retain: read.retain,
        packet_id: read.packet_id,
        properties: read.properties,
        alias: None,
        expiry_secs: None,
        subscription_ids: &[],
    };
    let mut out = Vec::new();
    encode::publish(&mut out, version, read.topic, read.payload, &how);
    let found = framing(&out, usize::MAX).expect("well formed").expect("whole");
    let again = publish::decode(&found, &out[found.header_bytes..], version).expect("as it came");
    assert_eq!((again.topic, again.payload, again.packet_id), (read.topic, read.payload, read.packet_id));
    let kept = |bytes| {
        let all = properties::iterate(bytes);
        let left = |p: &properties::Property<'_>| {
            !matches!(p.id, properties::id::TOPIC_ALIAS | properties::id::MESSAGE_EXPIRY)
        };
        all.filter(left).map(|p: properties::Property<'_>| p.raw.to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(kept(again.properties), kept(read.properties));
}

fn from_server(packet: &[u8], version: Version) {
    answers(client::decode(packet, version));
}
