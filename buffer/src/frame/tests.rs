use std::sync::Arc;

use bytes::Bytes;
use model::trace::TraceContext;
use model::{DeviceKey, Schema, ValueRef};

use super::{
    DeadLetterRef, Frame, FrameBuilder, FrameError, ReadingHeader, Record, RetainedRef, Sent, Sighting, Staged, Traced,
};

fn header(time: i64) -> ReadingHeader<'static> {
    ReadingHeader {
        time,
        received: time + 5,
        identity: time.unsigned_abs(),
        seq: Some(7),
        device_timed: true,
        claimed_time: None,
        trace: None,
        resent: false,
    }
}

fn sample() -> Frame {
    let device = Arc::new(DeviceKey::new("default", "d1").unwrap());
    let schema = Arc::new(Schema::new(["temperature", "door", "mode", "n"]));
    let mut builder = FrameBuilder::default();
    for time in [10, 20] {
        let mut staged = Staged::default();
        let values = [Some(ValueRef::Float(21.5)), None, Some(ValueRef::Str("eco")), Some(ValueRef::Int(-3))];
        staged.reading(&device, &schema, &header(time), values);
        let tenant: Arc<str> = "default".into();
        let letter = DeadLetterRef {
            tenant: &tenant,
            device: None,
            received: 1,
            identity: 2,
            reason: "no JSON",
            topic: "devices/x/telemetry",
            client: "c",
            payload: b"{",
        };
        staged.dead_letter(&letter, true);
        let message =
            RetainedRef { tenant: &tenant, received: 3, qos: 1, topic: "a/b", payload: b"x", properties: b"" };
        staged.retained(&message);
        builder.absorb(&mut staged);
        assert_eq!(staged.count(), 0);
    }
    assert!(builder.has_resent());
    builder.build(100, 9, 42)
}

#[test]
fn a_frame_reads_back_as_it_was_built() {
    let built = sample();
    let read = Frame::decode(built.bytes()).unwrap();
    assert_eq!(read.header(), built.header());
    for frame in [&built, &read] {
        let records: Vec<_> = frame.records().collect();
        assert_eq!(records.iter().map(|(o, _)| *o).collect::<Vec<_>>(), (100..106).collect::<Vec<_>>());
        let Record::Reading(r) = records[3].1 else { panic!("a reading") };
        assert_eq!((r.time, r.seq, r.device_timed, &*r.device.id), (20, Some(7), true, "d1"));
        let values: Vec<_> = r.values().collect();
        let wanted = [("temperature", ValueRef::Float(21.5)), ("mode", ValueRef::Str("eco")), ("n", ValueRef::Int(-3))];
        assert_eq!(values, wanted);
        assert!(matches!(records[4].1, Record::DeadLetter(d) if d.reason == "no JSON" && d.payload == b"{"));
        assert!(matches!(records[5].1, Record::Retained(m) if m.topic == "a/b" && m.qos == 1));
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let frame = sample();
    let bytes = frame.bytes();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1 << bit;
            assert!(Frame::decode(&Bytes::from(bad)).is_err(), "byte {at} bit {bit}");
        }
    }
}

#[test]
fn every_cut_is_noticed() {
    let frame = sample();
    for length in 0..frame.bytes().len() {
        assert!(Frame::decode(&frame.bytes().slice(..length)).is_err(), "{length}");
    }
}

#[test]
fn another_version_is_named_and_not_skipped() {
    let mut bytes = sample().bytes().to_vec();
    for other in [1, 4] {
        bytes[4] = other;
        assert_eq!(Frame::decode(&Bytes::from(bytes.clone())).unwrap_err(), FrameError::Version(other));
    }
}

#[test]
fn messages_are_dropped_whole_and_those_around_them_stay() {
    let device = Arc::new(DeviceKey::new("default", "d1").unwrap());
    let schema = Arc::new(Schema::new(["a"]));
    let mut staged = Staged::default();
    for time in 1..=6 {
        // Messages of two records each; the last is never sent again.
        let sent = Sent { client: 5, connection: 1, packet: u16::try_from(time).unwrap(), in_flight: false };
        match time {
            1 | 3 => staged.message(Some(sent)),
            5 => staged.message(None),
            _ => {}
        }
        let header = ReadingHeader { resent: time == 3, ..header(time) };
        staged.reading(&device, &schema, &header, [Some(ValueRef::Bool(true))]);
    }
    let mut builder = FrameBuilder::default();
    builder.absorb(&mut staged);
    let mut seen = Vec::new();
    let dropped = builder.retain_messages(|sighting, place, _| {
        let Sighting::Message(message) = sighting else { panic!("a message") };
        seen.push((message.sent.packet, message.sent.client, message.identity, place.offset));
        !message.resent
    });
    assert_eq!((dropped, seen), (2, vec![(1, 5, 1, 0), (3, 5, 3, 2)]));
    let frame = Frame::decode(builder.build(0, 1, 0).bytes()).unwrap();
    let times: Vec<_> =
        frame.records().map(|(_, r)| if let Record::Reading(r) = r { r.time } else { panic!("a reading") }).collect();
    assert_eq!(times, [1, 2, 5, 6]);
}

#[test]
fn a_record_is_found_again_by_its_position() {
    let frame = sample();
    let walked: Vec<_> = frame.records().collect();
    for ((position, record), (_, other)) in frame.positions().zip(&walked) {
        let found = frame.record_at(position).unwrap();
        assert_eq!(format!("{found:?}"), format!("{record:?}"));
        assert_eq!(format!("{found:?}"), format!("{other:?}"));
    }
    assert_eq!(frame.positions().count(), walked.len());
    assert!(frame.record_at(u32::MAX).is_none());
}

#[test]
fn a_builder_is_cut_into_frames_without_losing_order_or_names() {
    let devices: Vec<_> = (0..40).map(|n| Arc::new(DeviceKey::new("default", &format!("d{n}")).unwrap())).collect();
    let schemas: Vec<_> = (0..40).map(|n| Arc::new(Schema::new([format!("name{n}")]))).collect();
    let tenants: Vec<Arc<str>> = (0..3).map(|n| format!("t{n}").into()).collect();
    let mut builder = FrameBuilder::default();
    for n in 0..200_i64 {
        let mut staged = Staged::default();
        let at = usize::try_from(n * 7 % 40).unwrap();
        staged.reading(&devices[at], &schemas[39 - at], &header(n), [Some(ValueRef::Int(n))]);
        let (tenant, topic) = (&tenants[usize::try_from(n % 3).unwrap()], &*format!("t{}", n % 3));
        staged.retained(&RetainedRef { tenant, received: n, qos: 0, topic, payload: b"", properties: b"" });
        builder.absorb(&mut staged);
    }
    let mut found = Vec::new();
    for (max_records, max_bytes) in [(7, usize::MAX), (u32::MAX, 300), (1, 1), (9, 900)].into_iter().cycle() {
        let mut part = builder.take_front(max_records, max_bytes);
        if part.is_empty() {
            break;
        }
        assert!(part.count() == 1 || (part.count() <= max_records && part.bytes() <= max_bytes));
        let built = part.build(0, 1, 0);
        assert!(part.is_empty() && part.bytes() == 0);
        let frame = Frame::decode(built.bytes()).unwrap();
        assert!(frame.devices().len() <= frame.header().count as usize, "only the names that are needed");
        for (_, record) in frame.records() {
            if let Record::Retained(message) = record {
                assert_eq!(&**message.tenant, message.topic);
            }
            let Record::Reading(r) = record else { continue };
            let at = usize::try_from(r.time * 7 % 40).unwrap();
            assert_eq!((&*r.device.id, &*r.schema.names()[0]), (&*format!("d{at}"), &*format!("name{}", 39 - at)));
            found.push(r.time);
        }
    }
    assert_eq!(found, (0..200).collect::<Vec<_>>());
    assert!(builder.is_empty() && builder.bytes() == 0);
}

#[test]
fn every_record_names_its_tenant_and_tenants_do_not_meet() {
    let tenants: Vec<Arc<str>> = ["north", "south"].map(Arc::from).into();
    let schema = Arc::new(Schema::new(["n"]));
    let mut builder = FrameBuilder::default();
    for tenant in &tenants {
        // The same device id, topic and client in both.
        let device = Arc::new(DeviceKey::new(tenant, "d1").unwrap());
        let mut staged = Staged::default();
        staged.reading(&device, &schema, &header(1), [Some(ValueRef::Int(1))]);
        for device in [None, Some(&device)] {
            let letter = DeadLetterRef {
                tenant,
                device,
                received: 1,
                identity: 2,
                reason: tenant,
                topic: "devices/d1/telemetry",
                client: "c",
                payload: b"{",
            };
            staged.dead_letter(&letter, false);
        }
        let topic = "devices/d1/state";
        staged.retained(&RetainedRef {
            tenant,
            received: 3,
            qos: 1,
            topic,
            payload: tenant.as_bytes(),
            properties: b"",
        });
        builder.absorb(&mut staged);
    }
    let front = builder.take_front(3, usize::MAX).build(0, 1, 0);
    let rest = builder.build(3, 1, 0);
    let mut found = Vec::new();
    for frame in [front, rest] {
        for (_, record) in Frame::decode(frame.bytes()).unwrap().records() {
            assert!(match record {
                Record::Reading(_) => true,
                Record::DeadLetter(letter) => letter.reason == &**letter.tenant,
                Record::Retained(message) => message.payload == message.tenant.as_bytes(),
                Record::SessionEnd(_) | Record::Destroyed(_) => false,
            });
            found.push(record.tenant().to_string());
        }
    }
    assert_eq!(found, [["north"; 4], ["south"; 4]].concat());
}

/// Stages messages of one reading by the number of their context, 0 for none; odd ones have a
/// sequence, every third a claimed time.
fn traced(readings: &[u8]) -> Staged {
    let device = Arc::new(DeviceKey::new("default", "d1").unwrap());
    let schema = Arc::new(Schema::new(["t"]));
    let mut staged = Staged::default();
    for (i, number) in readings.iter().enumerate() {
        let context = TraceContext { trace_id: [*number; 16], span_id: [*number; 8], flags: 1 };
        let trace = (*number > 0).then(|| context.to_bytes());
        let n = i64::try_from(i).unwrap();
        let header = ReadingHeader {
            received: 1000 + n,
            identity: n.cast_unsigned(),
            seq: (i % 2 == 1).then_some(7),
            claimed_time: i.is_multiple_of(3).then_some(9),
            trace: trace.as_ref(),
            ..header(n)
        };
        staged.message(Some(Sent { client: 1, connection: 1, packet: 1, in_flight: false }));
        staged.reading(&device, &schema, &header, [Some(ValueRef::Float(21.5))]);
    }
    staged
}

fn found(frame: &Frame) -> Vec<(u8, i64, u64, u64)> {
    let decoded = Frame::decode(&Bytes::copy_from_slice(frame.bytes())).unwrap();
    let show = |t: Traced| (t.context.trace_id[0], t.received, t.first, t.last);
    let all: Vec<_> = frame.traced().map(show).collect();
    assert_eq!(all, decoded.traced().map(show).collect::<Vec<_>>(), "as read again");
    all
}

#[test]
fn a_frame_knows_its_traced_messages_as_built_and_as_read() {
    let mut builder = FrameBuilder::default();
    builder.absorb(&mut traced(&[0, 1, 1, 1, 0, 2, 3, 3, 0]));
    builder.absorb(&mut traced(&[0, 0, 3]));
    let mut front = builder.take_front(3, usize::MAX);
    assert_eq!(found(&front.build(100, 1, 1)), [(1, 1001, 101, 102)]);
    assert_eq!(
        builder.retain_messages(|sighting, _, _| !matches!(sighting, Sighting::Message(m) if m.identity == 5)),
        1
    );
    let rest = builder.build(103, 1, 1);
    assert_eq!(found(&rest), [(1, 1003, 103, 103), (3, 1006, 105, 106), (3, 1002, 110, 110)]);
    builder.absorb(&mut traced(&[0, 0]));
    assert_eq!(found(&builder.build(111, 1, 1)), []);
}
