//! One connection's way into the log.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use broker::inbox::{self, Client, Failed, Inbox, Publish, Ticket, Verdict};
use buffer::frame::{DeadLetterRef, ReadingHeader, RetainedRef, Staged};
use buffer::{Batcher, SubmitError};
use hashbrown::HashMap;
use model::{DeviceKey, Nanos, ValueRef, time};

use crate::decode::{self, Refusal, Row, Scratch};
use crate::identity;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::routes::{Captures, Compiled, Format, Kind, RetainedMessages, Routes, Strings};
use crate::schemas::{Cache, Schemas};

/// Topics and devices that one connection remembers: a gateway publishes for many.
const REMEMBERED: usize = 4096;

/// Opens intakes: what all connections share.
#[derive(Debug, Clone)]
pub struct Door {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    routes: Routes,
    limits: Limits,
    batcher: Batcher,
    metrics: Arc<Metrics>,
    schemas: Schemas,
}

impl Door {
    /// A door into the log behind `batcher`.
    pub fn new(routes: Routes, limits: Limits, batcher: Batcher, metrics: Arc<Metrics>) -> Self {
        Self { shared: Arc::new(Shared { routes, limits, batcher, metrics, schemas: Schemas::default() }) }
    }

    pub(crate) fn intake(&self, tenant: &Arc<str>, client: &Arc<str>) -> Intake {
        Intake {
            shared: Arc::clone(&self.shared),
            tenant: Arc::clone(tenant),
            client: Arc::clone(client),
            staged: Staged::default(),
            scratch: Scratch::default(),
            cache: Cache::default(),
            last_topic: String::new(),
            last_target: None,
            targets: HashMap::default(),
            devices: HashMap::default(),
            now: 0,
            last_received: 0,
        }
    }
}

impl Inbox for Door {
    type Intake = Intake;

    fn open(&self, client: &Client) -> Intake {
        self.intake(&client.tenant, &client.id)
    }
}

/// What a topic means.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// No route, or one that ignores it.
    Plain,
    /// A route takes it.
    Routed(Arc<Routed>),
}

#[derive(Debug)]
pub(crate) struct Routed {
    route: Arc<Compiled>,
    captures: Captures,
    prefix: String,
    field: String,
    /// The device, when the topic alone tells it.
    device: Option<Result<Arc<DeviceKey>, String>>,
}

/// See [`inbox::Intake`].
#[derive(Debug)]
pub struct Intake {
    shared: Arc<Shared>,
    tenant: Arc<str>,
    client: Arc<str>,
    pub(crate) staged: Staged,
    scratch: Scratch,
    cache: Cache,
    last_topic: String,
    last_target: Option<Target>,
    targets: HashMap<String, Target, foldhash::fast::RandomState>,
    devices: HashMap<String, Arc<DeviceKey>, foldhash::fast::RandomState>,
    /// The time of this turn; 0 when a turn begins.
    now: Nanos,
    last_received: Nanos,
}

impl inbox::Intake for Intake {
    fn publish(&mut self, publish: &Publish<'_>) -> Verdict {
        let target = self.target(publish.topic);
        let Target::Routed(routed) = target else {
            self.shared.metrics.plain.inc();
            return Verdict::Plain;
        };
        if publish.retain && routed.route.retained == RetainedMessages::Skip {
            return Verdict::Plain;
        }
        let received = self.receive_time();
        match self.take(publish, &routed, received) {
            Ok(readings) => {
                self.shared.metrics.messages.inc();
                self.shared.metrics.readings.inc_by(readings);
                Verdict::Staged
            }
            Err(reason) => {
                self.quarantine(publish, &routed, received, &reason);
                Verdict::Quarantined
            }
        }
    }

    fn retain(&mut self, publish: &Publish<'_>) {
        let received = self.receive_time();
        self.staged.retained(&RetainedRef {
            received,
            qos: publish.qos,
            topic: publish.topic,
            payload: publish.payload,
            properties: publish.properties,
        });
    }

    fn poll_submit(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ticket, Failed>> {
        self.now = 0;
        match self.shared.batcher.submit(&mut self.staged, cx.waker()) {
            Ok(ticket) => Poll::Ready(Ok(Ticket(ticket.0))),
            Err(SubmitError::Full) => Poll::Pending,
            Err(SubmitError::Failed(reason)) => Poll::Ready(Err(Failed(reason))),
        }
    }

    fn durable(&self) -> Result<Ticket, Failed> {
        self.shared.batcher.durable().map(|ticket| Ticket(ticket.0)).map_err(Failed)
    }
}

impl Intake {
    /// A receive time that no other message of this connection has: one look at the clock for each turn.
    fn receive_time(&mut self) -> Nanos {
        if self.now == 0 {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
            self.now = i64::try_from(now).unwrap_or(Nanos::MAX);
        }
        self.last_received = self.now.max(self.last_received + 1);
        self.last_received
    }

    /// As if the message had been taken at `received`.
    pub(crate) fn at(&mut self, received: Nanos) {
        self.now = received;
        self.last_received = received - 1;
    }

    pub(crate) fn target(&mut self, topic: &str) -> Target {
        if let Some(target) = &self.last_target
            && self.last_topic == topic
        {
            return target.clone();
        }
        let target = match self.targets.get(topic) {
            Some(target) => target.clone(),
            None => {
                let target = self.look_up(topic);
                if self.targets.len() >= REMEMBERED {
                    self.targets.clear();
                }
                self.targets.insert(topic.to_owned(), target.clone());
                target
            }
        };
        topic.clone_into(&mut self.last_topic);
        self.last_target = Some(target.clone());
        target
    }

    fn look_up(&self, topic: &str) -> Target {
        let Some((route, captures)) = self.shared.routes.find(topic) else { return Target::Plain };
        if route.kind == Kind::Ignore {
            return Target::Plain;
        }
        // Checked when the routes were: neither takes a value of the payload.
        let fixed = |template: &crate::routes::Template| template.render(&captures, |_| None).unwrap_or_default();
        let device = route.device.is_fixed().then(|| {
            let id = fixed(&route.device);
            DeviceKey::new(&self.tenant, &id).map(Arc::new).map_err(|error| format!("device id {id:?}: {error}"))
        });
        let (prefix, field) = (fixed(&route.prefix), fixed(&route.field));
        Target::Routed(Arc::new(Routed { route: Arc::clone(route), captures, prefix, field, device }))
    }

    /// Stages the readings of a message, all of them or none. Returns how many.
    pub(crate) fn take(&mut self, publish: &Publish<'_>, routed: &Routed, received: Nanos) -> Result<u64, Refusal> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let result = self
            .decode(publish.payload, routed, &mut scratch)
            .and_then(|()| self.stage(publish, routed, received, &scratch));
        self.scratch = scratch;
        result
    }

    fn decode(&self, payload: &[u8], routed: &Routed, scratch: &mut Scratch) -> Result<(), Refusal> {
        let begins = payload.iter().find(|b| !b.is_ascii_whitespace());
        let json = match routed.route.format {
            Format::Json => true,
            Format::Value => false,
            Format::JsonOrValue => matches!(begins, Some(b'{' | b'[' | b'"')),
        };
        let limits = &self.shared.limits;
        if json {
            decode::json(payload, &routed.prefix, &routed.field, limits, scratch)
        } else {
            decode::plain(payload, &routed.field, limits, scratch)
        }
    }

    fn stage(
        &mut self,
        publish: &Publish<'_>,
        routed: &Routed,
        received: Nanos,
        scratch: &Scratch,
    ) -> Result<u64, Refusal> {
        // Everything that can be refused is looked at before the first record is staged.
        let mut plans: [Option<Plan>; 1] = [None];
        let mut more = Vec::new();
        for (index, row) in scratch.rows().enumerate() {
            let plan = self.plan(routed, row, received + index as i64)?;
            if index == 0 { plans[0] = Some(plan) } else { more.push(plan) }
        }
        let mut count = 0;
        for (index, (row, plan)) in scratch.rows().zip(plans.into_iter().flatten().chain(more)).enumerate() {
            self.last_received = received + index as i64;
            let sender = (!plan.device_timed).then_some((&*self.client, publish.packet_id));
            let message = identity::message(&self.tenant, publish.topic, publish.payload, sender);
            let header = ReadingHeader {
                time: plan.time,
                received: received + index as i64,
                identity: identity::reading(message, index),
                seq: plan.seq,
                device_timed: plan.device_timed,
                claimed_time: plan.claimed,
                trace: None,
                resent: publish.dup,
            };
            let values = kept(&routed.route, row, plan.has_time, plan.seq.is_some());
            if values.clone().next().is_none() {
                self.shared.metrics.empty.inc();
                continue;
            }
            count += 1;
            let schema =
                self.cache.find(values.clone().map(|(name, _)| strip(name, plan.nested)), &self.shared.schemas);
            if distinct(schema.names()) {
                self.staged.reading(&plan.device, &schema, &header, values.map(|(_, value)| Some(value)));
            } else {
                // A name that stands twice: the last value counts.
                let last: Vec<(&str, ValueRef<'_>)> = last_of_each(values, plan.nested);
                let schema = self.cache.find(last.iter().map(|(name, _)| *name), &self.shared.schemas);
                self.staged.reading(&plan.device, &schema, &header, last.iter().map(|(_, value)| Some(*value)));
            }
        }
        Ok(count)
    }

    fn plan(&mut self, routed: &Routed, row: Row<'_>, received: Nanos) -> Result<Plan, Refusal> {
        let route = &routed.route;
        let device = match &routed.device {
            Some(device) => device.clone()?,
            None => self.device_of(routed, row)?,
        };
        let time_name = route.time.iter().find_map(|name| Some((name, row.get(name)?)));
        let claimed = match time_name {
            Some((name, value)) => Some(decode::time::read(name, value, &route.zone)?),
            None => None,
        };
        let limit = (self.shared.limits.max_clock_ahead_secs as i64).saturating_mul(time::SECOND);
        let ahead = claimed.is_some_and(|t| t > received.saturating_add(limit));
        if ahead {
            self.shared.metrics.clock_ahead.inc();
        }
        let seq = match row.get("seq") {
            Some(ValueRef::Int(n)) => u64::try_from(n).ok(),
            _ => None,
        };
        // `{"ts": …, "values": {…}}`: the wrapper is not part of the names.
        let nested = claimed.is_some() && row.fields().any(|(name, _)| name.starts_with(WRAPPER));
        Ok(Plan {
            device,
            time: claimed.filter(|_| !ahead).unwrap_or(received),
            claimed: claimed.filter(|_| ahead),
            device_timed: claimed.is_some() && !ahead,
            has_time: claimed.is_some(),
            seq,
            nested,
        })
    }

    fn device_of(&mut self, routed: &Routed, row: Row<'_>) -> Result<Arc<DeviceKey>, Refusal> {
        let id = routed.route.device.render(&routed.captures, |name| row.get(name).map(|v| v.to_string()))?;
        if let Some(device) = self.devices.get(&id) {
            return Ok(Arc::clone(device));
        }
        let device = DeviceKey::new(&self.tenant, &id).map_err(|error| format!("device id {id:?}: {error}"))?;
        if self.devices.len() >= REMEMBERED {
            self.devices.clear();
        }
        let device = Arc::new(device);
        self.devices.insert(id, Arc::clone(&device));
        Ok(device)
    }

    fn quarantine(&mut self, publish: &Publish<'_>, routed: &Routed, received: Nanos, reason: &str) {
        self.shared.metrics.dead_letters.inc();
        tracing::debug!("client {} on {}: {reason}", self.client, publish.topic);
        let device = routed.device.as_ref().and_then(|d| d.as_ref().ok());
        let sender = Some((&*self.client, publish.packet_id));
        let letter = DeadLetterRef {
            device,
            received,
            identity: identity::message(&self.tenant, publish.topic, publish.payload, sender),
            reason,
            topic: publish.topic,
            client: &self.client,
            payload: publish.payload,
        };
        self.staged.dead_letter(device, &letter, publish.dup);
    }
}

const WRAPPER: &str = "values.";

/// What was found out about a row.
struct Plan {
    device: Arc<DeviceKey>,
    time: Nanos,
    claimed: Option<Nanos>,
    device_timed: bool,
    has_time: bool,
    seq: Option<u64>,
    nested: bool,
}

fn strip(name: &str, nested: bool) -> &str {
    if nested { name.strip_prefix(WRAPPER).unwrap_or(name) } else { name }
}

/// The values of a row that are stored: not its time, not its sequence, not what the route leaves out.
fn kept<'a>(
    route: &'a Compiled,
    row: Row<'a>,
    has_time: bool,
    has_seq: bool,
) -> impl Iterator<Item = (&'a str, ValueRef<'a>)> + Clone {
    row.fields().filter(move |(name, value)| {
        let is_time = has_time && route.time.iter().any(|t| t == name);
        let is_seq = has_seq && *name == "seq";
        let wanted = route.include.is_empty() || route.include.iter().any(|g| g.matches(name));
        let unwanted = route.exclude.iter().any(|g| g.matches(name));
        let text = route.strings == Strings::Drop && matches!(value, ValueRef::Str(_));
        !is_time && !is_seq && wanted && !unwanted && !text
    })
}

/// True when no name stands twice. Readings have few names; a set would cost more than it saves.
fn distinct(names: &[Box<str>]) -> bool {
    names.iter().enumerate().all(|(i, name)| !names[..i].contains(name))
}

fn last_of_each<'a>(
    values: impl Iterator<Item = (&'a str, ValueRef<'a>)>,
    nested: bool,
) -> Vec<(&'a str, ValueRef<'a>)> {
    let mut last: Vec<(&str, ValueRef<'_>)> = Vec::new();
    for (name, value) in values {
        let name = strip(name, nested);
        match last.iter_mut().find(|(n, _)| *n == name) {
            Some(held) => held.1 = value,
            None => last.push((name, value)),
        }
    }
    last
}
