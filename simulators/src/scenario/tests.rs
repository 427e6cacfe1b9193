//! Valid and invalid scenario files.

use super::*;

const GOOD: &str = r#"
name = "good"
duration = "1m"

[[group]]
name = "g"
count = 2
interval = "1s"

[group.values]
t = { model = "counter" }
"#;

#[test]
fn every_shipped_scenario_loads_and_comes_back_from_a_ledgers_header_as_it_was() {
    for (name, _) in SHIPPED {
        let (scenario, _) = load(name).unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!(scenario.name, *name);
        assert!(!scenario.about.is_empty(), "{name} says what it shows");
        let text = serde_json::to_string(&scenario).unwrap();
        assert_eq!(serde_json::from_str::<Scenario>(&text).unwrap(), scenario, "{text}");
    }
}

#[test]
fn a_bad_file_gets_one_line_with_the_key_at_fault() {
    let cases = [
        ("duration = \"1m\"", "duration = \"soon\"", "duration", "length of time"),
        ("count = 2", "count = \"many\"", "count", "invalid type"),
        ("count = 2", "cuont = 2", "cuont", "nearest known one is `count`"),
        ("count = 2", "count = 0", "`count`", "at least 1"),
        ("interval = \"1s\"", "interval = \"0\"", "`interval`", "time between"),
        ("count = 2", "count = 2\njitter = 0.9", "`jitter`", "0 to 0.5"),
        ("count = 2", "count = 2\nqos = 3", "`qos`", "0, 1 or 2"),
        ("count = 2", "count = 2\nid = \"x\"", "`id`", "{n}"),
        ("count = 2", "count = 2\ntopic = \"x\"", "`topic`", "{device}"),
        ("count = 2", "count = 2\nmqtt = \"4\"", "mqtt", "unknown variant"),
        ("\"counter\"", "\"countre\"", "values", "unknown variant"),
        ("t = { model = \"counter\" }", "t = { model = \"flag\", probability = 2.0 }", "values.t", "0 to 1"),
        (
            "t = { model = \"counter\" }",
            "t = { model = \"csv\", file = \"none.csv\", column = \"a\" }",
            "values.t",
            "none.csv",
        ),
        ("[group.values]", "[group.faults]\nlate = 0.5\n[group.values]", "`faults.late`", "`faults.late_by`"),
        (
            "[group.values]",
            "[group.faults]\ndrop_before_ack = 1.5\n[group.values]",
            "`faults.drop_before_ack`",
            "0 to 1",
        ),
        (
            "[group.values]",
            "[group.payload]\ntime = \"none\"\nsequence = false\n[group.values]",
            "`payload.time`",
            "indistinguishable",
        ),
        (
            "[group.values]",
            "[group.payload]\nformat = \"template\"\n[group.values]",
            "`payload.template`",
            "need each other",
        ),
        ("count = 2", "count = 2\nclient = \"rumqttc\"", "`client`", "3.1.1"),
        ("name = \"good\"", "name = \"good", "line 2", "string"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.toml");
    for (from, to, key, what) in cases {
        assert!(GOOD.contains(from), "{from}");
        std::fs::write(&file, GOOD.replacen(from, to, 1)).unwrap();
        let error = format!("{:#}", load(file.to_str().unwrap()).expect_err(to));
        assert!(error.contains(key) && error.contains(what), "{to}\n{error}");
        assert!(error.contains("bad.toml") && !error.contains('\n'), "{error}");
    }
    std::fs::write(&file, GOOD).unwrap();
    load(file.to_str().unwrap()).unwrap();
}

#[test]
fn a_name_that_is_nothing_is_answered_with_the_shipped_ones() {
    let error = load("staedy").unwrap_err().to_string();
    assert!(error.contains("staedy") && error.contains("steady") && error.contains("soak"), "{error}");
}

#[test]
fn ids_that_come_twice_are_refused() {
    let text = GOOD.replace("count = 2", "count = 2\nid = \"x-{n}\"") + &GOOD[GOOD.find("[[group]]").unwrap()..];
    let text = text.replacen("name = \"g\"", "name = \"h\"", 1).replacen("interval = \"1s\"", "interval = \"2s\"", 1);
    let text = text.replace("count = 2\ninterval", "count = 2\nid = \"x-{n}\"\ninterval");
    let error = format!("{:#}", parse(&text).unwrap().check(std::path::Path::new(".")).unwrap_err());
    assert!(error.contains("`id`") && error.contains("x-0"), "{error}");
}

#[test]
fn scaling_shrinks_devices_and_time_and_leaves_intervals() {
    let scenario = parse(shipped("backfill").unwrap()).unwrap().scaled(0.001, 0.5);
    assert_eq!((scenario.groups[0].count, scenario.duration.as_secs()), (1, 45));
    assert_eq!(scenario.groups[0].interval.as_millis(), 500);
    assert!(matches!(scenario.events[0], Event::Offline { lasts, .. } if lasts.as_secs() == 20));
}
