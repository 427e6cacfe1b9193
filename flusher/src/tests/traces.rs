use std::sync::Arc;

use buffer::frame::{ReadingHeader, Staged};
use model::trace::{Lost, Recorder, Sampling, Span, TraceContext, Tracer};
use model::{DeviceKey, Schema, Value, ValueRef};
use parking_lot::Mutex;

use super::delivery::busy;
use crate::testing::{World, plain, until};
use crate::{HISTORY, LATEST, SinkState};

#[derive(Debug, Default)]
struct Kept {
    spans: Mutex<Vec<Span>>,
    lost: Mutex<u64>,
}

impl Recorder for Kept {
    fn record(&self, span: Span) {
        self.spans.lock().push(span);
    }

    fn lost(&self, why: Lost, count: u64) {
        assert_eq!(why, Lost::BatchLimit);
        *self.lost.lock() += count;
    }
}

impl Kept {
    fn named(&self, name: &str) -> Vec<Span> {
        self.spans.lock().iter().filter(|span| span.name == name).cloned().collect()
    }
}

fn traced(world: &mut World) -> Arc<Kept> {
    let kept = Arc::new(Kept::default());
    let tracer = Tracer::new(kept.clone(), Sampling::default());
    world.tracer = Some(tracer);
    kept
}

fn context(number: u64) -> TraceContext {
    let mut trace_id = [0; 16];
    trace_id[..8].copy_from_slice(&number.to_be_bytes());
    TraceContext { trace_id, span_id: number.to_be_bytes(), flags: 1 }
}

/// One reading of each number; 0 is not traced.
fn stage(staged: &mut Staged, numbers: impl IntoIterator<Item = u64>) {
    let device = Arc::new(DeviceKey::new("default", "d0").unwrap());
    let schema = Arc::new(Schema::new(["n"]));
    for (place, number) in numbers.into_iter().enumerate() {
        let trace = (number > 0).then(|| context(number).to_bytes());
        let time = i64::try_from(place).unwrap() * 1_000_000_000;
        let header = ReadingHeader { time, identity: place as u64, trace: trace.as_ref(), ..plain() };
        staged.reading(&device, &schema, &header, [Some(ValueRef::Int(1))]);
    }
}

fn attribute(span: &Span, name: &str) -> Value {
    span.attributes.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("{name} in {span:?}")).1.clone()
}

#[tokio::test(start_paused = true)]
async fn a_flush_is_a_part_of_each_readings_trace_and_a_trace_of_its_own_with_links() {
    let mut world = World::new();
    let kept = traced(&mut world);
    world.history.set_down(Some(busy("connection refused")));
    world.log.append(|staged| stage(staged, (0..20).chain([20, 20, 0])));
    let running = world.start().await;
    until("history is trying", async || matches!(running.state(HISTORY).state, SinkState::Retrying { .. })).await;
    world.history.set_down(None);
    world.done_to(HISTORY, 23).await;
    until("the flush has a span", async || !kept.named("flush history").is_empty()).await;

    let stores = kept.named("store history");
    assert_eq!(stores.len(), 20, "once for each message");
    let flush = &kept.named("flush history")[0];
    for (span, number) in stores.iter().zip(1..) {
        assert_eq!((span.context.trace_id, span.parent), (context(number).trace_id, Some(context(number).span_id)));
        assert_eq!(attribute(span, "store"), Value::Str("mongodb".into()));
        assert_eq!(attribute(span, "weir.offset"), Value::Int(i64::try_from(number).unwrap()));
        assert_eq!(span.links, [flush.context]);
        assert!(span.start == flush.start && span.end <= flush.end);
    }
    assert_eq!((flush.parent, flush.links.len()), (None, 16));
    assert_eq!(attribute(flush, "weir.traced"), Value::Int(20));
    assert_eq!(
        (attribute(flush, "weir.offset.from"), attribute(flush, "weir.offset.to")),
        (Value::Int(0), Value::Int(23))
    );
    assert!(matches!(attribute(flush, "weir.retries"), Value::Int(1..)));
    let write = &kept.named("write history")[0];
    assert_eq!((write.context.trace_id, write.parent), (flush.context.trace_id, Some(flush.context.span_id)));
    until("latest too", async || kept.named("store latest").len() == 20).await;

    world.log.append(|staged| stage(staged, [0, 0]));
    world.done_to(LATEST, 25).await;
    world.done_to(HISTORY, 25).await;
    running.stop().await.unwrap();
    assert_eq!(kept.named("flush history").len(), 1, "a flush without a traced message has no span");
}

#[tokio::test(start_paused = true)]
async fn the_context_survives_the_log() {
    let mut world = World::new();
    world.history.set_down(Some(busy("connection refused")));
    world.append(0, 10, 1);
    world.log.append(|staged| stage(staged, [7]));
    let running = world.start().await;
    until("history is trying", async || matches!(running.state(HISTORY).state, SinkState::Retrying { .. })).await;
    running.kill().await;
    world.history.set_down(None);
    let kept = traced(&mut world);
    let running = world.start().await;
    world.done_to(HISTORY, 11).await;
    until("it has a span", async || kept.named("store history").len() == 1).await;
    assert_eq!(kept.named("store history")[0].context.trace_id, context(7).trace_id);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_batch_has_spans_of_a_limited_number_of_messages_and_counts_the_others() {
    let mut world = World::new();
    let kept = traced(&mut world);
    world.log.append(|staged| stage(staged, 1..=5000));
    let running = world.start().await;
    world.done_to(HISTORY, 5000).await;
    running.stop().await.unwrap();
    assert_eq!(kept.named("store history").len(), 4096);
    assert!(*kept.lost.lock() >= 904);
}
