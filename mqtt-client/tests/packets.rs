//! Packets byte by byte, as the standard writes them.

use proptest::prelude::*;
use weir_mqtt_client::{
    self as mqtt_client, Ack, Connect, Packet, PropertyList, Publish, RetainHandling, Subscription, Value, Version,
    Will, id, iterate,
};

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

#[test]
fn a_connect_has_its_fields_in_the_order_of_the_standard() {
    let connect = Connect { client_id: "a", clean_start: true, keep_alive_secs: 60, ..Connect::default() };
    assert_eq!(written(|out| mqtt_client::connect(out, &connect)), b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01a");
    let bridge = Connect { is_bridge: true, ..connect };
    assert_eq!(written(|out| mqtt_client::connect(out, &bridge)), b"\x10\x0d\0\x04MQTT\x84\x02\0\x3c\0\x01a");
    let will_properties = PropertyList::new().number(id::WILL_DELAY, 5);
    let properties = PropertyList::new().number(id::RECEIVE_MAXIMUM, 10).user("k", "v");
    let will = Will { topic: "w", payload: b"gone", qos: 1, retain: true, properties: will_properties.as_bytes() };
    let connect = Connect {
        version: Version::V5,
        client_id: "a",
        will: Some(will),
        username: Some("u"),
        password: Some(b"p"),
        properties: properties.as_bytes(),
        ..Connect::default()
    };
    let expected = [
        &b"\x10\x2d\0\x04MQTT\x05\xec\0\0"[..],
        b"\x0a\x21\0\x0a\x26\0\x01k\0\x01v",
        b"\0\x01a\x05\x18\0\0\0\x05\0\x01w\0\x04gone\0\x01u\0\x01p",
    ];
    assert_eq!(written(|out| mqtt_client::connect(out, &connect)), expected.concat());
}

#[test]
fn a_publish_is_read_as_it_was_written() {
    let properties = PropertyList::new().number(id::TOPIC_ALIAS, 3).bytes(id::CONTENT_TYPE, "json");
    let long = vec![b'x'; 200];
    for version in [Version::V4, Version::V5] {
        let properties = if version == Version::V5 { properties.as_bytes() } else { &[] };
        for (qos, dup, packet_id) in [(0, false, 0), (1, true, 7), (2, false, u16::MAX)] {
            let publish = Publish { topic: "t/é", payload: &long, qos, dup, retain: true, packet_id, properties };
            let bytes = written(|out| mqtt_client::publish(out, version, &publish));
            assert_eq!(mqtt_client::decode(&bytes, version), Ok(Some((Packet::Publish(publish), bytes.len()))));
            assert_eq!(mqtt_client::decode(&bytes[..bytes.len() - 1], version), Ok(None));
        }
    }
    let values: Vec<_> = iterate(properties.as_bytes()).map(|property| (property.id, property.value)).collect();
    assert_eq!(values, [(id::TOPIC_ALIAS, Value::Number(3)), (id::CONTENT_TYPE, Value::Text("json"))]);
}

#[test]
fn requests_have_their_reserved_flags_and_their_options() {
    let subscription = Subscription {
        filter: "a/#",
        qos: 1,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::Never,
    };
    let subscribe = |version| written(|out| mqtt_client::subscribe(out, version, 9, &[], &[subscription]));
    assert_eq!(subscribe(Version::V4), b"\x82\x08\0\x09\0\x03a/#\x01");
    assert_eq!(subscribe(Version::V5), b"\x82\x09\0\x09\0\0\x03a/#\x2d");
    let unsubscribe = |version| written(|out| mqtt_client::unsubscribe(out, version, 9, &["a"]));
    assert_eq!(unsubscribe(Version::V4), b"\xa2\x05\0\x09\0\x01a");
    assert_eq!(unsubscribe(Version::V5), b"\xa2\x06\0\x09\0\0\x01a");
    assert_eq!(written(mqtt_client::pingreq), b"\xc0\0");
    let expiry = PropertyList::new().number(id::SESSION_EXPIRY, 7);
    let disconnect = |version| written(|out| mqtt_client::disconnect(out, version, 4, expiry.as_bytes()));
    assert_eq!(disconnect(Version::V4), b"\xe0\0");
    assert_eq!(disconnect(Version::V5), b"\xe0\x07\x04\x05\x11\0\0\0\x07");
    let method = PropertyList::new().bytes(id::AUTHENTICATION_METHOD, "m").bytes(id::AUTHENTICATION_DATA, "t");
    assert_eq!(
        written(|out| mqtt_client::auth(out, 0x19, method.as_bytes())),
        b"\xf0\x0a\x19\x08\x15\0\x01m\x16\0\x01t"
    );
    assert_eq!(written(|out| mqtt_client::auth(out, 0, &[])), b"\xf0\0");
}

#[test]
fn acknowledgements_are_read_with_and_without_a_reason() {
    for ack in [Ack::Puback, Ack::Pubrec, Ack::Pubrel, Ack::Pubcomp] {
        for (version, reason) in [(Version::V4, 0), (Version::V5, 0), (Version::V5, 0x99)] {
            let bytes = written(|out| mqtt_client::ack(out, version, ack, 258, reason));
            let expected = Packet::Ack { ack, packet_id: 258, reason, properties: &[] };
            assert_eq!(mqtt_client::decode(&bytes, version), Ok(Some((expected, bytes.len()))));
        }
    }
    let why = mqtt_client::decode(b"\x40\x08\0\x01\x99\x04\x1f\0\x01x", Version::V5);
    let Ok(Some((Packet::Ack { properties, .. }, 10))) = why else { panic!("a PUBACK: {why:?}") };
    assert_eq!(iterate(properties).next().map(|property| property.value), Some(Value::Text("x")));
}

#[test]
fn answers_of_a_server_are_read() {
    use Version::{V4, V5};
    let decode = |bytes, version| mqtt_client::decode(bytes, version).unwrap().unwrap().0;
    let connack = |session_present, reason| Packet::Connack { session_present, reason, properties: &[] };
    assert_eq!(decode(b"\x20\x02\x01\0", V4), connack(true, 0));
    assert_eq!(decode(b"\x20\x03\0\x87\0", V5), connack(false, 0x87));
    assert_eq!(decode(b"\x90\x03\0\x09\x01", V4), Packet::Suback { packet_id: 9, reasons: &[1] });
    assert_eq!(decode(b"\x90\x05\0\x09\0\x01\x80", V5), Packet::Suback { packet_id: 9, reasons: &[1, 0x80] });
    assert_eq!(decode(b"\xb0\x02\0\x09", V4), Packet::Unsuback { packet_id: 9, reasons: &[] });
    assert_eq!(decode(b"\xb0\x04\0\x09\0\x11", V5), Packet::Unsuback { packet_id: 9, reasons: &[0x11] });
    assert_eq!(decode(b"\xd0\0", V4), Packet::Pingresp);
    assert_eq!(decode(b"\xe0\x01\x8b", V5), Packet::Disconnect { reason: 0x8B, properties: &[] });
    assert_eq!(decode(b"\xf0\0", V5), Packet::Auth { reason: 0, properties: &[] });
    assert_eq!(decode(b"\xf0\x06\0\x04\x15\0\x01m", V5), Packet::Auth { reason: 0, properties: b"\x15\0\x01m" });
}

#[test]
fn packets_that_a_server_must_not_send_are_refused() {
    let refused: &[&[u8]] = &[
        b"\x10\0",
        b"\x30\xff\xff\xff\xff\x01",
        b"\x36\x05\0\x01t\0\x01",
        b"\x38\x03\0\x01t",
        b"\x40\x02\0\0",
        b"\x41\x02\0\x01",
        b"\x20\x02\x01\x05",
        b"\x30\x03\0\x01\xff",
        b"\xd0\x01\0",
        b"\xe0\0",
        b"\xf0\0",
    ];
    for bytes in refused {
        assert!(mqtt_client::decode(bytes, Version::V4).is_err(), "{bytes:02x?}");
    }
    assert!(mqtt_client::decode(b"\x20\x05\0\0\x02\x7f\0", Version::V5).is_err(), "an unknown property");
}

proptest! {
    #[test]
    fn any_bytes_are_read_within_their_bounds_or_refused(bytes: Vec<u8>) {
        for version in [Version::V4, Version::V5] {
            if let Ok(Some((packet, length))) = mqtt_client::decode(&bytes, version) {
                prop_assert!(length <= bytes.len());
                if let Packet::Publish(read) = packet {
                    let again = written(|out| mqtt_client::publish(out, version, &read));
                    prop_assert_eq!(mqtt_client::decode(&again, version), Ok(Some((packet, again.len()))));
                }
            }
        }
    }
}
