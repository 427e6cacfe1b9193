//! A broker that can be killed and started again from its log.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use door::{Credentials, Gatekeeper, Identity, Refusal};
use tokio_util::sync::CancellationToken;
use weir_broker::fleet::memory::MemoryFleet;
use weir_broker::fleet::{Bus, SessionStore};
use weir_broker::{Broker, Config, Earlier, Listener, Metrics, Settings, bind};

use crate::log::{Log, LogInbox};

/// Tenant of the clients.
pub(crate) const TENANT: &str = "clients";

pub(crate) struct Node {
    /// The nodes that share their sessions with it.
    fleet: Option<MemoryFleet>,
    name: &'static str,
    pub(crate) log: Arc<Log>,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Arc<Metrics>,
    broker: Arc<Broker<LogInbox>>,
    runtime: Option<tokio::runtime::Runtime>,
}

/// Admits every client with every topic; the user name is the tenant.
struct ByUser;

#[async_trait]
impl Gatekeeper for ByUser {
    async fn admit(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        let tenant = credentials.user.unwrap_or("none").into();
        Ok(Identity { tenant, device: None, grants: Arc::default(), ended: None, meter: None, expires: None })
    }
}

impl Node {
    /// A broker alone, or a node of a fleet, whose nodes have one log.
    pub(crate) fn start(name: &'static str, log: Arc<Log>, fleet: Option<MemoryFleet>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let metrics = Arc::<Metrics>::default();
        // Of most queues, the greater part is not in memory.
        let (node, queue_head, put_away_ms) = (name.into(), 1, 1);
        let config = Config { sys_interval_secs: 0, node, queue_head, put_away_ms, ..Config::default() };
        let (address, broker) = {
            let _entered = runtime.enter();
            let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = socket.local_addr().unwrap();
            let settings = Settings { name: "mqtt".into(), ..Settings::default() };
            let listener = Listener { socket: socket.into(), tls: None, settings };
            let inbox = LogInbox(Arc::clone(&log));
            let measured = Arc::clone(&metrics);
            let mut earlier = Earlier::of(&config.node);
            log.retained().into_iter().for_each(|message| earlier.add(message, true));
            let broker = match &fleet {
                None => Broker::with_gatekeeper(config, inbox, Box::new(ByUser), measured, None),
                Some(fleet) => {
                    let node = fleet.node(name);
                    let ports: (Arc<dyn SessionStore>, Arc<dyn Bus>) = (Arc::clone(&node) as _, node);
                    Broker::in_fleet(config, inbox, Box::new(ByUser), measured, None, ports)
                }
            };
            broker.put_away_to(Arc::clone(&log) as Arc<_>);
            broker.begin_with(earlier);
            runtime.spawn(Arc::clone(&broker).run(vec![listener], CancellationToken::new()));
            (address, broker)
        };
        Self { fleet, name, log, address, metrics, broker, runtime: Some(runtime) }
    }

    /// True when no connection is open, and the clients have no session and no subscription.
    pub(crate) fn is_empty(&self) -> bool {
        self.metrics.connections.get() == 0 && self.broker.kept(TENANT) == (0, 0)
    }

    /// Sessions of the clients.
    pub(crate) fn sessions(&self) -> usize {
        self.broker.kept(TENANT).0
    }

    /// Ends all tasks where they are, and starts a broker on what was durable.
    pub(crate) fn kill(&mut self) {
        drop(self.runtime.take());
        // The log of a fleet is on a server of its own.
        let log = if self.fleet.is_some() { Arc::clone(&self.log) } else { Arc::new(self.log.after_crash()) };
        *self = Self::start(self.name, log, self.fleet.take());
    }
}
