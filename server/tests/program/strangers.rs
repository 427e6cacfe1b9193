//! Clients of the HTTP port, which asks for no credential.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::world::World;

const BOUND: Duration = Duration::from_secs(20);

/// A connection from 127.0.0.`last`.
fn from(last: u8, to: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0))).unwrap();
    connect(&socket, &to).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream
}

fn ask(stream: &mut TcpStream, path: &str) -> std::io::Result<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: weir\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\nok\n") {
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn connections_of_one_host_keep_no_health_check_out() {
    let world = World::start();
    let http = world.address("http");
    let mut held: Vec<TcpStream> = (0..300).map(|_| from(9, http)).collect();
    for stream in &mut held {
        // The head of a request that does not end.
        stream.write_all(b"GET / HTTP/1.1\r\nHost: ").ok();
    }
    for _ in 0..20 {
        let answer = ask(&mut from(2, http), "/health").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(world.get("/health/ready").0, 200, "{}", world.log());
}

#[test]
fn a_connection_may_ask_often_and_the_head_of_a_request_is_bounded() {
    let world = World::start();
    let mut stream = from(1, world.address("http"));
    // More than the bytes of one head.
    let path = format!("/health?{}", "x".repeat(2_000));
    for _ in 0..100 {
        ask(&mut stream, &path).unwrap();
    }
    let mut endless = from(1, world.address("http"));
    endless.write_all(b"GET / HTTP/1.1\r\nHost: weir\r\n").unwrap();
    let mut sent = 0;
    let closed = loop {
        match endless.write_all(&[b'x'; 1_000]) {
            Ok(()) => sent += 1_000,
            Err(error) => break error,
        }
        assert!(sent < 50_000_000, "it is read without end");
    };
    println!("closed after {sent} bytes: {closed}");
    assert_eq!(world.get("/health").0, 200);
}

#[test]
fn requests_of_http_2_are_refused() {
    let world = World::start();
    let mut stream = from(1, world.address("http"));
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    // SETTINGS, then HEADERS of stream 1: GET http /health, :authority weir.
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
    let mut head = vec![0x82, 0x86, 0x04, 7];
    head.extend_from_slice(b"/health");
    head.extend_from_slice(b"\x01\x04weir");
    stream.write_all(&[0, 0, head.len() as u8, 1, 5, 0, 0, 0, 1]).unwrap();
    stream.write_all(&head).unwrap();
    let mut answer = Vec::new();
    let text = b"use HTTP/1.1\n";
    while !answer.windows(text.len()).any(|part| part == text) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
}

#[test]
fn a_backup_without_the_secret_is_refused_before_its_order_is_read() {
    let world = World::start();
    let mut stream = from(1, world.address("http"));
    write!(
        stream,
        "POST /backup HTTP/1.1\r\nHost: weir\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n{{"
    )
    .unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 403", "{}", world.log());
}
