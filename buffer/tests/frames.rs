//! Bytes of frames: golden files of releases, and arbitrary input.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

#[path = "common/sample.rs"]
mod sample;

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use model::{DeviceKey, Schema, ValueRef};
use proptest::prelude::*;
use sample::text;
use weir_buffer::frame::{Frame, FrameBuilder, HEADER_BYTES, ReadingHeader, Record, SEALED_VERSION, Staged};

static KEYS: LazyLock<envelope::Keyring> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let keys = envelope::testing::keyring(dir.path());
    sample::builder().build_sealed(0, 0, 0, Some(&keys)).unwrap();
    keys
});

fn sample() -> Frame {
    sample::builder().build(1000, 0x0123_4567_89AB_CDEF, 1_700_000_002_000_000_000)
}

/// `tests/golden/frame-2.bin` is the first released version and is never regenerated; version 1 was
/// not released. A later version adds its own file.
#[test]
fn frames_of_version_2_are_read_and_written_as_they_were() {
    let golden = Bytes::from_static(include_bytes!("golden/frame-2.bin"));
    let frame = Frame::decode(&golden).unwrap();
    assert_eq!(text(&frame), text(&sample()));
    assert_eq!(sample().bytes(), &golden);
}

/// Version 2 allows a compressed body, although this release does not write one.
#[test]
fn a_packed_frame_of_version_2_is_read() {
    let plain = sample();
    let body = &plain.bytes()[HEADER_BYTES..];
    let packed = lz4_flex::block::compress(body);
    let mut header = plain.bytes()[..HEADER_BYTES].to_vec();
    header[5] = 1;
    header[8..12].copy_from_slice(&u32::try_from(packed.len()).unwrap().to_le_bytes());
    let frame = Frame::decode(&sealed(header, &packed)).unwrap();
    let records = |frame: &Frame| text(frame).split_once('\n').unwrap().1.to_owned();
    assert_eq!(records(&frame), records(&plain));
}

/// Sets the correct checksum in a header.
fn sealed(mut header: Vec<u8>, body: &[u8]) -> Bytes {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..48]), body);
    header[48..52].copy_from_slice(&crc.to_le_bytes());
    header.extend_from_slice(body);
    header.into()
}

/// Reads a decoded frame to its end.
fn walk(bytes: &Bytes) {
    let Ok(frame) = Frame::decode(bytes) else { return };
    let mut count = 0;
    for (position, record) in frame.positions() {
        if let Record::Reading(reading) = record {
            assert_eq!(reading.columns().count(), reading.schema.names().len());
        }
        assert!(frame.record_at(position).is_some());
        count += 1;
    }
    assert_eq!(count, frame.header().count);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        walk(&Bytes::from(bytes.clone()));
        let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        let mut header = sample().bytes()[..HEADER_BYTES].to_vec();
        header[8..12].copy_from_slice(&length);
        header[12..16].copy_from_slice(&length);
        walk(&sealed(header.clone(), &bytes));
        header[4] = SEALED_VERSION;
        prop_assert!(Frame::open(&sealed(header, &bytes), Some(&KEYS)).is_err());
    }

    #[test]
    fn no_change_of_a_sealed_body_under_a_right_checksum_shows_another_reading(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        count in 0_u32..20,
    ) {
        let keys = &*KEYS;
        let frame = sample::builder().build_sealed(1000, 7, 9, Some(keys)).unwrap();
        let mut body = frame.bytes()[HEADER_BYTES..].to_vec();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let mut header = frame.bytes()[..HEADER_BYTES].to_vec();
        if count > 10 {
            header[16..20].copy_from_slice(&count.to_le_bytes());
        }
        let known: Vec<String> = frame.records().map(|(_, record)| format!("{record:?}")).collect();
        if let Ok(read) = Frame::open(&sealed(header, &body), Some(keys)) {
            for (_, record) in read.records() {
                let shown = format!("{record:?}");
                prop_assert!(known.contains(&shown) || matches!(record, Record::Destroyed(_)), "{}", shown);
            }
        }
    }

    #[test]
    fn no_change_of_a_body_under_a_right_checksum_makes_the_decoder_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        count in 0_u32..9,
    ) {
        let plain = sample();
        let mut body = plain.bytes()[HEADER_BYTES..].to_vec();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if count > 4 {
            body.truncate(cut.index(body.len()));
        }
        let length = u32::try_from(body.len()).unwrap().to_le_bytes();
        let mut header = plain.bytes()[..HEADER_BYTES].to_vec();
        header[8..12].copy_from_slice(&length);
        header[12..16].copy_from_slice(&length);
        header[16..20].copy_from_slice(&count.to_le_bytes());
        walk(&sealed(header, &body));
    }

    #[test]
    fn a_built_frame_is_read_back_equal(
        readings in proptest::collection::vec((any::<i64>(), any::<Option<f64>>(), any::<Option<String>>()), 1..50),
        first in any::<u32>(),
    ) {
        let device = Arc::new(DeviceKey::new("default", "d1").unwrap());
        let schema = Arc::new(Schema::new(["number", "text"]));
        let mut staged = Staged::default();
        for (time, number, text) in &readings {
            let header = ReadingHeader {
                time: *time,
                received: 0,
                identity: 0,
                seq: None,
                device_timed: true,
                claimed_time: None,
                trace: None,
                resent: false,
            };
            staged.reading(&device, &schema, &header, [number.map(ValueRef::Float), text.as_deref().map(ValueRef::Str)]);
        }
        let mut builder = FrameBuilder::default();
        builder.absorb(&mut staged);
        let frame = Frame::decode(builder.build(first.into(), 7, 9).bytes()).unwrap();
        for ((offset, record), (i, (time, number, text))) in frame.records().zip(readings.iter().enumerate()) {
            let Record::Reading(reading) = record else { panic!("a reading") };
            let wanted = [number.map(ValueRef::Float), text.as_deref().map(ValueRef::Str)];
            prop_assert_eq!((offset, reading.time), (u64::from(first) + i as u64, *time));
            prop_assert_eq!(reading.columns().collect::<Vec<_>>(), wanted);
        }
        prop_assert_eq!(frame.records().count(), readings.len());
    }
}
