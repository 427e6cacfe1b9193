//! Faults of rumqttd's codec (0.20), each shown as it is there, and how the same bytes fare here;
//! see docs/adr/0001.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::codec::{Version, acks, check_flags, encode, framing, packet_type as kind, publish, reason, subscribe};
use bytes::BytesMut;
use rumqttd::protocol::{self as peer, Packet, Protocol, v4::V4, v5::V5};

/// Reads bytes with the peer; `Err` when it panics.
fn peer_reads(bytes: &[u8]) -> std::thread::Result<Result<Packet, peer::Error>> {
    catch_unwind(AssertUnwindSafe(|| V5.read_mut(&mut BytesMut::from(bytes), 1 << 16)))
}

#[test]
fn a_connack_or_an_unsuback_from_a_client_ends_in_a_clean_refusal() {
    for bytes in [&[0x20, 3, 0, 0, 0][..], &[0xB0, 4, 0, 1, 0, 0]] {
        assert!(peer_reads(bytes).is_err(), "the peer panics");
        let found = framing(bytes, 1 << 16).unwrap().unwrap();
        // The flags are valid, and the connection refuses the packet type.
        check_flags(&found).unwrap();
        assert!(matches!(found.packet_type(), kind::CONNACK | kind::UNSUBACK));
    }
}

#[test]
fn a_disconnect_with_only_a_reason_is_read() {
    let bytes = [0xE0, 1, 0x04];
    assert!(peer_reads(&bytes).unwrap().is_err(), "the peer wants a property length");
    assert_eq!(acks::decode_disconnect(&bytes[2..], Version::V5).unwrap().reason, reason::DISCONNECT_WITH_WILL);
}

#[test]
fn a_disconnect_that_is_written_is_as_long_as_it_says() {
    let refused = peer::Disconnect { reason_code: peer::DisconnectReasonCode::ProtocolError };
    let mut out = BytesMut::new();
    V5.write(Packet::Disconnect(refused, None), &mut out).unwrap();
    assert_eq!(out[..], [0xE0, 1, 0x82, 0], "the peer leaves a byte behind the end");

    for text in [None, Some("why")] {
        let mut out = Vec::new();
        encode::disconnect(&mut out, Version::V5, reason::PROTOCOL_ERROR, text, None);
        assert_eq!(framing(&out, 1 << 16).unwrap().unwrap().total_bytes, out.len());
    }
}

#[test]
fn properties_for_a_3_1_1_client_are_left_out() {
    let message = peer::Publish::new("a", "x", false);
    let carried = peer::PublishProperties { message_expiry_interval: Some(1), ..peer::PublishProperties::default() };
    let write = || V4.write(Packet::Publish(message, Some(carried)), &mut BytesMut::new());
    assert!(catch_unwind(AssertUnwindSafe(write)).is_err(), "the peer panics");

    let how = encode::Outgoing {
        qos: 0,
        dup: false,
        retain: false,
        packet_id: 0,
        properties: &[0x01, 1],
        alias: None,
        expiry_secs: Some(1),
        subscription_ids: &[1],
    };
    let mut out = Vec::new();
    encode::publish(&mut out, Version::V4, "a", b"x", &how);
    assert_eq!(out, [0x30, 4, 0, 1, b'a', b'x']);
}

#[test]
fn packets_that_the_peer_accepts_wrongly_are_refused() {
    let taken = |bytes: &[u8]| peer_reads(bytes).unwrap().is_ok();
    let packet_id_0 = [0x82, 7, 0, 0, 0, 0, 1, b'a', 0];
    assert!(taken(&packet_id_0) && subscribe::decode(&packet_id_0[2..], Version::V5).is_err());
    let no_filter = [0xA2, 3, 0, 1, 0];
    assert!(taken(&no_filter) && subscribe::decode_unsubscribe(&no_filter[2..], Version::V5).is_err());
    let not_utf8 = [0x30, 4, 0, 1, 0xFF, 0];
    let found = framing(&not_utf8, 1 << 16).unwrap().unwrap();
    assert!(taken(&not_utf8) && publish::decode(&found, &not_utf8[2..], Version::V5).is_err());
    let twice = [0x30, 8, 0, 1, b'a', 4, 0x01, 0, 0x01, 0];
    let found = framing(&twice, 1 << 16).unwrap().unwrap();
    assert!(taken(&twice) && publish::decode(&found, &twice[2..], Version::V5).is_err());
}
