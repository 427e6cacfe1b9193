//! Helpers for tests of the log.

use std::sync::Arc;
use std::task::{Wake, Waker};

use model::{DeviceKey, Schema, ValueRef};
use parking_lot::{Condvar, Mutex};
use weir_buffer::frame::{Frame, ReadingHeader, Record, Sent, Staged};
use weir_buffer::{Batcher, Log, SubmitError, Ticket};

/// A waker of a thread.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock() = true;
        self.changed.notify_all();
    }
}

impl Bell {
    pub(crate) fn wait(&self) {
        let mut rung = self.rung.lock();
        while !*rung {
            let late = self.changed.wait_for(&mut rung, std::time::Duration::from_secs(20)).timed_out();
            assert!(!late, "not woken within 20 s");
        }
        *rung = false;
    }
}

/// The header of a reading with this number as its time and identity.
pub(crate) fn header(n: i64) -> ReadingHeader<'static> {
    ReadingHeader {
        time: n,
        received: n,
        identity: n.unsigned_abs(),
        seq: None,
        device_timed: true,
        claimed_time: None,
        trace: None,
        resent: false,
    }
}

/// Stages readings with these numbers as value `n` and as identity, each of a client of its own. A
/// resent one comes over another connection.
pub(crate) fn stage(numbers: impl IntoIterator<Item = i64>, resent: bool) -> Staged {
    let device = Arc::new(DeviceKey::new("default", "d1").expect("an id"));
    let schema = Arc::new(Schema::new(["n"]));
    let mut staged = Staged::default();
    for n in numbers {
        let header = ReadingHeader { resent, ..header(n) };
        let connection = if resent { 2 } else { 1 };
        staged.message(Some(Sent { client: n.unsigned_abs(), connection, packet: 1, in_flight: resent }));
        staged.reading(&device, &schema, &header, [Some(ValueRef::Int(n))]);
    }
    staged
}

/// Submits and waits until the records are durable.
pub(crate) fn append(batcher: &Batcher, mut staged: Staged) -> Result<Ticket, String> {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let ticket = loop {
        match batcher.submit(&mut staged, &waker) {
            Ok(ticket) => break ticket,
            Err(SubmitError::Full) => bell.wait(),
            Err(SubmitError::Failed(reason)) => return Err(reason.to_string()),
        }
    };
    until_durable(batcher, ticket, &bell)?;
    Ok(ticket)
}

/// Waits until a ticket is durable whose submit was given the waker of `bell`.
pub(crate) fn until_durable(batcher: &Batcher, ticket: Ticket, bell: &Bell) -> Result<(), String> {
    while batcher.durable().map_err(|reason| reason.to_string())? < ticket {
        bell.wait();
    }
    Ok(())
}

/// The numbers in frames.
pub(crate) fn numbers(frames: &[Frame]) -> Vec<i64> {
    let records = frames.iter().flat_map(|f| f.records().map(|(_, r)| r).collect::<Vec<_>>());
    records
        .map(|r| match r {
            Record::Reading(r) => r.time,
            other => panic!("not a reading: {other:?}"),
        })
        .collect()
}

/// Reads a whole log in small pieces.
pub(crate) async fn all(log: &dyn Log) -> Vec<i64> {
    let mut from = log.start();
    let mut found = Vec::new();
    while from < log.end() {
        let frames = log.read(from, 1000).await.expect("the log can be read");
        from = frames.last().expect("there is more").header().end_offset();
        found.extend(numbers(&frames));
    }
    found
}
