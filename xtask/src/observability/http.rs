//! A minimal HTTP client for servers on this machine.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context;

/// A response.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

impl Answer {
    /// The body as JSON.
    pub(super) fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_str(&self.body).with_context(|| format!("answer {}: {}", self.status, self.body))
    }
}

pub(super) fn get(server: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    send(server, "GET", path, &[], "")
}

pub(super) fn post(server: SocketAddr, path: &str, headers: &[(&str, &str)], body: &str) -> anyhow::Result<Answer> {
    send(server, "POST", path, headers, body)
}

/// HTTP/1.0, so that the response is not chunked and ends with the connection.
fn send(server: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> anyhow::Result<Answer> {
    let mut stream = TcpStream::connect(server).with_context(|| format!("connect to {server}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut head = format!("{method} {path} HTTP/1.0\r\nHost: {server}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    write!(stream, "{head}\r\n{body}")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).with_context(|| format!("read {method} {path} of {server}"))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("{server} answered {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Answer { status: status.with_context(|| format!("{server} answered {head:?}"))?, body: body.to_owned() })
}

/// Encodes a value for a query or a form.
pub(super) fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_a_query_must_not_hold_is_escaped() {
        assert_eq!(super::escaped("rate(a{b=\"ä\"}[5m])"), "rate%28a%7Bb%3D%22%C3%A4%22%7D%5B5m%5D%29");
    }
}
