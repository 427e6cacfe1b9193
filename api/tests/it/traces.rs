//! Calls as traces.

use std::sync::{Arc, Mutex};

use model::Value;
use model::trace::{Sampling, Span, TraceContext, Tracer};
use proto::v1::{GetDeviceRequest, ListReadingsRequest, SeriesSelector, StreamReadingsRequest};
use tonic::{Code, Request};

use crate::fakes::{block, row};
use crate::world::{BOUND, PARENT, World, key, own_device, range};

const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

type Kept = Mutex<Vec<Span>>;

async fn traced(sampling: Sampling) -> (World, Arc<Kept>) {
    let kept = Arc::new(Kept::default());
    let tracer = Tracer::new(kept.clone(), sampling);
    let world = World::with(|config| config.tracer = Some(tracer)).await;
    world.history.put_block(block(&key("d"), 0, &[row(1, "t", 1.0), row(2, "t", 2.0)]));
    world.tail.put(block(&key("d"), 2, &[row(3, "t", 3.0)]));
    (world, kept)
}

fn asking<T>(message: T, name: &'static str, context: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(name, context.parse().unwrap());
    request
}

fn attribute(span: &Span, name: &str) -> Value {
    span.attributes.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("{name} in {span:?}")).1.clone()
}

/// All spans, once the call's own is among them: it ends after its answer was sent.
async fn ended(kept: &Kept) -> Vec<Span> {
    let all = async {
        while !kept.lock().unwrap().iter().any(|span| span.name.contains('/')) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, all).await.expect("the call is told of");
    kept.lock().unwrap().drain(..).collect()
}

#[tokio::test]
async fn a_call_is_a_span_in_its_callers_trace_with_what_it_read() {
    let (world, kept) = traced(Sampling { by_senders: true, ..Sampling::default() }).await;
    let request = || ListReadingsRequest { parent: own_device("d"), range: Some(range(0, 10)), ..Default::default() };
    world.telemetry().list_readings(request()).await.unwrap();
    let answer = world.telemetry().list_readings(asking(request(), "traceparent", CALLER)).await.unwrap();
    assert_eq!(answer.into_inner().readings.len(), 3);
    let spans = ended(&kept).await;
    let names: Vec<_> = spans.iter().map(|span| &*span.name).collect();
    assert_eq!(names, ["read tail", "find blocks", "fetch blocks", "weir.v1.TelemetryService/ListReadings"]);
    let (call, parts) = spans.split_last().unwrap();
    let caller = TraceContext::from_traceparent(CALLER).unwrap();
    assert_eq!((call.context.trace_id, call.parent), (caller.trace_id, Some(caller.span_id)));
    for part in parts {
        assert_eq!((part.context.trace_id, part.parent), (caller.trace_id, Some(call.context.span_id)), "{part:?}");
        assert!(part.start >= call.start && part.end <= call.end);
    }
    assert_eq!(attribute(call, "rpc.service"), Value::Str("weir.v1.TelemetryService".into()));
    assert_eq!(attribute(call, "rpc.method"), Value::Str("ListReadings".into()));
    let wanted = [("weir.devices", 1), ("weir.blocks", 1), ("weir.rows", 2), ("weir.tail_rows", 1)];
    for (name, count) in wanted.into_iter().chain([("rpc.grpc.status_code", 0)]) {
        assert_eq!(attribute(call, name), Value::Int(count), "{name}");
    }
}

#[tokio::test]
async fn a_stream_is_one_span_to_its_end_and_reads_within_it() {
    let (world, kept) = traced(Sampling { by_senders: true, ..Sampling::default() }).await;
    let selector = Some(SeriesSelector { devices: vec![own_device("d")], ..Default::default() });
    let request =
        StreamReadingsRequest { parent: PARENT.to_owned(), selector, range: Some(range(0, 10)), ..Default::default() };
    let request = asking(request, "uber-trace-id", "6b221d5bc9e6496c:5fc5e6b:0:1");
    let mut stream = world.telemetry().stream_readings(request).await.unwrap().into_inner();
    while stream.message().await.unwrap().is_some() {}
    let spans = ended(&kept).await;
    assert_eq!(spans.len(), 4, "{spans:?}");
    assert!(spans.iter().all(|span| span.context.trace().to_string().ends_with("6b221d5bc9e6496c")));
    assert_eq!(attribute(&spans[3], "weir.rows"), Value::Int(2));
}

#[tokio::test]
async fn a_failed_call_is_an_error_span_and_a_ratio_begins_traces() {
    let (world, kept) = traced(Sampling { ratio: 1.0, ..Sampling::default() }).await;
    let status = world.devices().get_device(GetDeviceRequest { name: own_device("unknown") }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let spans = ended(&kept).await;
    let call = spans.last().unwrap();
    assert!(call.parent.is_none() && call.error.is_some(), "{call:?}");
    assert_eq!(attribute(call, "rpc.grpc.status_code"), Value::Int(5));
}
