//! Gatekeepers, and clients that present credentials.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use door::quota::{Limits, TenantMeter};
use door::{Credentials, Gatekeeper, Grants, Identity, Refusal, RefusalKind, Sender};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use weir_broker::Config;

use crate::world::*;

/// CONNECT property: a session that lasts 256 s.
pub(crate) const LASTS: &[u8] = &[0x11, 0, 0, 1, 0];

/// Password of a client whose connection ends after 400 ms.
pub(crate) const BRIEF: &str = "brief";

/// Token of another key of the same device, with a credential of its own: `{user}#2`.
pub(crate) const SECOND_KEY: &[u8] = b"second key";

/// Admits every client with every topic; the user name is the tenant.
pub(crate) struct ByUser;

#[async_trait]
impl Gatekeeper for ByUser {
    async fn admit(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        let tenant = credentials.user.unwrap_or("default").into();
        Ok(Identity { tenant, device: None, grants: Arc::default(), ended: None, meter: None, expires: None })
    }
}

/// Admits devices. The user name is `TENANT/DEVICE`; the device `slow` waits for a permit.
pub(crate) struct Devices {
    grants: Mutex<HashMap<String, Grants>>,
    credentials: Mutex<HashMap<String, CancellationToken>>,
    tenants: Mutex<HashMap<String, Arc<TenantMeter>>>,
    pub(crate) waiting: AtomicU64,
    pub(crate) permits: Semaphore,
}

impl Devices {
    pub(crate) fn new() -> Arc<Self> {
        let (grants, credentials, tenants, waiting) = Default::default();
        Arc::new(Self { grants, credentials, tenants, waiting, permits: Semaphore::new(0) })
    }

    pub(crate) fn world(self: &Arc<Self>, instant: bool) -> World {
        World::guarded(Box::new(Arc::clone(self)), instant, Config::default(), Vec::new())
    }

    /// Changes the grants of a user's later connections.
    pub(crate) fn grant(&self, user: &str, publish: &[&str], subscribe: &[&str]) {
        let owned = |list: &[&str]| list.iter().map(|template| (*template).to_owned()).collect::<Vec<_>>();
        let (_, device) = user.split_once('/').unwrap();
        let grants = Grants::of(&owned(publish), &owned(subscribe), device).unwrap();
        self.grants.lock().insert(user.to_owned(), grants);
    }

    /// Limits the connections of a tenant from now on. Returns the meter.
    pub(crate) fn limit(&self, tenant: &str, limits: &Limits) -> Arc<TenantMeter> {
        let mut tenants = self.tenants.lock();
        let meter = tenants.entry(tenant.to_owned()).or_default();
        meter.set(limits);
        Arc::clone(meter)
    }

    /// The credential of a user's next connections.
    pub(crate) fn credential(&self, user: &str) -> CancellationToken {
        self.credentials.lock().entry(user.to_owned()).or_default().clone()
    }

    /// Revokes the credential of a user, who has another one from now on.
    pub(crate) fn revoke(&self, user: &str) {
        self.credentials.lock().remove(user).unwrap().cancel();
    }
}

#[async_trait]
impl Gatekeeper for Devices {
    async fn admit(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        let refused = |kind, reason: &str| Err(Refusal { kind, reason: reason.into() });
        let invalid = || refused(RefusalKind::BadCredentials, "the credentials are not valid");
        let presented = credentials.token.or(credentials.password);
        let (Some(user), Some(password)) = (credentials.user, presented) else { return invalid() };
        let expires = match password {
            b"secret" | SECOND_KEY => None,
            password if password == BRIEF.as_bytes() => Some(model::clock::now() + 400_000_000),
            _ => return invalid(),
        };
        let ended = match password {
            SECOND_KEY => self.credential(&format!("{user}#2")),
            _ => self.credential(user),
        };
        let Some((tenant, device)) = user.split_once('/') else {
            return match user {
                "suspended" => refused(RefusalKind::NotAuthorized, "the tenant is suspended"),
                "busy" => refused(RefusalKind::Busy, "too many checks wait: try again in a minute"),
                _ => refused(RefusalKind::Unavailable, "credentials cannot be checked now"),
            };
        };
        if device == "slow" {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.permits.acquire().await.unwrap().forget();
        }
        let client = credentials.client;
        if !client.is_empty() && !door::belongs_to(client, device) {
            return refused(RefusalKind::ClientId, "the client id does not belong to the device");
        }
        let given = self.grants.lock().get(user).cloned();
        let own = ["devices/{device}/#".to_owned(), "chat/{device}".to_owned()];
        let grants = match given.map_or_else(|| Grants::of(&own, &own, device), Ok) {
            Ok(grants) => Arc::new(grants),
            Err(error) => return refused(RefusalKind::NotAuthorized, &error.to_string()),
        };
        let meter = self.tenants.lock().get(tenant).map(|tenant| tenant.device(device));
        Ok(Identity { tenant: tenant.into(), device: Some(device.into()), grants, ended: Some(ended), meter, expires })
    }

    fn takes_tokens(&self) -> bool {
        true
    }

    /// Some tokens have an outcome of their own; `slow` waits for a permit.
    async fn admit_again(&self, credentials: &Credentials<'_>, known: &Sender) -> Result<Identity, Refusal> {
        assert_eq!((credentials.client, credentials.user), (&*known.client, known.user.as_deref()));
        assert_eq!(credentials.password, None);
        let kind = match credentials.token {
            Some(b"other device") => RefusalKind::NotAuthorized,
            Some(b"busy") => RefusalKind::Busy,
            Some(b"away") => RefusalKind::Unavailable,
            Some(b"slow") => {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                self.permits.acquire().await.unwrap().forget();
                return self.admit(&Credentials { token: Some(b"secret"), ..*credentials }).await;
            }
            _ => return self.admit(credentials).await,
        };
        Err(Refusal { kind, reason: "the token is refused".into() })
    }
}

/// A CONNECT with credentials.
#[derive(Clone, Copy)]
pub(crate) struct Login<'a> {
    pub(crate) v5: bool,
    pub(crate) id: &'a str,
    pub(crate) user: Option<&'a str>,
    /// Empty: none is sent.
    pub(crate) password: &'a str,
    pub(crate) clean: bool,
    /// CONNECT properties of MQTT 5.
    pub(crate) properties: &'a [u8],
    /// Topic and payload of a will message of QoS 0.
    pub(crate) will: Option<(&'a str, &'a [u8])>,
    /// The will message is retained.
    pub(crate) retain: bool,
    /// Properties of the will message.
    pub(crate) delay: &'a [u8],
}

/// A clean MQTT 5 client with the device's own id.
pub(crate) fn login(user: &str) -> Login<'_> {
    let id = user.split_once('/').map_or(user, |(_, device)| device);
    let user = Some(user);
    let (properties, will, delay) = (&[], None, &[]);
    Login { v5: true, id, user, password: "secret", clean: true, properties, will, retain: false, delay }
}

impl Login<'_> {
    pub(crate) fn send(&self, world: &World) -> Peer {
        let mut peer = world.client();
        let user = if self.user.is_some() { 0x80 } else { 0 };
        let credentials = user | if self.user.is_some() && !self.password.is_empty() { 0x40 } else { 0 };
        let flags = credentials | u8::from(self.clean) << 1 | u8::from(self.will.is_some()) << 2;
        let flags = flags | u8::from(self.retain) << 5;
        let mut body = b"\0\x04MQTT".to_vec();
        body.extend_from_slice(&[if self.v5 { 5 } else { 4 }, flags, 0, 0]);
        let list = |body: &mut Vec<u8>, properties: &[u8]| {
            if self.v5 {
                body.push(properties.len() as u8);
                body.extend_from_slice(properties);
            }
        };
        let bytes = |body: &mut Vec<u8>, bytes: &[u8]| {
            body.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
            body.extend_from_slice(bytes);
        };
        list(&mut body, self.properties);
        bytes(&mut body, self.id.as_bytes());
        if let Some((topic, payload)) = self.will {
            list(&mut body, self.delay);
            bytes(&mut body, topic.as_bytes());
            bytes(&mut body, payload);
        }
        if let Some(user) = self.user {
            bytes(&mut body, user.as_bytes());
            if !self.password.is_empty() {
                bytes(&mut body, self.password.as_bytes());
            }
        }
        peer.send(0x10, &body);
        peer
    }

    /// Connects, and returns the body of the CONNACK, too.
    pub(crate) fn connack(&self, world: &World) -> (Peer, Vec<u8>) {
        let mut peer = self.send(world);
        let (first, body) = peer.packet();
        assert_eq!(first, 0x20);
        (peer, body)
    }

    /// A client that is let in.
    pub(crate) fn enter(&self, world: &World) -> Peer {
        let (peer, body) = self.connack(world);
        assert_eq!(body[1], 0, "{:?}", self.user);
        peer
    }
}

/// A client of tenant `a` that may use every topic.
pub(crate) fn observer(devices: &Devices, world: &World) -> Peer {
    devices.grant("a/observer", &["#"], &["#"]);
    login("a/observer").enter(world)
}

/// True when bytes contain a text.
pub(crate) fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
