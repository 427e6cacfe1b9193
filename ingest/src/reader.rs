//! One connection's messages as staged records.

use std::sync::Arc;

use broker::inbox::Publish;
use buffer::frame::{DeadLetterRef, ReadingHeader, Staged};
use model::trace::Span;
use model::{DeviceKey, Nanos, time};

use crate::decode::{Class, Refusal, Row, Scratch, flat, plain, time as device_time};
use crate::metrics::Tally;
use crate::routes::{Format, RetainedMessages, Role};
use crate::rules::{Rules, Shared};
use crate::target::{Candidate, Target, Targets};
use crate::traces::Traces;
use crate::{document, identity, schemas, select};

/// Reads messages into its [`Staged`].
#[derive(Debug)]
pub(crate) struct Reader {
    rules: Arc<Shared>,
    client: Arc<str>,
    pub(crate) staged: Staged,
    tally: Tally,
    scratch: Scratch,
    plans: Vec<Plan>,
    cache: schemas::Cache,
    targets: Targets,
    /// None when nothing is traced.
    pub(crate) traces: Option<Box<Traces>>,
    /// Of the message read last, when it is traced.
    pub(crate) traced: Option<Box<Span>>,
}

/// What was found out about a row before anything of its message is staged.
#[derive(Debug)]
struct Plan {
    device: Arc<DeviceKey>,
    time: Nanos,
    device_timed: bool,
    claimed: Option<Nanos>,
}

/// What a message became.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// No route takes it.
    Plain,
    /// So many readings were staged.
    Staged(u32),
    /// Nothing was staged.
    Refused(Refusal),
}

impl Reader {
    pub(crate) fn new(rules: &Rules, tenant: &Arc<str>, client: &Arc<str>) -> Self {
        Self {
            rules: Arc::clone(&rules.shared),
            client: Arc::clone(client),
            staged: Staged::default(),
            tally: Tally::default(),
            scratch: Scratch::default(),
            plans: Vec::new(),
            cache: schemas::Cache::default(),
            targets: Targets::new(Arc::clone(tenant), Arc::clone(client)),
            traces: None,
            traced: None,
        }
    }

    /// Adds what was counted to the figures.
    pub(crate) fn flush_tally(&mut self) {
        self.tally.flush(&self.rules.metrics);
    }

    /// Stages the readings of a message, all of them or none. The first is received at `received`, each further one a nanosecond
    /// later.
    pub(crate) fn read(&mut self, publish: &Publish<'_>, received: Nanos) -> Outcome {
        let target = self.targets.find(publish.topic, &self.rules);
        if target.candidates.is_empty() {
            self.tally.plain += 1;
            return Outcome::Plain;
        }
        self.scratch.clear();
        match self.rows(publish, &target).and_then(|taken| self.plan(&target, received).map(|()| taken)) {
            Ok(true) => {
                self.tally.messages += 1;
                self.tally.nulls += self.scratch.absent;
                if let Some(traces) = &mut self.traces {
                    let device = self.plans.first().map(|plan| &*plan.device);
                    self.traced = traces.begin(publish, device, received);
                }
                Outcome::Staged(self.stage(publish, &target, received))
            }
            Ok(false) => {
                self.tally.plain += 1;
                Outcome::Plain
            }
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    /// Keeps a message that cannot be read.
    pub(crate) fn quarantine(&mut self, publish: &Publish<'_>, received: Nanos, refusal: &Refusal) {
        let target = self.targets.find(publish.topic, &self.rules);
        let device = target.candidates.iter().find_map(|c| c.device.as_ref()?.as_ref().ok());
        let message = unrepeated(identity::chain(target.hash, publish.payload), publish, received);
        let letter = DeadLetterRef {
            device,
            received,
            identity: identity::untimed(message, "", 0, &self.client, publish.packet_id),
            reason: &refusal.reason,
            topic: publish.topic,
            client: &self.client,
            payload: publish.payload,
        };
        self.staged.dead_letter(device, &letter, publish.dup);
        self.rules.metrics.refuse(refusal.class);
        if let Some(traces) = &mut self.traces {
            self.traced = traces.begin_refused(publish, device.map(|device| &**device), received, refusal);
        }
        let trace_id = self.traced.as_ref().map(|span| tracing::field::display(span.context.trace()));
        tracing::debug!(
            trace_id,
            "message of client {} on {} cannot be read: {}",
            self.client,
            publish.topic,
            refusal.reason
        );
    }

    /// Reads the rows of every route that takes the message. False when none does.
    fn rows(&mut self, publish: &Publish<'_>, target: &Target) -> Result<bool, Refusal> {
        let mut taken = false;
        for (place, candidate) in target.candidates.iter().enumerate() {
            let route = &candidate.route;
            if publish.retain && route.retained == RetainedMessages::Skip {
                continue;
            }
            let from = self.scratch.rows.len();
            let holds = match &route.role {
                Role::Ignored if !route.when.reads_payload() => return Ok(taken),
                Role::Streamed => {
                    self.stream(publish.payload, place, candidate)?;
                    true
                }
                _ => document::rows(publish.payload, place, candidate, &self.rules.limits, &mut self.scratch)?,
            };
            if !holds {
                continue;
            }
            if let Role::Ignored = route.role {
                return Ok(taken);
            }
            taken = true;
            if !route.takes_all() && !matches!(route.role, Role::Presence(_)) {
                for at in from..self.scratch.rows.len() {
                    select::select(route, at, &self.rules.limits, &mut self.scratch)?;
                }
            }
            if !route.go_on {
                break;
            }
        }
        Ok(taken)
    }

    fn stream(&mut self, payload: &[u8], place: usize, candidate: &Candidate) -> Result<(), Refusal> {
        let (limits, scratch) = (&self.rules.limits, &mut self.scratch);
        let from = scratch.rows.len();
        if is_json(payload, candidate.route.format) {
            flat::json(payload, &candidate.prefix, &candidate.field, place, limits, scratch)?;
        } else {
            plain::plain(payload, &candidate.field, place, limits, scratch)?;
        }
        for at in from..scratch.rows.len() {
            select::take_time(&candidate.route.time, at, scratch);
            select::take_seq(at, scratch);
            select::unwrap_values(at, scratch);
        }
        Ok(())
    }

    /// Finds out everything that can be refused, for all rows.
    fn plan(&mut self, target: &Target, received: Nanos) -> Result<(), Refusal> {
        self.plans.clear();
        let ahead = i64::try_from(self.rules.limits.max_clock_ahead_secs).unwrap_or(i64::MAX);
        let latest = received.saturating_add(ahead.saturating_mul(time::SECOND));
        for row in &self.scratch.rows {
            let candidate = &target.candidates[row.candidate];
            let route = &candidate.route;
            let device = match (&candidate.device, row.device) {
                (Some(device), _) => device.clone()?,
                (None, Some(id)) => self.targets.device(self.scratch.text(id), &self.rules)?,
                (None, None) => return Err(Refusal::new(Class::Device, "the payload names no device")),
            };
            let claimed = match row.time {
                Some((slot, name)) => {
                    let (name, value) = (self.scratch.text(name), self.scratch.value(slot));
                    Some(device_time::read(name, value, &route.time_format, &route.zone)?)
                }
                None => None,
            };
            let usable = claimed.filter(|t| *t <= latest);
            let plan = Plan {
                device,
                time: usable.unwrap_or(received),
                device_timed: usable.is_some(),
                claimed: claimed.filter(|t| *t > latest),
            };
            self.plans.push(plan);
        }
        Ok(())
    }

    fn stage(&mut self, publish: &Publish<'_>, target: &Target, received: Nanos) -> u32 {
        let message = identity::chain(target.hash, publish.payload);
        let unrepeated = unrepeated(message, publish, received);
        let trace = self.traced.as_ref().map(|span| span.context.to_bytes());
        let mut count = 0_u32;
        for row in 0..self.scratch.rows.len() {
            let Some(schema) = self.schema(self.scratch.rows[row]) else {
                self.tally.empty += 1;
                continue;
            };
            let (plan, row) = (&self.plans[row], self.scratch.rows[row]);
            let (device, place) = (&*plan.device.id, u64::from(count));
            // Also when the device's time is too far ahead to be used.
            let identity = if row.time.is_some() {
                identity::timed(message, device, place)
            } else {
                identity::untimed(unrepeated, device, place, &self.client, publish.packet_id)
            };
            let received = received + Nanos::from(count);
            let header = ReadingHeader {
                time: if plan.device_timed { plan.time } else { received },
                received,
                identity,
                seq: row.seq,
                device_timed: plan.device_timed,
                claimed_time: plan.claimed,
                trace: trace.as_ref(),
                resent: publish.dup,
            };
            let scratch = &self.scratch;
            let values = scratch.live(row).map(|field| Some(scratch.value(field.value)));
            self.tally.values += schema.names().len() as u64;
            self.tally.clock_ahead += u64::from(plan.claimed.is_some());
            self.staged.reading(&plan.device, &schema, &header, values);
            count += 1;
        }
        self.plans.clear();
        self.tally.readings += u64::from(count);
        count
    }

    /// The schema of a row's live fields, of which no two have one name when this returns. None when there is none.
    fn schema(&mut self, row: Row) -> Option<Arc<model::Schema>> {
        let scratch = &mut self.scratch;
        scratch.live(row).next()?;
        let found = self.cache.get(scratch.live(row).map(|field| scratch.name(field)));
        Some(found.unwrap_or_else(|| {
            self.tally.schema_misses += 1;
            scratch.keep_last(row);
            self.cache.remember(scratch.live(row).map(|field| scratch.name(field)), &self.rules.schemas)
        }))
    }
}

/// At QoS 0 nothing is sent again, so two equal messages are two.
fn unrepeated(message: u64, publish: &Publish<'_>, received: Nanos) -> u64 {
    if publish.qos == 0 { identity::chain_number(message, received.cast_unsigned()) } else { message }
}

/// Whether a payload is to be read as JSON.
pub(crate) fn is_json(payload: &[u8], format: Format) -> bool {
    match format {
        Format::Json => true,
        Format::Value => false,
        Format::JsonOrValue => {
            let text = payload.strip_prefix(b"\xef\xbb\xbf").unwrap_or(payload);
            matches!(text.iter().find(|b| !b.is_ascii_whitespace()), Some(b'{' | b'[' | b'"'))
        }
    }
}
