//! Encryption at rest of the embedded log.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

#[expect(dead_code, reason = "other tests need the rest")]
mod common;
#[path = "common/sample.rs"]
mod sample;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use common::{append, header};
use envelope::{Keyring, UnsealError};
use model::{DeviceKey, Schema, ValueRef};
use sample::text;
use weir_buffer::embedded::{Config, EmbeddedLog, OpenError, preview, verify};
use weir_buffer::frame::{Frame, FrameError, HEADER_BYTES, Record, SEALED_VERSION, Staged, VERSION};
use weir_buffer::{Log, ReadError};

const PLACE: (u64, u64, i64) = (1000, 0x0123_4567_89AB_CDEF, 1_700_000_002_000_000_000);
const CANARY: &str = "canary-7f3a";

fn sealed(keys: &Keyring) -> Frame {
    sample::builder().build_sealed(PLACE.0, PLACE.1, PLACE.2, Some(keys)).unwrap()
}

/// The records of a frame as text.
fn records(frame: &Frame) -> String {
    text(frame).split_once('\n').unwrap().1.to_owned()
}

fn config(dir: &Path, keys: Option<&Keyring>) -> Config {
    let dir = dir.join("log");
    Config {
        dir,
        segment_bytes: 16 << 10,
        ring_bytes: 4 << 10,
        retain_secs: 0,
        keys: keys.cloned(),
        ..Config::default()
    }
}

/// Stages a reading of each of these tenants.
fn stage(tenants: &[&str], number: i64) -> Staged {
    let schema = Arc::new(Schema::new([CANARY]));
    let mut staged = Staged::default();
    for tenant in tenants {
        let device = Arc::new(DeviceKey::new(tenant, "canary-device").unwrap());
        staged.reading(&device, &schema, &header(number), [Some(ValueRef::Str(CANARY))]);
    }
    staged
}

/// Tenant and kind of every record of a log.
async fn all(log: &dyn Log) -> Vec<(u64, String, bool)> {
    let mut found = Vec::new();
    let mut from = log.start();
    while from < log.end() {
        for frame in log.read(from, 2_000).await.unwrap() {
            found.extend(frame.records().map(|(offset, record)| {
                let is_readable = match record {
                    Record::Reading(reading) => reading.values().any(|(_, value)| value == ValueRef::Str(CANARY)),
                    Record::Destroyed(record) if record.is_telemetry => false,
                    other => panic!("{other:?}"),
                };
                (offset, record.tenant().to_string(), is_readable)
            }));
            from = frame.header().end_offset();
        }
    }
    found
}

fn holds(dir: &Path, what: &str) -> bool {
    let files = std::fs::read_dir(dir.join("log")).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    files.into_iter().any(|bytes| bytes.windows(what.len()).any(|window| window == what.as_bytes()))
}

/// A frame and the keyring of the first release with encryption; never regenerated.
#[test]
fn sealed_frames_of_version_3_are_read_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(envelope::FILE), include_bytes!("golden/keyring-1")).unwrap();
    let keys = envelope::testing::keyring(dir.path());
    let golden = Bytes::from_static(include_bytes!("golden/frame-3.bin"));
    let frame = Frame::open(&golden, Some(&keys)).unwrap();
    let plain = sample::builder().build(PLACE.0, PLACE.1, PLACE.2);
    assert_eq!(records(&frame), records(&plain));
}

#[test]
fn a_sealed_frame_has_the_same_records_and_plain_ones_keep_their_version() {
    let dir = tempfile::tempdir().unwrap();
    let keys = envelope::testing::keyring(dir.path());
    let plain = sample::builder().build(PLACE.0, PLACE.1, PLACE.2);
    let built = sealed(&keys);
    let read = Frame::open(built.bytes(), Some(&keys)).unwrap();
    for frame in [&built, &read] {
        assert_eq!(records(frame), records(&plain));
        assert_eq!(frame.traced().count(), plain.traced().count());
        for (position, record) in frame.positions() {
            assert_eq!(format!("{record:?}"), format!("{:?}", frame.record_at(position).unwrap()));
        }
    }
    assert_eq!((plain.bytes()[4], built.bytes()[4]), (VERSION, SEALED_VERSION));
    let names = ["room/k", "gr\u{f6}\u{df}er", "temperature", "not JSON", "telemetry", "state"];
    let shows = |frame: &Frame, name: &str| frame.bytes().windows(name.len()).any(|bytes| bytes == name.as_bytes());
    for name in names {
        assert!(shows(&plain, name) && !shows(&built, name), "{name}");
    }
    // What is known without keys.
    assert_eq!(Frame::decode(built.bytes()).unwrap_err(), FrameError::Sealed);
    assert!(shows(&built, "default") && shows(&built, "other"), "tenants are in plain");
    let of_one = stage(&["a"; 100], 1);
    let mut builder = weir_buffer::frame::FrameBuilder::default();
    builder.absorb(&mut { of_one });
    let of_one = builder.build_sealed(0, 1, 2, Some(&keys)).unwrap();
    let read = Frame::open(of_one.bytes(), Some(&keys)).unwrap();
    assert_eq!(records(&read), records(&of_one));
}

#[test]
fn sealed_bytes_that_were_changed_or_moved_are_damage() {
    let dir = tempfile::tempdir().unwrap();
    let keys = envelope::testing::keyring(dir.path());
    let frame = sealed(&keys);
    let is_damage =
        |error: &FrameError| !matches!(error, FrameError::Sealed | FrameError::Unseal(UnsealError::Destroyed(_)));
    for at in 0..frame.bytes().len() {
        let mut bytes = frame.bytes().to_vec();
        bytes[at] ^= 0x10;
        let error = Frame::open(&bytes.clone().into(), Some(&keys)).unwrap_err();
        assert!(is_damage(&error), "byte {at}: {error}");
        // Under a right checksum, too: bytes 40 to 48 are the append time, which no reading depends
        // on.
        if at >= HEADER_BYTES || (16..20).contains(&at) || (24..40).contains(&at) {
            let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..48]), &bytes[HEADER_BYTES..]);
            bytes[48..52].copy_from_slice(&crc.to_le_bytes());
            if let Ok(read) = Frame::open(&bytes.into(), Some(&keys)) {
                assert_eq!(records(&read), records(&frame), "byte {at}");
            }
        }
    }
}

#[tokio::test]
async fn records_of_a_destroyed_tenant_keep_their_offsets_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let keys = envelope::testing::keyring(dir.path());
    let (log, batcher) = EmbeddedLog::open(config(dir.path(), Some(&keys)), Arc::default()).unwrap();
    for number in 0..200 {
        append(&batcher, stage(&["a", "b", "a"], number)).unwrap();
    }
    assert!(!holds(dir.path(), "canary"), "contents are readable");
    assert!(all(&*log).await.iter().all(|(_, _, is_readable)| *is_readable));
    keys.destroy("a").unwrap();
    let check = |found: Vec<(u64, String, bool)>| {
        for (offset, (at, tenant, is_readable)) in found.iter().enumerate() {
            assert_eq!(*at, offset as u64);
            assert_eq!(*is_readable, tenant == "b", "record {offset}");
        }
        found.len()
    };
    // Those in memory and those on disk.
    assert_eq!(check(all(&*log).await), 600);
    for number in 200..210 {
        append(&batcher, stage(&["a", "b", "a"], number)).unwrap();
    }
    assert_eq!(check(all(&*log).await), 630);
    assert!(keys.status().discarded == 20 && keys.status().unreadable > 0);
    batcher.close();
    drop((log, batcher));
    let keys = envelope::testing::keyring(dir.path());
    let (log, batcher) = EmbeddedLog::open(config(dir.path(), Some(&keys)), Arc::default()).unwrap();
    assert_eq!(check(all(&*log).await), 630);
    keys.allow("a").unwrap();
    append(&batcher, stage(&["a"], 300)).unwrap();
    assert_eq!(all(&*log).await.last(), Some(&(630, "a".to_owned(), true)));
}

#[tokio::test]
async fn encryption_can_be_turned_on_and_off_and_a_missing_key_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let (log, batcher) = EmbeddedLog::open(config(dir.path(), None), Arc::default()).unwrap();
    append(&batcher, stage(&["a"], 1)).unwrap();
    batcher.close();
    drop((log, batcher));
    assert!(holds(dir.path(), "canary"), "the test can see plain contents");
    let keys = envelope::testing::keyring(dir.path());
    let (log, batcher) = EmbeddedLog::open(config(dir.path(), Some(&keys)), Arc::default()).unwrap();
    for number in 2..300 {
        append(&batcher, stage(&["a"], number)).unwrap();
    }
    assert_eq!(all(&*log).await.len(), 299);
    batcher.close();
    drop((log, batcher));
    // New records in plain, sealed ones are read.
    let settings = envelope::Config { read_only: true, ..envelope::testing::config(dir.path()) };
    let keys = Keyring::open(&settings, dir.path()).unwrap().unwrap();
    let (log, batcher) = EmbeddedLog::open(config(dir.path(), Some(&keys)), Arc::default()).unwrap();
    append(&batcher, stage(&["c"], 300)).unwrap();
    assert_eq!(all(&*log).await.len(), 300);
    assert!(keys.status().tenants.iter().all(|status| status.tenant != "c"));
    batcher.close();
    drop((log, batcher));
    let other = tempfile::tempdir().unwrap();
    let others = envelope::testing::keyring(other.path());
    for (keys, cure) in [(None, "encryption.key_file"), (Some(&others), "put the keyring of this data back")] {
        let error = EmbeddedLog::open(config(dir.path(), keys), Arc::default()).unwrap_err();
        assert!(matches!(error, OpenError::Keys { .. }), "{error}");
        assert!(error.to_string().contains(cure), "{error}");
    }
    // Without keys, the frames can be checked and counted.
    assert_eq!(verify(&dir.path().join("log")).unwrap(), 300);
    assert_eq!(preview(&dir.path().join("log")).unwrap().lost, None);
    let keys = envelope::testing::keyring(dir.path());
    let (log, _batcher) = EmbeddedLog::open(config(dir.path(), Some(&keys)), Arc::default()).unwrap();
    assert_eq!(all(&*log).await.len(), 300);
}

#[tokio::test]
async fn a_full_disk_of_the_keyring_makes_devices_wait_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let keys = envelope::testing::keyring(dir.path());
    let (log, batcher) = EmbeddedLog::open(config(dir.path(), Some(&keys)), Arc::default()).unwrap();
    // A folder in its place: it cannot be appended to.
    let (path, aside) = (dir.path().join(envelope::FILE), dir.path().join("aside"));
    std::fs::rename(&path, &aside).unwrap();
    std::fs::create_dir(&path).unwrap();
    let writer = std::thread::spawn({
        let batcher = batcher.clone();
        move || append(&batcher, stage(&["a"], 1))
    });
    while log.state().blocked.is_none() {
        std::thread::yield_now();
    }
    let reason = log.state().blocked.unwrap();
    assert!(reason.contains("cannot make a key for tenant a"), "{reason}");
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(all(&*log).await.len(), 1);
    assert!(!matches!(log.read(0, 1).await, Err(ReadError::Damaged(_))));
}

#[test]
fn the_keys_of_all_new_tenants_of_a_frame_are_made_with_one_append() {
    let dir = tempfile::tempdir().unwrap();
    let keys = envelope::testing::keyring(dir.path());
    let (_log, batcher) = EmbeddedLog::open(config(dir.path(), Some(&keys)), Arc::default()).unwrap();
    let tenants: Vec<String> = (0..300).map(|n| format!("t{n}")).collect();
    let tenants: Vec<&str> = tenants.iter().map(String::as_str).collect();
    append(&batcher, stage(&tenants, 1)).unwrap();
    assert_eq!((keys.appends(), keys.status().tenants.len()), (1, 300));
    append(&batcher, stage(&tenants, 2)).unwrap();
    assert_eq!(keys.appends(), 1);
}

/// The names of a schema that many tenants send are sealed once for each of them.
#[tokio::test]
async fn long_names_of_many_tenants_are_split_into_frames_that_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let keys = envelope::testing::keyring(dir.path());
    let config = Config { segment_bytes: 1 << 20, ..config(dir.path(), Some(&keys)) };
    let (log, batcher) = EmbeddedLog::open(config, Arc::default()).unwrap();
    let names = (0..400).map(|n| format!("{n:0>128}"));
    let schema = Arc::new(Schema::new(names.collect::<Vec<_>>().iter().map(String::as_str)));
    let tenants = 1_200;
    let mut staged = Staged::default();
    for number in 0..2 * tenants {
        let tenant = number % tenants;
        let device = Arc::new(DeviceKey::new(&format!("t{tenant}"), "d").unwrap());
        staged.reading(&device, &schema, &header(number), [Some(ValueRef::Int(number))]);
    }
    append(&batcher, staged).unwrap();
    let mut found = Vec::new();
    let mut from = 0;
    while from < log.end() {
        for frame in log.read(from, 1).await.unwrap() {
            assert!(frame.header().body_bytes < 48 << 20);
            found.extend(frame.records().map(|(_, record)| match record {
                Record::Reading(reading) => (record.tenant().to_string(), reading.time),
                other => panic!("{other:?}"),
            }));
            from = frame.header().end_offset();
        }
    }
    let wanted: Vec<_> = (0..2 * tenants).map(|number| (format!("t{}", number % tenants), number)).collect();
    assert_eq!(found, wanted);
}

/// Writes the golden files: `cargo test -p weir-buffer --test sealed -- --ignored golden`.
#[test]
#[ignore = "golden files are written once"]
fn golden_files_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let keys = envelope::testing::keyring(dir.path());
    let frame = sealed(&keys);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    std::fs::write(golden.join("frame-3.bin"), frame.bytes()).unwrap();
    std::fs::copy(dir.path().join(envelope::FILE), golden.join("keyring-1")).unwrap();
}
