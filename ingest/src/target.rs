//! What a topic means to a connection: found once, then remembered.

use std::sync::Arc;

use hashbrown::HashMap;
use model::DeviceKey;

use crate::decode::{Class, Refusal};
use crate::identity;
use crate::routes::{Captures, Compiled, Role};
use crate::rules::Shared;

/// Topics, and devices named by payloads, that one connection remembers: a gateway publishes for many.
const REMEMBERED: usize = 4096;

/// The routes that may take a topic's messages; none when they are plain messages.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) candidates: Vec<Candidate>,
    /// Hash of tenant and topic.
    pub(crate) hash: u64,
}

/// A route, with what it makes of the topic.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) route: Arc<Compiled>,
    pub(crate) captures: Captures,
    /// The device, when the topic alone tells it.
    pub(crate) device: Option<Result<Arc<DeviceKey>, Refusal>>,
    /// Those templates that the topic alone fills; else empty.
    pub(crate) prefix: String,
    pub(crate) field: String,
}

type Remembered<T> = HashMap<String, T, foldhash::fast::RandomState>;

/// A connection's topics and devices.
#[derive(Debug)]
pub(crate) struct Targets {
    tenant: Arc<str>,
    client: Arc<str>,
    tenant_hash: u64,
    last_topic: String,
    last: Option<Arc<Target>>,
    topics: Remembered<Arc<Target>>,
    devices: Remembered<Arc<DeviceKey>>,
}

impl Targets {
    pub(crate) fn new(tenant: Arc<str>, client: Arc<str>) -> Self {
        Self {
            tenant_hash: identity::chain(0, tenant.as_bytes()),
            tenant,
            client,
            last_topic: String::new(),
            last: None,
            topics: HashMap::default(),
            devices: HashMap::default(),
        }
    }

    /// What a topic means. Allocates only for a topic that is new, or longer than any before.
    pub(crate) fn find(&mut self, topic: &str, rules: &Shared) -> Arc<Target> {
        if let Some(target) = &self.last
            && self.last_topic == topic
        {
            return Arc::clone(target);
        }
        let target = match self.topics.get(topic) {
            Some(target) => Arc::clone(target),
            None => {
                let target = Arc::new(self.look_up(topic, rules));
                if self.topics.len() >= REMEMBERED {
                    self.topics.clear();
                }
                self.topics.insert(topic.to_owned(), Arc::clone(&target));
                target
            }
        };
        topic.clone_into(&mut self.last_topic);
        self.last = Some(Arc::clone(&target));
        target
    }

    fn look_up(&self, topic: &str, rules: &Shared) -> Target {
        let candidates = rules.routes.find(topic, &self.client).into_iter().map(|(route, captures)| {
            let fixed = |template: &crate::routes::Template| {
                if template.is_fixed() { template.render(&captures, None).unwrap_or_default() } else { String::new() }
            };
            let ignored = matches!(route.role, Role::Ignored);
            let device = (!ignored && route.device.is_fixed()).then(|| {
                let id = route.device.render(&captures, None).map_err(|what| Refusal::new(Class::Device, what))?;
                self.admit(&id, rules)
            });
            Candidate { prefix: fixed(&route.prefix), field: fixed(&route.field), device, captures, route }
        });
        Target { candidates: candidates.collect(), hash: identity::chain(self.tenant_hash, topic.as_bytes()) }
    }

    /// The device that a payload names.
    pub(crate) fn device(&mut self, id: &str, rules: &Shared) -> Result<Arc<DeviceKey>, Refusal> {
        if let Some(device) = self.devices.get(id) {
            return Ok(Arc::clone(device));
        }
        let device = self.admit(id, rules)?;
        if self.devices.len() >= REMEMBERED {
            self.devices.clear();
        }
        self.devices.insert(id.to_owned(), Arc::clone(&device));
        Ok(device)
    }

    fn admit(&self, id: &str, rules: &Shared) -> Result<Arc<DeviceKey>, Refusal> {
        let device = DeviceKey::new(&self.tenant, id)
            .map_err(|error| Refusal::new(Class::Device, format!("device id {id:.80?}: {error}")))?;
        rules.admission.admit(&device)?;
        Ok(Arc::new(device))
    }
}
