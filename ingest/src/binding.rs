//! Topics bound to routes: each looked up once by a connection, then remembered.

use std::sync::Arc;

use hashbrown::HashMap;
use model::DeviceKey;

use crate::decode::{Class, Refusal};
use crate::identity;
use crate::routes::{Captures, Compiled, Role};
use crate::rules::Shared;

/// Maximum number of topics, and of devices named by payloads, that one connection remembers: a
/// gateway publishes for many.
const REMEMBERED: usize = 4096;

/// The routes that may match a topic's messages; none when they are plain messages.
#[derive(Debug)]
pub(crate) struct TopicBinding {
    pub(crate) candidates: Vec<Candidate>,
    /// Hash of tenant and topic.
    pub(crate) hash: u64,
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

type Remembered<T> = HashMap<String, T, foldhash::fast::RandomState>;

/// A connection's topics and devices.
#[derive(Debug)]
pub(crate) struct TopicBindings {
    tenant: Arc<str>,
    client: Arc<str>,
    tenant_hash: u64,
    last_topic: String,
    last: Option<Arc<TopicBinding>>,
    topics: Remembered<Arc<TopicBinding>>,
    devices: Remembered<Arc<DeviceKey>>,
}

impl TopicBindings {
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
                if self.topics.len() >= REMEMBERED {
                    self.topics.clear();
                }
                self.topics.insert(topic.to_owned(), Arc::clone(&binding));
                binding
            }
        };
        topic.clone_into(&mut self.last_topic);
        self.last = Some(Arc::clone(&binding));
        binding
    }

    fn look_up(&self, topic: &str, rules: &Shared) -> TopicBinding {
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
        TopicBinding { candidates: candidates.collect(), hash: identity::chain(self.tenant_hash, topic.as_bytes()) }
    }

    /// Returns the device that a payload names.
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
