use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use model::trace::{Kind, Lost, Recorder, Span, TraceContext};
use opentelemetry::trace::{SpanKind, Status};
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::export::Exporter;
use super::metrics::{Dropped, Metrics};
use super::queue::Queue;

const TIMEOUT: Duration = Duration::from_secs(5);

/// A collector that keeps what it takes.
#[derive(Debug, Clone, Default)]
struct Collector {
    taken: Arc<Mutex<Vec<SpanData>>>,
    away: Arc<AtomicBool>,
    silent: Arc<AtomicBool>,
}

impl SpanExporter for Collector {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        if self.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.away.load(Ordering::SeqCst) {
            return Err(OTelSdkError::InternalFailure("connection refused".into()));
        }
        self.taken.lock().extend(batch);
        Ok(())
    }
}

struct World {
    collector: Collector,
    queue: Queue,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl World {
    fn new(room: usize) -> Self {
        let (collector, metrics) = (Collector::default(), Arc::<Metrics>::default());
        let (queue, spans) = Queue::new(room, Arc::clone(&metrics));
        let exporter = Exporter::new(spans, collector.clone(), "there".into(), TIMEOUT, Arc::clone(&metrics));
        let stop = CancellationToken::new();
        let task = tokio::spawn(exporter.run(stop.clone()));
        Self { collector, queue, metrics, stop, task }
    }

    fn record(&self, numbers: std::ops::Range<u8>) {
        numbers.for_each(|number| self.queue.record(span(number)));
    }

    fn dropped(&self, why: Dropped) -> u64 {
        self.metrics.dropped(why).get()
    }

    async fn stop(self) -> Arc<Metrics> {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        self.metrics
    }
}

fn span(number: u8) -> Span {
    let context = TraceContext { trace_id: [number.max(1); 16], span_id: [number.max(1); 8], flags: 1 };
    Span::new(context, None, "publish", 1_000)
}

async fn until(what: &str, mut there: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !there() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain: {what}");
}

#[tokio::test(start_paused = true)]
async fn spans_arrive_in_order_and_the_last_ones_at_the_stop() {
    let world = World::new(100);
    world.record(0..10);
    until("ten are exported", || world.metrics.exported.get() == 10).await;
    world.record(10..50);
    let collector = world.collector.clone();
    let metrics = world.stop().await;
    assert_eq!(metrics.exported.get(), 50);
    let ids: VecDeque<u8> = collector.taken.lock().iter().map(|s| s.span_context.span_id().to_bytes()[0]).collect();
    assert_eq!(ids, (0..50).map(|n: u8| n.max(1)).collect::<VecDeque<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_drops_and_counts_and_never_waits() {
    let world = World::new(8);
    world.collector.silent.store(true, Ordering::SeqCst);
    world.record(0..100);
    assert_eq!(world.dropped(Dropped::QueueFull), 92);
    world.queue.lost(Lost::BatchLimit, 7);
    assert_eq!(world.dropped(Dropped::BatchLimit), 7);
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_is_away_costs_the_spans_of_that_time_and_no_others() {
    let world = World::new(1000);
    world.collector.away.store(true, Ordering::SeqCst);
    world.record(0..20);
    until("they are given up", || world.dropped(Dropped::Unavailable) == 20).await;
    world.collector.away.store(false, Ordering::SeqCst);
    world.record(20..30);
    until("later ones arrive", || world.metrics.exported.get() == 10).await;
    assert_eq!(world.dropped(Dropped::Unavailable), 20);
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_never_answers_does_not_hold_the_stop() {
    let world = World::new(1000);
    world.collector.silent.store(true, Ordering::SeqCst);
    world.record(0..20);
    until("a batch is under way", || world.queue.is_empty()).await;
    world.record(20..30);
    let begun = tokio::time::Instant::now();
    let metrics = world.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
    let dropped = metrics.dropped(Dropped::Stopping).get() + metrics.dropped(Dropped::Unavailable).get();
    assert_eq!((dropped, metrics.exported.get()), (30, 0));
}

#[test]
fn a_span_is_converted_whole() {
    let mut span = span(7).kind(Kind::Consumer).text("device", "d1").number("bytes", u64::MAX);
    span.parent = Some([9; 8]);
    span.end = 2_500;
    span.error = Some("no JSON".into());
    span.links.push(TraceContext { trace_id: [5; 16], span_id: [6; 8], flags: 1 });
    let scope = opentelemetry::InstrumentationScope::builder("weir").build();
    let data = super::convert::span(span, &scope);
    assert_eq!(data.span_context.trace_id().to_bytes(), [7; 16]);
    assert_eq!((data.parent_span_id.to_bytes(), data.parent_span_is_remote), ([9; 8], true));
    assert!(data.span_context.is_sampled());
    assert_eq!((data.span_kind, data.status), (SpanKind::Consumer, Status::error("no JSON")));
    assert_eq!(data.end_time.duration_since(data.start_time).unwrap(), Duration::from_nanos(1_500));
    assert_eq!(data.attributes[0].value.as_str(), "d1");
    assert_eq!(data.attributes[1].value, opentelemetry::Value::I64(i64::MAX));
    assert_eq!(data.links.links[0].span_context.span_id().to_bytes(), [6; 8]);
}

#[test]
fn headers_are_read_and_a_wrong_one_is_named_without_its_value() {
    let headers = |texts: &[&str]| super::headers(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
    let map = headers(&["Authorization=Bearer a=b", "", "x-tenant = one"]).unwrap();
    let value = |name| map.get(name).unwrap().to_str().unwrap();
    assert_eq!((value("authorization"), value("x-tenant")), ("Bearer a=b", "one"));
    for wrong in ["secret", "a b=secret", "name=secret\n1"] {
        let error = headers(&[wrong]).unwrap_err().to_string();
        assert!(error.contains("tracing.headers") && !error.contains("secret"), "{error}");
    }
}
