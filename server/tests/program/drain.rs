//! `weir drain` from the outside.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Output;
use std::time::Duration;

use rustix::process::Signal;

use crate::world::{World, err, out, run, wait};

/// Writes CONNECT of a client of MQTT 3.1.1 and returns the socket with the code of the CONNACK.
fn connect(world: &World, id: &str) -> (TcpStream, u8) {
    let mut stream = TcpStream::connect(world.address("mqtt")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut packet = vec![0x10, 12 + id.len() as u8];
    packet.extend_from_slice(b"\0\x04MQTT\x04\x02\0\0\0");
    packet.push(id.len() as u8);
    packet.extend_from_slice(id.as_bytes());
    stream.write_all(&packet).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    (stream, answer[3])
}

fn is_closed(stream: &mut TcpStream) -> bool {
    stream.read(&mut [0]).is_ok_and(|read| read == 0)
}

fn drain(world: &World, options: &[&str]) -> Output {
    let data = world.data();
    run(&[&["drain", "--data-dir", data.to_str().unwrap()], options].concat())
}

#[test]
fn an_operator_drains_a_process_and_accepts_connections_again() {
    let world = World::start();
    let mut held: Vec<_> = (0..4).map(|n| connect(&world, &format!("d{n}"))).collect();
    assert!(held.iter().all(|(_, code)| *code == 0));
    let output = drain(&world, &["--status"]);
    assert_eq!(out(&output), "draining    no\nopen        4 connections\n", "{}", err(&output));
    let output = drain(&world, &["--cancel"]);
    assert!(!output.status.success() && err(&output).contains("the process is not draining"), "{}", err(&output));
    let output = drain(&world, &["--rate", "2"]);
    assert!(output.status.success(), "{}", err(&output));
    assert!(
        err(&output).contains("2 a second") && err(&output).contains("All connections are closed"),
        "{}",
        err(&output)
    );
    assert!(held.iter_mut().all(|(stream, _)| is_closed(stream)));
    let (code, body) = world.get("/health/ready");
    assert!(code == 503 && body.contains("it is draining: 0 connections are open"), "{code} {body}");
    assert_eq!(connect(&world, "d0").1, 3, "server unavailable");
    let output = drain(&world, &["--status"]);
    assert!(
        out(&output).contains("draining    yes\n") && out(&output).contains("closed      4 connections"),
        "{}",
        out(&output)
    );
    let metrics = world.get("/metrics").1;
    assert!(metrics.contains("\nweir_broker_draining 1\n"), "{metrics}");
    assert!(metrics.contains("\nweir_broker_disconnects_total{reason=\"moved\"} 4\n"), "{metrics}");
    let output = drain(&world, &["--cancel"]);
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!((world.get("/health/ready").0, connect(&world, "d0").1), (200, 0));
}

#[test]
fn a_drain_ends_in_a_stop_when_the_operator_says_so() {
    let mut world = World::start();
    let (mut held, _) = connect(&world, "d");
    let output = drain(&world, &["--stop"]);
    assert!(output.status.success(), "{}", err(&output));
    assert!(err(&output).contains("the process stops"), "{}", err(&output));
    assert!(is_closed(&mut held));
    assert_eq!(world.ended(), Some(0), "{}", world.log());
    let output = drain(&world, &[]);
    assert!(err(&output).contains("no weir process uses"), "{}", err(&output));
}

#[test]
fn a_process_alone_closes_its_connections_at_once_however_low_the_rate() {
    let mut world =
        World::start_with(&[("WEIR_MQTT_DRAIN_CONNECTIONS_PER_SECOND", "1"), ("WEIR_MQTT_DRAIN_SECS", "600")]);
    let mut held: Vec<_> = (0..30).map(|n| connect(&world, &format!("d{n}")).0).collect();
    world.signal(Signal::TERM);
    assert_eq!(world.ended(), Some(0), "{}", world.log());
    assert!(held.iter_mut().all(is_closed));
}

#[test]
fn only_a_reader_of_the_data_folder_drains_a_process() {
    let world = World::start();
    let ask = |token: &str| {
        let mut stream = TcpStream::connect(world.address("http")).unwrap();
        let body = r#"{"order":"begin","rate":null,"stop":true}"#;
        let head = format!("POST /drain HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{token}");
        write!(stream, "{head}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    for token in ["", "Authorization: Bearer 00\r\n"] {
        let text = ask(token);
        assert!(text.starts_with("HTTP/1.1 403 ") && text.contains("run `weir drain` on this machine"), "{text}");
    }
    wait("it goes on", || if world.get("/health/ready").0 == 200 { Ok(()) } else { Err(String::new()) });
}
