//! Measures what sealing costs: building frames and reading them, in plain and sealed.
//!
//! `cargo run --release -p weir-buffer --example seal -- [RECORDS PER FRAME] [TENANTS] [FRAMES]
//! [plain or sealed]`

use std::sync::Arc;
use std::time::Instant;

use envelope::Keyring;
use model::{DeviceKey, Schema, ValueRef};
use weir_buffer::frame::{Frame, FrameBuilder, ReadingHeader, Staged};

fn argument(at: usize, default: usize) -> usize {
    std::env::args().nth(at).map_or(default, |text| text.parse().expect("a number"))
}

fn main() {
    let (records, tenants, frames) = (argument(1, 64), argument(2, 1), argument(3, 20_000));
    let only = std::env::args().nth(4);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let keys = envelope::testing::keyring(dir.path());
    for (name, keys) in [("plain", None), ("sealed", Some(&keys))] {
        if only.as_ref().is_none_or(|only| only == name) {
            let (build, read, bytes) = run(records, tenants, frames, keys);
            println!("{name}: build {build:.0} ns, read {read:.0} ns, {bytes:.0} bytes for each record");
        }
    }
}

/// Nanoseconds to build and to read a record, and its bytes.
fn run(records: usize, tenants: usize, frames: usize, keys: Option<&Keyring>) -> (f64, f64, f64) {
    let schema = Arc::new(Schema::new(["temperature", "humidity", "pressure"]));
    let devices: Vec<_> = (0..records)
        .map(|n| Arc::new(DeviceKey::new(&format!("tenant-{}", n % tenants), &format!("device-{n}")).expect("an id")))
        .collect();
    let (mut staged, mut builder, mut bytes) = (Staged::default(), FrameBuilder::default(), 0);
    let (mut building, mut reading) = (0.0, 0.0);
    for number in 0..frames {
        for device in &devices {
            let time = i64::try_from(number).expect("few frames");
            let header = ReadingHeader {
                time,
                received: time,
                identity: number as u64,
                seq: None,
                device_timed: true,
                claimed_time: None,
                trace: None,
                resent: false,
            };
            let values = [21.5, 44.25, 1013.1].map(|value| Some(ValueRef::Float(value)));
            staged.reading(device, &schema, &header, values);
        }
        builder.absorb(&mut staged);
        let begun = Instant::now();
        let frame = builder.build_sealed((number * records) as u64, 1, 2, keys).expect("a key");
        building += begun.elapsed().as_secs_f64();
        bytes += frame.bytes().len();
        let begun = Instant::now();
        let read = Frame::open(frame.bytes(), keys).expect("a frame");
        reading += begun.elapsed().as_secs_f64();
        assert_eq!(read.header().count as usize, records);
    }
    let all = (records * frames) as f64;
    (building * 1e9 / all, reading * 1e9 / all, bytes as f64 / all)
}
