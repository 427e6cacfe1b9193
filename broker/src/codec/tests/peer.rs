//! Our codec against that of rumqttd, both ways; see docs/adr/0001. Its known faults are left out
//! and pinned as not ours.

use crate::codec::{self, Version, acks, connect, encode, publish, reason, subscribe};
use bytes::BytesMut;
use proptest::prelude::*;
use rumqttd::protocol::{self as peer, Protocol, v4::V4, v5::V5};

fn body(bytes: &[u8]) -> (codec::Framing, &[u8]) {
    let found = codec::framing(bytes, 1 << 20).expect("a length").expect("a whole header");
    assert_eq!(found.total_bytes, bytes.len());
    (found, &bytes[found.header_bytes..])
}

fn written(packet: peer::Packet, version: Version) -> Vec<u8> {
    let mut out = BytesMut::new();
    match version {
        Version::V4 => V4.write(packet, &mut out).expect("the peer writes it"),
        Version::V5 => V5.write(packet, &mut out).expect("the peer writes it"),
    };
    out.to_vec()
}

fn read(bytes: &[u8], version: Version) -> peer::Packet {
    let mut stream = BytesMut::from(bytes);
    match version {
        Version::V4 => V4.read_mut(&mut stream, 1 << 20).expect("the peer reads it"),
        Version::V5 => V5.read_mut(&mut stream, 1 << 20).expect("the peer reads it"),
    }
}

fn versions() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V4), Just(Version::V5)]
}

proptest! {
    #[test]
    fn a_publish_of_ours_is_read_by_the_peer(
        version in versions(), topic in "[a-z/]{1,40}", payload in prop::collection::vec(any::<u8>(), 0..400), qos in 0..2_u8, retain: bool,
    ) {
        let mut out = Vec::new();
        let packet_id = if qos > 0 { 513 } else { 0 };
        let how = encode::Outgoing { qos, dup: false, retain, packet_id, properties: &[], alias: None, expiry_secs: None, subscription_ids: &[] };
        encode::publish(&mut out, version, &topic, &payload, &how);
        let peer::Packet::Publish(read, _) = read(&out, version) else { panic!("a publish") };
        prop_assert_eq!(&read.topic[..], topic.as_bytes());
        prop_assert_eq!(&read.payload[..], &payload[..]);
        prop_assert_eq!(read.retain, retain);
    }

    #[test]
    fn a_subscribe_of_the_peer_is_read_by_us(
        version in versions(), filters in prop::collection::vec("[a-z]{1,9}(/[+]|/#)?", 1..5), id in 1..u16::MAX,
    ) {
        let list = filters.iter().map(|f| peer::Filter {
            path: f.clone(), qos: peer::QoS::AtLeastOnce, nolocal: false, preserve_retain: false,
            retain_forward_rule: peer::RetainForwardRule::OnEverySubscribe,
        });
        let bytes = written(peer::Packet::Subscribe(peer::Subscribe { pkid: id, filters: list.collect() }, None), version);
        let (_, body) = body(&bytes);
        let ours = subscribe::decode(body, version).unwrap();
        prop_assert_eq!(ours.packet_id, id);
        prop_assert_eq!(ours.filters.into_iter().map(|(f, _)| f).collect::<Vec<_>>(), filters);
    }

    #[test]
    fn answers_are_the_same_in_both(version in versions(), id in 1..u16::MAX) {
        let mut ours = Vec::new();
        encode::answer(&mut ours, version, 0x40, id, reason::SUCCESS, None);
        let peer::Packet::PubAck(read, _) = read(&ours, version) else { panic!("a PUBACK") };
        prop_assert_eq!(read.pkid, id);
        let theirs = written(peer::Packet::PubAck(peer::PubAck { pkid: id, reason: peer::PubAckReason::Success }, None), version);
        let (_, body) = body(&theirs);
        prop_assert_eq!(acks::decode(body, version).unwrap(), acks::Answer { packet_id: id, reason: 0 });
    }
}

#[test]
fn a_connect_of_the_peer_is_read_by_us() {
    for version in [Version::V4, Version::V5] {
        let packet = peer::Connect { keep_alive: 30, client_id: "dev".into(), clean_session: true };
        let login = peer::Login { username: "user".into(), password: "secret".into() };
        let will =
            peer::LastWill { topic: "will".into(), message: "gone".into(), qos: peer::QoS::AtLeastOnce, retain: true };
        let bytes = written(peer::Packet::Connect(packet, None, Some(will), None, Some(login)), version);
        let (_, body) = body(&bytes);
        let ours = connect::decode(body).unwrap();
        assert_eq!((ours.version, &*ours.client, ours.clean, ours.keep_alive_secs), (version, "dev", true, 30));
        assert_eq!((ours.user.as_deref(), ours.password.as_deref()), (Some("user"), Some(&b"secret"[..])));
        let will = ours.will.unwrap();
        assert_eq!((&*will.topic, &will.payload[..], will.qos, will.retain), ("will", &b"gone"[..], 1, true));
    }
}

#[test]
fn the_publish_of_the_peer_shows_its_qos_and_packet_id_to_us() {
    for version in [Version::V4, Version::V5] {
        let mut out = Vec::new();
        let how = encode::Outgoing {
            qos: 1,
            dup: true,
            retain: false,
            packet_id: 9,
            properties: &[],
            alias: None,
            expiry_secs: None,
            subscription_ids: &[],
        };
        encode::publish(&mut out, version, "a/b", b"x", &how);
        let again = written(read(&out, version), version);
        let (framing, body) = body(&again);
        let ours = publish::decode(&framing, body, version).unwrap();
        assert_eq!((ours.topic, ours.payload, ours.qos, ours.dup, ours.packet_id), ("a/b", &b"x"[..], 1, true, 9));
    }
}
