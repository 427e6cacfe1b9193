//! Which messages of a connection are traced, and the spans of their way in.

use std::sync::Arc;

use broker::codec::properties::{self, Value, id};
use broker::inbox::{Client, Publish};
use model::trace::{Carried, Kind, Sampler, Span, Tracer};
use model::{DeviceKey, Nanos};

use crate::decode::Refusal;

/// Decides for one connection.
#[derive(Debug)]
pub(crate) struct Traces {
    sampler: Sampler,
    tenant: Arc<str>,
    client: Arc<str>,
    version: u64,
}

impl Traces {
    pub(crate) fn new(tracer: &Tracer, client: &Client) -> Self {
        Self {
            sampler: tracer.sampler(&client.tenant),
            tenant: Arc::clone(&client.tenant),
            client: Arc::clone(&client.id),
            version: if client.v5 { 5 } else { 4 },
        }
    }

    /// The span of a message that was just received, unless it is not traced. A context in its user properties decides.
    pub(crate) fn begin(
        &mut self,
        publish: &Publish<'_>,
        device: Option<&DeviceKey>,
        received: Nanos,
    ) -> Option<Box<Span>> {
        let carried = if publish.properties.is_empty() { None } else { carried(publish.properties) };
        let (context, parent) = self.sampler.sample(carried, device.map(|device| &*device.id))?;
        let mut span = Span::new(context, parent, "publish", received)
            .kind(Kind::Consumer)
            .text("messaging.system", "mqtt")
            .text("messaging.destination.name", publish.topic)
            .text("messaging.client.id", &self.client)
            .number("messaging.message.body.size", publish.payload.len() as u64)
            .number("mqtt.version", self.version)
            .number("mqtt.qos", u64::from(publish.qos))
            .text("weir.tenant", &self.tenant);
        if let Some(device) = device {
            span = span.text("weir.device", &device.id);
        }
        Some(Box::new(span))
    }

    /// As [`Traces::begin`], for a message that cannot be read.
    pub(crate) fn begin_refused(
        &mut self,
        publish: &Publish<'_>,
        device: Option<&DeviceKey>,
        received: Nanos,
        refusal: &Refusal,
    ) -> Option<Box<Span>> {
        let mut span = self.begin(publish, device, received)?;
        span.error = Some(refusal.reason.to_string());
        Some(span)
    }

    /// The message was answered.
    pub(crate) fn end(&self, mut span: Span, now: Nanos) {
        span.end = now.max(span.start);
        self.sampler.tracer().record(span);
    }
}

fn carried(own: &[u8]) -> Option<Carried<'_>> {
    Carried::find(properties::iterate(own).filter_map(|property| match property.value {
        Value::Pair(name, text) if property.id == id::USER => Some((name, text)),
        _ => None,
    }))
}
