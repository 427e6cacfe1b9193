//! Servers that refuse or are away when Weir starts.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::Signal;

use crate::world::{World, err, out, run_with, wait};

/// An InfluxDB of which a test decides whether it accepts the token.
struct Influx {
    url: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    refuses: AtomicBool,
    lines: AtomicU64,
}

impl Influx {
    fn start(listener: TcpListener, refuses: bool) -> Self {
        let state = Arc::new(State { refuses: refuses.into(), lines: AtomicU64::default() });
        let (url, shared) = (format!("http://{}", listener.local_addr().unwrap()), Arc::clone(&state));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || answer(stream.unwrap(), &state));
            }
        });
        Self { url, state }
    }

    fn refuse(&self, refuses: bool) {
        self.state.refuses.store(refuses, Ordering::SeqCst);
    }
}

/// Answers one request and closes the connection.
fn answer(mut stream: std::net::TcpStream, state: &State) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let (status, text) = match () {
        () if state.refuses.load(Ordering::SeqCst) => {
            ("401 Unauthorized", r#"{"code":"unauthorized","message":"unauthorized access"}"#)
        }
        () if head.starts_with("post /api/v2/write") => {
            // The check writes nothing, which is the shortest body.
            state.lines.fetch_add(u64::from(length > 40), Ordering::SeqCst);
            ("204 No Content", "")
        }
        () if head.starts_with("get /api/v2/buckets") => ("200 OK", r#"{"buckets":[]}"#),
        () => ("200 OK", r#"{"results":[{"statement_id":0}]}"#),
    };
    let length = text.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}").ok()
}

fn environment(url: &str) -> [(&str, &str); 4] {
    [
        ("WEIR_INFLUXDB_URL", url),
        ("WEIR_INFLUXDB_TOKEN", "right"),
        ("WEIR_INFLUXDB_ORG", "plant"),
        ("WEIR_INFLUXDB_BUCKET", "iot"),
    ]
}

/// Waits until readiness, status, doctor and log name the key, while devices can publish.
fn is_paused(world: &World) {
    world.publish(&[("devices/d1/telemetry", r#"{"x":1}"#)]);
    let (code, body) = wait("readiness names the key", || match world.get("/health/ready") {
        (code, body) if body.contains("influxdb.token") => Ok((code, body)),
        other => Err(format!("{other:?}")),
    });
    assert!(code == 200 && body.contains(r#""part":"export influxdb","reason":"paused: "#), "{code} {body}");
    for command in ["status", "doctor"] {
        let mut arguments = vec![command];
        let data = world.data();
        if command == "doctor" {
            arguments.extend(["--data-dir", data.to_str().unwrap()]);
        }
        let text = out(&world.ask(&arguments));
        assert!(text.contains("export influxdb: paused: ") && text.contains("influxdb.token"), "{command}: {text}");
    }
    assert!(world.log().contains("the server refuses this process"), "{}", world.log());
}

/// Waits until the reading is stored and nothing is reported any longer.
fn is_resumed(world: &World, influx: &Influx) {
    influx.refuse(false);
    wait("nothing is paused", || match world.get("/health/ready") {
        (200, body) if body == r#"{"ready":true,"reasons":[]}"# => Ok(()),
        other => Err(format!("{other:?}")),
    });
    wait("the reading is written", || match influx.state.lines.load(Ordering::SeqCst) {
        0 => Err("nothing was written".to_owned()),
        _ => Ok(()),
    });
}

#[test]
fn doctor_names_tls_a_collector_and_the_key_of_each_server() {
    // A fatal TLS alert to everything: handshake_failure.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut greeting = [0; 1024];
            if stream.read(&mut greeting).is_ok_and(|length| length > 0) {
                stream.write_all(&[21, 3, 3, 0, 2, 2, 40]).ok();
            }
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let url = format!("http://127.0.0.1:{port}");
    let (redis, mongodb) = (format!("redis://127.0.0.1:{port}"), format!("mongodb://127.0.0.1:{port}"));
    let mut servers = environment(&url).to_vec();
    servers.extend([
        ("WEIR_TRACING_ENDPOINT", &*url),
        ("WEIR_REDIS_URLS", &*redis),
        ("WEIR_MONGODB_URI", &*mongodb),
        ("WEIR_MONGODB_SERVER_SELECTION_TIMEOUT_MS", "500"),
    ]);
    let output = run_with(&["doctor", "--data-dir", data.to_str().unwrap()], &servers);
    let text = out(&output);
    for (what, key) in [
        ("Redis ", "redis.urls"),
        ("MongoDB ", "mongodb.uri"),
        ("export influxdb ", "influxdb.url"),
        ("tracing ", "`tracing.endpoint`"),
    ] {
        let line = text.lines().find(|line| line.get(6..).is_some_and(|rest| rest.starts_with(what)));
        let line = line.unwrap_or_else(|| panic!("{what} is not in {text}"));
        assert!(line.contains(key) && line.contains("the port speaks TLS"), "{line}");
    }
}

#[test]
fn settings_that_never_worked_end_the_start_with_the_key() {
    let influx = Influx::start(TcpListener::bind("127.0.0.1:0").unwrap(), true);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let arguments = ["run", "--mqtt", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir"];
    let output = run_with(&[&arguments[..], &[data.to_str().unwrap()]].concat(), &environment(&influx.url));
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("influxdb.token") && err(&output).contains("export influxdb"), "{}", err(&output));
}

#[test]
fn a_refusal_after_a_start_that_worked_pauses_only_the_export() {
    let influx = Influx::start(TcpListener::bind("127.0.0.1:0").unwrap(), false);
    let mut world = World::start_with(&environment(&influx.url));
    world.signal(Signal::TERM);
    assert_eq!(world.ended(), Some(0), "{}", world.log());
    influx.refuse(true);
    world.up();
    is_paused(&world);
    is_resumed(&world, &influx);
}

#[test]
fn a_server_that_was_away_at_the_start_and_then_refuses_does_not_end_the_process() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap();
    drop(listener);
    let world = World::start_with(&environment(&format!("http://{place}")));
    wait("readiness names the server", || match world.get("/health/ready") {
        (200, body) if body.contains("export influxdb") && body.contains("influxdb.url") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let influx = Influx::start(TcpListener::bind(place).unwrap(), true);
    is_paused(&world);
    is_resumed(&world, &influx);
}
