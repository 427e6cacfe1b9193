use rustix::process::Signal;

use crate::world::{World, err, get, out, run, wait, weir};

#[test]
fn the_start_prints_addresses_and_the_next_commands() {
    let world = World::start();
    let log = wait("the welcome", || {
        let log = world.log();
        if log.contains("Read back") { Ok(log) } else { Err(log) }
    });
    for needed in [
        "is ready",
        &world.address("mqtt").to_string(),
        &world.address("grpc").to_string(),
        "mosquitto_pub -p",
        "weir latest d1",
    ] {
        assert!(log.contains(needed), "{needed} in {log}");
    }
}

#[test]
fn an_orderly_stop_loses_no_acknowledged_reading_and_exits_with_success() {
    let mut world = World::start();
    let messages: Vec<String> = (0..200).map(|n| format!(r#"{{"n":{n}}}"#)).collect();
    let messages: Vec<(&str, &str)> = messages.iter().map(|m| ("devices/d1/telemetry", m.as_str())).collect();
    world.publish(&messages);
    world.signal(Signal::TERM);
    assert_eq!(world.ended(), Some(0), "{}", world.log());
    assert!(!world.data().join("addresses.json").exists(), "no listener remains");
    world.up();
    let rows = world.answer(&["query", "d1", "--format", "json"]);
    assert_eq!(rows.lines().count(), 200, "{rows}");
    let books = world.answer(&["books", "--check", "--format", "csv"]);
    assert!(books.contains("history,200,200,0,0,0,true,200,200"), "stored by the last flush: {books}");
}

#[test]
fn a_load_balancer_has_time_to_notice_a_stop_while_devices_can_publish() {
    let mut world = World::start_with(&[("WEIR_SHUTDOWN_DELAY_MS", "600000")]);
    let http = world.address("http").to_string();
    let health = || run(&["health", "--http", &http]);
    let output = health();
    assert!(output.status.success() && out(&output) == "ready\n", "{}{}", out(&output), err(&output));
    world.signal(Signal::TERM);
    wait("it is no longer ready", || match world.get("/health/ready") {
        (503, body) if body.contains("it is stopping") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let output = health();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(out(&output), "not ready\n  weir: it is stopping\n");
    world.publish(&[("devices/d1/telemetry", "1")]);
    wait("the second request does not wait", || {
        world.signal(Signal::TERM);
        if world.has_ended() { Ok(()) } else { Err(world.log()) }
    });
    assert_eq!(world.ended(), Some(1), "the second signal does not wait: {}", world.log());
    let mut world = World::start_with(&[("WEIR_SHUTDOWN_DELAY_MS", "20")]);
    world.signal(Signal::TERM);
    assert_eq!(world.ended(), Some(0), "{}", world.log());
    let output = health();
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains(&format!("no weir process answers at {http}")), "{}", err(&output));
}

#[test]
fn a_wait_for_a_server_is_reported_over_http_and_can_be_stopped() {
    waits_for_redis(&["run", "--roles", "flusher"], &[("WEIR_MONGODB_URI", "mongodb://127.0.0.1:1")]);
    waits_for_redis(&["run", "--mqtt", "127.0.0.1:0", "--grpc", "127.0.0.1:0"], &[]);
}

fn waits_for_redis(arguments: &[&str], environment: &[(&str, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    let http = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut child = weir()
        .args(arguments)
        .args(["--http", &http.to_string(), "--data-dir"])
        .arg(dir.path().join("data"))
        .envs(environment.iter().copied())
        .envs([("WEIR_REDIS_URLS", "redis://127.0.0.1:1"), ("WEIR_FLEET_ADDRESS", "127.0.0.1:0")])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait("it says what it waits for", || {
        let output = run(&["health", "--http", &http.to_string()]);
        let text = out(&output);
        let said = text.starts_with("not ready\n  weir: it is starting\n  Redis: waiting for it: ")
            && text.contains("127.0.0.1:1");
        if said && output.status.code() == Some(1) { Ok(()) } else { Err(format!("{text}{}", err(&output))) }
    });
    // Not even while it starts.
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::HUP).unwrap();
    assert_eq!(get(http, "/health"), (200, "ok\n".to_owned()), "liveness is not affected");
    let (code, metrics) = get(http, "/metrics");
    assert!(code == 200 && metrics.contains("\nweir_uptime_seconds ") && metrics.ends_with("# EOF\n"), "{metrics}");
    let (code, status) = get(http, "/status.json");
    assert!(code == 503 && status.contains("Redis"), "{status}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_hangup_reads_files_again_and_never_ends_it() {
    let mut world = World::start();
    for _ in 0..3 {
        world.signal(Signal::HUP);
        wait("it is named", || {
            let log = world.log();
            if log.contains("SIGHUP: certificates and peppers that changed are read again") { Ok(()) } else { Err(log) }
        });
    }
    world.publish(&[("devices/d1/telemetry", "1")]);
    assert!(!world.has_ended(), "{}", world.log());
    world.signal(Signal::TERM);
    assert_eq!(world.ended(), Some(0), "{}", world.log());
}

#[test]
fn an_interrupt_stops_it_too() {
    let mut world = World::start();
    world.signal(Signal::INT);
    assert_eq!(world.ended(), Some(0), "{}", world.log());
}

#[test]
fn a_second_process_on_the_same_data_names_the_first() {
    let world = World::start();
    let data = world.data();
    let output = run(&[
        "run",
        "--mqtt",
        "127.0.0.1:0",
        "--grpc",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
        "--data-dir",
        data.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    let text = err(&output);
    assert!(text.contains("is in use by another weir (process ") && text.contains("--data-dir"), "{text}");
    assert_eq!(world.get("/health/ready").0, 200, "the first is not disturbed");
    assert!(data.join("addresses.json").exists());
}

#[test]
fn a_port_in_use_is_reported_with_its_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["run", "--mqtt", &address, "--data-dir", dir.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let text = err(&output);
    assert!(text.contains(&format!("cannot listen on {address}")) && text.contains("--mqtt"), "{text}");
}

#[test]
fn health_metrics_and_the_page_answer() {
    let world = World::start();
    world.publish(&[("devices/d1/telemetry", "{\"t\":1}"), ("devices/d1/telemetry", "{")]);
    assert_eq!(world.get("/health"), (200, "ok\n".to_owned()));
    assert_eq!(world.get("/health/live").0, 200);
    assert_eq!(world.get("/health/ready"), (200, r#"{"ready":true,"reasons":[]}"#.to_owned()));
    assert_eq!(world.get("/nothing").0, 404);
    let (code, metrics) = world.get("/metrics");
    assert_eq!(code, 200);
    for line in
        ["weir_broker_publishes_total 2", "weir_ingest_readings_total 1", "process_resident_memory_bytes ", "# EOF"]
    {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    let (code, page) = world.get("/");
    assert_eq!(code, 200);
    assert!(page.contains("/status.json") && !page.contains("//cdn"), "self-contained");
    wait("the dead letter on the page", || {
        let status: serde_json::Value = serde_json::from_str(&world.get("/status.json").1).unwrap();
        assert_eq!(status["totals"]["messages"], 2);
        assert!(status["books"].as_array().unwrap().iter().all(|line| line["balanced"] == true), "{status}");
        if status["dead_letters"][0]["payload"] == "{" { Ok(()) } else { Err(status.to_string()) }
    });
}

#[test]
fn without_a_command_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut child = weir()
        .args(["--mqtt", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir"])
        .arg(&data)
        .env("WEIR_LOG_SEGMENT_BYTES", "1048576")
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait("it listens", || std::fs::metadata(data.join("addresses.json")).map_err(|e| e.to_string()));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn repair_asks_first_and_leaves_a_whole_log_alone() {
    let mut world = World::start();
    world.publish(&[("devices/d1/telemetry", "1")]);
    let data = world.data();
    let data = data.to_str().unwrap();
    let output = run(&["repair", "--data-dir", data, "--yes"]);
    assert_eq!(output.status.code(), Some(1), "a running one is not repaired");
    assert!(err(&output).contains("in use"), "{}", err(&output));
    world.signal(Signal::TERM);
    world.ended();
    assert_eq!(run(&["repair", "--data-dir", data]).status.code(), Some(2));
    let output = run(&["repair", "--data-dir", data, "--yes"]);
    assert!(output.status.success() && err(&output).contains("is undamaged"), "{}{}", out(&output), err(&output));
    world.up();
    let latest = wait("the latest states are loaded", || {
        let output = world.ask(&["latest", "d1"]);
        if output.status.success() { Ok(out(&output)) } else { Err(err(&output)) }
    });
    assert!(latest.contains("value"), "{latest}");
}

#[test]
fn log_lines_are_objects_with_the_names_of_the_elastic_common_schema() {
    let mut world = World::start_with(&[("WEIR_LOGGING_FORMAT", "json")]);
    world.signal(Signal::TERM);
    assert_eq!(world.ended(), Some(0), "{}", world.log());
    let log = world.log();
    let lines: Vec<serde_json::Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(lines.len() >= 2, "{log}");
    for line in lines {
        for name in ["@timestamp", "log.level", "log.logger", "message", "ecs.version", "service.name"] {
            assert!(line.get(name).is_some_and(serde_json::Value::is_string), "{name} in {line}");
        }
    }
}
