//! The header of the PROXY protocol, versions 1 and 2, that a load balancer sends before the bytes
//! of the client.
//!
//! The header is read to its last byte and not beyond, so that TLS or MQTT may follow. Its length
//! is bounded, and everything in it that is not as the protocol says is refused.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The first bytes of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The first bytes of version 1.
const NAME: &[u8] = b"PROXY ";
/// The longest line of version 1.
const LINE_BYTES: usize = 107;
/// Addresses and additional fields of version 2. The protocol allows 65,535; load balancers send
/// some hundred.
const REST_BYTES: usize = 4 << 10;

/// The client of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// It has this address.
    From(SocketAddr),
    /// It is the load balancer itself (a check of its own), or its address is not known.
    Local,
}

/// The reason why there is no header.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The connection begins with something else.
    #[error("it begins without a header of the PROXY protocol")]
    Missing,
    /// The header breaks the rules of the protocol.
    #[error("its header of the PROXY protocol is not valid: {0}")]
    Malformed(&'static str),
    /// The connection ended.
    #[error("it ended before its header of the PROXY protocol was complete")]
    Ended,
}

impl From<io::Error> for ProxyError {
    fn from(_: io::Error) -> Self {
        Self::Ended
    }
}

/// Reads the header.
///
/// # Errors
/// [`ProxyError`].
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Header, ProxyError> {
    let mut bytes = Vec::with_capacity(LINE_BYTES);
    // Both versions are longer than this. What begins with something else may be shorter, and wait.
    while bytes.len() < SIGNATURE.len() {
        let missing = SIGNATURE.len() - bytes.len();
        if (&mut *stream).take(missing as u64).read_buf(&mut bytes).await? == 0 {
            return Err(ProxyError::Ended);
        }
        let either = [&SIGNATURE[..], NAME].iter().any(|begin| {
            let common = begin.len().min(bytes.len());
            begin[..common] == bytes[..common]
        });
        if !either {
            return Err(ProxyError::Missing);
        }
    }
    if bytes.starts_with(NAME) {
        while !bytes.ends_with(b"\r\n") {
            if bytes.len() >= LINE_BYTES {
                return Err(ProxyError::Malformed("the line is longer than 107 bytes"));
            }
            bytes.push(stream.read_u8().await?);
        }
        return parse_line(&bytes);
    }
    let mut fixed = [0; 4];
    stream.read_exact(&mut fixed).await?;
    let length = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if length > REST_BYTES {
        return Err(ProxyError::Malformed("it is longer than 4 KiB"));
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    parse_binary([fixed[0], fixed[1]], &rest)
}

/// Reads a line of version 1, with its end.
///
/// # Errors
/// [`ProxyError::Malformed`].
pub fn parse_line(line: &[u8]) -> Result<Header, ProxyError> {
    let text = line.strip_prefix(NAME).and_then(|rest| rest.strip_suffix(b"\r\n"));
    let text = text.and_then(|text| std::str::from_utf8(text).ok());
    let text = text.ok_or(ProxyError::Malformed("the line is not text that ends with CR and LF"))?;
    if text == "UNKNOWN" || text.starts_with("UNKNOWN ") {
        return Ok(Header::Local);
    }
    let fields: Vec<&str> = text.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = fields[..] else {
        return Err(ProxyError::Malformed("the line has not six fields"));
    };
    let (source, _) = match family {
        "TCP4" => (address::<Ipv4Addr>(source)?, address::<Ipv4Addr>(destination)?),
        "TCP6" => (address::<Ipv6Addr>(source)?, address::<Ipv6Addr>(destination)?),
        _ => return Err(ProxyError::Malformed("the family is not TCP4, TCP6 or UNKNOWN")),
    };
    let (source_port, _) = (port(source_port)?, port(destination_port)?);
    Ok(Header::From(SocketAddr::new(source, source_port)))
}

fn address<A: FromStr + Into<IpAddr>>(text: &str) -> Result<IpAddr, ProxyError> {
    text.parse::<A>().map(Into::into).map_err(|_| ProxyError::Malformed("an address is not one of its family"))
}

fn port(text: &str) -> Result<u16, ProxyError> {
    let is_canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let port = if is_canonical { text.parse().ok() } else { None };
    port.ok_or(ProxyError::Malformed("a port is not a number up to 65535"))
}

/// Reads version 2: the two bytes behind the signature, and what follows the length.
///
/// # Errors
/// [`ProxyError::Malformed`].
pub fn parse_binary([command, family]: [u8; 2], rest: &[u8]) -> Result<Header, ProxyError> {
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        0x22..=0x2F => return Err(ProxyError::Malformed("the command is not LOCAL or PROXY")),
        _ => return Err(ProxyError::Malformed("the version is not 2")),
    };
    const SHORT: ProxyError = ProxyError::Malformed("it is shorter than its addresses");
    let (header, fields) = match family {
        // The addresses of LOCAL, and those of unknown families, are skipped.
        0x00 => return Ok(Header::Local),
        0x11 => {
            let (addresses, fields) = rest.split_first_chunk::<12>().ok_or(SHORT)?;
            let [a, b, c, d, _, _, _, _, high, low, ..] = *addresses;
            (Header::From((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])).into()), fields)
        }
        0x21 => {
            let (addresses, fields) = rest.split_first_chunk::<36>().ok_or(SHORT)?;
            let source = addresses.first_chunk::<16>().map_or(Ipv6Addr::UNSPECIFIED, |bytes| (*bytes).into());
            (Header::From((source, u16::from_be_bytes([addresses[32], addresses[33]])).into()), fields)
        }
        0x31 => (Header::Local, rest.split_first_chunk::<216>().ok_or(SHORT)?.1),
        _ if is_local => return Ok(Header::Local),
        _ => return Err(ProxyError::Malformed("the family is not TCP or a stream of Unix")),
    };
    check_fields(fields)?;
    Ok(if is_local { Header::Local } else { header })
}

/// Checks that additional fields end where the header does. They are not used.
fn check_fields(mut fields: &[u8]) -> Result<(), ProxyError> {
    while !fields.is_empty() {
        let value = fields.split_first_chunk::<3>();
        let rest = value.and_then(|([_, high, low], rest)| rest.get(usize::from(u16::from_be_bytes([*high, *low]))..));
        fields = rest.ok_or(ProxyError::Malformed("an additional field ends behind the header"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The outcome for these bytes, and what is left of them.
    fn outcome(bytes: &[u8]) -> (Result<Header, String>, Vec<u8>) {
        let mut rest = bytes;
        let read = futures_of(read(&mut rest));
        (read.map_err(|error| error.to_string()), rest.to_vec())
    }

    fn futures_of<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn from(text: &str) -> Header {
        Header::From(text.parse().unwrap())
    }

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    const V4: &[u8] = &[10, 0, 0, 7, 10, 0, 0, 1, 0x30, 0x39, 0x07, 0x5B];

    #[test]
    fn headers_of_both_versions_are_read_to_their_last_byte() {
        let mut v6 = Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | 1).octets().to_vec();
        v6.extend_from_slice(&[0; 16]);
        v6.extend_from_slice(&[0x30, 0x39, 0, 1]);
        let field = [V4, &[0x04, 0, 2, 1, 2, 0x05, 0, 0]].concat();
        for (header, wanted) in [
            (b"PROXY TCP4 10.0.0.7 10.0.0.1 12345 1883\r\n".to_vec(), from("10.0.0.7:12345")),
            (b"PROXY TCP6 2001:db8::1 ::1 12345 1883\r\n".to_vec(), from("[2001:db8::1]:12345")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Header::Local),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), Header::Local),
            (binary(0x21, 0x11, V4), from("10.0.0.7:12345")),
            (binary(0x21, 0x11, &field), from("10.0.0.7:12345")),
            (binary(0x21, 0x21, &v6), from("[2001:db8::1]:12345")),
            (binary(0x20, 0x00, &[]), Header::Local),
            (binary(0x20, 0x11, V4), Header::Local),
            (binary(0x20, 0x7F, b"skipped"), Header::Local),
            (binary(0x21, 0x00, b"skipped"), Header::Local),
            (binary(0x21, 0x31, &[0; 216]), Header::Local),
        ] {
            let (read, rest) = outcome(&[&header[..], b"\x10\x0c"].concat());
            assert_eq!((read, &rest[..]), (Ok(wanted), &b"\x10\x0c"[..]), "{header:02x?}");
            // No prefix of it is a header.
            for end in 0..header.len() {
                let (read, _) = outcome(&header[..end]);
                assert_eq!(read, Err(ProxyError::Ended.to_string()), "{end} of {header:02x?}");
            }
        }
    }

    #[test]
    fn what_is_not_a_header_is_refused_with_its_fault() {
        let missing = ProxyError::Missing.to_string();
        for bytes in [&b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0"[..], b"GET", b"PROXX", b"\r\n\r\n\r", b"\x16\x03\x01"] {
            assert_eq!(outcome(bytes).0, Err(missing.clone()), "{bytes:?}");
        }
        let long = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat();
        let huge = [&SIGNATURE[..], &[0x21, 0x11, 0xFF, 0xFF]].concat();
        for (bytes, word) in [
            (b"PROXY TCP4 10.0.0.7 10.0.0.1 12345\r\n".to_vec(), "six fields"),
            (b"PROXY TCP4  10.0.0.7 10.0.0.1 12345 1883\r\n".to_vec(), "six fields"),
            (b"PROXY TCP4 10.0.0.7 10.0.0.1 12345 1883 \r\n".to_vec(), "six fields"),
            (b"PROXY TCP4 10.0.0.7\t10.0.0.1 1 1 1\r\n".to_vec(), "not one of its family"),
            (b"PROXY TCP4 ::1 ::1 12345 1883\r\n".to_vec(), "not one of its family"),
            (b"PROXY TCP6 10.0.0.7 10.0.0.1 12345 1883\r\n".to_vec(), "not one of its family"),
            (b"PROXY TCP4 10.0.0.256 10.0.0.1 12345 1883\r\n".to_vec(), "not one of its family"),
            (b"PROXY TCP4 10.0.0.7 10.0.0.1 65536 1883\r\n".to_vec(), "not a number"),
            (b"PROXY TCP4 10.0.0.7 10.0.0.1 012 1883\r\n".to_vec(), "not a number"),
            (b"PROXY TCP4 10.0.0.7 10.0.0.1 +12 1883\r\n".to_vec(), "not a number"),
            (b"PROXY UDP4 10.0.0.7 10.0.0.1 1 1\r\n".to_vec(), "family"),
            (b"PROXY tcp4 10.0.0.7 10.0.0.1 1 1\r\n".to_vec(), "family"),
            (b"PROXY UNKNOWNX 10.0.0.7\r\n".to_vec(), "six fields"),
            (b"PROXY \xff\xff\xff\xff\xff\xff\xff\r\n".to_vec(), "text"),
            (long, "107 bytes"),
            (huge, "4 KiB"),
            (binary(0x11, 0x11, V4), "version"),
            (binary(0x22, 0x11, V4), "command"),
            (binary(0x21, 0x12, V4), "family"),
            (binary(0x21, 0x11, &V4[..11]), "shorter"),
            (binary(0x20, 0x11, &V4[..11]), "shorter"),
            (binary(0x21, 0x21, V4), "shorter"),
            (binary(0x21, 0x31, V4), "shorter"),
            (binary(0x21, 0x11, &[V4, &[0x04, 0, 2, 1]].concat()), "additional field"),
            (binary(0x21, 0x11, &[V4, &[0x04, 0]].concat()), "additional field"),
        ] {
            let error = outcome(&bytes).0.unwrap_err();
            assert!(error.contains(word), "{error}: {bytes:02x?}");
        }
    }
}
