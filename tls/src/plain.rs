//! Clients that do not speak TLS to a port that does.

/// The protocol of the first bytes of a client; `None` when they begin a TLS handshake.
pub(crate) fn protocol(first: &[u8]) -> Option<&'static str> {
    match first {
        [0x16, ..] => None,
        [0x10, ..] => Some("MQTT without TLS"),
        _ if first.starts_with(b"PRI") => Some("HTTP/2 without TLS"),
        _ if is_http(first) => Some("HTTP without TLS"),
        _ => Some("not TLS"),
    }
}

fn is_http(first: &[u8]) -> bool {
    [&b"GET "[..], b"POST", b"HEAD", b"PUT ", b"OPTI", b"DELE"].iter().any(|method| first.starts_with(method))
}

/// An answer that the client can show to its user.
pub(crate) fn answer(first: &[u8]) -> Option<&'static [u8]> {
    is_http(first).then_some(
        b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 40\r\nconnection: close\r\n\r\n\
          this port speaks TLS: use https://...\r\n\n",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_as_long_as_it_says() {
        let text = std::str::from_utf8(answer(b"GET / HTTP/1.1").unwrap()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
    }

    #[test]
    fn only_the_first_byte_of_a_handshake_is_tls() {
        assert_eq!(protocol(&[0x16, 3, 1]), None);
        assert_eq!(protocol(&[0x10, 12, 0, 4]), Some("MQTT without TLS"));
        assert_eq!(protocol(b"PRI * HTTP/2.0"), Some("HTTP/2 without TLS"));
        assert_eq!(protocol(b"GET / HTTP/1.1"), Some("HTTP without TLS"));
        assert_eq!(protocol(&[0]), Some("not TLS"));
    }
}
