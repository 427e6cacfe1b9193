//! The words of doctor, repair, status and the page, held against planted faults.

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use rustix::process::{Pid, Signal, kill_process};

use crate::world::{World, copy_folder, err, out, run, wait, weir};

/// Flips a bit of the first frame, with whole frames behind it.
fn damage(world: &World) -> std::path::PathBuf {
    let path = world.data().join("log/00000000000000000000.seg");
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 100).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 100).unwrap();
    path
}

#[test]
fn doctor_and_repair_name_the_damage_of_a_log_and_the_books_agree_after_the_repair() {
    let mut world = World::start();
    for n in 0..20 {
        world.publish(&[("devices/d1/telemetry", &format!(r#"{{"n":{n}}}"#)), ("devices/d2/telemetry", "{")]);
    }
    world.signal(Signal::TERM);
    assert_eq!(world.ended(), Some(0), "{}", world.log());
    let data = world.data();
    let data = data.to_str().unwrap();
    let doctor = || {
        let free = ["--mqtt", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        let output = weir().args(["doctor", "--data-dir", data]).args(free).output().unwrap();
        (output.status.code(), out(&output))
    };
    let (code, text) = doctor();
    assert!(code == Some(0) && text.contains("ok    log") && text.contains("ok    store"), "{text}");
    let file = damage(&world);
    let (code, text) = doctor();
    let named = format!("fail  log             the log is damaged: {}, byte 0: ", file.display());
    assert!(code == Some(1) && text.contains(&named) && text.contains("weir repair --data-dir"), "{text}");
    let before = std::fs::read(&file).unwrap();
    let preview = run(&["repair", "--data-dir", data]);
    assert_eq!(preview.status.code(), Some(2));
    for needed in [
        format!("from byte 0 of {}", file.display()),
        // Readings, dead letters and ends of sessions, 20 of each.
        "log loses: 60 (0..60)".to_owned(),
        "Nothing was changed".to_owned(),
    ] {
        assert!(err(&preview).contains(&needed), "{needed} in {}", err(&preview));
    }
    assert_eq!(std::fs::read(&file).unwrap(), before, "without --yes it changes nothing");
    let repair = run(&["repair", "--data-dir", data, "--yes"]);
    assert!(repair.status.success(), "{}", err(&repair));
    world.up();
    world.publish(&[("devices/d1/telemetry", r#"{"n":20}"#)]);
    wait("the books balance", || {
        let output = world.ask(&["books", "--check", "--format", "csv"]);
        let text = out(&output);
        // Every reading that the store had is still in the books.
        let stored = text.contains("history,41,21,0,0,20,true,21,21");
        if output.status.success() && stored { Ok(()) } else { Err(text + &err(&output)) }
    });
    let (code, text) = doctor();
    assert!(code == Some(0) && text.contains("ok    books"), "the same as the books: {text}");
    let status: serde_json::Value = serde_json::from_str(&world.get("/status.json").1).unwrap();
    assert_eq!(status["dead_letters"][0]["payload"], "{", "also from the log under its old id: {status}");
}

#[test]
fn doctor_names_what_a_start_waits_for() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let redis = ("WEIR_REDIS_URLS", "redis://127.0.0.1:1");
    let doctor = || out(&weir().args(["doctor", "--data-dir", data]).envs([redis]).output().unwrap());
    let text = doctor();
    assert!(
        text.contains("warn  Redis           does not respond: ") && text.contains("a start waits for it"),
        "{text}"
    );
    let mut child = weir()
        .args(["run", "--mqtt", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir", data])
        .envs([redis])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait("doctor reports the wait", || {
        let text = doctor();
        let found =
            text.contains("uses the data folder and is not ready: ") && text.contains("Redis: waiting for it: ");
        if found && !text.contains("no weir process") { Ok(()) } else { Err(text) }
    });
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_process_with_a_problem_is_degraded_in_every_place() {
    // Nothing listens there, so that the export retries.
    let world = World::start_with(&[
        ("WEIR_INFLUXDB_URL", "http://127.0.0.1:1"),
        ("WEIR_INFLUXDB_TOKEN", "t"),
        ("WEIR_INFLUXDB_ORG", "o"),
        ("WEIR_INFLUXDB_BUCKET", "b"),
    ]);
    world.publish(&[("devices/d1/telemetry", "1")]);
    let data = world.data();
    let http = world.address("http").to_string();
    wait("all of them say degraded", || {
        let status = world.ask(&["status"]);
        let health = run(&["health", "--http", &http]);
        let (page, ready) = (world.get("/status.json"), world.get("/health/ready"));
        let doctor = out(&run(&["doctor", "--data-dir", data.to_str().unwrap()]));
        let said = [
            out(&status).contains(", degraded, up"),
            status.status.code() == Some(1),
            health.status.success() && out(&health).starts_with("degraded\n"),
            page.1.contains(r#""state":"degraded""#) && page.1.contains(r#""ready":true"#),
            ready.0 == 200 && ready.1.contains(r#""ready":true"#) && ready.1.contains("sink influxdb"),
            doctor.contains("warn  readiness       degraded: sink influxdb: retrying: "),
        ];
        if said == [true; 6] { Ok(()) } else { Err(format!("{said:?} {}{doctor}{page:?}{ready:?}", out(&status))) }
    });
}

#[test]
fn a_dead_letter_of_long_ago_is_on_the_page() {
    let world = World::start();
    world.publish(&[("devices/d1/telemetry", "{")]);
    let messages: Vec<String> = (0..300).map(|n| format!(r#"{{"n":{n}}}"#)).collect();
    let rows: Vec<(&str, &str)> = messages.iter().map(|m| ("devices/d1/telemetry", m.as_str())).collect();
    for _ in 0..3 {
        world.publish(&rows);
    }
    wait("the dead letter is on the page", || {
        let status: serde_json::Value = serde_json::from_str(&world.get("/status.json").1).unwrap();
        if status["dead_letters"][0]["payload"] == "{" { Ok(()) } else { Err(status["dead_letters"].to_string()) }
    });
}

#[test]
fn dead_letters_beyond_the_bound_leave_and_the_books_count_them() {
    let world = World::start_with(&[("WEIR_DEAD_LETTERS_MAX_COUNT", "1000")]);
    let messages: Vec<String> = (0..1_100).map(|n| format!("{{{n}")).collect();
    let rows: Vec<(&str, &str)> = messages.iter().map(|m| ("devices/d1/telemetry", m.as_str())).collect();
    world.publish(&rows);
    let doctor = wait("doctor names the deletion", || {
        let doctor = out(&run(&["doctor", "--data-dir", world.data().to_str().unwrap()]));
        let found = doctor.contains("warn  dead letters    the 150 oldest dead letters were deleted");
        if found { Ok(doctor) } else { Err(doctor) }
    });
    assert!(doctor.contains("ok    books"), "{doctor}");
    let books = world.answer(&["books", "--check", "--format", "csv"]);
    assert!(books.contains("dead_letters,1100,0,0,0,1100,true,1100,1100"), "held and deleted: {books}");
    let metric = "weir_flusher_dead_letters_deleted_total 150";
    assert!(world.get("/metrics").1.contains(metric), "{}", world.get("/metrics").1);
    assert!(world.log().contains("deleted the oldest dead letters"), "{}", world.log());
    let listed = world.answer(&["dead-letters", "list", "--limit", "2000", "--format", "csv"]);
    assert!(listed.contains("{1099") && !listed.contains("{149"), "the oldest are gone");
    let file = world.data().join("small.toml");
    std::fs::write(&file, "[dead_letters]\nmax_count = 5\n").unwrap();
    let refused = run(&["config", "--check", file.to_str().unwrap()]);
    assert!(err(&refused).contains("`dead_letters.max_count` is 5"), "{}", err(&refused));
}

#[test]
fn a_topic_without_a_route_is_logged_once_and_listed_everywhere() {
    let world = World::start();
    world.publish(&[("hall/7/temperature", "21.5"), ("hall/7/temperature", "21.6"), ("devices/d1/telemetry", "1")]);
    let rows = world.answer(&["unrouted", "--format", "csv"]);
    assert!(rows.contains("default,hall/7/temperature,test,2,") && !rows.contains("telemetry"), "{rows}");
    let status = world.answer(&["status"]);
    assert!(status.contains(r#"no route matches 1 topic since the start ("hall/7/temperature")"#), "{status}");
    let doctor = run(&["doctor", "--data-dir", world.data().to_str().unwrap()]);
    assert!(doctor.status.success() && out(&doctor).contains("warn  routes"), "{}", out(&doctor));
    let page: serde_json::Value = serde_json::from_str(&world.get("/status.json").1).unwrap();
    assert_eq!(page["unrouted"][0]["topic"], "hall/7/temperature", "{page}");
    let log = wait("the log", || {
        let log = world.log();
        if log.contains("no route matches this topic") { Ok(log) } else { Err(log) }
    });
    assert_eq!(log.matches("no route matches this topic").count(), 1, "{log}");
}

#[test]
fn a_client_id_that_is_taken_over_again_and_again_is_named_everywhere() {
    let world = World::start();
    let connect = || {
        let mut stream = std::net::TcpStream::connect(world.address("mqtt")).unwrap();
        stream.write_all(b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05twins").unwrap();
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).unwrap();
        assert_eq!(connack, [0x20, 2, 0, 0]);
        stream
    };
    // Each connection takes over the one before.
    let _open: Vec<std::net::TcpStream> = (0..13).map(|_| connect()).collect();
    world.publish(&[("devices/d1/telemetry", "1")]);
    let named = r#""twins", 12 times in a row, from 127.0.0.1"#;
    let status = world.answer(&["status"]);
    assert!(status.contains(named), "{status}");
    let doctor = run(&["doctor", "--data-dir", world.data().to_str().unwrap()]);
    assert!(out(&doctor).contains("warn  clients") && out(&doctor).contains(named), "{}", out(&doctor));
    let page: serde_json::Value = serde_json::from_str(&world.get("/status.json").1).unwrap();
    assert_eq!(page["repeated_takeovers"][0]["client"], "twins", "{page}");
    let log = wait("the log", || {
        let log = world.log();
        if log.matches("take this client id").count() == 2 { Ok(log) } else { Err(log) }
    });
    assert!(log.contains(r#""weir.client":"twins""#) && log.contains(r#""weir.takeovers":10"#), "{log}");
}

#[test]
fn every_line_of_a_json_log_is_json_also_the_first_and_the_fatal_one() {
    let mut world = World::start_with(&[("WEIR_LOGGING_FORMAT", "json")]);
    world.signal(Signal::TERM);
    assert_eq!(world.ended(), Some(0));
    let messages: Vec<String> = world
        .log()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .map(|line| line["message"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert!(messages.iter().any(|message| message.ends_with("is ready.")), "{messages:?}");
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for arguments in [["--mqtt", &address], ["--mqtt", "0.0.0.0:1"], ["--http", "nowhere"]] {
        let output =
            weir().args(["run", "--data-dir", data]).args(arguments).env("WEIR_LOGGING_FORMAT", "json").output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(1));
        let last = err(&output).lines().last().unwrap_or_default().to_owned();
        let line: serde_json::Value = serde_json::from_str(&last).unwrap_or_else(|e| panic!("{e}: {last}"));
        assert_eq!(line["log.level"], "error");
    }
    let file = dir.path().join("weir.toml");
    std::fs::write(&file, "speed = 1\n[logging]\nformat = \"json\"\n").unwrap();
    let output = run(&["run", "--config", file.to_str().unwrap()]);
    let text = err(&output);
    let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert!(line["message"].as_str().unwrap().contains("speed"), "{line}");
}

#[test]
fn without_a_terminal_a_text_log_has_the_plain_welcome_and_defaults_are_no_news() {
    for (format, plain) in [("text", true), ("json", false), ("auto", false)] {
        let world = World::start_with(&[("WEIR_LOGGING_FORMAT", format), ("WEIR_MEMORY_MAX_BYTES", "67108864")]);
        let mqtt = format!("  MQTT   {}", world.address("mqtt"));
        let log = wait("the welcome", || {
            let log = world.log();
            if log.contains(" is ready.") { Ok(log) } else { Err(log) }
        });
        assert_eq!(log.lines().any(|line| line == mqtt), plain, "{format}: {log}");
        assert_eq!(log.lines().any(|line| line.starts_with('{')), !plain, "{format}: {log}");
        assert!(!log.contains("lowered to"), "{log}");
    }
    let set = [("WEIR_MEMORY_MAX_BYTES", "67108864"), ("WEIR_LOG_RING_BYTES", "50000000")];
    let log = World::start_with(&set).log();
    assert!(log.contains("`log.ring_bytes` is 50000000: lowered to "), "{log}");
}

#[test]
fn two_signals_at_once_are_one_request_and_drain() {
    let mut world = World::start();
    world.publish(&[("devices/d1/telemetry", "1")]);
    world.signal(Signal::TERM);
    world.signal(Signal::TERM);
    world.signal(Signal::INT);
    assert_eq!(world.ended(), Some(0), "{}", world.log());
}

/// The drill of docs/guides/backup.md. A stopped process stands for a snapshot of its volume: both
/// show one moment of all files.
#[test]
fn a_snapshot_of_a_running_process_is_restored_with_every_acknowledged_reading() {
    let world = World::start_with(&[("WEIR_HISTORY_FLUSH_INTERVAL_MS", "200")]);
    let publish = |from: usize| {
        let messages: Vec<String> = (from..from + 100).map(|n| format!(r#"{{"n":{n}}}"#)).collect();
        let messages: Vec<(&str, &str)> = messages.iter().map(|m| ("devices/d1/telemetry", m.as_str())).collect();
        world.publish(&messages);
    };
    publish(0);
    wait("some are flushed", || {
        let books = world.answer(&["books", "--format", "csv"]);
        if books.contains("history,100,100,") { Ok(()) } else { Err(books) }
    });
    publish(100);
    let snapshot = tempfile::tempdir().unwrap();
    let copy = snapshot.path().join("data");
    world.signal(Signal::STOP);
    copy_folder(&world.data(), &copy);
    // A start removes it too; before that it names the other process.
    std::fs::remove_file(copy.join("addresses.json")).unwrap();
    world.signal(Signal::CONT);
    publish(200);
    let doctor = run(&["doctor", "--data-dir", copy.to_str().unwrap()]);
    let text = out(&doctor);
    assert!(text.contains("ok    log") && text.contains("ok    store") && !text.contains("fail  log"), "{text}");
    let restored = World::start_on(&copy);
    let rows = restored.answer(&["query", "d1", "--since", "1h", "--format", "json"]);
    assert_eq!(rows.lines().count(), 200, "{rows}");
    wait("the books of the copy balance", || {
        let books = restored.ask(&["books", "--check", "--format", "csv"]);
        let text = out(&books);
        if books.status.success() && text.contains("history,200,200,0,0,0,true,") { Ok(()) } else { Err(text) }
    });
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(world.data()).unwrap());
    assert_eq!(mode & 0o777, 0o700, "the data folder is for its user alone");
    for file in ["weir.lock", "log/log.json", "log/00000000000000000000.seg", "store/meta.redb"] {
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(world.data().join(file)).unwrap());
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn http_refuses_unknown_hosts_and_protects_its_page() {
    use std::io::{Read, Write};
    let world = World::start_with(&[("WEIR_HTTP_HOSTS", "weir.example")]);
    let ask = |path: &str, headers: &str| {
        let mut stream = std::net::TcpStream::connect(world.address("http")).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    for path in ["/", "/status.json", "/metrics", "/health/ready"] {
        assert!(ask(path, "Host: evil.example:8080\r\n").starts_with("HTTP/1.1 421 "), "{path}");
        for host in ["127.0.0.1:8080", "localhost", "weir.example"] {
            assert!(ask(path, &format!("Host: {host}\r\n")).starts_with("HTTP/1.1 200 "), "{path} {host}");
        }
    }
    let page = ask("/", "Host: localhost\r\n").to_ascii_lowercase();
    for header in
        ["content-security-policy: default-src 'none'", "x-content-type-options: nosniff", "x-frame-options: deny"]
    {
        assert!(page.contains(header), "{header} in {page}");
    }
    assert!(!page.contains("<script>") && !page.contains("<style>"), "the policy allows no code in the page");
    let text = ask("/metrics", "Host: localhost\r\nAccept: text/plain\r\n");
    assert!(text.contains("text/plain; version=0.0.4") && !text.contains("# EOF"), "{text}");
    assert!(text.contains("# TYPE weir_ingest_readings_total counter"), "{text}");
}

#[test]
fn formulas_in_csv_are_text() {
    let world = World::start();
    world.publish(&[("devices/d1/telemetry", r#"{"=a":1,"b":"=cmd|x","c":"-5","d":-5}"#)]);
    let rows = world.answer(&["latest", "d1", "--format", "csv"]);
    assert!(rows.contains("'=a") && rows.contains("'=cmd|x"), "{rows}");
    assert!(!rows.contains("'-5"), "a number is no formula: {rows}");
}
