//! Written packets are read back unchanged, by either side; damaged ones are refused without a
//! panic.

use crate::codec::connect::{Connect, Will};
use crate::codec::properties::id;
use crate::codec::subscribe::{Options, RetainHandling};
use crate::codec::{Framing, Version, acks, auth, check_flags, connect, encode, framing, publish, reason, subscribe};
use mqtt_client::Packet;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::client;

/// The one packet in `bytes`.
fn only(bytes: &[u8]) -> (Framing, &[u8]) {
    let found = framing(bytes, usize::MAX).expect("a length").expect("a whole header");
    assert_eq!(found.total_bytes, bytes.len());
    check_flags(&found).expect("the flags of its type");
    (found, &bytes[found.header_bytes..])
}

fn text() -> impl Strategy<Value = String> {
    "[a-zé€😀 ]{1,12}"
}

fn topic() -> impl Strategy<Value = String> {
    "[a-zé/]{1,30}"
}

fn versions() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V4), Just(Version::V5)]
}

prop_compose! {
    fn will()(
        topic in topic(), payload in vec(any::<u8>(), 0..200), qos in 0..3_u8, retain: bool, delay_secs: u32,
        expiry in option::of(any::<u32>()), user in option::of((text(), text())),
    ) -> Will {
        let mut properties = Vec::new();
        if let Some(secs) = expiry {
            properties.push(id::MESSAGE_EXPIRY);
            properties.extend(secs.to_be_bytes());
        }
        if let Some((name, value)) = user {
            properties.push(id::USER);
            for text in [name, value] {
                properties.extend((text.len() as u16).to_be_bytes());
                properties.extend(text.as_bytes());
            }
        }
        Will { topic, payload, qos, retain, delay_secs, properties }
    }
}

prop_compose! {
    fn any_connect()(
        version in versions(), is_3_1: bool, is_bridge: bool, clean: bool, keep_alive_secs: u16, client in text(), will in option::of(will()),
        user in option::of(text()), password in option::of(vec(any::<u8>(), 0..40)),
        session_expiry_secs in option::of(any::<u32>()), receive_maximum in 1..=u16::MAX,
        maximum_packet_bytes in option::of(1..u32::MAX), topic_alias_maximum: u16, problem_information: bool,
        authentication in option::of((text(), option::of(vec(any::<u8>(), 0..40)))),
    ) -> Connect {
        let (authentication_method, authentication_data) = authentication.unzip();
        let authentication_data = authentication_data.flatten();
        let asked = Connect {
            version, is_3_1, is_bridge, clean, keep_alive_secs, client, will, user, password, session_expiry_secs, receive_maximum,
            maximum_packet_bytes, topic_alias_maximum, problem_information, authentication_method,
            authentication_data,
        };
        match version {
            Version::V5 => Connect { is_3_1: false, is_bridge: false, ..asked },
            Version::V4 => as_3_1_1(asked),
        }
    }
}

/// Removes the fields that only MQTT 5 has.
fn as_3_1_1(connect: Connect) -> Connect {
    let password = connect.user.is_some().then_some(connect.password).flatten();
    let will = connect.will.map(|w| Will { delay_secs: 0, properties: Vec::new(), ..w });
    Connect {
        will,
        password,
        session_expiry_secs: None,
        receive_maximum: u16::MAX,
        maximum_packet_bytes: None,
        topic_alias_maximum: 0,
        problem_information: true,
        authentication_method: None,
        authentication_data: None,
        ..connect
    }
}

fn options() -> impl Strategy<Value = Options> {
    let handling = prop_oneof![Just(RetainHandling::Always), Just(RetainHandling::IfNew), Just(RetainHandling::Never)];
    (0..3_u8, any::<bool>(), any::<bool>(), handling).prop_map(
        |(qos, no_local, retain_as_published, retain_handling)| Options {
            qos,
            no_local,
            retain_as_published,
            retain_handling,
        },
    )
}

/// Reads bytes as everything that either side could take them for.
fn read_as_anything(bytes: &[u8]) {
    for version in [Version::V4, Version::V5] {
        if let Ok(Some(found)) = framing(bytes, 1 << 16)
            && let Some(body) = bytes.get(found.header_bytes..found.total_bytes)
        {
            // Every field comes from these bytes.
            if let Ok(read) = publish::decode(&found, body, version) {
                assert!(read.payload.len() + read.topic.len() + read.properties.len() <= body.len());
            }
            if let Ok(read) = subscribe::decode(body, version) {
                assert!(!read.filters.is_empty() && read.packet_id > 0);
            }
            if let Ok(read) = connect::decode(body) {
                assert!(read.receive_maximum > 0);
            }
            if let Ok(Some((Packet::Ack { packet_id, .. }, _))) = client::decode(bytes, version) {
                assert!(packet_id > 0);
            }
        }
    }
}

proptest! {
    #[test]
    fn a_connect(asked in any_connect()) {
        let mut out = Vec::new();
        client::connect(&mut out, &asked);
        prop_assert_eq!(connect::decode(only(&out).1).unwrap(), asked);
    }

    #[test]
    fn a_subscribe_and_an_unsubscribe(
        version in versions(), packet_id in 1..=u16::MAX, subscription_id in option::of(1..268_435_456_u32),
        filters in vec((topic(), options()), 1..6),
    ) {
        let v5 = version == Version::V5;
        let asked: Vec<(&str, Options)> = filters.iter().map(|(f, o)| (&**f, *o)).collect();
        let mut out = Vec::new();
        client::subscribe(&mut out, version, packet_id, subscription_id, &asked);
        let read = subscribe::decode(only(&out).1, version).unwrap();
        prop_assert_eq!((read.packet_id, read.subscription_id), (packet_id, subscription_id.filter(|_| v5)));
        for ((filter, options), (wanted, asked)) in read.filters.iter().zip(&asked) {
            prop_assert_eq!(filter, wanted);
            prop_assert_eq!(*options, if v5 { *asked } else { Options { qos: asked.qos, ..Options::default() } });
        }

        let names: Vec<&str> = asked.iter().map(|(f, _)| *f).collect();
        let mut out = Vec::new();
        client::unsubscribe(&mut out, version, packet_id, &names);
        let read = subscribe::decode_unsubscribe(only(&out).1, version).unwrap();
        prop_assert_eq!(read.packet_id, packet_id);
        prop_assert_eq!(read.filters, names);
    }

    #[test]
    fn a_delivery_with_all_it_may_carry(
        version in versions(), topic in topic(), payload in vec(any::<u8>(), 0..400), qos in 0..3_u8, dup: bool, retain: bool,
        expiry_secs in option::of(any::<u32>()), subscription_ids in vec(1..268_435_456_u32, 0..40), kept in will(),
        alias in option::of(1..=u16::MAX),
    ) {
        let packet_id = if qos > 0 { 513 } else { 0 };
        let dup = dup && qos > 0;
        let how = encode::Outgoing {
            qos, dup, retain, packet_id, properties: &kept.properties, alias, expiry_secs,
            subscription_ids: &subscription_ids,
        };
        let mut out = Vec::new();
        prop_assert_eq!(encode::publish(&mut out, version, &topic, &payload, &how), out.len());
        let (found, body) = only(&out);
        let Ok(Some((Packet::Publish(read), _))) = client::decode(&out, version) else { panic!("a PUBLISH") };
        prop_assert_eq!((read.topic, read.payload), (&*topic, &*payload));
        prop_assert_eq!((read.qos, read.dup, read.retain, read.packet_id), (qos, dup, retain, packet_id));
        let carried = |wanted: u8| {
            crate::codec::properties::iterate(read.properties).filter(move |p| p.id == wanted).count()
        };
        if version == Version::V5 {
            prop_assert_eq!(carried(id::SUBSCRIPTION_ID), subscription_ids.len());
            prop_assert_eq!(carried(id::MESSAGE_EXPIRY), usize::from(expiry_secs.is_some()));
            prop_assert_eq!(carried(id::TOPIC_ALIAS), usize::from(alias.is_some()));
        } else {
            prop_assert!(read.properties.is_empty());
        }
        // A client may not send what only a server knows.
        let from_client = publish::decode(&found, body, version);
        prop_assert_eq!(from_client.is_ok(), version == Version::V4 || subscription_ids.is_empty());
    }

    #[test]
    fn answers_with_and_without_a_reason(
        version in versions(), first in prop_oneof![Just(0x40_u8), Just(0x50), Just(0x62), Just(0x70)], packet_id in 1..=u16::MAX,
        code in prop_oneof![Just(reason::SUCCESS), Just(reason::PAYLOAD_FORMAT_INVALID)], why in option::of(text()),
    ) {
        let mut out = Vec::new();
        encode::answer(&mut out, version, first, packet_id, code, why.as_deref());
        let (_, body) = only(&out);
        let code = if version == Version::V5 { code } else { 0 };
        prop_assert_eq!(acks::decode(body, version).unwrap(), acks::Answer { packet_id, reason: code });
        let Ok(Some((Packet::Ack { ack, properties, .. }, _))) = client::decode(&out, version) else {
            panic!("an acknowledgement")
        };
        prop_assert_eq!(ack as u8, first >> 4);
        prop_assert_eq!(properties.is_empty(), version == Version::V4 || why.is_none());
    }

    #[test]
    fn a_connack(
        version in versions(), session_present: bool, expiry in option::of(any::<u32>()), receive_maximum in option::of(1..u16::MAX),
        assigned in option::of(text()), keep_alive in option::of(any::<u16>()),
    ) {
        let own = encode::ConnackProperties {
            session_expiry_secs: expiry, receive_maximum, assigned_client: assigned.as_deref(), server_keep_alive_secs: keep_alive,
            ..encode::ConnackProperties::default()
        };
        let mut out = Vec::new();
        encode::connack(&mut out, version, session_present, 0, &own);
        only(&out);
        let Ok(Some((Packet::Connack { session_present: present, reason: 0, properties }, _))) =
            client::decode(&out, version) else { panic!("a CONNACK") };
        prop_assert_eq!(present, session_present);
        let sent = [expiry.is_some(), receive_maximum.is_some(), assigned.is_some(), keep_alive.is_some()];
        let sent = if version == Version::V5 { sent.iter().filter(|s| **s).count() } else { 0 };
        prop_assert_eq!(crate::codec::properties::iterate(properties).count(), sent);
    }

    #[test]
    fn an_auth_of_either_side(
        method in text(), data in option::of(vec(any::<u8>(), 0..300)),
        code in prop_oneof![Just(reason::CONTINUE_AUTHENTICATION), Just(reason::REAUTHENTICATE)],
    ) {
        let asked = auth::Auth { reason: code, method: &method, data: data.as_deref() };
        let mut out = Vec::new();
        client::auth(&mut out, &asked);
        prop_assert_eq!(auth::decode(only(&out).1, Version::V5), Ok(asked));

        let mut out = Vec::new();
        encode::auth(&mut out, reason::SUCCESS, &method);
        only(&out);
        let Ok(Some((Packet::Auth { reason: 0, properties }, _))) = client::decode(&out, Version::V5) else {
            panic!("an AUTH")
        };
        let sent: Vec<_> = mqtt_client::iterate(properties).map(|property| property.value).collect();
        prop_assert_eq!(sent, [mqtt_client::Value::Text(&method)]);
    }

    #[test]
    fn a_suback_an_unsuback_and_a_disconnect(
        version in versions(), packet_id in 1..=u16::MAX, reasons in vec(0..3_u8, 1..5), why in option::of(text()),
    ) {
        let v5 = version == Version::V5;
        for unsubscribed in [false, true] {
            let mut out = Vec::new();
            if unsubscribed {
                encode::unsuback(&mut out, version, packet_id, &reasons);
            } else {
                encode::suback(&mut out, version, packet_id, &reasons, why.as_deref());
            }
            only(&out);
            let reasons: &[u8] = if unsubscribed && !v5 { &[] } else { &reasons };
            let wanted = if unsubscribed {
                Packet::Unsuback { packet_id, reasons }
            } else {
                Packet::Suback { packet_id, reasons }
            };
            prop_assert_eq!(client::decode(&out, version), Ok(Some((wanted, out.len()))));
        }
        // Refused: 3.1.1 has one code for that.
        let mut out = Vec::new();
        encode::suback(&mut out, version, packet_id, &[1, reason::QUOTA_EXCEEDED], None);
        only(&out);
        let Ok(Some((Packet::Suback { reasons, .. }, _))) = client::decode(&out, version) else { panic!("a SUBACK") };
        prop_assert_eq!(reasons, if v5 { [1, reason::QUOTA_EXCEEDED] } else { [1, 0x80] });

        let mut out = Vec::new();
        client::disconnect(&mut out, version, reason::DISCONNECT_WITH_WILL, v5.then_some(7));
        let read = acks::decode_disconnect(only(&out).1, version).unwrap();
        prop_assert_eq!(read.session_expiry_secs, v5.then_some(7));
        prop_assert_eq!(read.reason, if v5 { reason::DISCONNECT_WITH_WILL } else { 0 });
    }

    #[test]
    fn a_damaged_packet_is_refused_or_read_within_its_bounds(
        asked in any_connect(), at: prop::sample::Index, bit in 0..8_u8, cut: prop::sample::Index, kind in 1..16_u8,
    ) {
        let mut out = Vec::new();
        client::connect(&mut out, &asked);
        let at = at.index(out.len());
        out[at] ^= 1 << bit;
        read_as_anything(&out);
        // The same bytes under another name.
        out[0] = kind << 4 | (out[0] & 15);
        read_as_anything(&out);
        out.truncate(cut.index(out.len()));
        read_as_anything(&out);
    }
}
