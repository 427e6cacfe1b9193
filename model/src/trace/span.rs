//! Spans, who takes them, and what is sampled.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Carried, TraceContext};
use crate::{Nanos, Value};

/// What a span is to the spans of other processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Work inside of the process.
    Internal,
    /// It answers a call.
    Server,
    /// It asks another server.
    Client,
    /// It takes a message in.
    Consumer,
}

/// A piece of work with its beginning and its end, in nanoseconds since 1970.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Its own place.
    pub context: TraceContext,
    /// The span id of what it is a part of; none for the first span of a trace.
    pub parent: Option<[u8; 8]>,
    /// What was done; of a small set.
    pub name: Cow<'static, str>,
    /// What it is to other processes.
    pub kind: Kind,
    /// When it began.
    pub start: Nanos,
    /// When it ended.
    pub end: Nanos,
    /// What is known of it, by name.
    pub attributes: Vec<(&'static str, Value)>,
    /// Spans of other traces that it worked for.
    pub links: Vec<TraceContext>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

impl Span {
    /// A span that begins and has not ended.
    pub fn new(
        context: TraceContext,
        parent: Option<[u8; 8]>,
        name: impl Into<Cow<'static, str>>,
        start: Nanos,
    ) -> Self {
        Self {
            context,
            parent,
            name: name.into(),
            kind: Kind::Internal,
            start,
            end: start,
            attributes: Vec::new(),
            links: Vec::new(),
            error: None,
        }
    }

    /// With this kind.
    #[must_use]
    pub fn kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// With a text; of a long one the first kilobyte.
    #[must_use]
    pub fn text(mut self, name: &'static str, text: &str) -> Self {
        let mut end = text.len().min(1024);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.attributes.push((name, Value::Str(text[..end].into())));
        self
    }

    /// With a number; one above `i64::MAX` is that.
    #[must_use]
    pub fn number(mut self, name: &'static str, number: u64) -> Self {
        self.attributes.push((name, Value::Int(i64::try_from(number).unwrap_or(i64::MAX))));
        self
    }
}

/// Why a span that was to be recorded is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// One batch held more sampled readings than are told of.
    BatchLimit,
}

/// Takes finished spans. Neither call waits for anything.
pub trait Recorder: Send + Sync + fmt::Debug + 'static {
    /// Takes a span, or drops and counts it when there is no room.
    fn record(&self, span: Span);

    /// Counts spans that were not even made.
    fn lost(&self, why: Lost, count: u64);
}

/// Keeps spans, for who looks at them in the same process. Does not count what was not made.
impl Recorder for Mutex<Vec<Span>> {
    fn record(&self, span: Span) {
        self.lock().unwrap_or_else(PoisonError::into_inner).push(span);
    }

    fn lost(&self, _: Lost, _: u64) {}
}

/// What is sampled when nobody before has decided.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sampling {
    /// Share of messages and calls, from 0 to 1.
    pub ratio: f64,
    /// Tenants of which everything is.
    pub tenants: HashSet<String>,
    /// Device ids, of any tenant, of which everything is.
    pub devices: HashSet<String>,
}

impl Sampling {
    /// The highest number of the dice that wins; none when nothing is left to chance.
    fn highest(&self) -> Option<u64> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of 2^64; too large saturates"
        )]
        (self.ratio > 0.0).then_some((self.ratio * u64::MAX as f64) as u64)
    }
}

/// A way into the traces. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tracer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    recorder: Arc<dyn Recorder>,
    sampling: Sampling,
    highest: Option<u64>,
    /// Start of each sequence of ids, different in every process.
    seeds: [u64; 3],
    next: AtomicU64,
}

impl Tracer {
    /// Hands spans to `recorder`.
    pub fn new(recorder: Arc<dyn Recorder>, sampling: Sampling) -> Self {
        // The only source of chance in the standard library: keys that the system draws for each.
        let seeds = std::array::from_fn(|place| RandomState::new().hash_one(place));
        let highest = sampling.highest();
        Self(Arc::new(Shared { recorder, sampling, highest, seeds, next: AtomicU64::new(1) }))
    }

    /// The first span of a new trace, sampled.
    pub fn root(&self) -> TraceContext {
        let n = self.0.next.fetch_add(1, Ordering::Relaxed);
        let [high, low, span] = self.0.seeds.map(|seed| mix(seed.wrapping_add(n.wrapping_mul(GOLDEN))).to_be_bytes());
        let mut trace_id = [0; 16];
        trace_id[..8].copy_from_slice(&high);
        trace_id[8..].copy_from_slice(&low);
        // Zero names nothing.
        trace_id[15] |= u8::from(trace_id == [0; 16]);
        TraceContext { trace_id, span_id: named(span), flags: 1 }
    }

    /// A new span in the trace of `parent`, sampled.
    pub fn child(&self, parent: &TraceContext) -> TraceContext {
        let n = self.0.next.fetch_add(1, Ordering::Relaxed);
        let span = mix(self.0.seeds[2].wrapping_add(n.wrapping_mul(GOLDEN))).to_be_bytes();
        TraceContext { trace_id: parent.trace_id, span_id: named(span), flags: parent.flags | 1 }
    }

    /// Hands a finished span over.
    pub fn record(&self, span: Span) {
        self.0.recorder.record(span);
    }

    /// Counts spans that were not made.
    pub fn lost(&self, why: Lost, count: u64) {
        self.0.recorder.lost(why, count);
    }

    /// Decides for one sender after another message or call, without anything shared.
    pub fn sampler(&self, tenant: &str) -> Sampler {
        let n = self.0.next.fetch_add(1, Ordering::Relaxed);
        let always = self.0.sampling.tenants.contains(tenant);
        Sampler { tracer: self.clone(), always, dice: mix(self.0.seeds[0] ^ n.rotate_left(32)) }
    }
}

/// Decides, at the door and once, what is recorded.
#[derive(Debug)]
pub struct Sampler {
    tracer: Tracer,
    always: bool,
    dice: u64,
}

impl Sampler {
    /// The place of the next message or call in its trace, with the span id of its parent; none when it is not recorded.
    /// A context that came with it decides, where there is one; everything of a tenant or device that is listed is recorded
    /// whatever that says.
    pub fn sample(
        &mut self,
        carried: Option<Carried<'_>>,
        device: Option<&str>,
    ) -> Option<(TraceContext, Option<[u8; 8]>)> {
        let listed = self.always || self.is_listed(device);
        if !listed && carried.is_some_and(Carried::is_plainly_unsampled) {
            return None;
        }
        match carried.and_then(Carried::read) {
            Some(parent) => (listed || parent.is_sampled()).then(|| (self.tracer.child(&parent), Some(parent.span_id))),
            None => (listed || self.wins()).then(|| (self.tracer.root(), None)),
        }
    }

    /// The way into the traces.
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    fn is_listed(&self, device: Option<&str>) -> bool {
        let devices = &self.tracer.0.sampling.devices;
        !devices.is_empty() && device.is_some_and(|device| devices.contains(device))
    }

    fn wins(&mut self) -> bool {
        let Some(highest) = self.tracer.0.highest else { return false };
        self.dice = self.dice.wrapping_add(GOLDEN);
        mix(self.dice) <= highest
    }
}

/// The step of SplitMix64 (Steele, Lea and Flood 2014), which visits every number once.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finisher of SplitMix64.
fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    n ^ (n >> 31)
}

fn named(span: [u8; 8]) -> [u8; 8] {
    if span == [0; 8] { [1; 8] } else { span }
}
