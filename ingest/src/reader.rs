//! One connection's messages as staged records.

use std::sync::Arc;

use buffer::frame::{DeadLetterRef, ReadingHeader, RetainedRef, Sent, Staged};
use door::quota::{DeviceMeter, Exceeded};
use door::{Delivery, Message, Retained};
use model::trace::Span;
use model::{DeviceKey, Nanos, size};

use crate::binding::{Candidate, TopicBinding, TopicBindings};
use crate::decode::text::Decoded;
use crate::decode::{Class, Refusal, Scratch, ScratchRow, flat, plain};
use crate::denials::Recent;
use crate::document::{self, Document};
use crate::identity::Key;
use crate::metrics::Tally;
use crate::routes::{Format, RetainedMessages, Role};
use crate::rules::{Rules, Shared};
use crate::traces::Traces;
use crate::{identity, schemas, select};

/// Reads messages into its [`Staged`].
#[derive(Debug)]
pub(crate) struct PayloadReader {
    rules: Arc<Shared>,
    key: Key,
    tenant: Arc<str>,
    client: Arc<str>,
    /// Keyed hash of tenant and client.
    pub(crate) client_hash: u64,
    /// No two connections of a client have the same.
    pub(crate) connection: u32,
    pub(crate) staged: Staged,
    tally: Tally,
    scratch: Scratch,
    planned: Vec<PlannedReading>,
    cache: schemas::Cache,
    bindings: TopicBindings,
    denials: Recent,
    /// Of a device whose tenant may have limits.
    pub(crate) meter: Option<DeviceMeter>,
    /// The device and the names that were admitted last.
    admitted: Option<Admitted>,
    /// None when tracing is off.
    pub(crate) traces: Option<Box<Traces>>,
    /// The span of the last message, if it is traced.
    pub(crate) traced: Option<Box<Span>>,
}

/// A device and the names of its reading.
type Admitted = (Arc<DeviceKey>, Arc<model::Schema>);

/// A row that will be staged, once all rows of its message are known to be valid.
#[derive(Debug)]
struct PlannedReading {
    device: Arc<DeviceKey>,
    /// None when there is no value.
    schema: Option<Arc<model::Schema>>,
}

/// The outcome of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// No route matches it.
    Plain,
    /// This many readings were staged.
    Staged(u32),
    /// It can be read, and is held until its device is adopted. Nothing was staged.
    Held,
    /// Nothing was staged.
    Refused(Refusal),
    /// It has a reading of a device other than its sender. Nothing was staged.
    Denied(Refusal),
    /// It has a reading of a new device or with a new name beyond a limit, or does not fit into the
    /// storage. Nothing was staged.
    OverQuota(Exceeded),
}

impl PayloadReader {
    /// `device` is the only device of an authenticated sender.
    pub(crate) fn new(rules: &Rules, tenant: &Arc<str>, client: &Arc<str>, device: Option<&Arc<str>>) -> Self {
        Self {
            rules: Arc::clone(&rules.shared),
            key: rules.key,
            tenant: Arc::clone(tenant),
            client: Arc::clone(client),
            client_hash: rules.key.client(tenant, client),
            connection: 0,
            staged: Staged::default(),
            tally: Tally::default(),
            scratch: Scratch::default(),
            planned: Vec::new(),
            cache: schemas::Cache::default(),
            bindings: TopicBindings::new(rules.key, Arc::clone(tenant), Arc::clone(client), device.cloned()),
            denials: Recent::default(),
            meter: None,
            admitted: None,
            traces: None,
            traced: None,
        }
    }

    /// True when nothing is staged, counted or traced: it can be made anew for the next message.
    pub(crate) fn is_idle(&self) -> bool {
        self.staged.count() == 0 && self.traced.is_none() && self.tally == Tally::default()
    }

    /// Adds the counts to the metrics.
    pub(crate) fn flush_tally(&mut self) {
        self.tally.flush(&self.rules.metrics);
        self.scratch.shrink();
        self.planned.clear();
        self.planned.shrink_to(1024);
    }

    /// Stages the readings of a message, all or none. The first has the receive time `received`,
    /// each further one a nanosecond more.
    pub(crate) fn read(&mut self, message: &Message<'_>, received: Nanos) -> Outcome {
        let binding = self.bindings.find(message.topic, &self.rules);
        let is_quarantined = self.is_quarantined();
        if binding.candidates.is_empty() {
            if is_quarantined {
                return self.not_telemetry();
            }
            self.tally.plain += 1;
            self.bindings.count_unrouted(&binding, message, received, &self.rules);
            return Outcome::Plain;
        }
        self.scratch.clear(received);
        match self.rows(message, &binding).and_then(|taken| self.plan(&binding).map(|()| taken)) {
            Ok(true) if is_quarantined => Outcome::Held,
            Ok(false) if is_quarantined => self.not_telemetry(),
            Ok(true) => {
                if let Err(exceeded) = self.admit() {
                    return Outcome::OverQuota(exceeded);
                }
                self.tally.messages += 1;
                self.tally.nulls += self.scratch.absent;
                if let Some(traces) = &mut self.traces {
                    let device = self.planned.first().map(|plan| &*plan.device);
                    self.traced = traces.begin(message, device, received);
                }
                Outcome::Staged(self.stage(message, &binding, received))
            }
            Ok(false) => {
                self.tally.plain += 1;
                self.bindings.count_unrouted(&binding, message, received, &self.rules);
                Outcome::Plain
            }
            Err(refusal) if refusal.class == Class::Foreign => Outcome::Denied(refusal),
            // A message that cannot be read is kept when all of it is of the sender's device.
            Err(refusal) => {
                let named = self.scratch.rows.iter().filter_map(|row| row.device).map(|id| self.scratch.text(id));
                self.bindings.foreign(&binding, named).map_or(Outcome::Refused(refusal), Outcome::Denied)
            }
        }
    }

    /// True when the messages of the device are held until it is adopted.
    pub(crate) fn is_quarantined(&self) -> bool {
        self.meter.as_ref().is_some_and(DeviceMeter::is_quarantined)
    }

    /// Returns the outcome of a message of a device in quarantine that is not telemetry: it must
    /// reach no subscriber, and is not kept.
    fn not_telemetry(&self) -> Outcome {
        Outcome::Denied(Refusal::new(Class::Quarantine, "a device in quarantine sends telemetry only"))
    }

    /// Checks devices, names and sizes of the planned readings against the limits of the tenant.
    fn admit(&mut self) -> Result<(), Exceeded> {
        let Some(meter) = self.meter.as_ref().filter(|meter| meter.checks_readings()) else { return Ok(()) };
        let size = if meter.limits_storage() { self.size() } else { 0 };
        meter.store(size)?;
        if meter.counts_series() {
            let admitted = Self::admit_series(meter, &self.planned, self.admitted.take());
            self.admitted = admitted.inspect_err(|_| meter.unstore(size))?;
        }
        Ok(())
    }

    /// Returns the bytes of the planned readings, as storage is counted.
    fn size(&self) -> u64 {
        let scratch = &self.scratch;
        let of_row = |(plan, row): (&PlannedReading, &ScratchRow)| {
            plan.schema.as_ref()?;
            let values =
                scratch.live(*row).map(|field| size::of_value(scratch.name(field), scratch.value(field.value)));
            Some(size::READING + values.sum::<u64>())
        };
        self.planned.iter().zip(&scratch.rows).filter_map(of_row).sum()
    }

    /// Checks the devices and names of the planned readings. Returns the last ones, after `last`.
    fn admit_series(
        meter: &DeviceMeter,
        planned: &[PlannedReading],
        last: Option<Admitted>,
    ) -> Result<Option<Admitted>, Exceeded> {
        let rows = || planned.iter().filter_map(|plan| Some((&plan.device, plan.schema.as_ref()?)));
        let is_admitted = |(device, schema): (&Arc<DeviceKey>, &Arc<model::Schema>)| {
            last.as_ref().is_some_and(|last| Arc::ptr_eq(&last.0, device) && Arc::ptr_eq(&last.1, schema))
        };
        if rows().all(is_admitted) {
            return Ok(last);
        }
        meter.admit(rows().map(|(device, schema)| (&*device.id, schema.names().iter().map(AsRef::as_ref))))?;
        Ok(rows().next_back().map(|(device, schema)| (Arc::clone(device), Arc::clone(schema))))
    }

    /// Counts a message beyond a limit, and logs it, once a minute for a client.
    pub(crate) fn over_quota(&mut self, message: &Message<'_>, received: Nanos, exceeded: &Exceeded) {
        self.rules.metrics.over_quota.inc();
        if self.denials.is_due(received) && self.rules.denials.is_due(self.client_hash, received) {
            tracing::warn!(
                tenant = %self.tenant, client = %self.client, topic = message.topic,
                "refused messages of this client: {exceeded}"
            );
        }
    }

    /// Counts a message with a reading of another device, and logs it, once a minute for a client.
    pub(crate) fn deny(&mut self, message: &Message<'_>, received: Nanos, refusal: &Refusal) {
        self.rules.metrics.denied.inc();
        if self.denials.is_due(received) && self.rules.denials.is_due(self.client_hash, received) {
            tracing::warn!(
                tenant = %self.tenant, client = %self.client, topic = message.topic,
                "denied messages of this client: {}", refusal.reason
            );
        }
    }

    /// Stages a retained message; an empty payload clears the topic.
    pub(crate) fn retain(&mut self, message: &Retained<'_>, received: Nanos) {
        self.staged.retained(&RetainedRef {
            tenant: &self.tenant,
            received,
            qos: message.qos,
            topic: message.topic,
            payload: message.payload,
            properties: message.properties,
        });
    }

    /// Stages the orderly end of the client's session.
    pub(crate) fn end_session(&mut self, received: Nanos) {
        self.staged.session_end(&self.tenant, self.client_hash, received);
    }

    /// Stages a message that cannot be read, or is held, as a dead letter.
    pub(crate) fn keep(&mut self, message: &Message<'_>, received: Nanos, refusal: &Refusal) {
        let binding = self.bindings.find(message.topic, &self.rules);
        let device = self.bindings.device_of(&binding);
        let hash = unrepeated(self.key.chain(binding.hash, message.payload), &message.delivery, received);
        let letter = DeadLetterRef {
            tenant: &self.tenant,
            device: device.as_ref(),
            received,
            identity: identity::untimed(hash, "", 0, &self.client, message.delivery.id),
            reason: &refusal.reason,
            topic: message.topic,
            client: &self.client,
            payload: message.payload,
        };
        self.staged.message(self.sent(message, letter.identity));
        self.staged.dead_letter(&letter, message.delivery.resent);
        self.rules.metrics.refuse(refusal.class);
        if let Some(traces) = &mut self.traces {
            self.traced = traces.begin_refused(message, device.as_deref(), received, refusal);
        }
        let trace_id = self.traced.as_ref().map(|span| tracing::field::display(span.context.trace()));
        tracing::debug!(
            trace_id,
            "kept a message of client {} on {} as a dead letter: {}",
            self.client,
            message.topic,
            refusal.reason
        );
    }

    /// Reads the rows of every document of a message. False when no route matches one.
    fn rows(&mut self, message: &Message<'_>, binding: &TopicBinding) -> Result<bool, Refusal> {
        let payload = message.payload;
        let text = binding.candidates.iter().any(|c| is_json(payload, c.route.format)).then(|| Decoded::new(payload));
        let text = text.transpose()?;
        let (mut taken, mut at) = (false, 0);
        loop {
            let outcome = self.document(message, binding, text.as_ref(), at)?;
            taken |= outcome.holds;
            match outcome.next {
                Some(next) => at = next,
                None => break,
            }
        }
        let is_empty = || self.scratch.rows.iter().all(|row| self.scratch.live(*row).next().is_none());
        if self.scratch.missed.is_some() && is_empty() {
            let reason = self.scratch.missed.take().unwrap_or_default();
            return Err(Refusal::new(Class::Values, reason));
        }
        Ok(taken)
    }

    /// Reads the rows of every route that matches the document from `at` on.
    fn document(
        &mut self,
        message: &Message<'_>,
        binding: &TopicBinding,
        text: Option<&Decoded<'_>>,
        at: usize,
    ) -> Result<document::Outcome, Refusal> {
        let mut all = document::Outcome { holds: false, next: None };
        for (place, candidate) in binding.candidates.iter().enumerate() {
            let route = &candidate.route;
            if message.delivery.retain && route.retained == RetainedMessages::Skip {
                continue;
            }
            if matches!(route.role, Role::Ignored) && !route.when.reads_payload() {
                break;
            }
            let document = match text {
                Some(text) if is_json(message.payload, route.format) => Document::Json(text.from(at, route.lenient)?),
                // A bare value is the whole payload.
                _ if at > 0 => continue,
                _ => Document::Value(message.payload),
            };
            let from = self.scratch.rows.len();
            let read = match &route.role {
                Role::Streamed => self.stream(document, place, candidate)?,
                _ => document::rows(document, place, candidate, &self.rules.limits, &mut self.scratch)?,
            };
            all.next = all.next.or(read.next);
            if !read.holds {
                continue;
            }
            if let Role::Ignored = route.role {
                break;
            }
            all.holds = true;
            if !route.takes_all() && !matches!(route.role, Role::Presence(_)) {
                for at in from..self.scratch.rows.len() {
                    select::select(route, at, &self.rules.limits, &mut self.scratch)?;
                }
            }
            if !route.go_on {
                break;
            }
        }
        Ok(all)
    }

    fn stream(
        &mut self,
        document: Document<'_>,
        place: usize,
        candidate: &Candidate,
    ) -> Result<document::Outcome, Refusal> {
        let (limits, scratch, route) = (&self.rules.limits, &mut self.scratch, &candidate.route);
        let from = scratch.rows.len();
        let next = match document {
            Document::Json(text) => flat::json(text, &candidate.prefix, &candidate.field, place, limits, scratch)?,
            Document::Value(payload) => {
                plain::plain(payload, route.bare(), &candidate.field, place, limits, scratch)?;
                None
            }
        };
        for at in from..scratch.rows.len() {
            select::take_time(route, at, limits, scratch);
            select::take_seq(at, scratch);
            select::unwrap_values(route, at, scratch);
        }
        Ok(document::Outcome { holds: true, next })
    }

    /// Checks everything that can be refused, for all rows.
    fn plan(&mut self, binding: &TopicBinding) -> Result<(), Refusal> {
        self.planned.clear();
        for at in 0..self.scratch.rows.len() {
            let row = self.scratch.rows[at];
            let candidate = &binding.candidates[row.candidate];
            let device = match (&candidate.device, row.device) {
                (Some(device), _) => device.clone()?,
                (None, Some(id)) => self.bindings.device(self.scratch.text(id), &self.rules)?,
                (None, None) => return Err(Refusal::new(Class::Device, "the payload has no device id")),
            };
            let schema = self.schema(row)?;
            self.planned.push(PlannedReading { device, schema });
        }
        Ok(())
    }

    fn stage(&mut self, message: &Message<'_>, binding: &TopicBinding, received: Nanos) -> u32 {
        let delivery = &message.delivery;
        let hash = self.key.chain(binding.hash, message.payload);
        let unrepeated = unrepeated(hash, delivery, received);
        let trace = self.traced.as_ref().map(|span| span.context.to_bytes());
        let mut count = 0_u32;
        for row in 0..self.scratch.rows.len() {
            let (plan, row) = (&self.planned[row], self.scratch.rows[row]);
            let Some(schema) = &plan.schema else {
                self.tally.empty += 1;
                continue;
            };
            let timing = row.timing;
            let (device, place) = (&*plan.device.id, u64::from(count));
            // Also if the device time is too far in the future to be used.
            let identity = if timing.identifies {
                identity::timed(hash, device, place)
            } else {
                identity::untimed(unrepeated, device, place, &self.client, delivery.id)
            };
            if count == 0 {
                self.staged.message(self.sent(message, identity));
            }
            let received = received + Nanos::from(count);
            let header = ReadingHeader {
                time: timing.time.unwrap_or(received),
                received,
                identity,
                seq: row.seq,
                device_timed: timing.time.is_some(),
                claimed_time: timing.claimed,
                trace: trace.as_ref(),
                resent: delivery.resent,
            };
            let scratch = &self.scratch;
            let values = scratch.live(row).map(|field| Some(scratch.value(field.value)));
            self.tally.values += schema.names().len() as u64;
            self.tally.clock_ahead += u64::from(timing.claimed.is_some() && !timing.unusable);
            self.tally.times_unusable += u64::from(timing.unusable);
            self.staged.reading(&plan.device, schema, &header, values);
            count += 1;
        }
        self.planned.clear();
        self.tally.readings += u64::from(count);
        count
    }

    /// Returns the sender of a message that may come again. `identity` is that of its first record.
    fn sent(&self, message: &Message<'_>, identity: u64) -> Option<Sent> {
        let Delivery { id, resent, in_flight, .. } = message.delivery;
        match id.map(u16::try_from) {
            Some(Ok(packet)) => Some(Sent { client: self.client_hash, connection: self.connection, packet, in_flight }),
            // Every replay of a message has its identity.
            None if resent => {
                Some(Sent { client: self.key.replay(identity), connection: 0, packet: 0, in_flight: true })
            }
            _ => None,
        }
    }

    /// Returns the schema of a row's live fields, or None when there is no field. On return no two
    /// live fields have the same name.
    fn schema(&mut self, row: ScratchRow) -> Result<Option<Arc<model::Schema>>, Refusal> {
        let scratch = &mut self.scratch;
        if scratch.live(row).next().is_none() {
            return Ok(None);
        }
        if let Some(found) = self.cache.get(scratch.live(row).map(|field| scratch.name(field))) {
            return Ok(Some(found));
        }
        self.tally.schema_misses += 1;
        scratch.keep_last(row)?;
        Ok(Some(self.cache.remember(scratch.live(row).map(|field| scratch.name(field)), &self.rules.schemas)))
    }
}

/// Returns the hash of a message. The hash of a message that is never sent again includes its
/// receive time: two equal ones are two.
fn unrepeated(hash: u64, delivery: &Delivery<'_>, received: Nanos) -> u64 {
    if delivery.id.is_none() { identity::chain_number(hash, received.cast_unsigned()) } else { hash }
}

/// True when a payload is read as JSON.
pub(crate) fn is_json(payload: &[u8], format: Format) -> bool {
    match format {
        Format::Json => true,
        Format::Value => false,
        Format::JsonOrValue => {
            let text = payload.strip_prefix(b"\xef\xbb\xbf").unwrap_or(payload);
            let around = |b: u8| b.is_ascii_whitespace() || matches!(b, 0x0b | 0x1e);
            matches!(text.iter().find(|b| !around(**b)), Some(b'{' | b'[' | b'"'))
        }
    }
}
