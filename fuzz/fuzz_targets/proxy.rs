//! Headers of the PROXY protocol: no bytes make the reader panic, a header is read to its last byte
//! and not beyond, no part of one is a header, and one that is taken is what the text of the
//! protocol says.

#![no_main]

use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use libfuzzer_sys::fuzz_target;
use weir_broker::fuzzing::proxy::{Header, ProxyError, parse_binary, parse_line, read};

/// Reads a header from the front of bytes, which never wait.
fn outcome(bytes: &[u8]) -> (Result<Header, ProxyError>, usize) {
    let mut rest = bytes;
    let read = {
        let mut reading = pin!(read(&mut rest));
        match reading.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(read) => read,
            Poll::Pending => unreachable!("bytes in memory do not wait"),
        }
    };
    (read, bytes.len() - rest.len())
}

/// The client of a header of version 2 for TCP, read by its places in the text.
fn binary_client(header: &[u8]) -> SocketAddr {
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    match header[13] {
        0x11 => (<[u8; 4]>::try_from(&header[16..20]).expect("four bytes"), port(24)).into(),
        _ => (<[u8; 16]>::try_from(&header[16..32]).expect("sixteen bytes"), port(48)).into(),
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Header::From(client)) = parse_line(bytes) {
        let text = std::str::from_utf8(bytes).expect("it was taken");
        let fields: Vec<_> = text.trim_end().split(' ').collect();
        assert_eq!((fields.len(), fields[4]), (6, &*client.port().to_string()));
        assert_eq!(fields[1] == "TCP4", client.is_ipv4());
    }
    if let Some(([command, family], rest)) = bytes.split_first_chunk() {
        let taken = parse_binary([*command, *family], rest);
        assert!(taken.is_err() || matches!(*command, 0x20 | 0x21));
    }
    let (read, length) = outcome(bytes);
    let Ok(header) = read else { return };
    let (whole, rest) = bytes.split_at(length);
    assert!(!rest.is_empty() || outcome(&[bytes, b"x"].concat()).1 == length, "it reads beyond the header");
    assert!((0..length).all(|end| matches!(outcome(&whole[..end]).0, Err(ProxyError::Ended))), "a part is a header");
    if whole.starts_with(b"PROXY ") {
        assert!(whole.ends_with(b"\r\n") && length <= 107);
        assert_eq!(parse_line(whole).ok(), Some(header));
    } else if let Header::From(client) = header {
        assert_eq!(length, 16 + usize::from(u16::from_be_bytes([whole[14], whole[15]])));
        assert_eq!((whole[12], client), (0x21, binary_client(whole)));
    }
});
