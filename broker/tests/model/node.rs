//! A broker that can be killed and started again from its log.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use door::{Credentials, Gatekeeper, Identity, Refusal};
use tokio_util::sync::CancellationToken;
use weir_broker::{Broker, Config, Listener, Metrics, Settings, bind};

use crate::log::{Log, LogInbox};

/// Tenant of the clients.
pub(crate) const TENANT: &str = "clients";

pub(crate) struct Node {
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
    pub(crate) fn start(log: Log) -> Self {
        let log = Arc::new(log);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let metrics = Arc::<Metrics>::default();
        let config = Config { sys_interval_secs: 0, node: "n".into(), ..Config::default() };
        let (address, broker) = {
            let _entered = runtime.enter();
            let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = socket.local_addr().unwrap();
            let settings = Settings { name: "mqtt".into(), ..Settings::default() };
            let listener = Listener { socket: socket.into(), tls: None, settings };
            let inbox = LogInbox(Arc::clone(&log));
            let (measured, kept) = (Arc::clone(&metrics), Some(log.retained()));
            let broker = Broker::with_gatekeeper(config, inbox, Box::new(ByUser), measured, kept);
            runtime.spawn(Arc::clone(&broker).run(vec![listener], CancellationToken::new()));
            (address, broker)
        };
        Self { log, address, metrics, broker, runtime: Some(runtime) }
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
        *self = Self::start(self.log.after_crash());
    }
}
