use std::io::{BufRead, BufReader};
use std::process::Stdio;

use rustix::process::Signal;

use crate::world::{World, err, out, run, wait, weir};

/// A Weir with three readings of d1 in one minute of 2024, one of `hall/2`, and an unreadable
/// message.
fn filled() -> World {
    let world = World::start();
    world.publish(&[
        ("devices/d1/telemetry", r#"{"ts":"2024-05-01T10:00:00Z","seq":1,"temperature":21.5,"on":true}"#),
        ("devices/d1/telemetry", r#"{"ts":"2024-05-01T10:00:20Z","seq":2,"temperature":22.0,"mode":"auto"}"#),
        ("devices/d1/telemetry", r#"{"ts":"2024-05-01T10:00:40Z","seq":3,"temperature":24}"#),
        ("devices/d2/telemetry", r#"{"humidity":40}"#),
        ("devices/d1/telemetry", r#"{"temperature":"#),
    ]);
    world
}

fn json(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn devices_and_latest_show_what_was_just_acknowledged() {
    let world = filled();
    let devices = json(&world.answer(&["devices", "--format", "json"]));
    let names: Vec<&str> = devices.iter().map(|d| d["device"].as_str().unwrap()).collect();
    assert_eq!(names, ["d1", "d2"]);
    assert_eq!(devices[0]["readings"], 3);
    let filtered = json(&world.answer(&["devices", "--filter", "metrics:humidity", "--format", "json"]));
    assert_eq!(filtered.len(), 1);
    assert_eq!(json(&world.answer(&["devices", "--limit", "1", "--format", "json"])).len(), 1);

    let latest = world.answer(&["latest", "d1", "--format", "csv"]);
    let lines: Vec<&str> = latest.lines().collect();
    assert_eq!(lines[0], "device,metric,value,time,received,seq");
    assert!(lines[1].starts_with("d1,mode,auto,2024-05-01T10:00:20Z,"), "{latest}");
    assert!(lines[3].starts_with("d1,temperature,24,2024-05-01T10:00:40Z,"), "an integer stays one: {latest}");
    let missing = world.ask(&["latest", "unknown"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(err(&missing).contains("unknown") && err(&missing).contains("weir devices"), "{}", err(&missing));
}

#[test]
fn query_prints_rows_in_three_forms() {
    let world = filled();
    let rows = json(&world.answer(&["query", "d1", "--since", "2024-05-01", "--format", "json"]));
    let times: Vec<&str> = rows.iter().map(|r| r["time"].as_str().unwrap()).collect();
    assert_eq!(times, ["2024-05-01T10:00:00Z", "2024-05-01T10:00:20Z", "2024-05-01T10:00:40Z"]);
    assert_eq!(rows[0]["values"].to_string(), r#"{"on":true,"temperature":21.5}"#);
    assert_eq!(rows[1]["values"]["temperature"].to_string(), "22.0", "a float stays one");
    assert_eq!(rows[2]["seq"], 3);

    let csv = world.answer(&["query", "d1", "--format", "csv", "--metrics", "temp*,mode"]);
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[0], "device,time,received,seq,mode,temperature");
    assert!(lines[2].starts_with("d1,2024-05-01T10:00:20Z,") && lines[2].ends_with(",2,auto,22.0"), "{csv}");

    let newest = json(&world.answer(&["query", "d1", "--limit", "1", "--desc", "--format", "json"]));
    assert_eq!((newest.len(), &newest[0]["seq"]), (1, &3.into()));
    let range =
        ["query", "d1", "--since", "2024-05-01T10:00:20Z", "--until", "2024-05-01T10:00:40Z", "--format", "json"];
    assert_eq!(json(&world.answer(&range)).len(), 1, "the end is not inside");
    let table = world.answer(&["query", "d1", "d2"]);
    assert!(table.starts_with("device") && table.lines().count() == 5, "{table}");
    let backwards = world.ask(&["query", "d1", "--since", "1h", "--until", "2h"]);
    assert!(err(&backwards).contains("is not before --until"), "{}", err(&backwards));
}

#[test]
fn a_device_that_never_sent_is_an_error_and_an_empty_range_is_said() {
    let world = filled();
    let file = tempfile::tempdir().unwrap();
    let file = file.path().join("out.csv");
    let file = file.to_str().unwrap();
    for command in [
        &["query", "d1", "unknown"][..],
        &["query", "unknown", "--format", "json"],
        &["query", "d1", "unknown", "--since", "2024-01-01", "--aggregate", "count", "--every", "1d"],
        &["latest", "unknown"],
        &["export", "d1", "unknown", "--output", file],
    ] {
        let output = world.ask(command);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {}", err(&output));
        let said = err(&output);
        assert!(said.contains("no reading was ever accepted from unknown: ") && !said.contains("d1"), "{said}");
    }
    for command in [
        &["query", "d1", "--until", "2001-01-01"][..],
        &["query", "d1", "--metrics", "none"],
        &["query", "d1", "--since", "1m", "--aggregate", "count", "--every", "10s"],
    ] {
        let output = world.ask(command);
        assert!(output.status.success(), "{command:?}: {}", err(&output));
        assert!(err(&output).contains("d1: no reading"), "{command:?}: {}", err(&output));
    }
}

#[test]
fn query_prints_aggregates() {
    let world = filled();
    let text = world.answer(&[
        "query",
        "d1",
        "--since",
        "2024-05-01T10:00:00Z",
        "--until",
        "2024-05-01T10:02:00Z",
        "--metrics",
        "temperature",
        "--every",
        "1m",
        "--aggregate",
        "count,mean,max,p50",
        "--fill",
        "null",
        "--format",
        "json",
    ]);
    let rows = json(&text);
    assert_eq!(rows.len(), 2, "{text}");
    assert_eq!(rows[0]["start"], "2024-05-01T10:00:00Z");
    assert_eq!(rows[0]["end"], "2024-05-01T10:01:00Z");
    assert_eq!(rows[0]["count"], 3);
    assert_eq!(rows[0]["mean"], 22.5);
    assert_eq!(rows[0]["p50"], 22.0);
    assert!(rows[1].get("mean").is_none(), "an empty bucket: {text}");
    let wrong = world.ask(&["query", "d1", "--aggregate", "average"]);
    assert!(err(&wrong).contains("time-weighted-mean"), "{}", err(&wrong));
}

#[test]
fn tail_follows_and_resumes_at_its_token() {
    let world = filled();
    let mut tail = weir()
        .args(["tail", "d*", "--since", "1h", "--format", "json", "--server", &world.url()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let seen: Vec<String> = lines.by_ref().take(4).map(Result::unwrap).collect();
    assert!(seen[0].contains("21.5") && seen[3].contains("humidity"), "{seen:?}");
    world.publish(&[("devices/d3/telemetry", "7")]);
    assert!(lines.next().unwrap().unwrap().contains(r#""values":{"value":7}"#));
    rustix::process::kill_process(rustix::process::Pid::from_child(&tail), rustix::process::Signal::INT).unwrap();
    let output = tail.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", err(&output));
    let said = err(&output);
    let token = said.trim().rsplit(' ').next().unwrap();

    world.publish(&[("devices/d3/telemetry", "8")]);
    let next = world.answer(&["tail", "d*", "--resume", token, "--limit", "1", "--format", "csv"]);
    assert!(next.lines().nth(1).unwrap().ends_with(",value,8"), "{next}");
}

#[test]
fn dead_letters_are_listed_shown_and_not_replayed_while_they_are_still_wrong() {
    let world = filled();
    let list = wait("the dead letter is listed", || {
        let list = json(&world.answer(&["dead-letters", "--format", "json"]));
        if list.len() == 1 { Ok(list) } else { Err(format!("{list:?}")) }
    });
    assert_eq!(list[0]["topic"], "devices/d1/telemetry");
    assert_eq!(list[0]["stage"], "ingest");
    let name = list[0]["letter"].as_str().unwrap();
    let shown = world.answer(&["dead-letters", "show", name]);
    assert!(shown.contains("15 bytes") && shown.contains("{\"temperature\":\n"), "{shown}");
    let replayed = world.ask(&["dead-letters", "replay", name]);
    assert_eq!(replayed.status.code(), Some(1));
    assert!(
        err(&replayed).contains("0 dead letters replayed") && out(&replayed).contains(name),
        "{}{}",
        out(&replayed),
        err(&replayed)
    );
    assert!(world.ask(&["dead-letters", "show", "no:1:ingest"]).status.code() == Some(1));
}

#[test]
fn books_status_and_doctor_report_no_problems() {
    let world = filled();
    let books = world.answer(&["books", "--check"]);
    assert!(books.contains("history") && !books.contains("false"), "{books}");
    let status = wait("five messages and the end of their session are in the log", || {
        let status = json(&world.answer(&["status", "--format", "json"]));
        if status[0]["logs"][0]["end_offset"] == 6 { Ok(status) } else { Err(status[0].to_string()) }
    });
    assert_eq!(status[0]["ready"], true);
    assert!(world.answer(&["status"]).contains("ready, up"));
    let data = world.data();
    let doctor = run(&["doctor", "--data-dir", data.to_str().unwrap()]);
    assert!(doctor.status.success(), "{}", out(&doctor));
    for line in ["ok    server", "ok    readiness", "ok    books", "ok    process"] {
        assert!(out(&doctor).contains(line), "{line} in {}", out(&doctor));
    }
}

#[test]
fn export_writes_parquet_with_types_and_csv() {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;
    let world = filled();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.parquet");
    world.answer(&["export", "d1", "--output", file.to_str().unwrap()]);
    let reader = SerializedFileReader::new(std::fs::File::open(&file).unwrap()).unwrap();
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let columns: Vec<String> = schema.columns().iter().map(|c| c.name().to_owned()).collect();
    assert_eq!(columns, ["device", "time", "received", "seq", "mode", "on", "temperature", "temperature_int"]);
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0].get_string(0).unwrap(), "d1");
    assert!(rows[0].get_bool(5).unwrap());
    assert!((rows[1].get_double(6).unwrap() - 22.0).abs() < f64::EPSILON);
    assert_eq!(rows[2].get_long(7).unwrap(), 24);

    let file = dir.path().join("out.csv");
    world.answer(&["export", "--output", file.to_str().unwrap()]);
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().next(), Some("device,time,received,seq,humidity,mode,on,temperature"));
    assert_eq!(text.lines().count(), 5, "{text}");
    let wrong = world.ask(&["export", "d1", "--output", "out.xlsx"]);
    assert!(err(&wrong).contains(".parquet or .csv"), "{}", err(&wrong));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left behind");
}

#[test]
fn no_server_is_an_error_that_says_how_to_start_one() {
    let output = run(&["latest", "d1", "--server", "http://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        err(&output),
        "weir: no server answers at http://127.0.0.1:1: start one with `weir run`, or name another with --server URL\n"
    );
    let output = run(&["latest", "d1", "--server", "::"]);
    assert!(err(&output).contains("cannot parse --server \"::\" as a URL"), "{}", err(&output));
}

#[test]
fn an_installation_without_exports_says_so_and_a_wrong_time_is_an_error() {
    let world = World::start();
    let listed = world.ask(&["exports"]);
    assert!(listed.status.success(), "{}", err(&listed));
    assert!(err(&listed).contains("[[export]]"), "{}", err(&listed));
    assert_eq!(world.answer(&["exports", "--format", "json"]), "");
    let unknown = world.ask(&["exports", "pause", "events"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(err(&unknown).contains("there is no export `events`"), "{}", err(&unknown));
    let wrong = world.ask(&["exports", "rewind", "events", "--to", "yesterday"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(err(&wrong).contains("cannot parse \"yesterday\" as a time: use a duration ago"), "{}", err(&wrong));
}

#[test]
fn an_export_is_paused_across_a_restart_resumed_and_rewound() {
    let away = [
        ("WEIR_INFLUXDB_URL", "http://127.0.0.1:1"),
        ("WEIR_INFLUXDB_TOKEN", "token"),
        ("WEIR_INFLUXDB_ORG", "org"),
        ("WEIR_INFLUXDB_BUCKET", "bucket"),
    ];
    let mut world = World::start_with(&away);
    world.publish(&[("devices/d1/telemetry", r#"{"temperature":21.5}"#)]);
    let state = |world: &World| json(&world.answer(&["exports", "--format", "json"])).remove(0);
    let listed = wait("the export retries", || match state(&world) {
        // The reading, and the end of the session that sent it.
        export if export["state"] == "retrying" && export["lag_records"] == 2 => Ok(export),
        export => Err(export.to_string()),
    });
    assert_eq!((&listed["export"], &listed["type"]), (&"influxdb".into(), &"influxdb".into()));
    assert_eq!(listed["logs"][0]["done_offset"], 0);

    let paused = world.answer(&["exports", "pause", "influxdb"]);
    assert!(paused.starts_with("export") && paused.contains("paused"), "{paused}");
    world.signal(Signal::TERM);
    world.ended();
    world.up();
    assert_eq!(state(&world)["state"], "paused");
    let doctor = out(&run(&["doctor", "--data-dir", world.data().to_str().unwrap()]));
    assert!(doctor.contains("weir exports resume influxdb"), "{doctor}");

    let resumed = world.answer(&["exports", "resume", "influxdb"]);
    assert!(!resumed.contains("paused"), "{resumed}");
    let rewound = world.ask(&["exports", "rewind", "influxdb", "--to", "1h"]);
    assert!(rewound.status.success() && err(&rewound).contains("influxdb delivers again from"), "{}", err(&rewound));
    let unknown = world.ask(&["exports", "pause", "kafka"]);
    assert!(err(&unknown).contains("there is no export `kafka`: use one of `influxdb`"), "{}", err(&unknown));
}
