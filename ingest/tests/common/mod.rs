//! The intake of one device in front of a log in memory.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use buffer::Log;
use buffer::frame::Record;
use buffer::memory::MemoryLog;
use door::quota::DeviceMeter;
use door::{Delivery, Inbox, Intake, Message, Sender};
use weir_ingest::{ConnectionIngest, TelemetryInbox};

/// Opens the intake of device `d1`.
pub(crate) fn connect(inbox: &TelemetryInbox, client: &str, meter: Option<DeviceMeter>) -> ConnectionIngest {
    inbox.open(&Sender {
        tenant: "default".into(),
        device: Some("d1".into()),
        meter,
        client: client.into(),
        user: None,
        peer: "127.0.0.1:1".parse().unwrap(),
        protocol: "mqtt",
    })
}

/// A message that may be sent again.
pub(crate) fn message<'a>(topic: &'a str, payload: &'a str) -> Message<'a> {
    Message { topic, payload: payload.as_bytes(), delivery: Delivery { id: Some(7), ..Delivery::default() } }
}

/// Submits, and reads all records of the log when they are durable.
pub(crate) fn stored(log: &Arc<MemoryLog>, intake: &mut ConnectionIngest, mut read: impl FnMut(Record<'_>)) {
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(ticket) = intake.poll_submit(&mut context) else { panic!("the log has room") };
    let (ticket, begun) = (ticket.unwrap(), std::time::Instant::now());
    while intake.durable().unwrap() < ticket {
        assert!(begun.elapsed().as_secs() < 10, "{ticket:?} does not become durable");
        std::thread::yield_now();
    }
    let mut from = 0;
    while from < log.end() {
        let Poll::Ready(frames) = pin!(log.read(from, 1 << 20)).poll(&mut context) else { panic!("in memory") };
        for frame in frames.unwrap() {
            frame.records().for_each(|(_, record)| read(record));
            from = frame.header().end_offset();
        }
    }
}
