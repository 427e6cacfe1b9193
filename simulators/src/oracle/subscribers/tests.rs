//! The oracle finds each kind of fault of deliveries.

use std::path::PathBuf;

use super::*;
use crate::ledger::{Header, Record, Writer};
use crate::scenario::parse;

const START: i64 = 1_767_225_600_000_000_000;
const SCENARIO: &str = r##"
name = "small"
duration = "2s"

[[group]]
name = "one"
count = 2
interval = "100ms"
qos = 1
values.count = { model = "counter" }

[[group]]
name = "two"
count = 1
interval = "100ms"
qos = 2
topic = "commands/{device}"
values.count = { model = "counter" }

[[subscriber]]
name = "s"
filter = "#"
qos = 2
"##;

struct World {
    expected: Expected,
    /// Deliveries without a fault, of QoS 1 messages first.
    good: Vec<Delivery>,
    /// The number of those.
    ones: usize,
}

/// All messages are acknowledged but the last of each device.
fn world() -> World {
    let scenario = parse(SCENARIO).unwrap();
    scenario.check(&PathBuf::from(".")).unwrap();
    let devices = plan::devices(&scenario, &PathBuf::from("."), START).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let header = Header { scenario, folder: ".".into(), start: START, broker: String::new() };
    let (writer, recorder) = Writer::create(&path, &header).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mut good, mut ones) = (Vec::new(), 0);
    for device in &devices {
        let messages: Vec<_> = Messages::new(device).collect();
        let count = messages.len();
        for (at, message) in messages.into_iter().enumerate() {
            let outcome = if at + 1 == count { Outcome::Sent } else { Outcome::Acknowledged };
            let number = message.number;
            let record = Record { device: device.index, number, sent_micros: 0, latency_micros: 0, outcome };
            runtime.block_on(recorder.record(record));
            let qos = device.kind.group.qos;
            ones += usize::from(qos == 1 && at + 1 < count);
            if at + 1 < count {
                let packet_id = good.len() as u16 + 1;
                let key = deliveries::key(&message.topic, &message.payload);
                let (subscriber, connection, dup, is_known) = ("s-0".to_owned(), 1, false, false);
                good.push(Delivery { subscriber, connection, packet_id, qos, dup, is_known, key });
            }
        }
    }
    drop(recorder);
    writer.finish().unwrap();
    World { expected: Expected::read(&path).unwrap(), good, ones }
}

impl World {
    fn check(&self, deliveries: Vec<Delivery>) -> SubscriberReport {
        let events: Vec<_> = deliveries.into_iter().map(Event::Delivery).collect();
        self.expected.check(&events).remove(0)
    }

    /// Checks the good deliveries with a change.
    fn with(&self, change: impl FnOnce(&mut Vec<Delivery>)) -> SubscriberReport {
        let mut deliveries = self.good.clone();
        change(&mut deliveries);
        self.check(deliveries)
    }
}

fn only(report: &SubscriberReport, kind: &'static str) {
    assert_eq!(report.faults, BTreeMap::from([(kind, 1)]), "{report}");
}

#[test]
fn a_run_without_faults_is_clean() {
    let world = world();
    let report = world.with(|_| {});
    assert!(report.is_clean(), "{report}");
    let count = world.good.len() as u64;
    assert_eq!((report.acknowledged, report.delivered, report.again, report.sent_again), (count, count, 0, 0));
    assert!(count > 30 && world.ones > 20, "{count}");
}

#[test]
fn each_kind_of_fault_is_found() {
    let world = world();
    let last = world.good.len() - 1;
    only(&world.with(|all| drop(all.remove(3))), "lost");
    only(&world.with(|all| all.swap(1, 2)), "out of order");
    only(&world.with(|all| all[last].qos = 1), "wrong QoS");
    only(&world.with(|all| all.push(Delivery { key: 7, ..all[0].clone() })), "unexpected");
    let copy = |all: &mut Vec<Delivery>, at: usize, dup| all.push(Delivery { dup, connection: 2, ..all[at].clone() });
    only(&world.with(|all| copy(all, last, false)), "doubled");
    only(&world.with(|all| copy(all, last, true)), "doubled");
    only(&world.with(|all| all.push(Delivery { is_known: true, ..all[last].clone() })), "packet id used twice");
    let events = world.good.iter().cloned().map(Event::Delivery);
    let lost = Event::SessionLost { subscriber: "s-0".into(), connection: 2 };
    only(&world.expected.check(&events.chain([lost]).collect::<Vec<_>>())[0], "session lost");
}

#[test]
fn what_may_come_again_is_counted() {
    let world = world();
    let copy = |at: usize, dup, is_known| {
        world.with(|all| all.push(Delivery { dup, is_known, connection: 2, ..all[at].clone() }))
    };
    let again = copy(0, true, false);
    assert!(again.is_clean() && (again.again, again.sent_again, again.connections) == (1, 0, 2), "{again}");
    let sent_again = copy(0, false, false);
    assert!(sent_again.is_clean() && (sent_again.again, sent_again.sent_again) == (0, 1), "{sent_again}");
    let known = copy(world.good.len() - 1, true, true);
    assert!(known.is_clean() && known.again == 1, "{known}");
}

#[test]
fn messages_without_an_acknowledgement_may_be_delivered() {
    let world = world();
    let keys: Vec<u64> = world.good.iter().map(|delivery| delivery.key).collect();
    let (key, _) = world.expected.messages.iter().find(|(key, sent)| !keys.contains(key) && sent.qos == 1).unwrap();
    let report = world.with(|all| all.push(Delivery { key: *key, ..all[0].clone() }));
    assert!(report.is_clean() && report.delivered == report.acknowledged + 1, "{report}");
}
