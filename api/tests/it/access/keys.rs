//! API keys in memory.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use identity::quota::CallerMeter;
use identity::{Authenticator, Denied, DeviceReach, Presented, Principal, Role};
use parking_lot::Mutex;
use stores::contract::DeadLetters as _;
use tokio_util::sync::CancellationToken;

use crate::dead_letters::letter;
use crate::fakes::state;
use crate::world::World;

struct Key {
    secret: String,
    principal: Principal,
    denied: Option<Denied>,
    expired: bool,
    revoked: bool,
}

/// Checks tokens of the form `{id}.{secret}`.
#[derive(Default)]
pub(super) struct Keys {
    keys: Mutex<HashMap<String, Key>>,
    failed: Mutex<bool>,
    /// Addresses of the callers.
    pub(super) peers: Mutex<Vec<Option<std::net::IpAddr>>>,
}

impl Keys {
    /// Adds a key of tenant `acme` and returns its token.
    pub(super) fn add(&self, role: Role, scopes: Option<&[&str]>) -> String {
        self.put("acme", role, scopes)
    }

    /// Adds a key of a tenant and returns its token.
    pub(super) fn add_of(&self, tenant: &str, role: Role) -> String {
        self.put(tenant, role, None)
    }

    fn put(&self, tenant: &str, role: Role, scopes: Option<&[&str]>) -> String {
        let mut keys = self.keys.lock();
        let id = format!("key{}", keys.len());
        let principal = Principal {
            tenant: tenant.into(),
            name: format!("apiKeys/{id}").into(),
            role,
            scopes: scopes.map(|scopes| scopes.iter().map(|scope| Box::from(*scope)).collect()),
            networks: Arc::default(),
            reach: DeviceReach::default(),
            ended: CancellationToken::new(),
            meter: None,
        };
        let secret = format!("canary{}", keys.len());
        let token = format!("{id}.{secret}");
        keys.insert(id, Key { secret, principal, denied: None, expired: false, revoked: false });
        token
    }

    fn change(&self, token: &str, change: impl FnOnce(&mut Key)) {
        let (id, _) = token.split_once('.').unwrap();
        change(self.keys.lock().get_mut(id).unwrap());
    }

    pub(super) fn expire(&self, token: &str) {
        self.change(token, |key| key.expired = true);
    }

    /// Revokes a key and ends what it opened.
    pub(super) fn revoke(&self, token: &str) {
        self.change(token, |key| {
            key.revoked = true;
            key.principal.ended.cancel();
        });
    }

    pub(super) fn limit_to_other_network(&self, token: &str) {
        self.change(token, |key| key.denied = Some(Denied::Network));
    }

    /// Holds the key to limits.
    pub(super) fn meter(&self, token: &str, meter: CallerMeter) {
        self.change(token, |key| key.principal.meter = Some(meter));
    }

    pub(super) fn suspend(&self, token: &str) {
        self.change(token, |key| key.denied = Some(Denied::Suspended));
    }

    /// No key can be checked from now on.
    pub(super) fn fail(&self) {
        *self.failed.lock() = true;
    }
}

#[async_trait]
impl Authenticator for Keys {
    async fn authenticate(&self, presented: &Presented<'_>) -> Result<Principal, Denied> {
        self.peers.lock().push(presented.peer);
        let Some(token) = presented.bearer else { return Err(Denied::Missing) };
        if *self.failed.lock() {
            return Err(Denied::Unavailable("the registry does not answer".into()));
        }
        let (id, secret) = token.split_once('.').ok_or(Denied::Invalid)?;
        let keys = self.keys.lock();
        let key = keys.get(id).filter(|key| key.secret == secret && !key.expired && !key.revoked);
        let key = key.ok_or(Denied::Invalid)?;
        key.denied.clone().map_or_else(|| Ok(key.principal.clone()), Err)
    }
}

/// A server with keys, and device `d1` and its dead letter in the tenants `acme` and `other`.
pub(super) async fn with_keys() -> (World, Arc<Keys>) {
    let keys = Arc::new(Keys::default());
    let world = World::with(|config| config.authenticator = Some(keys.clone())).await;
    for tenant in ["acme", "other"] {
        let mut of_device = state("d1", 1_000, 3, &["t"]);
        of_device.device = model::DeviceKey::new(tenant, "d1").unwrap();
        world.latest.put_state(of_device);
        let mut of_device = letter(1, "x");
        of_device.tenant = tenant.into();
        of_device.log = "d1".into();
        world.letters.put(vec![of_device]).await.unwrap();
    }
    (world, keys)
}
