//! One connection's way into the log.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use buffer::Log;
use buffer::batcher::{AppendError, BatchConfig, LogBackend};
use buffer::frame::{Frame, FrameBuilder, Record};
use buffer::memory::MemoryLog;
use door::{Delivery, Inbox, Intake, Message, Retained, Sender, Ticket, Verdict};
use model::Clock;
use weir_ingest::routes::RetainedMessages;
use weir_ingest::{
    Class, ConnectionIngest, Limits, Metrics, Route, Routes, Rules, StoredMessage, TelemetryInbox, replay,
};

#[derive(Debug, Default)]
struct Held(AtomicI64);

impl Clock for Held {
    fn now(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct World {
    log: Arc<MemoryLog>,
    batcher: buffer::Batcher,
    clock: Arc<Held>,
    metrics: Arc<Metrics>,
    rules: Rules,
}

const NOW: i64 = 1_760_000_000_000_000_000;

impl World {
    fn new(max_devices: usize) -> Self {
        let (log, batcher) = MemoryLog::open("m", BatchConfig::default()).unwrap();
        let metrics = Arc::new(Metrics::default());
        let routes = Routes::new(&[]).unwrap();
        let rules = Rules::with_max_devices(routes, Limits::default(), Arc::clone(&metrics), max_devices);
        Self { log, batcher, clock: Arc::new(Held(NOW.into())), metrics, rules }
    }

    fn connect(&self, id: &str) -> ConnectionIngest {
        self.connect_of("default", id)
    }

    fn connect_of(&self, tenant: &str, id: &str) -> ConnectionIngest {
        let inbox = TelemetryInbox::with_rules(self.rules.clone(), self.batcher.clone(), self.clock.clone());
        let peer = "127.0.0.1:1".parse().unwrap();
        inbox.open(&Sender {
            tenant: tenant.into(),
            device: None,
            meter: None,
            client: id.into(),
            user: None,
            peer,
            protocol: "mqtt",
        })
    }

    /// Every frame, once the ticket is durable.
    fn frames(&self, intake: &ConnectionIngest, ticket: Ticket) -> Vec<Frame> {
        let begun = Instant::now();
        while intake.durable().unwrap() < ticket {
            assert!(begun.elapsed() < Duration::from_secs(10), "ticket {ticket:?} does not become durable");
            std::thread::yield_now();
        }
        // The memory log answers at the first poll.
        let mut read = self.log.read(0, usize::MAX);
        match read.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(frames) => frames.unwrap(),
            Poll::Pending => panic!("the memory log waits for nothing"),
        }
    }
}

/// A message at QoS 1 with packet id 7.
fn message(payload: &str) -> Message<'_> {
    let delivery = Delivery { id: Some(7), ..Delivery::default() };
    Message { topic: "devices/d1/telemetry", payload: payload.as_bytes(), delivery }
}

/// The message under another packet id.
fn with_id(message: Message<'_>, id: u64) -> Message<'_> {
    Message { delivery: Delivery { id: Some(id), ..message.delivery }, ..message }
}

fn submit(intake: &mut ConnectionIngest) -> Ticket {
    match intake.poll_submit(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(ticket) => ticket.unwrap(),
        Poll::Pending => panic!("the log has room"),
    }
}

/// Identities of everything in the log.
fn identities(frames: &[Frame]) -> Vec<u64> {
    let identity = |record: Record<'_>| match record {
        Record::Reading(reading) => reading.identity,
        Record::DeadLetter(letter) => letter.identity,
        Record::Retained(_) | Record::SessionEnd(_) | Record::Destroyed(_) => 0,
    };
    frames.iter().flat_map(|frame| frame.records().map(|(_, record)| identity(record)).collect::<Vec<_>>()).collect()
}

#[test]
fn a_message_without_a_value_waits_for_nothing() {
    let world = World::new(0);
    let mut intake = world.connect("c");
    assert_eq!(intake.take(&message(r#"{"a":null,"b":null}"#)), Verdict::Staged);
    let ticket = submit(&mut intake);
    assert!(intake.durable().unwrap() >= ticket, "an idle log would never be done with it");
    assert_eq!((world.metrics.nulls.get(), world.metrics.empty.get(), world.metrics.messages.get()), (2, 1, 1));

    assert_eq!(intake.take(&message(r#"{"a":1}"#)), Verdict::Staged);
    let first = submit(&mut intake);
    assert_eq!(intake.take(&message("{}")), Verdict::Staged);
    assert_eq!(submit(&mut intake), first, "what was submitted before still has to be durable");
}

#[test]
fn no_two_records_of_a_connection_are_received_at_one_time_even_when_the_clock_goes_back() {
    let world = World::new(0);
    let mut intake = world.connect("c");
    intake.take(&message(r#"[{"a":1},{"a":2},{}, {"a":3}]"#));
    intake.take(&message("{"));
    intake.retain(&Retained { topic: "devices/d1/telemetry", payload: b"x", qos: 1, properties: &[] });
    intake.rest();
    submit(&mut intake);
    world.clock.0.store(NOW - 1_000_000_000, Ordering::Relaxed);
    intake.rest();
    intake.take(&message("5"));
    let ticket = submit(&mut intake);
    let frames = world.frames(&intake, ticket);
    let times: Vec<i64> = frames
        .iter()
        .flat_map(|frame| {
            let received = |record: Record<'_>| match record {
                Record::Reading(r) => r.received,
                Record::DeadLetter(d) => d.received,
                Record::Retained(m) => m.received,
                Record::SessionEnd(e) => e.received,
                Record::Destroyed(_) => panic!("no keys were destroyed"),
            };
            frame.records().map(|(_, record)| received(record)).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(times.len(), 6);
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    assert_eq!(times[0], NOW);
}

#[test]
fn an_unreadable_message_is_kept_as_it_came_with_the_reason() {
    let world = World::new(0);
    let mut intake = world.connect("c9");
    assert_eq!(intake.take(&message("{\"a\":1,\n\"b\":}")), Verdict::Unreadable);
    let ticket = submit(&mut intake);
    let frames = world.frames(&intake, ticket);
    let (_, Record::DeadLetter(letter)) = frames[0].records().next().unwrap() else { panic!("a dead letter") };
    assert_eq!(letter.reason, "not JSON: a value expected, found '}' at line 2 column 5");
    assert_eq!(
        (letter.topic, letter.client, letter.payload),
        ("devices/d1/telemetry", "c9", &b"{\"a\":1,\n\"b\":}"[..])
    );
    assert_eq!(&*letter.device.unwrap().id, "d1");
    assert_eq!((world.metrics.dead_letters.get(), world.metrics.refused(Class::Json)), (1, 1));
}

#[test]
fn a_reading_with_a_device_time_is_the_same_from_every_sender_and_one_without_is_not() {
    let world = World::new(0);
    let (mut a, mut b) = (world.connect("a"), world.connect("b"));
    let timed = message(r#"{"ts":1750000000,"a":1}"#);
    let untimed = message(r#"{"a":1}"#);
    a.take(&timed);
    a.take(&with_id(timed, 8));
    a.take(&untimed);
    a.take(&with_id(untimed, 8));
    let ticket = submit(&mut a);
    world.frames(&a, ticket);
    b.take(&timed);
    b.take(&untimed);
    let ticket = submit(&mut b);
    let ids = identities(&world.frames(&b, ticket));
    assert_eq!((ids[0], ids[0]), (ids[1], ids[4]));
    assert!(ids[2] != ids[3] && ids[2] != ids[5] && ids[3] != ids[5], "{ids:?}");
}

#[test]
fn a_time_too_far_in_the_future_still_identifies_the_reading() {
    let world = World::new(0);
    let mut intake = world.connect("c");
    let ahead = message(r#"{"ts":1770000000,"a":1}"#);
    intake.take(&ahead);
    intake.take(&with_id(ahead, 8));
    let ticket = submit(&mut intake);
    let ids = identities(&world.frames(&intake, ticket));
    assert_eq!(ids[0], ids[1]);
    assert_eq!(world.metrics.clock_ahead.get(), 2);
}

#[test]
fn a_resent_message_is_recognised_and_equal_ones_at_qos_0_are_two() {
    let world = World::new(0);
    let mut intake = world.connect("c");
    let untimed = message(r#"{"a":1}"#);
    intake.take(&untimed);
    let ticket = submit(&mut intake);
    world.frames(&intake, ticket);
    // The device has lost its connection, and comes again.
    let mut intake = world.connect("c");
    intake.take(&Message { delivery: Delivery { resent: true, ..untimed.delivery }, ..untimed });
    let at_qos_0 = Message { delivery: Delivery::default(), ..untimed };
    intake.take(&at_qos_0);
    intake.take(&at_qos_0);
    let ticket = submit(&mut intake);
    let ids = identities(&world.frames(&intake, ticket));
    assert_eq!(ids.len(), 3, "the resent one is dropped by the log");
    assert_ne!(ids[1], ids[2]);
}

#[test]
fn a_replayed_message_has_its_old_receive_time_and_the_same_identity_every_time() {
    let world = World::new(0);
    let payload = br#"{"a":1}"#;
    let message = StoredMessage {
        tenant: "default",
        client: "c",
        topic: "devices/d1/telemetry",
        payload,
        received: NOW - 5,
        retain: false,
        device: None,
    };
    let mut intake = world.connect("other");
    let mut frames = Vec::new();
    for _ in 0..2 {
        let mut staged = replay(&world.rules, &message).unwrap();
        let ticket = world.batcher.submit(&mut staged, Waker::noop()).unwrap();
        frames = world.frames(&intake, ticket);
    }
    assert_eq!(identities(&frames).len(), 1, "the second replay is recognised");
    let (_, Record::Reading(reading)) = frames[0].records().next().unwrap() else { panic!("a reading") };
    assert_eq!((reading.received, reading.time), (NOW - 5, NOW - 5));
    assert_eq!(world.metrics.messages.get(), 0, "it was counted when it came");
    assert_eq!(intake.take(&plain_message()), Verdict::Plain);
}

fn plain_message() -> Message<'static> {
    Message { topic: "chat", ..message("hello") }
}

#[test]
fn a_device_beyond_the_limit_becomes_a_dead_letter() {
    let world = World::new(1);
    let mut intake = world.connect("c");
    assert_eq!(intake.take(&message("1")), Verdict::Staged);
    assert_eq!(intake.take(&Message { topic: "devices/d2/telemetry", ..message("1") }), Verdict::Unreadable);
    assert_eq!(intake.take(&message("2")), Verdict::Staged);
    assert_eq!(world.metrics.refused(Class::Admission), 1);
}

#[test]
fn a_route_may_leave_retained_messages_to_the_next() {
    let telemetry = Route { topic: "devices/{device}/telemetry".into(), ..Route::default() };
    let verdicts = |routes: &[Route]| {
        let rules = Rules::new(Routes::new(routes).unwrap(), Limits::default(), Arc::default());
        let mut intake = World { rules, ..World::new(0) }.connect("c");
        [false, true].map(|retain| {
            intake.take(&Message { delivery: Delivery { retain, ..message("1").delivery }, ..message("1") })
        })
    };
    let skip = Route { retained: RetainedMessages::Skip, ..telemetry.clone() };
    assert_eq!(verdicts(std::slice::from_ref(&telemetry)), [Verdict::Staged, Verdict::Staged]);
    assert_eq!(verdicts(std::slice::from_ref(&skip)), [Verdict::Staged, Verdict::Plain]);
    assert_eq!(verdicts(&[skip, telemetry]), [Verdict::Staged, Verdict::Staged]);
}

#[test]
fn the_figures_are_registered() {
    let mut registry = prometheus_client::registry::Registry::default();
    Metrics::default().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in ["weir_ingest_messages_total 0", "weir_ingest_refused_total{reason=\"values\"} 0"] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn records_of_two_tenants_with_the_same_client_topic_and_device_do_not_meet() {
    let world = World::new(1);
    let timed = message(r#"{"ts":1750000000,"a":1}"#);
    let resent = Message { delivery: Delivery { resent: true, ..timed.delivery }, ..timed };
    let mut a = world.connect_of("a", "c");
    assert_eq!(a.take(&timed), Verdict::Staged);
    let ticket = submit(&mut a);
    world.frames(&a, ticket);
    let mut b = world.connect_of("b", "c");
    assert_eq!(b.take(&resent), Verdict::Staged, "the limit on devices counts for each tenant");
    assert_eq!(b.take(&message("{")), Verdict::Unreadable);
    b.retain(&Retained { topic: "state", payload: b"on", qos: 1, properties: &[] });
    let ticket = submit(&mut b);
    let frames = world.frames(&b, ticket);
    let tenants: Vec<_> = frames
        .iter()
        .flat_map(|frame| frame.records().map(|(_, record)| record.tenant().to_string()).collect::<Vec<_>>())
        .collect();
    assert_eq!(tenants, ["a", "b", "b", "b"], "the resent one is not the other tenant's");
}

/// A log without room. It counts the appends that were tried.
struct Full(Arc<AtomicI64>);

impl LogBackend for Full {
    fn append(&mut self, _: &mut FrameBuilder) -> Result<Frame, AppendError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(AppendError::Retry("the test wants no records".into()))
    }

    fn recent(&self) -> Vec<Frame> {
        Vec::new()
    }

    fn blocked(&self, _: Option<&str>) {}
}

struct Task;

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn connections_that_waited_for_room_and_ended_leave_nothing() {
    let appends = Arc::new(AtomicI64::new(0));
    let config = BatchConfig { max_bytes: 1, ..BatchConfig::default() };
    let batcher = buffer::Batcher::start(config, Arc::default(), Full(Arc::clone(&appends))).unwrap();
    let world = World { batcher, ..World::new(100) };
    let staged = |id: &str| {
        let mut intake = world.connect(id);
        assert_eq!(intake.take(&message(r#"{"a":1}"#)), Verdict::Staged);
        intake
    };
    submit(&mut staged("first"));
    let begun = Instant::now();
    while appends.load(Ordering::Relaxed) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "no append");
        std::thread::yield_now();
    }
    submit(&mut staged("second"));
    for number in 0..20 {
        let mut intake = staged(&number.to_string());
        let tasks = [Arc::new(Task), Arc::new(Task)];
        for task in &tasks {
            let waker = Waker::from(Arc::clone(task));
            assert!(intake.poll_submit(&mut Context::from_waker(&waker)).is_pending());
        }
        assert_eq!(tasks.each_ref().map(Arc::strong_count), [1, 2], "the last task waits");
        drop(intake);
        assert_eq!(tasks.each_ref().map(Arc::strong_count), [1, 1]);
    }
}
