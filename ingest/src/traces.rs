//! Sampling of messages, and their spans.

use std::sync::Arc;

use door::{Message, Sender};
use model::trace::{Kind, Sampler, Span, Tracer};
use model::{DeviceKey, Nanos};

use crate::decode::Refusal;

/// The sampler of one connection.
#[derive(Debug)]
pub(crate) struct Traces {
    sampler: Sampler,
    tenant: Arc<str>,
    client: Arc<str>,
    protocol: &'static str,
}

impl Traces {
    pub(crate) fn new(tracer: &Tracer, sender: &Sender) -> Self {
        Self {
            sampler: tracer.sampler(&sender.tenant),
            tenant: Arc::clone(&sender.tenant),
            client: Arc::clone(&sender.client),
            protocol: sender.protocol,
        }
    }

    /// Returns the span of a received message, if it is traced. A context that came with the
    /// message decides.
    pub(crate) fn begin(
        &mut self,
        message: &Message<'_>,
        device: Option<&DeviceKey>,
        received: Nanos,
    ) -> Option<Box<Span>> {
        let (context, parent) = self.sampler.sample(message.delivery.trace, device.map(|device| &*device.id))?;
        let mut span = Span::new(context, parent, "publish", received)
            .kind(Kind::Consumer)
            .text("messaging.system", self.protocol)
            .text("messaging.destination.name", message.topic)
            .text("messaging.client.id", &self.client)
            .number("messaging.message.body.size", message.payload.len() as u64)
            .text("weir.tenant", &self.tenant);
        if let Some(device) = device {
            span = span.text("weir.device", &device.id);
        }
        Some(Box::new(span))
    }

    /// As [`Traces::begin`], for a message that cannot be read.
    pub(crate) fn begin_refused(
        &mut self,
        message: &Message<'_>,
        device: Option<&DeviceKey>,
        received: Nanos,
        refusal: &Refusal,
    ) -> Option<Box<Span>> {
        let mut span = self.begin(message, device, received)?;
        span.error = Some(refusal.reason.to_string());
        Some(span)
    }

    /// Records the span of a message that was acknowledged.
    pub(crate) fn end(&self, mut span: Span, now: Nanos) {
        span.end = now.max(span.start);
        self.sampler.tracer().record(span);
    }
}
