//! Frames of a client: no bytes make the decoder panic or hold more than a control frame, and the
//! payloads do not depend on how the bytes are cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_broker::fuzzing::frame::Decoder;

/// The payloads, until the bytes end or a rule is broken.
fn payloads(bytes: &[u8], cut: usize) -> Vec<u8> {
    let (mut decoder, mut out) = (Decoder::default(), Vec::new());
    for part in bytes.chunks(cut) {
        let mut part = part.to_vec();
        match decoder.decode(&mut part) {
            Ok(length) => out.extend_from_slice(&part[..length]),
            Err(_) => break,
        }
    }
    out
}

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    let whole = payloads(bytes, bytes.len().max(1));
    assert!(whole.len() <= bytes.len());
    assert_eq!(payloads(bytes, usize::from(cut).max(1)), whole);
});
