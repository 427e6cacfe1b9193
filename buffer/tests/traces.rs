//! Traced messages in frames, and the spans of their appends.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::{Duration, Instant};

use model::trace::{Sampling, Span, TraceContext, Tracer};
use model::{DeviceKey, Schema, ValueRef};
use weir_buffer::batcher::BatchConfig;
use weir_buffer::frame::{ReadingHeader, Staged};
use weir_buffer::memory::MemoryLog;

type Kept = Mutex<Vec<Span>>;

fn context(number: u8) -> TraceContext {
    TraceContext { trace_id: [number; 16], span_id: [number; 8], flags: 1 }
}

/// Stages readings by the number of their context, 0 for none; odd ones have a sequence, every
/// third a claimed time.
fn staged(readings: &[u8]) -> Staged {
    let device = Arc::new(DeviceKey::new("default", "d1").unwrap());
    let schema = Arc::new(Schema::new(["t"]));
    let mut staged = Staged::default();
    for (i, number) in readings.iter().enumerate() {
        let trace = (*number > 0).then(|| context(*number).to_bytes());
        let n = i64::try_from(i).unwrap();
        let header = ReadingHeader {
            time: n,
            received: 1000 + n,
            identity: n.cast_unsigned(),
            seq: (i % 2 == 1).then_some(7),
            device_timed: true,
            claimed_time: i.is_multiple_of(3).then_some(9),
            trace: trace.as_ref(),
            resent: false,
        };
        staged.reading(&device, &schema, &header, [Some(ValueRef::Float(21.5))]);
    }
    staged
}

#[test]
fn an_append_is_a_child_of_the_publish_with_log_and_offset() {
    let (_log, batcher) = MemoryLog::open("m", BatchConfig::default()).unwrap();
    let kept = Arc::new(Kept::default());
    batcher.trace(Tracer::new(kept.clone(), Sampling::default()), "m");
    batcher.submit(&mut staged(&[0, 0]), Waker::noop()).unwrap();
    let ticket = batcher.submit(&mut staged(&[0, 4, 4]), Waker::noop()).unwrap();
    let begun = Instant::now();
    while batcher.durable().unwrap() < ticket || kept.lock().unwrap().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "no span");
        std::thread::yield_now();
    }
    let spans = kept.lock().unwrap().clone();
    assert_eq!(spans.len(), 1, "{spans:?}");
    let span = &spans[0];
    assert_eq!((span.context.trace_id, span.parent, &*span.name), ([4; 16], Some([4; 8]), "append"));
    assert!(span.context.span_id != [4; 8] && span.start == 1001 && span.end > span.start, "{span:?}");
    let attribute = |name| span.attributes.iter().find(|(n, _)| *n == name).unwrap().1.clone();
    assert_eq!(attribute("weir.log"), model::Value::Str("m".into()));
    assert_eq!(attribute("weir.offset"), model::Value::Int(3));
    assert_eq!(attribute("weir.readings"), model::Value::Int(2));
}
