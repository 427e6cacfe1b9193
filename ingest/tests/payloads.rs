//! Payloads as devices really send them, and what becomes of each.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;

use buffer::batcher::BatchConfig;
use buffer::memory::MemoryLog;
use model::{Reading, Value};
use weir_ingest::map::{MapOutcome, StoredMessage, map};
use weir_ingest::{Limits, Route, Routes, TelemetryInbox};

const NOW: i64 = 1_760_000_000_000_000_000;

fn inbox(routes: &str) -> TelemetryInbox {
    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct File {
        route: Vec<Route>,
    }
    let file: File = toml::from_str(routes).unwrap();
    let (_, batcher) = MemoryLog::open("m", BatchConfig::default()).unwrap();
    TelemetryInbox::new(Routes::new(&file.route).unwrap(), Limits::default(), batcher, Arc::default())
}

fn outcome(routes: &str, topic: &str, payload: &[u8]) -> MapOutcome {
    map(
        &inbox(routes),
        &StoredMessage { tenant: "default", client: "c", topic, payload, received: NOW, retain: false, device: None },
    )
}

fn readings(routes: &str, topic: &str, payload: &str) -> Vec<Reading> {
    match outcome(routes, topic, payload.as_bytes()) {
        MapOutcome::Readings(readings) => readings,
        other => panic!("{topic} {payload}: {other:?}"),
    }
}

fn one(routes: &str, topic: &str, payload: &str) -> Reading {
    let mut all = readings(routes, topic, payload);
    assert_eq!(all.len(), 1, "{payload}");
    all.remove(0)
}

fn refused(payload: &str) -> String {
    match outcome("", "devices/d/telemetry", payload.as_bytes()) {
        MapOutcome::Refused(reason) => reason,
        other => panic!("{payload}: {other:?}"),
    }
}

fn values(reading: &Reading) -> Vec<(&str, Value)> {
    reading.values.iter().map(|(name, value)| (&**name, value.clone())).collect()
}

fn text(v: &str) -> Value {
    Value::Str(v.into())
}

const TOPIC: &str = "devices/d1/telemetry";

#[test]
fn flat_and_nested_objects_keep_names_types_and_digits() {
    let reading = one("", TOPIC, r#"{"a":21.5,"n":{"b":-3,"c":{"d":true}},"s":"on","l":[1,2.5],"x":null}"#);
    let wanted = [
        ("a", Value::Float(21.5)),
        ("n.b", Value::Int(-3)),
        ("n.c.d", Value::Bool(true)),
        ("s", text("on")),
        ("l.0", Value::Int(1)),
        ("l.1", Value::Float(2.5)),
    ];
    assert_eq!(values(&reading), wanted);
    assert_eq!((reading.time, reading.received, reading.device_timed, &*reading.device.id), (NOW, NOW, false, "d1"));
}

#[test]
fn integers_keep_every_digit_and_floats_every_bit() {
    let reading = one("", TOPIC, r#"{"a":9007199254740993,"b":18446744073709551615,"c":0.1,"d":-9223372036854775808}"#);
    let wanted = [
        ("a", Value::Int(9_007_199_254_740_993)),
        ("b", text("18446744073709551615")),
        ("c", Value::Float(0.1)),
        ("d", Value::Int(i64::MIN)),
    ];
    assert_eq!(values(&reading), wanted);
}

#[test]
fn bare_values_are_numbers_booleans_or_text() {
    for (payload, wanted) in [
        ("21.5", Value::Float(21.5)),
        (" -4\r\n", Value::Int(-4)),
        ("1e3", Value::Float(1000.0)),
        ("true", Value::Bool(true)),
        ("open", text("open")),
        ("\"21.5\"", text("21.5")),
        ("99999999999999999999", text("99999999999999999999")),
        ("+007", Value::Int(7)),
        (".5", Value::Float(0.5)),
        ("89440000000000000012", text("89440000000000000012")),
        ("12:30", text("12:30")),
        ("\u{feff}8\0", Value::Int(8)),
    ] {
        assert_eq!(values(&one("", TOPIC, payload)), [("value", wanted.clone())], "{payload}");
        let named = one("", "devices/d1/telemetry/temp", payload);
        assert_eq!(values(&named), [("temp", wanted)], "{payload}");
    }
    assert_eq!(values(&one("", "devices/d/telemetry/gps", r#"{"lat":1.5}"#)), [("gps.lat", Value::Float(1.5))]);
    assert_eq!(readings("", TOPIC, "").len(), 0, "an empty payload holds nothing");
    let latin = outcome("", TOPIC, &[b'2', 0xB0]);
    assert!(matches!(latin, MapOutcome::Readings(r) if values(&r[0]) == [("value", text("2\u{b0}"))]));
}

#[test]
fn times_are_read_in_every_usual_form() {
    let seconds = 1_700_000_000_i64;
    for (time, wanted) in [
        (format!("{seconds}"), seconds * 1_000_000_000),
        (format!("{seconds}123"), seconds * 1_000_000_000 + 123_000_000),
        (format!("{seconds}123456"), seconds * 1_000_000_000 + 123_456_000),
        (format!("{seconds}123456789"), seconds * 1_000_000_000 + 123_456_789),
        (format!("{seconds}.5"), seconds * 1_000_000_000 + 500_000_000),
        (format!("\"{seconds}\""), seconds * 1_000_000_000),
        ("\"2023-11-14T22:13:20Z\"".into(), seconds * 1_000_000_000),
        ("\"2023-11-14T23:13:20.123456789+01:00\"".into(), seconds * 1_000_000_000 + 123_456_789),
        ("\"2023-11-14 22:13:20\"".into(), seconds * 1_000_000_000),
    ] {
        for name in ["ts", "time", "timestamp"] {
            let reading = one("", TOPIC, &format!(r#"{{"v":1,"{name}":{time}}}"#));
            assert_eq!((reading.time, reading.device_timed), (wanted, true), "{name} {time}");
            assert_eq!(values(&reading), [("v", Value::Int(1))]);
        }
    }
}

#[test]
fn an_array_of_objects_is_many_readings_each_with_its_own_time_and_sequence() {
    let all = readings("", TOPIC, r#"[{"ts":1700000000,"seq":1,"v":1},{"ts":1700000001,"seq":2,"v":2},{"v":3}]"#);
    let summary: Vec<_> = all.iter().map(|r| (r.time / 1_000_000_000, r.seq, r.device_timed)).collect();
    assert_eq!(
        summary,
        [(1_700_000_000, Some(1), true), (1_700_000_001, Some(2), true), (NOW / 1_000_000_000, None, false)]
    );
    assert!(all[0].received < all[1].received && all[1].received < all[2].received);
}

#[test]
fn a_wrapper_named_values_beside_a_time_is_not_part_of_the_names() {
    let reading = one("", TOPIC, r#"{"ts":1700000000000,"values":{"temperature":42.2,"humidity":70}}"#);
    assert_eq!(values(&reading), [("temperature", Value::Float(42.2)), ("humidity", Value::Int(70))]);
    assert_eq!(values(&one("", TOPIC, r#"{"values":{"a":1}}"#)), [("values.a", Value::Int(1))]);
}

#[test]
fn a_name_that_stands_twice_has_its_last_value() {
    assert_eq!(values(&one("", TOPIC, r#"{"a":1,"b":2,"a":3}"#)), [("a", Value::Int(3)), ("b", Value::Int(2))]);
    let reading = one("", TOPIC, r#"{"ts":1700000001,"seq":1,"ts":1700000000,"seq":2,"a":1}"#);
    assert_eq!((reading.time, reading.seq), (1_700_000_000_000_000_000, Some(2)));
    assert_eq!(values(&reading), [("a", Value::Int(1))]);
}

#[test]
fn a_sequence_that_is_not_a_counter_is_a_value() {
    assert_eq!(one("", TOPIC, r#"{"seq":7,"v":1}"#).seq, Some(7));
    let reading = one("", TOPIC, r#"{"seq":"x","v":1}"#);
    assert_eq!((reading.seq, values(&reading).len()), (None, 2));
}

#[test]
fn a_clock_too_far_ahead_does_not_order_the_reading_and_is_kept() {
    let ahead = NOW / 1_000_000_000 + 3600;
    let reading = one("", TOPIC, &format!(r#"{{"ts":{ahead},"v":1}}"#));
    assert_eq!((reading.time, reading.device_timed, reading.claimed_time), (NOW, false, Some(ahead * 1_000_000_000)));
    let slightly = NOW / 1_000_000_000 + 60;
    assert!(one("", TOPIC, &format!(r#"{{"ts":{slightly},"v":1}}"#)).device_timed);
}

#[test]
fn an_unreadable_payload_is_refused_with_reason_and_position() {
    for (payload, reason) in [
        (r#"{"a":1"#, "column"),
        (r#"{"a":1} x"#, "trailing"),
        ("[1,2]", "array"),
        (&format!("{}1{}", "{\"a\":".repeat(20), "}".repeat(20)), "deeper"),
        (&format!("{{\"{}\":1}}", "n".repeat(200)), "longer than 128"),
        (&format!("{{\"a\":\"{}\"}}", "n".repeat(5000)), "longer than 4096"),
        (&format!("{{{}\"z\":1}}", (0..300).map(|i| format!("\"k{i}\":1,")).collect::<String>()), "256 values"),
        (&format!("[{}{{}}]", "{\"a\":1},".repeat(10_000)), "10000 readings"),
    ] {
        let said = refused(payload);
        assert!(said.contains(reason), "{payload:.40}: {said}");
    }
}

#[test]
fn a_bare_value_that_is_not_text_is_refused() {
    for payload in [&b"\xff\xd8\xff\xe0\x00\x10JFIF"[..], b"x\x9c\x01\x02", b"a\0b"] {
        let outcome = outcome("", TOPIC, payload);
        assert!(matches!(&outcome, MapOutcome::Refused(reason) if reason.starts_with("not text")), "{outcome:?}");
    }
}

#[test]
fn a_number_that_is_none_is_absent_in_json_too() {
    let reading = one("", TOPIC, r#"{"a":NaN,"b":-Infinity,"d":nan,"e":1}"#);
    assert_eq!(values(&reading), [("e", Value::Int(1))]);
    assert!(refused(r#"{"a":Nan5}"#).contains("column 9"));
}

#[test]
fn integers_beyond_64_bits_keep_their_digits() {
    let reading = one("", TOPIC, r#"{"a":123456789012345678901234567890,"b":-99999999999999999999,"c":1e20}"#);
    let wanted = [
        ("a", text("123456789012345678901234567890")),
        ("b", text("-99999999999999999999")),
        ("c", Value::Float(1e20)),
    ];
    assert_eq!(values(&reading), wanted);
}

#[test]
fn one_bad_reading_refuses_the_whole_message() {
    let long = "x".repeat(5000);
    assert!(refused(&format!(r#"[{{"v":1}},{{"s":"{long}","v":2}}]"#)).contains("text of s"));
}

#[test]
fn topics_without_a_route_are_plain_messages() {
    for topic in ["devices/d1", "devices//telemetry", "$SYS/x", "chat"] {
        assert_eq!(outcome("", topic, b"1"), MapOutcome::Plain, "{topic}");
    }
}

#[test]
fn known_devices_are_mapped_by_a_few_lines() {
    let tasmota = r#"
        [[route]]
        topic = "tele/{device}/SENSOR"
        time = "Time"
        zone = "Europe/Berlin"
        exclude = ["TempUnit"]
    "#;
    let payload = r#"{"Time":"2025-01-15T12:00:00","AM2301":{"Temperature":21.4,"Humidity":48.0},"TempUnit":"C"}"#;
    let reading = one(tasmota, "tele/tasmota_AB12/SENSOR", payload);
    assert_eq!(reading.time, 1_736_938_800_000_000_000);
    let wanted = [("AM2301.Temperature", Value::Float(21.4)), ("AM2301.Humidity", Value::Float(48.0))];
    assert_eq!(values(&reading), wanted);

    let zigbee = r#"
        [[route]]
        topic = "zigbee2mqtt/bridge/#"
        kind = "ignore"
        [[route]]
        topic = "zigbee2mqtt/{device...}"
        strings = "drop"
    "#;
    assert_eq!(outcome(zigbee, "zigbee2mqtt/bridge/state", b"online"), MapOutcome::Plain);
    let reading = one(zigbee, "zigbee2mqtt/kitchen/lamp", r#"{"linkquality":92,"state":"ON","color":{"x":0.4}}"#);
    assert_eq!(&*reading.device.id, "kitchen/lamp");
    assert_eq!(values(&reading), [("linkquality", Value::Int(92)), ("color.x", Value::Float(0.4))]);

    let network = r#"
        [[route]]
        topic = "v3/{app}/devices/+/up"
        device = "{app}-{$.end_device_ids.device_id}"
        time = ["uplink_message.received_at", "received_at"]
        include = ["uplink_message.decoded_payload.*"]
    "#;
    let payload = r#"{"end_device_ids":{"device_id":"eui-1"},"received_at":"2023-11-14T22:13:20Z",
        "uplink_message":{"decoded_payload":{"temp":19.25},"rx_metadata":[{"rssi":-80}]}}"#;
    let reading = one(network, "v3/farm/devices/eui-1/up", payload);
    assert_eq!((&*reading.device.id, reading.time), ("farm-eui-1", 1_700_000_000_000_000_000));
    assert_eq!(values(&reading), [("uplink_message.decoded_payload.temp", Value::Float(19.25))]);

    let parts = r#"
        [[route]]
        topic = ["shelly-{device}/status/{part}", "shellies/{device}/{part}"]
        prefix = "{part}"
        field = "{part}"
    "#;
    assert_eq!(values(&one(parts, "shellies/plug7/power", "12.5")), [("power", Value::Float(12.5))]);
    let reading = one(parts, "shelly-1pm/status/switch:0", r#"{"apower":3.5}"#);
    assert_eq!((&*reading.device.id, values(&reading)), ("1pm", vec![("switch:0.apower", Value::Float(3.5))]));
}
