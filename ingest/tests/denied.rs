//! Messages of an authenticated sender with readings of another device.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::sync::Arc;

use buffer::batcher::BatchConfig;
use buffer::frame::Record;
use buffer::memory::MemoryLog;
use common::message;
use door::{Delivery, Intake, Message, Verdict};
use weir_ingest::{
    Class, ConnectionIngest, Limits, MapOutcome, Metrics, Route, Routes, Rules, StoredMessage, TelemetryInbox, map,
    replay,
};

struct World {
    log: Arc<MemoryLog>,
    inbox: TelemetryInbox,
    metrics: Arc<Metrics>,
}

impl World {
    fn new(routes: &str) -> Self {
        #[derive(serde::Deserialize)]
        struct File {
            #[serde(default)]
            route: Vec<Route>,
        }
        let file: File = toml::from_str(routes).unwrap();
        let (log, batcher) = MemoryLog::open("m", BatchConfig::default()).unwrap();
        let metrics = Arc::new(Metrics::default());
        let routes = Routes::new(&file.route).unwrap();
        let rules = Rules::with_max_devices(routes, Limits::default(), Arc::clone(&metrics), 1);
        let inbox = TelemetryInbox::with_rules(rules, batcher, Arc::new(model::SystemClock));
        Self { log, inbox, metrics }
    }

    /// The intake of device `d1`.
    fn connect(&self) -> ConnectionIngest {
        common::connect(&self.inbox, "d1:app", None)
    }

    /// Submits, and returns the number of records in the log when they are durable.
    fn stored(&self, intake: &mut ConnectionIngest) -> u64 {
        let mut records = 0;
        common::stored(&self.log, intake, |_| records += 1);
        records
    }

    fn dead_letters(&self) -> u64 {
        self.metrics.dead_letters.get() + Class::ALL.iter().map(|class| self.metrics.refused(*class)).sum::<u64>()
    }
}

#[test]
fn a_reading_of_another_device_is_denied_and_nothing_of_its_message_is_staged() {
    let world = World::new("");
    let mut intake = world.connect();
    for payload in ["1", r#"{"t":1}"#, r#"[{"t":1},{"t":2}]"#, "{\"a\":1,\n\"b\":}", "{}"] {
        assert_eq!(intake.take(&message("devices/d2/telemetry", payload)), Verdict::Denied, "{payload}");
    }
    assert_eq!(world.stored(&mut intake), 0);
    assert_eq!((world.metrics.denied.get(), world.dead_letters()), (5, 0));
    assert_eq!(world.metrics.messages.get(), 0);
    assert_eq!(intake.take(&message("devices/d1/telemetry", "1")), Verdict::Staged, "others used up no device");
    assert_eq!(intake.take(&message("devices/d1/telemetry", "{\"a\":1,\n\"b\":}")), Verdict::Unreadable);
    assert_eq!(intake.take(&message("devices/d1/telemetry", "2")), Verdict::Staged);
    assert_eq!(intake.take(&message("chat", "hello")), Verdict::Plain);
    assert_eq!(world.stored(&mut intake), 3);
}

#[test]
fn every_device_that_a_payload_names_has_to_be_the_senders() {
    let world = World::new("[[route]]\ntopic = \"g\"\neach = \"$.rows\"\ndevice = \"{@.id}\"");
    let mut intake = world.connect();
    for (payload, verdict) in [
        (r#"{"rows":[{"id":"d1","t":1},{"id":"d1","t":2}]}"#, Verdict::Staged),
        (r#"{"rows":[{"id":"d1","t":1},{"id":"d2","t":2}]}"#, Verdict::Denied),
        (r#"{"rows":[{"id":"d2","t":1},{"id":"d1","t":2}]}"#, Verdict::Denied),
        (r#"{"rows":[{"id":"","t":1},{"id":"d2","t":2}]}"#, Verdict::Denied),
        ("{\"rows\":[{\"id\":\"d2\",\"t\":1}]}\n{\"rows\":[{\"id\":\"d1\",\"t\":}]}", Verdict::Denied),
        ("{\"rows\":[{\"id\":\"d1\",\"t\":1}]}\n{\"rows\":[{\"id\":\"d1\",\"t\":}]}", Verdict::Unreadable),
    ] {
        assert_eq!(intake.take(&message("g", payload)), verdict, "{payload}");
    }
    assert_eq!(world.stored(&mut intake), 3);
    assert_eq!(world.metrics.denied.get(), 4);
}

#[test]
fn presence_of_another_device_is_denied() {
    let world = World::new("[[route]]\ntopic = \"tele/{device}/LWT\"\nkind = \"presence\"");
    let mut intake = world.connect();
    for (topic, payload, verdict) in [
        ("tele/d1/LWT", "Online", Verdict::Staged),
        ("tele/d2/LWT", "Offline", Verdict::Denied),
        ("tele/d2/LWT", "", Verdict::Denied),
        ("tele/d2/LWT", "neither", Verdict::Denied),
        ("tele/d1/LWT", "neither", Verdict::Unreadable),
    ] {
        let retained = Delivery { retain: true, ..Delivery::default() };
        assert_eq!(
            intake.take(&Message { delivery: retained, ..message(topic, payload) }),
            verdict,
            "{topic} {payload}"
        );
    }
    assert_eq!(world.stored(&mut intake), 2);
}

#[test]
fn a_stored_message_of_a_device_is_replayed_to_that_device_only() {
    let world = World::new("");
    let message = StoredMessage {
        tenant: "default",
        client: "d1:app",
        topic: "devices/d2/telemetry",
        payload: b"1",
        received: 5,
        retain: false,
        device: Some("d1"),
    };
    let MapOutcome::Refused(reason) = replay(&world.inbox, &message).unwrap_err() else { panic!("it is refused") };
    assert_eq!(reason, "the message has a reading of device \"d2\", and was sent by device \"d1\"");
    assert!(matches!(map(&world.inbox, &message), MapOutcome::Refused(_)));
    for message in [
        StoredMessage { topic: "devices/d1/telemetry", ..message },
        StoredMessage { topic: "devices/d1/telemetry", device: None, ..message },
    ] {
        assert_eq!(replay(&world.inbox, &message).unwrap().count(), 1);
    }
    let open = StoredMessage { device: None, ..message };
    let rules = World::new("").inbox;
    assert_eq!(replay(&rules, &open).unwrap().count(), 1, "the device of its sender is not known");
}

#[test]
fn a_dead_letter_has_the_device_of_its_authenticated_sender_also_on_a_topic_without_one() {
    let world = World::new("[[route]]\ntopic = \"g\"\neach = \"$.rows\"\ndevice = \"{@.id}\"");
    let mut intake = world.connect();
    for _ in 0..3 {
        assert_eq!(intake.take(&message("g", "{")), Verdict::Unreadable);
    }
    let mut devices = Vec::new();
    common::stored(&world.log, &mut intake, |record| match record {
        Record::DeadLetter(letter) => devices.push(letter.device.unwrap().to_string()),
        other => panic!("{other:?}"),
    });
    assert_eq!(devices.len(), 3);
    assert!(devices.iter().all(|device| device.ends_with("d1")), "{devices:?}");
}
