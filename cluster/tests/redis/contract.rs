//! The rules that every store of a fleet keeps, over a real server that is killed to be away.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use broker::fleet::contract::Fixture;
use broker::fleet::{Bus, SessionStore};
use parking_lot::Mutex;
use weir_cluster::sessions::{Config, RedisFleet};

use crate::node::quick;
use crate::server::Server;

/// Messages of a session.
const MOST: usize = 1200;

struct OnRedis {
    server: Mutex<Server>,
    nodes: Mutex<HashMap<String, Arc<RedisFleet>>>,
}

impl OnRedis {
    async fn open() -> Option<Self> {
        Some(Self { server: Mutex::new(Server::start(&[])?), nodes: Mutex::default() })
    }
}

#[async_trait]
impl Fixture for OnRedis {
    async fn node(&self, name: &str) -> (Arc<dyn SessionStore>, Arc<dyn Bus>) {
        let port = self.server.lock().port;
        let redis = crate::server::redis_at(name, port).await;
        let config = Config { max_queued_messages: MOST, ..quick() };
        let fleet = Arc::new(RedisFleet::open(&redis, config, Arc::default()).await.unwrap());
        self.nodes.lock().insert(name.to_owned(), Arc::clone(&fleet));
        (Arc::clone(&fleet) as _, fleet)
    }

    async fn kill(&self, name: &str) {
        self.nodes.lock().remove(name).unwrap().kill();
    }

    async fn away(&self, is_away: bool) {
        let mut server = self.server.lock();
        if is_away { server.kill() } else { server.restart() }
    }

    fn most_messages(&self) -> usize {
        MOST
    }
}

broker::fleet_contract!(OnRedis::open());
