//! The way of a message into the log costs no allocation once its shape is known.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use buffer::Log;
use buffer::batcher::BatchConfig;
use buffer::memory::MemoryLog;
use door::{Delivery, Inbox, Intake, Message, Sender, Verdict};
use weir_ingest::{ConnectionIngest, Limits, Routes, TelemetryInbox};

fn sender(device: Option<&str>) -> Sender {
    let peer = "127.0.0.1:1".parse().expect("an address");
    Sender {
        tenant: "default".into(),
        device: device.map(Into::into),
        meter: None,
        client: "c".into(),
        user: None,
        peer,
        protocol: "mqtt",
    }
}

/// At QoS 1.
fn message<'a>(topic: &'a str, payload: &'a str, id: u64) -> Message<'a> {
    Message { topic, payload: payload.as_bytes(), delivery: Delivery { id: Some(id), ..Delivery::default() } }
}

#[test]
fn a_message_of_a_known_shape_allocates_nothing() {
    let (log, batcher) = MemoryLog::open("m", BatchConfig::default()).unwrap();
    let inbox = TelemetryInbox::new(Routes::new(&[]).unwrap(), Limits::default(), batcher, Arc::default());
    let mut intake = inbox.open(&sender(Some("d1")));
    let payloads: Vec<String> = (0..100)
        .map(|n| {
            format!(r#"{{"ts":{},"seq":{n},"temperature":21.5,"humidity":45.25,"battery":99}}"#, 1_700_000_000 + n)
        })
        .collect();
    let publish = |intake: &mut ConnectionIngest, payload: &str, id: u64| {
        assert_eq!(intake.take(&message("devices/d1/telemetry", payload, id)), Verdict::Staged);
    };
    payloads.iter().for_each(|p| publish(&mut intake, p, 1));
    // The staging area grows to its size in the first round; what is staged is handed over in
    // between.
    let mut context = Context::from_waker(Waker::noop());
    assert!(matches!(intake.poll_submit(&mut context), Poll::Ready(Ok(_))));
    let counted = allocation_counter::measure(|| payloads.iter().for_each(|p| publish(&mut intake, p, 2)));
    // The lists of devices and schemas of a batch begin anew with each: two allocations for the
    // hundred, none for each.
    assert!(counted.count_total <= 4, "{} allocations for 100 messages", counted.count_total);
    assert!(matches!(intake.poll_submit(&mut context), Poll::Ready(Ok(_))));
    let end = Arc::clone(&log);
    let begun = std::time::Instant::now();
    while end.end() < 200 {
        assert!(begun.elapsed().as_secs() < 10, "{} of 200", end.end());
        std::thread::yield_now();
    }
}

#[test]
fn a_gateway_with_known_topics_and_shapes_allocates_nothing() {
    let (_log, batcher) = MemoryLog::open("m", BatchConfig::default()).unwrap();
    let inbox = TelemetryInbox::new(Routes::new(&[]).unwrap(), Limits::default(), batcher, Arc::default());
    let mut intake = inbox.open(&sender(None));
    let topics: Vec<String> = (0..20).map(|n| format!("devices/d{n}/telemetry")).collect();
    let payloads = [
        r#"{"t":21.5,"nested":{"on":true,"list":[1,2.5,null]},"text":"a\u00e9\n"}"#,
        r#"[{"ts":"2025-01-01T00:00:00Z","v":1},{"ts":1735689600000,"v":2}]"#,
        "17.25",
        r#"{"ts":1735689600,"values":{"a":1e-7,"b":123456789012345678901}}"#,
    ];
    let round = |intake: &mut ConnectionIngest| {
        for (topic, payload) in topics.iter().flat_map(|topic| payloads.iter().map(move |p| (topic, p))) {
            assert_eq!(intake.take(&message(topic, payload, 1)), Verdict::Staged);
        }
    };
    round(&mut intake);
    let mut context = Context::from_waker(Waker::noop());
    assert!(matches!(intake.poll_submit(&mut context), Poll::Ready(Ok(_))));
    let counted = allocation_counter::measure(|| round(&mut intake));
    assert!(counted.count_total <= 12, "{} allocations for 80 messages", counted.count_total);
}

#[test]
fn a_sender_without_messages_holds_little_and_so_does_one_that_rests() {
    /// Bytes of a sender that has sent nothing, and of one that rests.
    const IDLE_BYTES: i64 = 224;
    let (_log, batcher) = MemoryLog::open("m", BatchConfig::default()).unwrap();
    let inbox = TelemetryInbox::new(Routes::new(&[]).unwrap(), Limits::default(), batcher, Arc::default());
    let sender = sender(Some("d1"));
    let mut opened = None;
    let counted = allocation_counter::measure(|| opened = Some(Box::new(inbox.open(&sender))));
    assert!(counted.bytes_current <= IDLE_BYTES, "{} bytes", counted.bytes_current);
    let mut intake = opened.expect("it was opened");
    let message = message("devices/d1/telemetry", "21.5", 1);
    assert_eq!(intake.take(&message), Verdict::Staged);
    // Staged records are not lost.
    intake.rest();
    assert_eq!(intake.take(&message), Verdict::Staged);
    assert!(matches!(intake.poll_submit(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(_))));
    let rested = allocation_counter::measure(|| intake.rest());
    assert!(rested.bytes_current < -1_000, "{} bytes more when it rests", rested.bytes_current);
    let dropped = allocation_counter::measure(|| drop(intake));
    assert!(dropped.bytes_current >= -IDLE_BYTES, "{} bytes more without it", dropped.bytes_current);
}
