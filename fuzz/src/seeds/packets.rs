//! Packets of clients, whole sessions made of them, and records of sessions.

use mqtt_client::{Ack, Connect, PropertyList, Publish, RetainHandling, Subscription, Version, Will, id};

use crate::Inputs;

const VERSIONS: [Version; 2] = [Version::V4, Version::V5];

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn connects(version: Version) -> Inputs {
    let own = PropertyList::new()
        .number(id::SESSION_EXPIRY, 60)
        .number(id::RECEIVE_MAXIMUM, 2)
        .number(id::MAXIMUM_PACKET_SIZE, 200)
        .number(id::TOPIC_ALIAS_MAXIMUM, 3)
        .number(id::REQUEST_PROBLEM, 1)
        .number(id::REQUEST_RESPONSE, 1)
        .bytes(id::AUTHENTICATION_METHOD, "PLAIN")
        .bytes(id::AUTHENTICATION_DATA, b"\0\x01");
    let lasting = PropertyList::new().number(id::SESSION_EXPIRY, 600);
    let of_will =
        PropertyList::new().number(id::WILL_DELAY, 1).number(id::MESSAGE_EXPIRY, 5).bytes(id::CONTENT_TYPE, "t");
    let will = Will { topic: "will/c0", payload: b"gone", qos: 1, retain: true, properties: of_will.as_bytes() };
    let base = Connect { version, client_id: "c0", clean_start: true, keep_alive_secs: 30, ..Connect::default() };
    let all = [
        base,
        Connect { client_id: "", ..base },
        Connect { clean_start: false, properties: lasting.as_bytes(), ..base },
        Connect { client_id: "c1", clean_start: false, properties: lasting.as_bytes(), ..base },
        Connect { will: Some(will), username: Some("user"), password: Some(b"secret"), ..base },
        Connect { properties: own.as_bytes(), ..base },
        Connect { is_bridge: true, ..base },
    ];
    all.iter().map(|connect| written(|out| mqtt_client::connect(out, connect))).collect()
}

fn publishes(version: Version) -> Inputs {
    let aliased = PropertyList::new().number(id::TOPIC_ALIAS, 1);
    let own = PropertyList::new()
        .number(id::PAYLOAD_FORMAT, 1)
        .number(id::MESSAGE_EXPIRY, 60)
        .bytes(id::CONTENT_TYPE, "application/json")
        .bytes(id::RESPONSE_TOPIC, "r/1")
        .bytes(id::CORRELATION_DATA, b"\0\xff");
    let base = Publish { topic: "a/b", payload: b"21.5", ..Publish::default() };
    let mut all = vec![
        base,
        Publish { qos: 1, packet_id: 7, ..base },
        Publish { qos: 2, packet_id: 8, ..base },
        Publish {
            qos: 1,
            packet_id: 9,
            dup: true,
            retain: true,
            topic: "devices/c0/telemetry",
            payload: br#"{"t":1}"#,
            ..base
        },
        Publish { retain: true, payload: b"", ..base },
        Publish { retain: true, topic: "r/1", payload: b"kept", ..base },
    ];
    if version == Version::V5 {
        all.push(Publish { properties: own.as_bytes(), qos: 1, packet_id: 10, ..base });
        all.push(Publish { properties: aliased.as_bytes(), ..base });
        all.push(Publish { topic: "", properties: aliased.as_bytes(), ..base });
    }
    all.iter().map(|publish| written(|out| mqtt_client::publish(out, version, publish))).collect()
}

fn others(version: Version) -> Inputs {
    let subscription = |filter, qos| Subscription { filter, qos, ..Subscription::default() };
    let numbered = PropertyList::new().number(id::SUBSCRIPTION_ID, 300);
    let own = if version == Version::V5 { numbered.as_bytes() } else { &[] };
    let special = Subscription {
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::IfNew,
        ..subscription("+/b", 1)
    };
    let mut all = vec![
        written(|out| mqtt_client::subscribe(out, version, 1, &[], &[subscription("a/#", 1)])),
        written(|out| mqtt_client::subscribe(out, version, 2, own, &[subscription("#", 2), special])),
        written(|out| mqtt_client::subscribe(out, version, 3, &[], &[subscription("$share/g/a/+", 2)])),
        written(|out| mqtt_client::unsubscribe(out, version, 4, &["a/#", "$share/g/a/+"])),
        written(mqtt_client::pingreq),
        written(|out| mqtt_client::disconnect(out, version, 0, &[])),
    ];
    for ack in [Ack::Puback, Ack::Pubrec, Ack::Pubrel, Ack::Pubcomp] {
        for packet_id in [1, 8] {
            all.push(written(|out| mqtt_client::ack(out, version, ack, packet_id, 0)));
        }
    }
    if version == Version::V5 {
        let expiry = PropertyList::new().number(id::SESSION_EXPIRY, 0);
        all.push(written(|out| mqtt_client::disconnect(out, version, 4, expiry.as_bytes())));
        all.push(written(|out| mqtt_client::ack(out, version, Ack::Pubrec, 1, 0x87)));
        let method = PropertyList::new().bytes(id::AUTHENTICATION_METHOD, "PLAIN").bytes(id::AUTHENTICATION_DATA, b"x");
        all.push(written(|out| mqtt_client::auth(out, 0x18, method.as_bytes())));
        all.push(written(|out| mqtt_client::auth(out, 0x19, method.as_bytes())));
    }
    all
}

/// Each packet alone, and streams of them.
pub(crate) fn packets() -> Inputs {
    let mut all = Inputs::new();
    for version in VERSIONS {
        let of_version = [connects(version), publishes(version), others(version)].concat();
        all.push(of_version.concat());
        all.extend(of_version);
    }
    all
}

/// A step in which a client sends a packet.
fn send(client: u8, packet: &[u8]) -> Vec<u8> {
    match u8::try_from(packet.len()) {
        Ok(length) => [&[client, length], packet].concat(),
        Err(_) => {
            let length = u16::try_from(packet.len()).expect("seeds are short").to_be_bytes();
            [&[client | 3 << 1, length[0], length[1]], packet].concat()
        }
    }
}

/// Packets of two clients: each CONNECT, followed by each other packet; and a session that
/// continues after a break and after the end of the broker; and members of a shared subscription.
pub(crate) fn sessions() -> Inputs {
    let mut all = Inputs::new();
    for version in VERSIONS {
        let (connects, publishes, others) = (connects(version), publishes(version), others(version));
        for connect in &connects {
            let rest = [&publishes[..], &others[..]].concat();
            all.push(std::iter::once(connect).chain(&rest).flat_map(|packet| send(0, packet)).collect());
        }
        for packet in publishes.iter().chain(&others) {
            all.push([send(0, &connects[0]), send(0, &others[1]), send(0, packet)].concat());
        }
        let (lasting, other) = (&connects[2], &connects[3]);
        let begun = [send(0, lasting), send(0, &others[1]), send(1, other)].concat();
        let published: Vec<u8> = publishes.iter().flat_map(|packet| send(1, packet)).collect();
        for event in [&[0x08][..], &[0x0c], &[0x08, 0x0c], &[0x1a, 0x0a], &[0x08, 0x09]] {
            let again = [send(0, lasting), send(0, &others[6]), send(0, &others[8]), send(0, &others[12])].concat();
            all.push([&begun[..], event, &send(1, other), &published, &again, event, &again].concat());
            all.push([&begun[..], &published, event, &again, &[0x0c], &again].concat());
        }
        // Two members of a shared subscription, one of which leaves messages to the other.
        let members = [send(0, lasting), send(0, &others[2]), send(1, other), send(1, &others[2])].concat();
        for leaves in [vec![0x08], vec![0x0c], send(0, &others[5])] {
            for back in [lasting, &connects[0]] {
                all.push([&members[..], &published, &leaves, &send(1, other), &published, &send(0, back)].concat());
            }
        }
        // The client of the other connection takes the session over.
        all.push([&begun[..], &published, &send(1, lasting), &published].concat());
    }
    all
}

/// Frames of a client with packets in them; the first byte is where they are cut.
pub(crate) fn frames() -> Inputs {
    let mut all = Inputs::new();
    for (number, packet) in packets().iter().enumerate() {
        for opcode in [0x82, 0x02, 0x80, 0x89, 0x8a, 0x88] {
            let mask = [1, 2, 3, number as u8];
            let mut frame = vec![opcode];
            match packet.len() {
                length @ ..126 => frame.push(0x80 | length as u8),
                length => {
                    frame.push(0x80 | 126);
                    frame.extend_from_slice(&(length as u16).to_be_bytes());
                }
            }
            frame.extend_from_slice(&mask);
            frame.extend(packet.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
            if number % 8 == 0 || opcode == 0x82 {
                all.push([&frame[..], &frame, &[number as u8]].concat());
            }
        }
    }
    all
}

fn record(kind: u8, id: u8, name: &str, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("seeds are short").to_be_bytes();
    [&[kind, id, name.len() as u8, length[0], length[1]], name.as_bytes(), payload].concat()
}

/// Records of sessions, as a node stores them.
pub(crate) fn records() -> Inputs {
    let message = |json: &str, payload: &[u8]| {
        let length = u32::try_from(json.len()).expect("seeds are short").to_be_bytes();
        [&length[..], json.as_bytes(), payload].concat()
    };
    let one = r#"{"topic":"a/b","takers":[{"session":1,"number":1,"qos":1}]}"#;
    let two = r#"{"topic":"a/b","takers":[{"session":1,"number":2,"qos":2,"ids":[7,300]},{"session":2,"number":1,"qos":1,"retain":true,"share":"$share/g/a/+"}]}"#;
    let session = [
        record(0, 1, "", br#"{"client":"c0","expiry_secs":4294967295}"#),
        record(1, 1, "a/#", br#"{"qos":1}"#),
        record(5, 1, "", &message(one, b"21.5")),
    ]
    .concat();
    let other = [
        record(0, 2, "", br#"{"client":"c1","expiry_secs":4294967295,"left":1}"#),
        record(1, 2, "$share/g/a/+", br#"{"qos":2,"no_local":true,"retain_as_published":true,"id":300}"#),
        record(5, 2, "", &message(two, b"\0\xff")),
        record(3, 1, "", br#"{"numbers":[2],"progress":{"done_to":0,"sent_to":2}}"#),
        record(2, 1, "", br#"{"done_to":0,"done":[[3,4]],"sent_to":4,"exact":true}"#),
        record(4, 2, "65535", b""),
        record(6, 0, "r/1", b"kept"),
    ]
    .concat();
    vec![session.clone(), other.clone(), [session, other].concat()]
}
