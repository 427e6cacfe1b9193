//! Spans, recorders and sampling.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Carried, TraceContext};
use crate::{Nanos, Value};

/// Relation of a span to spans of other processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Work within the process.
    Internal,
    /// Server side of a call.
    Server,
    /// Client side of a call.
    Client,
    /// Receipt of a message.
    Consumer,
}

/// A unit of work with its begin and its end, in nanoseconds since 1970.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Context of the span.
    pub context: TraceContext,
    /// Id of the parent span; None for the first span of a trace.
    pub parent: Option<[u8; 8]>,
    /// Name of the operation, from a small set.
    pub name: Cow<'static, str>,
    /// Relation to other processes.
    pub kind: Kind,
    /// Begin.
    pub start: Nanos,
    /// End.
    pub end: Nanos,
    /// Attributes by name.
    pub attributes: Vec<(&'static str, Value)>,
    /// Links to spans of other traces.
    pub links: Vec<TraceContext>,
    /// Error, if the operation failed.
    pub error: Option<String>,
}

impl Span {
    /// Starts a span.
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

    /// Sets the kind.
    #[must_use]
    pub fn kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// Adds a text attribute, truncated to one kilobyte.
    #[must_use]
    pub fn text(mut self, name: &'static str, text: &str) -> Self {
        let mut end = text.len().min(1024);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.attributes.push((name, Value::Str(text[..end].into())));
        self
    }

    /// Adds a number attribute, limited to `i64::MAX`.
    #[must_use]
    pub fn number(mut self, name: &'static str, number: u64) -> Self {
        self.attributes.push((name, Value::Int(i64::try_from(number).unwrap_or(i64::MAX))));
        self
    }
}

/// The reason why a sampled span is not recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// A batch had more sampled readings than are reported.
    BatchLimit,
}

/// Records finished spans. Its methods never wait.
pub trait Recorder: Send + Sync + fmt::Debug + 'static {
    /// Records a span, or drops and counts it when the queue is full.
    fn record(&self, span: Span);

    /// Counts spans that were not created.
    fn lost(&self, why: Lost, count: u64);
}

/// A recorder that keeps spans in memory for tests. Does not count skipped spans.
impl Recorder for Mutex<Vec<Span>> {
    fn record(&self, span: Span) {
        self.lock().unwrap_or_else(PoisonError::into_inner).push(span);
    }

    fn lost(&self, _: Lost, _: u64) {}
}

/// Sampling of messages and calls without a trace context.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sampling {
    /// Sampled share of messages and calls, from 0 to 1.
    pub ratio: f64,
    /// Tenants that are always sampled.
    pub tenants: HashSet<String>,
    /// Device ids, in any tenant, that are always sampled.
    pub devices: HashSet<String>,
    /// A trace context that says sampled is sampled. Otherwise the share decides: a sender cannot
    /// have all of its messages recorded.
    pub by_senders: bool,
}

impl Sampling {
    /// The highest random number that is sampled; None without a share.
    fn highest(&self) -> Option<u64> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of 2^64; too large saturates"
        )]
        (self.ratio > 0.0).then_some((self.ratio * u64::MAX as f64) as u64)
    }
}

/// Records spans. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tracer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    recorder: Arc<dyn Recorder>,
    sampling: Sampling,
    highest: Option<u64>,
    /// Start of id sequences, different in every process.
    seeds: [u64; 3],
    next: AtomicU64,
}

impl Tracer {
    /// Creates a tracer for `recorder`.
    pub fn new(recorder: Arc<dyn Recorder>, sampling: Sampling) -> Self {
        // The only source of randomness in the standard library: random keys of hash maps.
        let seeds = std::array::from_fn(|place| RandomState::new().hash_one(place));
        let highest = sampling.highest();
        Self(Arc::new(Shared { recorder, sampling, highest, seeds, next: AtomicU64::new(1) }))
    }

    /// Creates the context of the first span of a new trace, sampled.
    pub fn root(&self) -> TraceContext {
        let n = self.0.next.fetch_add(1, Ordering::Relaxed);
        let [high, low, span] = self.0.seeds.map(|seed| mix(seed.wrapping_add(n.wrapping_mul(GOLDEN))).to_be_bytes());
        let mut trace_id = [0; 16];
        trace_id[..8].copy_from_slice(&high);
        trace_id[8..].copy_from_slice(&low);
        // Zero is invalid.
        trace_id[15] |= u8::from(trace_id == [0; 16]);
        TraceContext { trace_id, span_id: named(span), flags: 1 }
    }

    /// Creates the context of a new span in the trace of `parent`, sampled.
    pub fn child(&self, parent: &TraceContext) -> TraceContext {
        let n = self.0.next.fetch_add(1, Ordering::Relaxed);
        let span = mix(self.0.seeds[2].wrapping_add(n.wrapping_mul(GOLDEN))).to_be_bytes();
        TraceContext { trace_id: parent.trace_id, span_id: named(span), flags: parent.flags | 1 }
    }

    /// Records a finished span.
    pub fn record(&self, span: Span) {
        self.0.recorder.record(span);
    }

    /// Counts spans that were not created.
    pub fn lost(&self, why: Lost, count: u64) {
        self.0.recorder.lost(why, count);
    }

    /// Creates a sampler for the messages or calls of one sender, without shared state.
    pub fn sampler(&self, tenant: &str) -> Sampler {
        let n = self.0.next.fetch_add(1, Ordering::Relaxed);
        let always = self.0.sampling.tenants.contains(tenant);
        Sampler { tracer: self.clone(), always, dice: mix(self.0.seeds[0] ^ n.rotate_left(32)) }
    }
}

/// Decides once, at receipt, which messages and calls are recorded.
#[derive(Debug)]
pub struct Sampler {
    tracer: Tracer,
    always: bool,
    dice: u64,
}

impl Sampler {
    /// Returns the context of the next message or call with the span id of its parent, or None when
    /// it is not recorded. One whose own context is not sampled is not; one whose context is
    /// sampled is when [`Sampling::by_senders`] says so. Messages of listed tenants and devices are
    /// always recorded.
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
            Some(parent) => {
                let by_sender = self.tracer.0.sampling.by_senders;
                let sampled = listed || (parent.is_sampled() && (by_sender || self.wins()));
                sampled.then(|| (self.tracer.child(&parent), Some(parent.span_id)))
            }
            None => (listed || self.wins()).then(|| (self.tracer.root(), None)),
        }
    }

    /// The tracer.
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

/// Increment of SplitMix64 (Steele, Lea and Flood 2014), whose sequence visits every number once.
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
