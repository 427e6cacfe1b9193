//! Messages of devices.

use std::path::Path;

use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::scenario::{Scenario, parse, shipped};

const START: Nanos = 1_767_225_600_000_000_000;

fn play(scenario: &Scenario) -> Vec<Message> {
    let devices = devices(scenario, Path::new("."), START).unwrap();
    devices.iter().flat_map(Messages::new).collect()
}

fn small(name: &str) -> Scenario {
    let time = if name == "soak" { 0.005 } else { 0.2 };
    parse(shipped(name).unwrap()).unwrap().scaled(0.02, time)
}

fn bytes(messages: &[Message]) -> Vec<u8> {
    let mut out = Vec::new();
    for message in messages {
        out.extend_from_slice(&message.due.as_nanos().to_le_bytes());
        out.extend_from_slice(message.topic.as_bytes());
        out.extend_from_slice(&message.payload);
    }
    out
}

#[test]
fn the_same_seed_gives_the_same_readings_byte_for_byte() {
    for (name, _) in crate::scenario::SHIPPED {
        let scenario = small(name);
        let (one, two) = (play(&scenario), play(&scenario));
        assert!(!one.is_empty(), "{name} sends something");
        assert!(bytes(&one) == bytes(&two) && one == two, "{name}");
        let other = play(&Scenario { seed: scenario.seed + 1, ..scenario });
        assert_ne!(bytes(&one), bytes(&other), "{name}: another seed gives others");
    }
}

#[test]
fn a_release_sends_what_the_one_before_sent() {
    // Ledgers hold no readings: a later release has to generate the same ones to verify them.
    let sums = crate::scenario::SHIPPED
        .iter()
        .map(|(name, _)| format!("{name} {:016x}", xxh3_64(&bytes(&play(&small(name))))));
    let sums: Vec<String> = sums.collect();
    let golden = include_str!("golden.txt");
    assert_eq!(sums.join("\n"), golden.trim_end(), "if the change is meant, ledgers need a new version");
}

#[test]
fn messages_go_out_in_the_order_in_which_they_fall_due_and_none_is_left_out() {
    for (name, _) in crate::scenario::SHIPPED {
        let scenario = small(name);
        for device in devices(&scenario, Path::new("."), START).unwrap() {
            let messages: Vec<Message> = Messages::new(&device).collect();
            assert!(messages.windows(2).all(|w| w[0].due <= w[1].due), "{name}");
            let mut numbers: Vec<u64> = messages.iter().map(|m| m.number).collect();
            numbers.sort_unstable();
            assert!(numbers.iter().copied().eq(0..messages.len() as u64), "{name}");
        }
    }
}

#[test]
fn a_fault_that_is_taken_out_leaves_the_other_readings_as_they_were() {
    let mut scenario = small("flaky-cellular");
    let before = play(&scenario);
    scenario.groups[0].faults.duplicate = 0.0;
    scenario.groups[0].faults.drop_before_ack = 0.5;
    let after = play(&scenario);
    assert_eq!(bytes(&before), bytes(&after));
    assert!(before.iter().zip(&after).any(|(a, b)| a.trouble != b.trouble));
}

#[test]
fn devices_away_come_back_and_the_share_is_kept() {
    let scenario = parse(shipped("backfill").unwrap()).unwrap();
    let devices = devices(&scenario, Path::new("."), START).unwrap();
    let away = devices.iter().filter(|d| !d.absences().is_empty()).count();
    assert!((65..95).contains(&away), "{away} of 100 at a share of 0.8");
    for absence in devices.iter().flat_map(Device::absences) {
        assert_eq!((absence.from.as_secs(), absence.until.as_secs()), (20, 60));
    }
}

#[test]
fn payloads_have_the_form_that_the_scenario_says() {
    let first = |name: &str, group: &str| {
        let scenario = small(name);
        let devices = devices(&scenario, Path::new("."), START).unwrap();
        let device = devices.into_iter().find(|d| d.kind.group.name == group).unwrap();
        let message = Messages::new(&device).next().unwrap();
        (message.topic.to_string(), String::from_utf8(message.payload).unwrap())
    };
    let (topic, payload) = first("morning-burst", "meter");
    assert_eq!(topic, "devices/meter-0000/telemetry");
    assert!(payload.contains(r#""energy":{"total":100000}"#), "{payload}");
    let (topic, payload) = first("mixed-fleet", "bare");
    assert_eq!((topic.as_str(), payload.as_str()), ("devices/bare-0/telemetry/count", "0"));
    let (_, payload) = first("mixed-fleet", "template");
    assert!(payload.starts_with(r#"{"time": 17"#) && payload.ends_with(r#""h": 55}"#), "{payload}");
    let (_, payload) = first("mixed-fleet", "batch");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&payload).unwrap().as_array().unwrap().len(), 50);
    let (_, payload) = first("garbage-device", "garbage");
    assert!(payload.contains(r#""name with \"quotes\" and \\":"häßlich,= \t\"x\"""#), "{payload}");
}

#[test]
fn a_column_of_a_file_is_played_from_a_line_of_the_devices_own() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("room.csv"), "time,t,s\n1,20,a\n2,20.5,b\n3,21,c\n").unwrap();
    let text = r#"
        name = "file"
        duration = "20s"
        [[group]]
        name = "g"
        count = 8
        interval = "1s"
        values.t = { model = "csv", file = "room.csv", column = "t" }
        values.s = { model = "csv", file = "room.csv", column = "s" }
    "#;
    let scenario = parse(text).unwrap();
    scenario.check(dir.path()).unwrap();
    let devices = devices(&scenario, dir.path(), START).unwrap();
    let firsts: std::collections::HashSet<String> =
        devices.iter().map(|d| format!("{:?}", Messages::new(d).next().unwrap().readings[0].values)).collect();
    assert!(firsts.len() > 2, "{firsts:?}");
    let values: Vec<Value> = Messages::new(&devices[0]).map(|m| m.readings[0].values[1].1.clone()).take(4).collect();
    assert_eq!(values[0], values[3], "from the top again");
    assert!(values.contains(&Value::Int(20)) && values.contains(&Value::Float(20.5)), "{values:?}");
}

proptest! {
    #[test]
    fn without_a_sequence_no_two_readings_of_a_device_have_one_time(seed: u64, jitter in 0.0..0.5, skew in 0u64..1000) {
        let text = format!(r#"
            name = "times"
            seed = {}
            duration = "3s"
            [[group]]
            name = "g"
            count = 1
            interval = "1ms"
            jitter = {jitter}
            values.t = {{ model = "counter" }}
            payload.sequence = false
            faults.clock_skew = "{skew}ms"
        "#, seed >> 1);
        let scenario = parse(&text).unwrap();
        let messages = play(&scenario);
        let times: std::collections::HashSet<_> = messages.iter().map(|m| m.readings[0].time).collect();
        prop_assert_eq!(times.len(), messages.len());
    }
}
