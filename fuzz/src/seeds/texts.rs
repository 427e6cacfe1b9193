//! Headers, requests, filters, payloads, and what nodes send each other.

use std::sync::Arc;

use buffer::frame::FrameBuilder;
use cluster::sessions::fuzzing as codec;
use weir_broker::fleet::{Forwarded, Placed, SharedMessage};

use crate::Inputs;

fn owned(texts: &[&str]) -> Inputs {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

pub(crate) fn proxy() -> Inputs {
    let mut all = owned(&[
        "PROXY TCP4 10.0.0.7 10.0.0.1 12345 1883\r\n\x10",
        "PROXY TCP6 2001:db8::1 ::1 12345 1883\r\n",
        "PROXY UNKNOWN\r\n",
        "PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n",
    ]);
    for (command, family, length) in
        [(0x21, 0x11, 12_u16), (0x21, 0x21, 36), (0x21, 0x31, 216), (0x20, 0, 0), (0x21, 0x11, 20)]
    {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        header.extend_from_slice(&[command, family]);
        header.extend_from_slice(&length.to_be_bytes());
        header.extend((0..length).map(|at| if at < 12 { at as u8 } else { 0 }));
        header.extend_from_slice(b"\x10\x0c");
        all.push(header);
    }
    all
}

pub(crate) fn upgrades() -> Inputs {
    let request = "GET /mqtt HTTP/1.1\r\nHost: weir\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Protocol: mqtt\r\n";
    let all = [
        "",
        "Origin: http://weir\r\n",
        "Origin: https://app.example.com\r\n",
        "Content-Length: 0\r\n",
        "Cookie: a=b\r\n",
    ];
    all.iter()
        .flat_map(|more| [0, 1].map(|end| [request.as_bytes(), more.as_bytes(), b"\r\n", &[end]].concat()))
        .collect()
}

pub(crate) fn subscriptions() -> Inputs {
    owned(&[
        "+aa/b\n+a#\n+ba/+\n+c$SYS/#\na/b\n$SYS/x\n-a#\na/b\n",
        "+a$share/g/a/#\n+b$share/g/a/#\n+c$share/h/a/#\n+ca/b\na/b\n<a$share/g/a/#\na/b\n<b$share/g/a/#\na/b\n>a$share/g/a/#\na/b\n",
        "+a+/+\n+a+\n+b/\n+a//#\n/\n//\na\n-b/\n/\n",
    ])
}

pub(crate) fn grants() -> Inputs {
    owned(&[
        "devices/{device}/#\ndevices/d1/+/x\ndevices/d1/a/x\ndevices/d1\n",
        "#\n+/#\n$SYS/x\na\n/a\n",
        "a/+/c\n$share/g/a/+/c\na//c\na/b/c\n",
        "a/#\na\na\na/\n",
    ])
}

pub(crate) fn letters() -> Inputs {
    let message = SharedMessage {
        topic: "a/b".into(),
        payload: b"21.5".as_slice().into(),
        properties: b"\x01\x01".as_slice().into(),
        qos: 2,
        retain: true,
        published: 5,
    };
    let placed =
        Placed { qos: 1, retain: true, ids: vec![7, 300], share: Some("$share/g/a".into()), is_for_connected: true };
    let forwarded = Forwarded {
        tenant: "t".into(),
        from: "c".into(),
        message: Arc::new(message.clone()),
        share: Some("$share/g/a".into()),
        is_routed: true,
    };
    let place = codec::placed_bytes(&placed);
    let taker = [b"4:t\0c0", &b"1:1"[..], b"1:2", b"1:3", format!("{}:", place.len()).as_bytes(), &place].concat();
    vec![
        codec::message_bytes(&message),
        codec::forwarded_bytes(&forwarded),
        place,
        b"t\0c0".to_vec(),
        [&taker[..], &taker].concat(),
    ]
}

/// A count of records (u16), then bodies; and whole frames.
pub(crate) fn frames() -> Inputs {
    let mut all = vec![[&[0, 0][..], &[0; 12]].concat()];
    all.push(FrameBuilder::default().build(1, 2, 3).bytes().to_vec());
    for payload in payloads() {
        let rules = ingest::Rules::new(
            ingest::Routes::new(&ingest::routes::default_routes()).expect("good routes"),
            ingest::Limits::default(),
            Arc::default(),
        );
        let message = ingest::StoredMessage {
            tenant: "t",
            client: "c",
            topic: "devices/d/telemetry",
            payload: &payload,
            received: 1_760_000_000_000_000_000,
            retain: false,
            device: None,
        };
        let Ok(mut staged) = ingest::replay(&rules, &message) else { continue };
        let mut builder = FrameBuilder::default();
        builder.absorb(&mut staged);
        let bytes = builder.build(1, 2, 3).bytes().to_vec();
        let count = u16::from_le_bytes([bytes[16], bytes[17]]).to_le_bytes();
        all.push([&count[..], &bytes[buffer::frame::HEADER_BYTES..]].concat());
        all.push(bytes);
    }
    all
}

pub(crate) fn payloads() -> Inputs {
    owned(&[
        r#"{"temperature":21.5,"on":true,"name":"x","nested":{"a":[1,2,{"b":null}]}}"#,
        r#"{"ts":"2025-07-01T12:00:00Z","v":-1e308,"big":9223372036854775807,"u":18446744073709551615}"#,
        r#"[{"ts":1760000000,"v":1},{"ts":1760000001000,"v":2.50}]"#,
        r#"{"a":"\u00e9\ud83d\ude00\n","b":0.1,"c":"19,5 °C","d":"--","e":1E400}"#,
        "21.5",
        "ON",
        "{'a':1,b:NaN,}",
    ])
}

pub(crate) fn routes() -> Inputs {
    let topics = [
        "logger/d",
        "tele/d/LWT",
        "tele/d/SENSOR",
        "zigbee2mqtt/bridge/x",
        "zigbee2mqtt/a/b/availability",
        "zigbee2mqtt/a/b",
        "d/c/n/state",
        "v3/a/devices/d/up",
        "application/1/device/d/event/up",
        "owntracks/u/p",
        "rtl_433/x/events",
        "N/d/s/1/a/b",
        "gateway/g",
        "v1/devices/me/telemetry",
        "devices/d/telemetry",
        "devices/d/telemetry/n",
        "strict/d",
        "plain/d/a/b",
        "rules/d",
        "local/d",
        "rows/d",
    ];
    let special = owned(&[
        r#"{"Time":"2025-07-01T12:00:00","ENERGY":{"Power":42},"Wifi":{"RSSI":1},"_type":"location","tst":1760000000}"#,
        r#"{"devices":[{"mac":"AA","readings":[{"name":"t","value":1,"at":1760000000}]}],"at":"2025-07-01"}"#,
        r#"{"kind":"a","id":"X","rows":[{"id":"Y","values":{"a":1}},{"values":{"b":"2,5"}}]}"#,
        r#"{"t":"01.07.2025 12:00:00","a.b":"12","b":"on","c1":1,"e":1,"f":"1.5","data":"{\"x\":1}"}"#,
        r#"{"uplink_message":{"decoded_payload":{"t":1}},"received_at":"2025-07-01T12:00:00.123456789Z","object":{"v":1},"time":1}"#,
        r#"{"model":"M","id":1,"channel":2,"v":3,"state":"online","last_seen":1760000000000}"#,
    ]);
    let mut all = Inputs::new();
    for number in 0..32_u8 {
        for topic in topics {
            for payload in payloads().iter().chain(&special) {
                if (usize::from(number) + topic.len() + payload.len()) % 7 == 0 {
                    all.push([&[number], topic.as_bytes(), b"\n", payload].concat());
                }
            }
        }
    }
    all
}
