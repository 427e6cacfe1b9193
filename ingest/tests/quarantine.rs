//! Messages of a device in quarantine.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use buffer::Log;
use buffer::batcher::BatchConfig;
use buffer::frame::Record;
use buffer::memory::MemoryLog;
use door::quota::{Limits, TenantMeter};
use door::{Delivery, Inbox, Intake, Message, Sender, Verdict};
use weir_ingest::{Class, ConnectionIngest, Metrics, Routes, TelemetryInbox};

struct World {
    log: Arc<MemoryLog>,
    inbox: TelemetryInbox,
    metrics: Arc<Metrics>,
    tenant: Arc<TenantMeter>,
}

impl World {
    fn new() -> Self {
        let (log, batcher) = MemoryLog::open("m", BatchConfig::default()).unwrap();
        let metrics = Arc::new(Metrics::default());
        let routes = Routes::new(&[]).unwrap();
        let inbox = TelemetryInbox::new(routes, weir_ingest::Limits::default(), batcher, Arc::clone(&metrics));
        let tenant = TenantMeter::new(&Limits::default());
        tenant.set_quarantines(true);
        Self { log, inbox, metrics, tenant }
    }

    fn connect(&self) -> ConnectionIngest {
        self.inbox.open(&Sender {
            tenant: "default".into(),
            device: Some("d1".into()),
            meter: Some(self.tenant.device("d1")),
            client: "d1".into(),
            user: None,
            peer: "127.0.0.1:1".parse().unwrap(),
            protocol: "mqtt",
        })
    }

    /// Submits, and returns the readings in the log and the reasons of its dead letters.
    fn stored(&self, intake: &mut ConnectionIngest) -> (u64, Vec<String>) {
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(ticket) = intake.poll_submit(&mut context) else { panic!("the log has room") };
        let (ticket, begun) = (ticket.unwrap(), std::time::Instant::now());
        while intake.durable().unwrap() < ticket {
            assert!(begun.elapsed().as_secs() < 10, "{ticket:?} does not become durable");
            std::thread::yield_now();
        }
        let (mut readings, mut reasons, mut from) = (0, Vec::new(), 0);
        while from < self.log.end() {
            let Poll::Ready(frames) = pin!(self.log.read(from, 1 << 20)).poll(&mut context) else {
                panic!("in memory")
            };
            for frame in frames.unwrap() {
                for (_, record) in frame.records() {
                    match record {
                        Record::Reading(_) => readings += 1,
                        Record::DeadLetter(letter) => reasons.push(letter.reason.to_owned()),
                        _ => {}
                    }
                }
                from = frame.header().end_offset();
            }
        }
        (readings, reasons)
    }
}

fn message<'a>(topic: &'a str, payload: &'a str) -> Message<'a> {
    Message { topic, payload: payload.as_bytes(), delivery: Delivery { id: Some(7), ..Delivery::default() } }
}

#[test]
fn telemetry_is_held_until_the_device_is_adopted_and_all_else_is_denied() {
    let world = World::new();
    let mut intake = world.connect();
    let meter = world.tenant.device("d1");
    meter.set_quarantine(1, true);
    let telemetry = "devices/d1/telemetry";
    for (topic, payload, verdict) in [
        (telemetry, r#"{"t": 1}"#, Verdict::Held),
        (telemetry, "2", Verdict::Held),
        (telemetry, "{\"t\":", Verdict::Held),
        ("devices/d2/telemetry", "3", Verdict::Denied),
        ("chat", "hello", Verdict::Denied),
    ] {
        assert_eq!(intake.take(&message(topic, payload)), verdict, "{topic} {payload}");
    }
    assert_eq!(world.metrics.refused(Class::Quarantine), 2);
    meter.set_quarantine(2, false);
    assert_eq!(intake.take(&message(telemetry, "4")), Verdict::Staged);
    assert_eq!(intake.take(&message("chat", "hello")), Verdict::Plain);
    let (readings, reasons) = world.stored(&mut intake);
    assert_eq!((readings, reasons.len()), (1, 3));
    assert_eq!(reasons[..2], [model::IN_QUARANTINE; 2]);
}
