//! Traces: where a message or a call stands in one, as the text formats that carry it say, and the spans that make it.
//!
//! A crate that takes part in traces knows a [`Tracer`] and hands finished [`Span`]s to it; who takes them away is not its concern.

mod context;
mod span;

pub use context::{Carried, TRACE_BYTES, TraceContext};
pub use span::{Kind, Lost, Recorder, Sampler, Sampling, Span, Tracer};

#[cfg(test)]
mod tests;
