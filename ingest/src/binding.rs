//! Topics bound to routes: each looked up once by a connection, then remembered.

use std::sync::{Arc, OnceLock};

use door::Message;
use hashbrown::HashMap;
use model::{DeviceKey, Held, Nanos};

use crate::decode::{Class, Refusal};
use crate::identity::Key;
use crate::routes::{Captures, Compiled, RetainedMessages, Role};
use crate::rules::Shared;
use crate::unrouted::Counted;

/// Maximum number of topics, and of devices named by payloads, that one connection remembers: a
/// gateway publishes for many.
const REMEMBERED: usize = 4096;
/// Maximum bytes of them; what does not fit is looked up each time.
const REMEMBERED_BYTES: usize = 1 << 20;
/// Bytes of a topic or device that is remembered, besides its texts.
const ENTRY_BYTES: usize = 256;
/// A longer topic is not compared with the last one.
const LONG: usize = 4096;

/// The routes that may match a topic's messages; none when they are plain messages.
#[derive(Debug)]
pub(crate) struct TopicBinding {
    pub(crate) candidates: Vec<Candidate>,
    /// Hash of tenant and topic.
    pub(crate) hash: u64,
    /// Counts the messages that no route matches, from the first one on.
    unrouted: OnceLock<Arc<Counted>>,
}

/// A route, with its captures of the topic.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) route: Arc<Compiled>,
    pub(crate) captures: Captures,
    /// The device, when it depends on the topic alone.
    pub(crate) device: Option<Result<Arc<DeviceKey>, Refusal>>,
    /// Rendered templates that depend on the topic alone; otherwise empty.
    pub(crate) prefix: String,
    pub(crate) field: String,
}

impl TopicBinding {
    /// Bytes that it takes among those remembered, with its topic.
    fn bytes(&self, topic: &str) -> usize {
        // The captures of a route are parts of the topic.
        let texts = |c: &Candidate| topic.len() + c.prefix.len() + c.field.len();
        topic.len() + self.candidates.iter().map(|c| ENTRY_BYTES + texts(c)).sum::<usize>() + ENTRY_BYTES
    }
}

type Remembered<T> = HashMap<String, T, foldhash::fast::RandomState>;

/// A connection's topics and devices.
#[derive(Debug)]
pub(crate) struct TopicBindings {
    tenant: Arc<str>,
    client: Arc<str>,
    /// The only device of an authenticated sender.
    own: Option<Arc<str>>,
    /// The same, once it was needed.
    sender: Option<Arc<DeviceKey>>,
    key: Key,
    tenant_hash: u64,
    last_topic: String,
    last: Option<Arc<TopicBinding>>,
    topics: Remembered<Arc<TopicBinding>>,
    devices: Remembered<Arc<DeviceKey>>,
    /// Memory of both, from the first on.
    memory: Option<Held>,
}

impl TopicBindings {
    pub(crate) fn new(key: Key, tenant: Arc<str>, client: Arc<str>, own: Option<Arc<str>>) -> Self {
        Self {
            tenant_hash: key.chain(0, tenant.as_bytes()),
            key,
            tenant,
            client,
            own,
            sender: None,
            last_topic: String::new(),
            last: None,
            topics: HashMap::default(),
            devices: HashMap::default(),
            memory: None,
        }
    }

    /// Returns the binding of a topic. Allocates only for a topic that is new, or longer than any
    /// before.
    pub(crate) fn find(&mut self, topic: &str, rules: &Shared) -> Arc<TopicBinding> {
        if let Some(binding) = &self.last
            && self.last_topic == topic
        {
            return Arc::clone(binding);
        }
        let binding = match self.topics.get(topic) {
            Some(binding) => Arc::clone(binding),
            None => {
                let binding = Arc::new(self.look_up(topic, rules));
                if self.has_room(binding.bytes(topic), self.topics.len(), rules) {
                    self.topics.insert(topic.to_owned(), Arc::clone(&binding));
                }
                binding
            }
        };
        if topic.len() <= LONG {
            topic.clone_into(&mut self.last_topic);
            self.last = Some(Arc::clone(&binding));
        } else {
            self.last = None;
        }
        binding
    }

    /// True when an entry may be remembered beside `count` others. A full connection first forgets
    /// all; one that finds no memory remembers nothing new.
    fn has_room(&mut self, bytes: usize, count: usize, rules: &Shared) -> bool {
        let memory = self.memory.get_or_insert_with(|| rules.remembered.hold());
        if count >= REMEMBERED || memory.bytes() + bytes > REMEMBERED_BYTES {
            self.topics = HashMap::default();
            self.devices = HashMap::default();
            memory.shrink(usize::MAX);
        }
        bytes <= REMEMBERED_BYTES && memory.grow(bytes).is_ok()
    }

    fn look_up(&self, topic: &str, rules: &Shared) -> TopicBinding {
        let candidates = rules.routes.find(topic, &self.client).into_iter().map(|(route, captures)| {
            let fixed = |template: &crate::routes::Template| {
                if template.is_fixed() { template.render(&captures, None).unwrap_or_default() } else { String::new() }
            };
            let ignored = matches!(route.role, Role::Ignored);
            let device = (!ignored && route.device.is_fixed()).then(|| {
                let id = route.device.render(&captures, None).map_err(|what| {
                    let hint = if door::is_assigned(&self.client) {
                        ": the client connected without a client id, give it one"
                    } else {
                        ""
                    };
                    Refusal::new(Class::Device, format!("{what}{hint}"))
                })?;
                self.admit(&id, rules)
            });
            Candidate { prefix: fixed(&route.prefix), field: fixed(&route.field), device, captures, route }
        });
        let hash = self.key.chain(self.tenant_hash, topic.as_bytes());
        TopicBinding { candidates: candidates.collect(), hash, unrouted: OnceLock::new() }
    }

    /// Counts a message that no route matches. One that an operator's route leaves out is expected.
    pub(crate) fn count_unrouted(
        &self,
        binding: &TopicBinding,
        message: &Message<'_>,
        received: Nanos,
        rules: &Shared,
    ) {
        let left_out = |candidate: &Candidate| {
            let skips = message.delivery.retain && candidate.route.retained == RetainedMessages::Skip;
            skips || matches!(candidate.route.role, Role::Ignored)
        };
        if !binding.candidates.iter().any(left_out) {
            let unrouted = &rules.metrics.unrouted;
            let entry = || unrouted.entry(&self.tenant, &self.client, message.topic, received);
            binding.unrouted.get_or_init(entry).count(received);
        }
    }

    /// Returns the device that a payload names.
    pub(crate) fn device(&mut self, id: &str, rules: &Shared) -> Result<Arc<DeviceKey>, Refusal> {
        if let Some(device) = self.devices.get(id) {
            return Ok(Arc::clone(device));
        }
        let device = self.admit(id, rules)?;
        if self.has_room(ENTRY_BYTES + 2 * id.len(), self.devices.len(), rules) {
            self.devices.insert(id.to_owned(), Arc::clone(&device));
        }
        Ok(device)
    }

    /// Returns the refusal of a message whose topic, or one of the devices that its payload names,
    /// is of a device other than the sender's.
    pub(crate) fn foreign<'a>(
        &self,
        binding: &TopicBinding,
        mut named: impl Iterator<Item = &'a str>,
    ) -> Option<Refusal> {
        let refusals = binding.candidates.iter().filter_map(|candidate| candidate.device.as_ref()?.as_ref().err());
        let of_topic = refusals.into_iter().find(|refusal| refusal.class == Class::Foreign);
        of_topic.cloned().or_else(|| named.find_map(|id| self.foreign_device(id)))
    }

    /// Returns the device of a message that cannot be read: that of its topic, or of its
    /// authenticated sender.
    pub(crate) fn device_of(&mut self, binding: &TopicBinding) -> Option<Arc<DeviceKey>> {
        let of_topic = binding.candidates.iter().find_map(|candidate| candidate.device.as_ref()?.as_ref().ok());
        if of_topic.is_some() {
            return of_topic.cloned();
        }
        if self.sender.is_none() {
            self.sender = self.own.as_deref().and_then(|id| DeviceKey::new(&self.tenant, id).ok()).map(Arc::new);
        }
        self.sender.clone()
    }

    fn foreign_device(&self, id: &str) -> Option<Refusal> {
        let own = self.own.as_deref().filter(|own| *own != id)?;
        let reason = format!("the message has a reading of device {id:.80?}, and was sent by device {own:.80?}");
        Some(Refusal::new(Class::Foreign, reason))
    }

    /// Admits a device. One that is not the sender's does not count among those of the tenant.
    fn admit(&self, id: &str, rules: &Shared) -> Result<Arc<DeviceKey>, Refusal> {
        if let Some(refusal) = self.foreign_device(id) {
            return Err(refusal);
        }
        let device = DeviceKey::new(&self.tenant, id)
            .map_err(|error| Refusal::new(Class::Device, format!("device id {id:.80?}: {error}")))?;
        rules.admission.admit(&device)?;
        Ok(Arc::new(device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use crate::rules::Rules;

    fn bindings() -> TopicBindings {
        TopicBindings::new(Key([1, 2]), "t".into(), "c".into(), None)
    }

    fn rules(remembered_bytes: usize) -> Rules {
        let limits = Limits { remembered_bytes, ..Limits::default() };
        Rules::new(crate::Routes::new(&[]).expect("no routes are right"), limits, Arc::default())
    }

    #[test]
    fn topics_of_many_connections_take_no_more_than_the_memory_for_them() {
        let rules = rules(3 << 20);
        let shared = &rules.shared;
        let long = "x".repeat(50_000);
        let mut all: Vec<TopicBindings> = (0..8).map(|_| bindings()).collect();
        for bindings in &mut all {
            for topic in 0..100 {
                let topic = format!("devices/{topic}/telemetry/{long}");
                assert_eq!(bindings.find(&topic, shared).candidates.len(), 1, "it is found all the same");
            }
            let held = bindings.memory.as_ref().map_or(0, Held::bytes);
            assert!(held <= REMEMBERED_BYTES && bindings.last_topic.len() <= LONG, "{held}");
        }
        assert!(shared.remembered.held() <= 3 << 20);
        let mut late = bindings();
        for _ in 0..2 {
            assert_eq!(late.find("devices/d/telemetry", shared).candidates.len(), 1);
        }
        drop(all);
        drop(late);
        assert_eq!(shared.remembered.held(), 0);
    }
}
