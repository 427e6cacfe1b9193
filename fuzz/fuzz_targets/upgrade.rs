//! Requests of HTTP that open a WebSocket: no bytes make the reader panic, every answer is HTTP,
//! and only a request for a WebSocket of MQTT gets one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_broker::Origins;
use weir_broker::fuzzing::answer_request;

fuzz_target!(|input: (bool, &[u8])| {
    let (is_encrypted, head) = input;
    let origins = Origins::new(&["https://app.example.com".to_owned()]);
    let is_accepted = answer_request(head, &origins, is_encrypted);
    let bytes = match &is_accepted {
        Ok(bytes) | Err(bytes) => bytes,
    };
    let answer = std::str::from_utf8(bytes).expect("text");
    let (lines, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(!lines.contains('\0') && lines.lines().skip(1).all(|line| line.contains(": ")), "{lines}");
    if is_accepted.is_err() {
        assert!(lines.starts_with("HTTP/1.1 4"), "{lines}");
        assert!(lines.contains(&format!("content-length: {}\r\n", body.len())), "{answer}");
        return;
    }
    assert!(lines.starts_with("HTTP/1.1 101 ") && body.is_empty(), "{answer}");
    let asked = String::from_utf8_lossy(head).to_ascii_lowercase();
    for word in ["get /mqtt", "upgrade", "websocket", "connection", "sec-websocket-key", "mqtt", "host"] {
        assert!(asked.contains(word), "without {word}: {asked}");
    }
    assert!(head.ends_with(b"\n") && head.len() <= 8 << 10 || head.len() > 8 << 10, "a whole request");
});
