//! Which messages are traced, and what their spans tell.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use broker::inbox::{Client, Inbox, Intake, Publish, Verdict};
use buffer::Log;
use buffer::batcher::BatchConfig;
use buffer::frame::Traced;
use buffer::memory::MemoryLog;
use model::Value;
use model::trace::{Sampling, Span, TraceContext, Tracer};
use weir_ingest::{Door, Limits, Routes};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

type Kept = Mutex<Vec<Span>>;

struct World {
    log: Arc<MemoryLog>,
    intake: weir_ingest::Intake,
    kept: Arc<Kept>,
}

impl World {
    fn new(sampling: Sampling) -> Self {
        let (log, batcher) = MemoryLog::open("m", BatchConfig::default()).unwrap();
        let kept = Arc::new(Kept::default());
        let tracer = Tracer::new(kept.clone(), sampling);
        let door =
            Door::new(Routes::new(&[]).unwrap(), Limits::default(), batcher, Arc::default()).traced(Some(tracer));
        let peer = "127.0.0.1:1".parse().unwrap();
        let client = Client { tenant: "default".into(), id: "c".into(), user: None, peer, v5: true };
        Self { log, intake: door.open(&client), kept }
    }

    /// Publishes as the broker does, the answer included.
    fn publish(&mut self, topic: &str, payload: &str, own: &[(&str, &str)]) -> Verdict {
        let mut properties = Vec::new();
        for (name, text) in own {
            properties.push(0x26);
            for part in [name, text] {
                properties.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
                properties.extend_from_slice(part.as_bytes());
            }
        }
        let payload = payload.as_bytes();
        let publish =
            Publish { topic, payload, qos: 1, dup: false, retain: false, packet_id: 1, properties: &properties };
        let verdict = self.intake.publish(&publish);
        if let Some(span) = self.intake.traced() {
            self.intake.answered(span);
        }
        assert!(self.intake.traced().is_none(), "given once");
        verdict
    }

    fn spans(&self) -> Vec<Span> {
        self.kept.lock().unwrap().clone()
    }

    /// Hands everything to the log and returns its traced messages.
    fn logged(&mut self, records: u64) -> Vec<Traced> {
        assert!(matches!(self.intake.poll_submit(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(_))));
        let begun = Instant::now();
        while self.log.end() < records {
            assert!(begun.elapsed() < Duration::from_secs(10), "{} of {records}", self.log.end());
            std::thread::yield_now();
        }
        // The memory log answers at the first poll.
        let mut read = self.log.read(0, usize::MAX);
        let Poll::Ready(frames) = read.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("the memory log waits for nothing")
        };
        let frames = frames.unwrap();
        frames.iter().flat_map(|frame| frame.traced().collect::<Vec<_>>()).collect()
    }
}

#[test]
fn a_context_in_the_user_properties_goes_with_every_reading_into_the_log() {
    let mut world = World::new(Sampling::default());
    world.publish("devices/d1/telemetry", r#"{"t":1}"#, &[]);
    let two = r#"[{"t":1},{"t":2}]"#;
    world.publish("devices/d2/telemetry", two, &[("other", "x"), ("traceparent", PARENT)]);
    world.publish("devices/d3/telemetry", r#"{"t":1}"#, &[("uber-trace-id", "6b221d5bc9e6496c%3A5fc5e6b%3A0%3A1")]);
    world.publish("devices/d4/telemetry", r#"{"t":1}"#, &[("traceparent", &PARENT.replace("-01", "-00"))]);
    let spans = world.spans();
    assert_eq!(spans.len(), 2, "{spans:?}");
    let sent = TraceContext::from_traceparent(PARENT).unwrap();
    assert_eq!((spans[0].context.trace_id, spans[0].parent), (sent.trace_id, Some(sent.span_id)));
    assert_eq!(spans[1].context.trace().to_string(), "00000000000000006b221d5bc9e6496c");
    let attribute = |name| spans[0].attributes.iter().find(|(n, _)| *n == name).unwrap().1.clone();
    for (name, text) in [
        ("messaging.destination.name", "devices/d2/telemetry"),
        ("weir.device", "d2"),
        ("weir.tenant", "default"),
        ("messaging.client.id", "c"),
    ] {
        assert_eq!(attribute(name), Value::Str(text.into()));
    }
    assert_eq!((attribute("mqtt.version"), attribute("messaging.message.body.size")), (Value::Int(5), Value::Int(17)));
    assert!(&*spans[0].name == "publish" && spans[0].end >= spans[0].start && spans[0].error.is_none());
    let traced = world.logged(5);
    let places: Vec<_> = traced.iter().map(|t| (t.context, t.first, t.last)).collect();
    assert_eq!(places, [(spans[0].context, 1, 2), (spans[1].context, 3, 3)]);
}

#[test]
fn a_ratio_of_one_traces_everything_that_is_telemetry() {
    let mut world = World::new(Sampling { ratio: 1.0, ..Sampling::default() });
    assert_eq!(world.publish("chat", "hello", &[]), Verdict::Plain);
    assert_eq!(world.publish("devices/d1/telemetry", r#"{"t":1}"#, &[]), Verdict::Staged);
    assert_eq!(world.publish("devices/d1/telemetry", "{", &[]), Verdict::Quarantined);
    let spans = world.spans();
    assert_eq!(spans.iter().map(|span| span.error.is_some()).collect::<Vec<_>>(), [false, true]);
    assert!(spans.iter().all(|span| span.parent.is_none()));
    assert_eq!(world.logged(2).len(), 1);
}

#[test]
fn a_listed_device_is_traced_and_no_other() {
    let devices = ["d2".to_owned()].into();
    let mut world = World::new(Sampling { devices, ..Sampling::default() });
    for device in ["d1", "d2", "d3", "d2"] {
        world.publish(&format!("devices/{device}/telemetry"), r#"{"t":1}"#, &[]);
    }
    assert_eq!(world.spans().len(), 2);
    let traced = world.logged(4);
    assert_eq!(traced.iter().map(|t| t.first).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn what_is_not_traced_allocates_nothing_though_tracing_is_on() {
    let sampling = Sampling { ratio: 1e-12, devices: ["other".to_owned()].into(), ..Sampling::default() };
    let mut world = World::new(sampling);
    let unsampled = PARENT.replace("-01", "-00");
    let mut properties = vec![0x26, 0, 11];
    properties.extend_from_slice(b"traceparent\0\x37");
    properties.extend_from_slice(unsampled.as_bytes());
    let mut publish = |properties: &[u8]| {
        let payload = br#"{"t":21.5}"#;
        let publish = Publish {
            topic: "devices/d1/telemetry",
            payload,
            qos: 1,
            dup: false,
            retain: false,
            packet_id: 1,
            properties,
        };
        assert_eq!(world.intake.publish(&publish), Verdict::Staged);
        assert!(world.intake.traced().is_none());
    };
    (0..200).for_each(|_| publish(&properties));
    // The staging area doubles at some point: a few allocations for the hundred, none for each.
    let counted =
        allocation_counter::measure(|| (0..50).for_each(|n| publish(if n % 2 == 0 { &properties } else { &[] })));
    assert!(counted.count_total <= 2, "{} allocations for 50 messages", counted.count_total);
}
