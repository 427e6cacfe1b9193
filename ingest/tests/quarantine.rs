//! Messages of a device in quarantine.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::sync::Arc;

use buffer::batcher::BatchConfig;
use buffer::frame::Record;
use buffer::memory::MemoryLog;
use common::message;
use door::quota::{Limits, TenantMeter};
use door::{Intake, Verdict};
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
        common::connect(&self.inbox, "d1", Some(self.tenant.device("d1")))
    }

    /// Submits, and returns the readings in the log and the reasons of its dead letters.
    fn stored(&self, intake: &mut ConnectionIngest) -> (u64, Vec<String>) {
        let (mut readings, mut reasons) = (0, Vec::new());
        common::stored(&self.log, intake, |record| match record {
            Record::Reading(_) => readings += 1,
            Record::DeadLetter(letter) => reasons.push(letter.reason.to_owned()),
            _ => {}
        });
        (readings, reasons)
    }
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
