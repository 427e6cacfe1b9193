//! A frame with everything.

use std::sync::Arc;

use model::{DeviceKey, Schema, ValueRef};
use weir_buffer::frame::{DeadLetterRef, Frame, FrameBuilder, ReadingHeader, Record, RetainedRef, Sent, Staged};

/// One record of each kind, with every optional field and every type of value.
pub(crate) fn builder() -> FrameBuilder {
    let device = Arc::new(DeviceKey::new("default", "room/küche").unwrap());
    let other = Arc::new(DeviceKey::new("other", "d2").unwrap());
    let schema = Arc::new(Schema::new(["temperature", "count", "door", "window", "mode", "absent"]));
    let plain = Arc::new(Schema::new(["value"]));
    let mut staged = Staged::default();
    let header = ReadingHeader {
        time: 1_700_000_000_123_456_789,
        received: 1_700_000_001_000_000_000,
        identity: 0xDEAD_BEEF_0123_4567,
        seq: Some(42),
        device_timed: true,
        claimed_time: Some(4_000_000_000_000_000_000),
        trace: Some(&[7; 25]),
        resent: true,
    };
    let values = [
        Some(ValueRef::Float(-21.5)),
        Some(ValueRef::Int(i64::MIN)),
        Some(ValueRef::Bool(true)),
        Some(ValueRef::Bool(false)),
        Some(ValueRef::Str("größer")),
        None,
    ];
    staged.message(Some(Sent { client: 0x0102_0304_0506_0708, connection: 9, packet: 0x0A0B, in_flight: true }));
    staged.reading(&device, &schema, &header, values);
    let bare = ReadingHeader {
        seq: None,
        device_timed: false,
        claimed_time: None,
        trace: None,
        resent: false,
        identity: 1,
        ..header
    };
    staged.reading(&other, &plain, &bare, [Some(ValueRef::Int(-3))]);
    let (own, others): (Arc<str>, Arc<str>) = ("default".into(), "other".into());
    let letter = DeadLetterRef {
        tenant: &own,
        device: Some(&device),
        received: 5,
        identity: 6,
        reason: "not JSON at byte 0",
        topic: "devices/d1/telemetry",
        client: "c1",
        payload: &[0xFF, 0],
    };
    staged.dead_letter(&letter, false);
    staged.message(Some(Sent { client: 3, connection: 4, packet: 5, in_flight: false }));
    staged.dead_letter(&DeadLetterRef { tenant: &others, device: None, ..letter }, true);
    for tenant in [&own, &others] {
        let message = RetainedRef { tenant, received: 8, qos: 1, topic: "state", payload: b"on", properties: &[1, 0] };
        staged.retained(&message);
    }
    staged.session_end(&own, 0x1112_1314_1516_1718, 11);
    let mut builder = FrameBuilder::default();
    builder.absorb(&mut staged);
    builder
}

/// All of a frame as text.
pub(crate) fn text(frame: &Frame) -> String {
    let records: Vec<String> = frame
        .records()
        .map(|(offset, record)| match record {
            Record::Reading(r) => format!("{offset} {:?} {:?} {:?}", r.to_reading(), r.identity, r.trace),
            other => format!("{offset} {other:?}"),
        })
        .collect();
    format!("{:?}\n{}", frame.header(), records.join("\n"))
}
