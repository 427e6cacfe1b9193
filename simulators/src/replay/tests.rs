//! Files that can be played.

use super::*;

fn columns() -> Columns {
    Columns { time: None, device: None, device_id: "d".into(), topic: "devices/{device}/telemetry".into() }
}

#[test]
fn a_table_becomes_one_reading_a_line_with_types_kept_and_empty_cells_left_out() {
    let text =
        "\"date\",\"sensor\",t,on\n\"2015-02-04 17:51:00\",a,23.18,1\n2015-02-04T17:52:00Z,b,,x\n1423072380,a,21,\n";
    let with_device = Columns { device: Some("sensor".into()), ..columns() };
    let messages = table::read(text, &with_device).unwrap();
    let payloads: Vec<serde_json::Value> =
        messages.iter().map(|m| serde_json::from_slice(&m.payload).unwrap()).collect();
    assert_eq!(payloads[0], serde_json::json!({"ts": 1_423_072_260_000_000_i64, "t": 23.18, "on": 1}));
    assert_eq!(payloads[1], serde_json::json!({"ts": 1_423_072_320_000_000_i64, "on": "x"}));
    assert_eq!(payloads[2], serde_json::json!({"ts": 1_423_072_380_000_000_i64, "t": 21}));
    assert_eq!((messages[1].device.as_str(), messages[1].topic.as_str()), ("b", "devices/b/telemetry"));
}

#[test]
fn a_table_without_a_time_or_with_a_bad_one_is_refused_with_the_line() {
    let error = format!("{:#}", table::read("a,b\n1,2\n", &columns()).unwrap_err());
    assert!(error.contains("--time-column"), "{error}");
    let error = format!("{:#}", table::read("ts,b\n1,2\nyesterday,2\n", &columns()).unwrap_err());
    assert!(error.contains("line 3") && error.contains("yesterday"), "{error}");
    let error = format!("{:#}", table::read("ts\n", &Columns { time: Some("when".into()), ..columns() }).unwrap_err());
    assert!(error.contains("when") && error.contains("ts"), "{error}");
}

#[test]
fn a_recorded_session_is_played_message_by_message() {
    let text = concat!(
        r#"{"tst":"2026-11-20T12:00:00.000000Z+0000","topic":"a/b","qos":0,"retain":0,"payloadlen":4,"payload":"21.5"}"#,
        "\n",
        r#"{"tst":"2026-11-20T13:00:02.500000+0100","topic":"a/c","qos":1,"retain":0,"payloadlen":7,"payload":{"t":1}}"#,
        "\n",
    );
    let messages = session::read(text).unwrap();
    assert_eq!(messages[1].at - messages[0].at, 2_500_000_000);
    assert_eq!(messages[0].payload, b"21.5");
    assert_eq!(messages[1].payload, br#"{"t":1}"#);
    let error = format!("{:#}", session::read("{\"topic\":\"a\"}\n").unwrap_err());
    assert!(error.contains("line 1"), "{error}");
}

#[test]
fn a_greater_speed_brings_messages_together_and_the_greatest_to_one_moment() {
    let messages = table::read("ts,v\n100,1\n110,2\n", &columns()).unwrap();
    let at = |speed| {
        let replay =
            Replay { speed, qos: 1, mqtt: Version::V5, in_flight: 1, columns: columns(), drain: Duration::ZERO };
        fleet(messages.clone(), &replay).1
    };
    assert_eq!((at(1.0).as_secs(), at(10.0).as_secs(), at(f64::INFINITY).as_secs()), (10, 1, 0));
}
