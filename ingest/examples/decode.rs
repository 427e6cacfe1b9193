//! Time per message from PUBLISH to staged record: `cargo run --release -p weir-ingest --example
//! decode`.
//!
//! The log behind it discards all records; submitting is not part of the time.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use buffer::Batcher;
use buffer::batcher::{AppendError, BatchConfig, LogBackend};
use buffer::frame::{Frame, FrameBuilder};
use door::{Delivery, Inbox, Intake, Message, Sender};
use model::trace::{Carried, Lost, Recorder, Sampling, Span, Tracer};
use weir_ingest::{Limits, Route, Routes, TelemetryInbox};

const MESSAGES: u32 = 1_000_000;
const TURN: u32 = 64;

#[derive(Debug)]
struct Discard;

impl Recorder for Discard {
    fn record(&self, _: Span) {}

    fn lost(&self, _: Lost, _: u64) {}
}

struct Nowhere;

impl LogBackend for Nowhere {
    fn append(&mut self, builder: &mut FrameBuilder) -> Result<Frame, AppendError> {
        Ok(builder.build(0, 0, 0))
    }

    fn recent(&self) -> Vec<Frame> {
        Vec::new()
    }

    fn blocked(&self, _reason: Option<&str>) {}
}

fn main() {
    let tree = Route { topic: "devices/{device}/telemetry".into(), root: "$".into(), ..Route::default() };
    let wanted = Route {
        topic: "devices/{device}/telemetry".into(),
        include: vec!["temp*".into(), "hum*".into(), "battery".into()],
        ..Route::default()
    };
    let number = |n: u32| {
        let t = 1_700_000_000_000_u64 + u64::from(n);
        let (temperature, humidity) = (20.0 + f64::from(n % 100) / 10.0, 40.0 + f64::from(n % 50) / 4.0);
        format!(r#"{{"ts":{t},"seq":{n},"temperature":{temperature},"humidity":{humidity},"battery":{}}}"#, n % 100)
    };
    let wide = |n: u32| {
        let values: Vec<String> = (0..30).map(|i| format!(r#""v{i}":{}.{}"#, n % 90, i)).collect();
        format!(r#"{{"ts":{},{}}}"#, 1_700_000_000_000_u64 + u64::from(n), values.join(","))
    };
    measure("4 numbers, default route", &[], number);
    for (what, ratio, context) in [
        ("4 numbers, tracing on, none", 0.0, None),
        ("4 numbers, 1 % traced", 0.01, None),
        ("4 numbers, all traced", 1.0, None),
        ("4 numbers, unsampled context", 1.0, Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")),
        ("4 numbers, sampled context", 0.0, Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")),
    ] {
        let tracer = Tracer::new(Arc::new(Discard), Sampling { ratio, ..Sampling::default() });
        measure_traced(what, &[], Some(tracer), context, number);
    }
    measure("4 numbers, include", &[wanted], number);
    measure("4 numbers, route with paths", &[tree], number);
    measure("30 numbers, default route", &[], wide);
    measure("bare value", &[], |n| format!("{}.5", n % 100));
}

fn measure(what: &str, routes: &[Route], payload: impl Fn(u32) -> String) {
    measure_traced(what, routes, None, None, payload);
}

/// With spans that are made and discarded, and a `traceparent` in each message.
fn measure_traced(
    what: &str,
    routes: &[Route],
    tracer: Option<Tracer>,
    context: Option<&str>,
    payload: impl Fn(u32) -> String,
) {
    let batcher = Batcher::start(BatchConfig::default(), Arc::default(), Nowhere).expect("a thread");
    let routes = Routes::new(routes).expect("good routes");
    let inbox = TelemetryInbox::new(routes, Limits::default(), batcher, Arc::default()).traced(tracer);
    let peer = "127.0.0.1:1".parse().expect("an address");
    let sender = Sender {
        tenant: "default".into(),
        device: None,
        meter: None,
        client: "example".into(),
        user: None,
        peer,
        protocol: "mqtt",
    };
    let mut intake = inbox.open(&sender);
    let delivery = Delivery { id: Some(1), trace: context.map(Carried::Traceparent), ..Delivery::default() };
    let payloads: Vec<String> = (0..1000).map(payload).collect();
    let mut spent = Duration::ZERO;
    let mut waking = Context::from_waker(Waker::noop());
    for turn in 0..MESSAGES / TURN {
        let begun = Instant::now();
        for n in 0..TURN {
            let payload = &payloads[((turn * TURN + n) % 1000) as usize];
            intake.take(&Message { topic: "devices/d1/telemetry", payload: payload.as_bytes(), delivery });
            if let Some(span) = intake.take_span() {
                intake.answered(span);
            }
        }
        spent += begun.elapsed();
        while intake.poll_submit(&mut waking).is_pending() {
            std::thread::yield_now();
        }
    }
    let bytes = payloads[500].len();
    println!("{what:30} {bytes:4} bytes {:6.0} ns per message", spent.as_secs_f64() * 1e9 / f64::from(MESSAGES));
}
