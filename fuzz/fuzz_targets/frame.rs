//! Decodes bytes as a frame, first unchanged, then with a valid header and checksum, so that the
//! contents are reached. No input makes the decoder panic, and decoded frames can be read to the
//! end.

#![no_main]

use buffer::frame::{Frame, HEADER_BYTES, Record};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    walk(Bytes::copy_from_slice(bytes));
    if let Some((count, body)) = bytes.split_at_checked(2) {
        walk(sealed(u32::from(u16::from_le_bytes([count[0], count[1]])), body));
    }
});

/// A frame with this body, which may be invalid.
fn sealed(count: u32, body: &[u8]) -> Bytes {
    let length = u32::try_from(body.len()).expect("fuzzed inputs are short").to_le_bytes();
    let mut out = vec![0; HEADER_BYTES];
    out[..8].copy_from_slice(b"WEIR\x02\0\x38\0");
    out[8..12].copy_from_slice(&length);
    out[12..16].copy_from_slice(&length);
    out[16..20].copy_from_slice(&count.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out[..48]), body);
    out[48..52].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(body);
    out.into()
}

fn walk(bytes: Bytes) {
    let Ok(frame) = Frame::decode(&bytes) else { return };
    let mut count = 0;
    for (position, record) in frame.positions() {
        if let Record::Reading(reading) = record {
            assert!(reading.values().count() <= reading.schema.names().len());
            assert_eq!(reading.columns().count(), reading.schema.names().len());
        }
        assert!(frame.record_at(position).is_some());
        count += 1;
    }
    assert_eq!(count, frame.header().count, "every record is there");
}
