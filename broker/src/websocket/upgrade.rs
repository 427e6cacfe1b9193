//! The request of HTTP that opens a WebSocket (RFC 6455, section 4.2), and its answer.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use httparse::{EMPTY_HEADER, Request, Status};
use sha1::{Digest, Sha1};

/// The path of MQTT.
const PATH: &str = "/mqtt";
/// Bytes of a request, with its cookies.
pub(super) const HEAD_BYTES: usize = 8 << 10;
const HEADERS: usize = 64;
/// Sub-protocols, the preferred one first.
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];
/// Added to the key of the client (RFC 6455, section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The pages of browsers that may connect, by their origin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Allows these, as `https://app.example.com`; `*` stands for every page. A page of the
    /// listener's own host needs no entry, if the host is an address or a name without a dot, or
    /// the connection is encrypted: then no other site can have a name that leads here.
    pub fn new(origins: &[String]) -> Self {
        Self(origins.iter().map(|origin| origin.trim_end_matches('/').to_lowercase()).collect())
    }

    fn allow(&self, origin: &str, host: &str, is_encrypted: bool) -> bool {
        let origin = origin.to_lowercase();
        let own = origin.split_once("://").is_some_and(|(_, authority)| authority == host.to_lowercase());
        own && (is_encrypted || is_bare(host)) || self.0.iter().any(|allowed| allowed == "*" || *allowed == origin)
    }
}

/// True for a host that is an address, or a name that is not of the internet.
fn is_bare(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[') {
        return address.split_once(']').is_some_and(|(address, _)| address.parse::<IpAddr>().is_ok());
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.parse::<IpAddr>().is_ok() || !name.trim_end_matches('.').contains('.')
}

/// A request that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    status: &'static str,
    /// A header of the answer, with its end of line.
    header: &'static str,
    /// For the user of the client, and the log.
    pub(super) what: &'static str,
}

const fn refused(status: &'static str, what: &'static str) -> Refused {
    Refused { status, header: "", what }
}

pub(super) const TOO_LONG: Refused =
    refused("431 Request Header Fields Too Large", "the request is longer than 8 KiB, or has more than 64 headers");
const MALFORMED: Refused = refused("400 Bad Request", "the request is not HTTP/1.1");
const UPGRADE: Refused = Refused {
    status: "426 Upgrade Required",
    header: "upgrade: websocket\r\nsec-websocket-version: 13\r\n",
    what: "this is MQTT over WebSocket (version 13): connect with ws:// or wss://",
};

impl Refused {
    pub(super) fn answer(&self) -> Vec<u8> {
        let Self { status, header, what } = self;
        let length = what.len() + 1;
        format!(
            "HTTP/1.1 {status}\r\n{header}content-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n\
             {what}\n"
        )
        .into_bytes()
    }
}

/// Reads a whole request, which ends with an empty line. Returns the answer.
pub(super) fn answer(head: &[u8], origins: &Origins, is_encrypted: bool) -> Result<Vec<u8>, Refused> {
    let mut headers = [EMPTY_HEADER; HEADERS];
    let mut request = Request::new(&mut headers);
    match request.parse(head) {
        Ok(Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(TOO_LONG),
        _ => return Err(MALFORMED),
    }
    let (Some(method), Some(target), Some(1)) = (request.method, request.path, request.version) else {
        return Err(MALFORMED);
    };
    if target.split('?').next() != Some(PATH) {
        return Err(refused("404 Not Found", "MQTT over WebSocket is at /mqtt"));
    }
    if method != "GET" {
        return Err(Refused { header: "allow: GET\r\n", ..refused("405 Method Not Allowed", "use GET") });
    }
    let fields = Fields(request.headers);
    let host = fields.one("host")?.ok_or(refused("400 Bad Request", "the request has no host"))?;
    if fields.one("content-length")?.is_some_and(|length| length != "0") || fields.one("transfer-encoding")?.is_some() {
        return Err(refused("400 Bad Request", "the request has a body"));
    }
    let is_version_13 = fields.one("sec-websocket-version")? == Some("13");
    if !fields.has_token("upgrade", "websocket") || !fields.has_token("connection", "upgrade") || !is_version_13 {
        return Err(UPGRADE);
    }
    let key = fields.one("sec-websocket-key")?.unwrap_or_default();
    if !STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16) {
        return Err(refused("400 Bad Request", "sec-websocket-key is not the base64 of 16 bytes"));
    }
    if let Some(origin) = fields.one("origin")?
        && !origins.allow(origin, host, is_encrypted)
    {
        return Err(refused("403 Forbidden", "the page that connects is not among the `origins` of the listener"));
    }
    let offered: Vec<&str> = fields.tokens("sec-websocket-protocol").collect();
    let Some(protocol) = PROTOCOLS.iter().find(|protocol| offered.contains(protocol)) else {
        return Err(refused("400 Bad Request", "the client does not offer the sub-protocol mqtt"));
    };
    let accept = STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n\
         sec-websocket-protocol: {protocol}\r\n\r\n"
    );
    Ok(answer.into_bytes())
}

/// The headers of a request.
struct Fields<'a, 'b>(&'a [httparse::Header<'b>]);

impl<'b> Fields<'_, 'b> {
    fn all(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    /// The value of a header that may be there once.
    fn one(&self, name: &str) -> Result<Option<&'b str>, Refused> {
        let mut all = self.all(name);
        let Some(value) = all.next() else { return Ok(None) };
        let value = std::str::from_utf8(value).map_err(|_| MALFORMED)?;
        if all.next().is_some() { Err(refused("400 Bad Request", "a header is there twice")) } else { Ok(Some(value)) }
    }

    /// The values of a list, which may be in several headers.
    fn tokens(&self, name: &str) -> impl Iterator<Item = &'b str> {
        let texts = self.all(name).filter_map(|value| std::str::from_utf8(value).ok());
        texts.flat_map(|text| text.split(',')).map(str::trim)
    }

    fn has_token(&self, name: &str, token: &str) -> bool {
        self.tokens(name).any(|found| found.eq_ignore_ascii_case(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1:9001\r\nUpgrade: websocket\r\nConnection: keep-alive, \
                           Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Extensions: permessage-deflate\r\n";

    fn ask(request: &str, allowed: &[&str], is_encrypted: bool) -> Result<String, Refused> {
        let allowed: Vec<String> = allowed.iter().map(|origin| (*origin).to_owned()).collect();
        let answer = answer(format!("{request}\r\n").as_bytes(), &Origins::new(&allowed), is_encrypted);
        answer.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_request_is_answered_with_the_key_the_protocol_and_no_extension() {
        let answer = ask(REQUEST, &[], false).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        // The example of the RFC.
        assert!(answer.contains("\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
        assert!(answer.contains("\r\nsec-websocket-protocol: mqtt\r\n") && !answer.contains("extensions"), "{answer}");
        let old = ask(&REQUEST.replace("Protocol: mqtt\r\n", "Protocol: amqp, mqttv3.1\r\n"), &[], false).unwrap();
        assert!(old.contains("\r\nsec-websocket-protocol: mqttv3.1\r\n"), "{old}");
        let both = "Protocol: mqttv3.1\r\nSec-WebSocket-Protocol: mqtt\r\n";
        let both = ask(&REQUEST.replace("Protocol: mqtt\r\n", both), &[], false).unwrap();
        assert!(both.contains("\r\nsec-websocket-protocol: mqtt\r\n"), "{both}");
        ask(&REQUEST.replace("/mqtt HTTP", "/mqtt?token=x HTTP"), &[], false).unwrap();
    }

    #[test]
    fn requests_that_break_the_rules_are_refused_with_their_status() {
        for (from, to, status) in [
            ("GET /mqtt", "GET /", "404"),
            ("GET /mqtt", "GET /mqtt/", "404"),
            ("GET /mqtt", "POST /mqtt", "405"),
            ("HTTP/1.1", "HTTP/1.0", "400"),
            ("Host: 127.0.0.1:9001\r\n", "", "400"),
            ("Host: 127.0.0.1:9001\r\n", "Host: a\r\nHost: b\r\n", "400"),
            ("Upgrade: websocket", "Upgrade: h2c", "426"),
            ("Connection: keep-alive, Upgrade", "Connection: keep-alive", "426"),
            ("Version: 13", "Version: 8", "426"),
            ("Sec-WebSocket-Version: 13\r\n", "", "426"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ==", "400"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "!", "400"),
            ("Sec-WebSocket-Protocol: mqtt\r\n", "", "400"),
            ("Sec-WebSocket-Protocol: mqtt\r\n", "Sec-WebSocket-Protocol: MQTT\r\n", "400"),
            ("Host:", "Content-Length: 1\r\nHost:", "400"),
            ("Host:", "Transfer-Encoding: chunked\r\nHost:", "400"),
            ("Host:", "Origin: https://example.com\r\nHost:", "403"),
            ("Host:", "Origin: null\r\nHost:", "403"),
            ("Host:", "Origin: http://127.0.0.1:8080\r\nHost:", "403"),
            ("Host:", "a b\r\nHost:", "400"),
        ] {
            let request = REQUEST.replacen(from, to, 1);
            assert_ne!(request, REQUEST, "{from}");
            let refused = ask(&request, &[], false).unwrap_err();
            assert!(refused.status.starts_with(status), "{from} -> {to}: {refused:?}");
            let answer = String::from_utf8(refused.answer()).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{answer}");
        }
        let many: String = (0..HEADERS).map(|n| format!("x-{n}: 1\r\n")).collect();
        assert_eq!(ask(&(REQUEST.to_owned() + &many), &[], false), Err(TOO_LONG));
    }

    #[test]
    fn pages_of_the_own_host_and_listed_ones_may_connect() {
        let from = |origin: &str, host: &str, allowed: &[&str], is_encrypted| {
            let request = REQUEST.replace("127.0.0.1:9001", &format!("{host}\r\nOrigin: {origin}"));
            ask(&request, allowed, is_encrypted).is_ok()
        };
        for (origin, host) in [
            ("http://127.0.0.1:9001", "127.0.0.1:9001"),
            ("https://localhost:9001", "LOCALHOST:9001"),
            ("http://[::1]:9001", "[::1]:9001"),
            ("http://edge", "edge"),
        ] {
            assert!(from(origin, host, &[], false), "{origin}");
        }
        // A name of the internet may lead to this machine: it is in the hands of its owner.
        assert!(!from("http://evil.example:9001", "evil.example:9001", &[], false));
        assert!(from("https://weir.example:9001", "weir.example:9001", &[], true), "its certificate proves the name");
        assert!(!from("https://evil.example", "weir.example", &[], true));
        assert!(from("https://app.example", "weir.example", &["https://App.example/"], false));
        assert!(!from("https://app.example.evil", "weir.example", &["https://app.example"], false));
        assert!(!from("http://app.example", "weir.example", &["https://app.example"], true));
        assert!(from("null", "weir.example", &["*"], false));
    }
}
