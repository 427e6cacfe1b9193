//! Traces: contexts of messages and calls with their text formats, and spans.
//!
//! Crates record finished [`Span`]s with a [`Tracer`] and do not depend on an exporter.

mod context;
mod span;

pub use context::{Carried, TRACE_BYTES, TraceContext};
pub use span::{Kind, Lost, Recorder, Sampler, Sampling, Span, Tracer};

#[cfg(test)]
mod tests;
