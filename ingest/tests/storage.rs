//! The bytes of readings, counted before they are staged, against the storage of the tenant.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::sync::Arc;

use buffer::Log;
use buffer::batcher::BatchConfig;
use buffer::frame::Record;
use buffer::memory::MemoryLog;
use common::message;
use door::quota::{Limits, Quota, TenantMeter};
use door::{Intake, Message, Verdict};
use weir_ingest::{ConnectionIngest, Metrics, Routes, TelemetryInbox};

struct World {
    log: Arc<MemoryLog>,
    inbox: TelemetryInbox,
    tenant: Arc<TenantMeter>,
}

impl World {
    /// The limits by name; the store is empty.
    fn new(limits: &[(&str, u64)]) -> Self {
        let (log, batcher) = MemoryLog::open("m", BatchConfig::default()).unwrap();
        let metrics = Arc::new(Metrics::default());
        let inbox = TelemetryInbox::new(Routes::new(&[]).unwrap(), weir_ingest::Limits::default(), batcher, metrics);
        let mut all = Limits::default();
        limits.iter().for_each(|(name, limit)| all.set(name, Some((*limit).try_into().unwrap())).unwrap());
        let tenant = TenantMeter::new(&all);
        tenant.stored(0, None);
        tenant.learnt_all(tenant.count_begun());
        Self { log, inbox, tenant }
    }

    fn connect(&self) -> ConnectionIngest {
        common::connect(&self.inbox, "d1", Some(self.tenant.device("d1")))
    }

    /// Submits, and returns the readings in the log and their bytes.
    fn stored(&self, intake: &mut ConnectionIngest) -> (u64, u64) {
        let (mut count, mut bytes) = (0, 0);
        common::stored(&self.log, intake, |record| {
            let Record::Reading(reading) = record else { return };
            count += 1;
            bytes += model::size::READING;
            bytes += reading.values().map(|(name, value)| model::size::of_value(name, value)).sum::<u64>();
        });
        (count, bytes)
    }
}

fn telemetry(payload: &str) -> Message<'_> {
    message("devices/d1/telemetry", payload)
}

#[test]
fn the_bytes_that_are_counted_are_those_of_the_readings_in_the_log() {
    let world = World::new(&[("storage_bytes", 1_000_000)]);
    let mut intake = world.connect();
    for payload in [
        "21.5",
        r#"{"t":21.5,"n":7,"on":true,"state":"running"}"#,
        r#"{"ts":1700000000,"seq":4,"a":{"b":1,"c":{"d":"grün"}}}"#,
        r#"[{"ts":1700000000,"t":1},{"ts":1700000001,"t":2},{"t":null}]"#,
        r#"{"values":[1,2,3],"none":null}"#,
        "{\"t\":1}\n{\"t\":2}",
        r#"{"t":1,"t":2}"#,
    ] {
        assert_eq!(intake.take(&telemetry(payload)), Verdict::Staged, "{payload}");
    }
    let (count, bytes) = world.stored(&mut intake);
    assert!(count >= 8, "{count}");
    assert_eq!(world.tenant.usage().storage, Some(bytes));
}

#[test]
fn a_message_that_does_not_fit_is_refused_as_a_whole_and_all_else_goes_on() {
    let world = World::new(&[("storage_bytes", 100)]);
    let mut intake = world.connect();
    assert_eq!(intake.take(&telemetry(r#"{"t":1}"#)), Verdict::Staged);
    let refused = Verdict::OverQuota(Quota::Storage);
    assert_eq!(intake.take(&telemetry(r#"[{"t":2},{"t":3}]"#)), refused, "one of two would fit");
    assert_eq!(intake.take(&telemetry(r#"{"t":4}"#)), Verdict::Staged);
    assert_eq!(intake.take(&telemetry(r#"{"t":5}"#)), refused);
    // A message without a reading, another topic, one that cannot be read.
    assert_eq!(intake.take(&telemetry("{}")), Verdict::Staged);
    assert_eq!(intake.take(&message("chat", "hello")), Verdict::Plain);
    assert_eq!(intake.take(&telemetry("{\"a\":1,\n\"b\":}")), Verdict::Unreadable);
    assert_eq!(world.stored(&mut intake), (2, 2 * (32 + 1 + 8)));
    // Readings were deleted.
    world.tenant.mark_storage(world.log.end());
    world.tenant.mark_storage(world.log.end());
    world.tenant.stored(0, Some(world.log.end()));
    assert_eq!(intake.take(&telemetry(r#"{"t":6}"#)), Verdict::Staged);
}

#[test]
fn a_message_that_is_refused_for_another_limit_takes_no_storage() {
    let world = World::new(&[("storage_bytes", 1_000), ("series", 1)]);
    let mut intake = world.connect();
    assert_eq!(intake.take(&telemetry(r#"{"a":1}"#)), Verdict::Staged);
    for _ in 0..100 {
        assert_eq!(intake.take(&telemetry(r#"{"b":1}"#)), Verdict::OverQuota(Quota::Series));
    }
    assert_eq!(world.tenant.usage().storage, Some(41));
    // And the other way round: a new series that is not stored is not known.
    let world = World::new(&[("storage_bytes", 50), ("series", 1)]);
    let mut intake = world.connect();
    let text = "x".repeat(50);
    assert_eq!(intake.take(&telemetry(&format!(r#"{{"b":"{text}"}}"#))), Verdict::OverQuota(Quota::Storage));
    assert_eq!(intake.take(&telemetry(r#"{"a":1}"#)), Verdict::Staged);
}

/// For the decision record.
#[test]
#[ignore = "prints figures: run it in a release build"]
fn figures() {
    const ROUNDS: usize = 40;
    const MESSAGES: usize = 20_000;
    let payload = r#"{"ts":1700000000,"temperature":21.5,"humidity":45.25,"battery":99}"#;
    let worlds = [World::new(&[]), World::new(&[("storage_bytes", u64::MAX)])];
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (world, times) in worlds.iter().zip(&mut times) {
            let mut intake = world.connect();
            let begun = std::time::Instant::now();
            for _ in 0..MESSAGES {
                assert_eq!(intake.take(&telemetry(payload)), Verdict::Staged);
            }
            times.push(begun.elapsed() / MESSAGES as u32);
        }
    }
    for (name, times) in ["without the limit", "with it"].iter().zip(&mut times) {
        times.sort();
        println!("a message of three values {name}: {:?}, at least {:?}", times[ROUNDS / 2], times[0]);
    }
}
