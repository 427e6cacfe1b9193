use crate::world::{err, out, run, weir};

#[test]
fn an_unknown_key_ends_the_start_with_its_place_and_a_suggestion() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("my.toml");
    std::fs::write(&file, "[mqtt]\nadress = \"127.0.0.1:0\"\n").unwrap();
    let output = run(&["run", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let wanted = format!("weir: {}:2: unknown key `mqtt.adress`; did you mean `mqtt.address`?\n", file.display());
    assert_eq!(err(&output), wanted);
}

#[test]
fn a_faulty_route_is_named_by_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("my.toml");
    std::fs::write(&file, "[[route]]\ntopic = \"a/{device}\"\n\n[[route]]\ntopic = \"b/#/c\"\n").unwrap();
    let output = run(&["config", "--check", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("route 2, key `topic`"), "{}", err(&output));
    std::fs::write(&file, "[[route]]\ntopik = \"a/{device}\"\n").unwrap();
    let output = run(&["config", "--check", file.to_str().unwrap()]);
    assert!(err(&output).contains(":2: unknown key `topik` of a route; did you mean `topic`?"), "{}", err(&output));
}

#[test]
fn an_address_that_others_can_reach_is_refused_without_insecure() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let output = run(&["run", "--mqtt", "0.0.0.0:0", "--data-dir", data.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("--insecure"), "{}", err(&output));
    assert!(!data.exists(), "nothing was made");
}

#[test]
fn a_wrong_flag_is_a_usage_error() {
    assert_eq!(run(&["query"]).status.code(), Some(2));
    assert_eq!(run(&["--colour"]).status.code(), Some(2));
    assert_eq!(run(&["latest", "d1", "--format", "xml"]).status.code(), Some(2));
}

#[test]
fn a_variable_with_a_wrong_value_is_named() {
    let output = weir().arg("run").env("WEIR_LOG_SEGMENT_BYTES", "much").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("environment variable WEIR_LOG_SEGMENT_BYTES"), "{}", err(&output));
}

#[test]
fn map_shows_what_a_payload_becomes() {
    let payload = r#"{"temperature":21.5,"on":true,"n":3}"#;
    let output = run(&["map", "--topic", "devices/d1/telemetry", "--payload", payload, "--format", "json"]);
    assert!(output.status.success(), "{}", err(&output));
    let rows: Vec<serde_json::Value> = out(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<String> = rows.iter().map(|r| format!("{} {} {}", r["name"], r["type"], r["value"])).collect();
    assert_eq!(seen, [r#""temperature" "float" 21.5"#, r#""on" "boolean" true"#, r#""n" "integer" 3"#]);
    let output = run(&["map", "--topic", "devices/d1/telemetry", "--payload", "{\"temperature\":"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).starts_with("a dead letter: "), "{}", err(&output));
    let output = run(&["map", "--topic", "other", "--payload", "1"]);
    assert!(err(&output).starts_with("no route matches this topic"), "{}", err(&output));
}

#[test]
fn a_closed_pipe_is_not_a_failure() {
    let mut child =
        weir().arg("config").stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), err(&output)), (Some(0), String::new()));
}
