//! The first bytes of TLS, which distinguish a port that speaks it from one that does not.

/// The answer of a port to [`client_hello`], or to [`PLAIN_GREETING`] when it gives none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// TLS.
    Tls,
    /// Bytes that are not TLS.
    Plain,
    /// Nothing, or the end of the connection.
    Nothing,
}

/// A line that HTTP and Redis servers answer.
pub const PLAIN_GREETING: &[u8] = b"PING\r\n\r\n";

/// Returns a ClientHello (RFC 5246, 7.4.1.2). A TLS server answers with its own or with an alert.
/// The random part ends a line, so that servers which read lines answer too.
pub fn client_hello() -> Vec<u8> {
    let mut hello = vec![3, 3];
    hello.extend_from_slice(b"weir asks whether this is TLS\n\r\n");
    // No session; ECDHE with AES-GCM, and RSA with AES; no compression.
    hello.extend_from_slice(&[0, 0, 8, 0xC0, 0x2F, 0xC0, 0x2B, 0x00, 0x9C, 0x00, 0x2F, 1, 0]);
    let extensions: [&[u8]; 3] = [
        // supported_groups: x25519, secp256r1.
        &[0, 10, 0, 6, 0, 4, 0, 29, 0, 23],
        // ec_point_formats: uncompressed.
        &[0, 11, 0, 2, 1, 0],
        // signature_algorithms: ECDSA and RSA with SHA-256.
        &[0, 13, 0, 8, 0, 6, 4, 3, 8, 4, 4, 1],
    ];
    let extensions = extensions.concat();
    hello.extend_from_slice(&[0, length(&extensions)]);
    hello.extend_from_slice(&extensions);
    let mut record = vec![22, 3, 1, 0, length(&hello) + 4, 1, 0, 0, length(&hello)];
    record.extend_from_slice(&hello);
    record
}

fn length(part: &[u8]) -> u8 {
    u8::try_from(part.len()).expect("the parts of a fixed message are short")
}

/// True of the first bytes of a TLS server: a handshake or an alert, of any version.
pub fn is_tls(answer: &[u8]) -> bool {
    matches!(answer, [21 | 22, 3, ..])
}

/// A difference between a port and the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// The port has shown it.
    Certain(&'static str),
    /// The port does not answer, which may have another cause.
    Possible(&'static str),
}

impl Difference {
    /// Returns the words for the operator.
    pub fn words(self) -> &'static str {
        let (Self::Certain(words) | Self::Possible(words)) = self;
        words
    }
}

impl Speaks {
    /// Returns the difference between the port and the settings; `wants_tls` is true when they ask
    /// for TLS. `None` when there is none.
    pub fn differs(self, wants_tls: bool) -> Option<Difference> {
        match (wants_tls, self) {
            (false, Self::Tls) => Some(Difference::Certain("the port speaks TLS, which the settings do not ask for")),
            (true, Self::Plain) => Some(Difference::Certain("the port does not speak TLS, which the settings ask for")),
            (true, Self::Nothing) => Some(Difference::Possible("the port does not answer as one that speaks TLS does")),
            (false, Self::Plain | Self::Nothing) | (true, Self::Tls) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_the_greeting_are_those_of_its_parts() {
        let hello = client_hello();
        let of = |at: usize| usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
        assert_eq!(of(3), hello.len() - 5);
        assert_eq!(of(7), hello.len() - 9);
        // Version, random, session, ciphers, compression.
        let ciphers = 9 + 2 + 32 + 1;
        assert_eq!(of(ciphers), 8);
        let extensions = ciphers + 2 + 8 + 2;
        assert_eq!(of(extensions), hello.len() - extensions - 2);
        assert!(is_tls(&hello) && !is_tls(b"HTTP/1.1 400") && !is_tls(&[]));
    }
}
