mod callers;
mod certificates;
mod devices;
mod figures;
mod follow;
mod groups;
mod keys;
mod limits;
mod live;
mod passwords;
mod paused;
mod pools;
mod quarantine;
mod reauthenticate;
mod registered;
mod revocation;
mod storm;
mod table;
mod tokens;

use std::net::SocketAddr;
use std::path::Path;

use door::{Credentials, Gatekeeper, Identity, Refusal, RefusalKind};
use model::time::SECOND;
use tokio_util::sync::CancellationToken;

use super::follow::Position;
use super::*;
use crate::{Admin, Authenticator, By, EmbeddedRegistry, NewApiKey, Role, Secret, TokenKind};
use paused::Paused;

const START: Nanos = 1_700_000_000 * SECOND;

/// A clock that tests set.
#[derive(Debug)]
struct Hand(AtomicI64);

impl Clock for Hand {
    fn now(&self) -> Nanos {
        self.0.load(Ordering::SeqCst)
    }
}

struct World {
    _dir: tempfile::TempDir,
    clock: Arc<Hand>,
    registry: Arc<Paused>,
    peppers: Arc<Peppers>,
    gate: Gate,
    /// In the process of the gate.
    admin: Admin,
    /// In another process.
    remote: Admin,
}

fn topics() -> Topics {
    Topics { publish: vec!["v1/d/{device}/#".into()], subscribe: vec!["v1/d/{device}/#".into()] }
}

impl World {
    async fn new() -> Self {
        Self::bounded(BOUNDS).await
    }

    /// A world with the tenant `t`.
    async fn bounded(bounds: Bounds) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let registry = Arc::new(Paused::new(open(dir.path())));
        let clock = Arc::new(Hand(AtomicI64::new(START)));
        let peppers = Arc::new(Peppers::generate().unwrap());
        let gate = Gate::bounded(registry.clone(), peppers.clone(), topics(), clock.clone(), bounds);
        let remote = Admin::new(registry.clone(), peppers.clone(), clock.clone());
        let admin = remote.clone().with_gate(gate.clone());
        admin.create_tenant("t", "Tenant", &By::local()).await.unwrap();
        Self { _dir: dir, clock, registry, peppers, gate, admin, remote }
    }

    fn pass(&self, seconds: i64) {
        self.clock.0.fetch_add(seconds * SECOND, Ordering::SeqCst);
    }

    async fn device(&self, device: &str, expires: Option<Nanos>) -> (CredentialId, Secret) {
        let created = self.admin.create_device_secret("t", device, expires, &By::local()).await.unwrap();
        (created.credential.id, created.secret.unwrap())
    }

    async fn key(&self, new: NewApiKey) -> (CredentialId, Secret) {
        let created = self.admin.create_api_key("t", new, &By::local()).await.unwrap();
        (created.credential.id, created.secret.unwrap())
    }
}

fn open(dir: &Path) -> EmbeddedRegistry {
    EmbeddedRegistry::open(dir.join("registry.redb")).unwrap()
}

fn viewer() -> NewApiKey {
    NewApiKey {
        display_name: "dashboard".into(),
        role: Role::Viewer,
        scopes: Vec::new(),
        allowed_networks: Vec::new(),
        groups: Vec::new(),
        expires: None,
    }
}

const PEER: &str = "10.0.0.1:4000";

fn peer(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The device connects with its id as user name and client id.
async fn connect(gate: &Gate, device: &str, password: &str) -> Result<Identity, Refusal> {
    connect_from(gate, PEER, device, password).await
}

async fn connect_from(gate: &Gate, from: &str, device: &str, password: &str) -> Result<Identity, Refusal> {
    let password = Some(password.as_bytes());
    let credentials =
        Credentials { client: device, user: Some(device), password, token: None, certificates: &[], peer: peer(from) };
    gate.admit(&credentials).await
}

async fn admitted(gate: &Gate, device: &str, secret: &Secret) -> CancellationToken {
    connect(gate, device, secret.expose()).await.unwrap().ended.unwrap()
}

async fn refused(gate: &Gate, device: &str, secret: &Secret) -> RefusalKind {
    connect(gate, device, secret.expose()).await.unwrap_err().kind
}
