//! Sampling of messages, and the contents of their spans.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use buffer::Log;
use buffer::batcher::BatchConfig;
use buffer::frame::Traced;
use buffer::memory::MemoryLog;
use door::{Delivery, Inbox, Intake, Message, Sender, Verdict};
use model::Value;
use model::trace::{Carried, Sampling, Span, TraceContext, Tracer};
use weir_ingest::{ConnectionIngest, Limits, Routes, TelemetryInbox};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

type Kept = Mutex<Vec<Span>>;

struct World {
    log: Arc<MemoryLog>,
    intake: ConnectionIngest,
    kept: Arc<Kept>,
}

impl World {
    fn new(sampling: Sampling) -> Self {
        let (log, batcher) = MemoryLog::open("m", BatchConfig::default()).unwrap();
        let kept = Arc::new(Kept::default());
        let tracer = Tracer::new(kept.clone(), sampling);
        let inbox = TelemetryInbox::new(Routes::new(&[]).unwrap(), Limits::default(), batcher, Arc::default())
            .traced(Some(tracer));
        let peer = "127.0.0.1:1".parse().unwrap();
        let sender = Sender {
            tenant: "default".into(),
            device: None,
            meter: None,
            client: "c".into(),
            user: None,
            peer,
            protocol: "mqtt",
        };
        Self { log, intake: inbox.open(&sender), kept }
    }

    /// Publishes as a door does, the answer included.
    fn publish(&mut self, topic: &str, payload: &str, own: &[(&str, &str)]) -> Verdict {
        assert!(self.intake.is_traced());
        let delivery = Delivery { id: Some(1), trace: Carried::find(own.iter().copied()), ..Delivery::default() };
        let verdict = self.intake.take(&Message { topic, payload: payload.as_bytes(), delivery });
        if let Some(span) = self.intake.take_span() {
            self.intake.answered(span);
        }
        assert!(self.intake.take_span().is_none(), "given once");
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
fn a_context_that_comes_with_a_message_goes_with_every_reading_into_the_log() {
    let mut world = World::new(Sampling { by_senders: true, ..Sampling::default() });
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
    assert_eq!(attribute("messaging.system"), Value::Str("mqtt".into()));
    assert_eq!(attribute("messaging.message.body.size"), Value::Int(17));
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
    assert_eq!(world.publish("devices/d1/telemetry", "{", &[]), Verdict::Unreadable);
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
fn a_message_that_is_not_traced_allocates_nothing_though_tracing_is_on() {
    let sampling = Sampling { ratio: 1e-12, devices: ["other".to_owned()].into(), ..Sampling::default() };
    let mut world = World::new(sampling);
    let unsampled = PARENT.replace("-01", "-00");
    let unsampled = Some(Carried::Traceparent(&unsampled));
    let mut publish = |trace: Option<Carried<'_>>| {
        let delivery = Delivery { id: Some(1), trace, ..Delivery::default() };
        let message = Message { topic: "devices/d1/telemetry", payload: br#"{"t":21.5}"#, delivery };
        assert_eq!(world.intake.take(&message), Verdict::Staged);
        assert!(world.intake.take_span().is_none());
    };
    (0..200).for_each(|_| publish(unsampled));
    // The staging area doubles at some point: a few allocations for the hundred, none for each.
    let counted = allocation_counter::measure(|| (0..50).for_each(|n| publish(unsampled.filter(|_| n % 2 == 0))));
    assert!(counted.count_total <= 2, "{} allocations for 50 messages", counted.count_total);
}
