use proptest::prelude::*;

mod client;
mod faults;
mod hostile;
mod peer;
mod roundtrip;
mod strict;

use super::*;

/// Any answer will do: the point is that there is one.
fn answers<T>(_: T) {}

#[test]
fn lengths_are_read_over_all_their_sizes() {
    for (bytes, total) in [(&[0x30, 0][..], 2), (&[0x30, 0x7F][..], 129), (&[0x30, 0x80, 1][..], 131)] {
        assert_eq!(framing(bytes, 1000).unwrap().unwrap().total_bytes, total);
    }
    assert_eq!(framing(&[0x30, 0x80], 1000), Ok(None));
    assert_eq!(framing(&[], 1000), Ok(None));
    assert_eq!(framing(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF], 1000).unwrap_err().reason, reason::MALFORMED);
    assert_eq!(framing(&[0x30, 0xFF, 0x7F], 1000).unwrap_err().reason, reason::PACKET_TOO_LARGE);
}

#[test]
fn a_disconnect_with_a_reason_and_an_empty_property_list_is_read() {
    // rumqttd's codec fails on this one.
    let read = acks::decode_disconnect(&[0x04], Version::V5).unwrap();
    assert_eq!(read.reason, reason::DISCONNECT_WITH_WILL);
    assert_eq!(acks::decode_disconnect(&[0x04, 0], Version::V5).unwrap().reason, 4);
    assert_eq!(acks::decode_disconnect(&[], Version::V5).unwrap().reason, 0);
}

#[test]
fn bad_publishes_are_refused_with_the_standards_reason() {
    let decode = |first: u8, body: &[u8], version| {
        let framing = Framing { first, header_bytes: 2, total_bytes: 2 + body.len() };
        publish::decode(&framing, body, version).map(|p| p.topic.to_owned()).map_err(|e| e.reason)
    };
    assert_eq!(decode(0x36, &[0, 1, b'a', 0, 1], Version::V4), Err(reason::MALFORMED), "QoS 3");
    assert_eq!(decode(0x38, &[0, 1, b'a'], Version::V4), Err(reason::MALFORMED), "DUP at QoS 0");
    assert_eq!(decode(0x32, &[0, 1, b'a', 0, 0], Version::V4), Err(reason::PROTOCOL_ERROR), "packet id 0");
    assert_eq!(decode(0x30, &[0, 1, b'+'], Version::V4), Err(reason::MALFORMED), "wildcard");
    assert_eq!(decode(0x30, &[0, 0], Version::V4), Err(reason::PROTOCOL_ERROR), "no topic");
    assert_eq!(decode(0x30, &[0, 1, 0], Version::V4), Err(reason::MALFORMED), "U+0000");
    assert_eq!(decode(0x30, &[0, 1, 0xFF], Version::V4), Err(reason::MALFORMED), "not UTF-8");
    assert_eq!(decode(0x30, &[0, 1, b'a', 3, 0x23, 0, 0], Version::V5), Err(reason::TOPIC_ALIAS_INVALID), "alias 0");
    assert_eq!(decode(0x30, &[0, 1, b'a', 4, 1, 0, 1, 0], Version::V5), Err(reason::PROTOCOL_ERROR), "twice");
    assert_eq!(decode(0x30, &[0, 2, 0xC3, 0xA9], Version::V4), Ok("\u{e9}".to_owned()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_bytes_make_the_decoders_panic(first: u8, body in prop::collection::vec(any::<u8>(), 0..80)) {
        let framing = Framing { first, header_bytes: 2, total_bytes: 2 + body.len() };
        for version in [Version::V4, Version::V5] {
            answers(publish::decode(&framing, &body, version));
            answers(acks::decode(&body, version));
            answers(acks::decode_disconnect(&body, version));
            answers(auth::decode(&body, version));
            answers(subscribe::decode(&body, version));
            answers(subscribe::decode_unsubscribe(&body, version));
        }
        answers(connect::decode(&body));
        answers(super::framing(&body, 1000));
    }

    #[test]
    fn a_publish_that_is_written_is_read_as_it_was(
        topic in "[a-z/]{1,30}", payload in prop::collection::vec(any::<u8>(), 0..300), qos in 0..3_u8, retain: bool, v5: bool,
    ) {
        let version = if v5 { Version::V5 } else { Version::V4 };
        let packet_id = if qos > 0 { 77 } else { 0 };
        let mut out = Vec::new();
        let how = encode::Outgoing {
            qos, dup: false, retain, packet_id, properties: &[], alias: None, expiry_secs: v5.then_some(9),
            subscription_ids: &[],
        };
        encode::publish(&mut out, version, &topic, &payload, &how);
        let found = super::framing(&out, 10_000).unwrap().unwrap();
        prop_assert_eq!(found.total_bytes, out.len());
        let read = publish::decode(&found, &out[found.header_bytes..], version).unwrap();
        prop_assert_eq!((read.topic, read.payload, read.qos, read.retain), (&topic[..], &payload[..], qos, retain));
        prop_assert_eq!(read.packet_id, packet_id);
    }
}
