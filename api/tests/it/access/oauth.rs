//! The negative matrix over every method, with access tokens of an issuer.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use hmac::{Hmac, KeyInit as _, Mac as _};
use identity::testing::{TestIssuer, TestKey, encode};
use identity::{Admin, Algorithm, By, EmbeddedRegistry, Gate, Issuer, Peppers, Registry, Role, RoleBinding, Topics};
use model::time::SECOND;
use model::{Clock, Nanos};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::cases::case;
use super::client::{call, open};
use super::{ROLES, Rule, Scope, least, rules};
use crate::world::{BOUND, World, assert_status};

const URL: &str = "https://login.example";
const START: Nanos = 1_700_000_000 * SECOND;

/// A clock that tests set.
#[derive(Debug)]
struct Hand(AtomicI64);

impl Clock for Hand {
    fn now(&self) -> Nanos {
        self.0.load(Ordering::SeqCst)
    }
}

/// A server that accepts the tokens of an issuer in tenant `acme`. A principal of each role has the
/// name of the role as its subject.
struct Issued {
    world: World,
    gate: Gate,
    admin: Admin,
    clock: Arc<Hand>,
    fake: Arc<TestIssuer>,
    key: TestKey,
    _folder: tempfile::TempDir,
}

impl Issued {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let registry: Arc<dyn Registry> = Arc::new(EmbeddedRegistry::open(folder.path().join("registry")).unwrap());
        let (peppers, clock) = (Arc::new(Peppers::generate().unwrap()), Arc::new(Hand(AtomicI64::new(START))));
        let key = TestKey::new("k1", Algorithm::Es256);
        let fake = TestIssuer::new(URL, &[&key]);
        let gate = Gate::new(Arc::clone(&registry), Arc::clone(&peppers), Topics::default(), clock.clone()).unwrap();
        let gate = gate.with_issuers(fake.clone());
        let admin = Admin::new(registry, peppers, clock.clone()).with_gate(gate.clone());
        for tenant in ["acme", "other"] {
            admin.create_tenant(tenant, "", &By::local()).await.unwrap();
        }
        let issuer =
            Issuer { url: URL.into(), audience: "weir".into(), max_role: Role::Installation, ..Issuer::default() };
        admin.create_issuer("acme", issuer, &By::local()).await.unwrap();
        for role in ROLES {
            let principal = format!("oidc:{URL}#{}", role.as_str());
            let binding = RoleBinding { principal, role, groups: Vec::new() };
            admin.create_role_binding("acme", binding, &By::local()).await.unwrap();
        }
        let world = World::with(|config| {
            config.authenticator = Some(Arc::new(gate.clone()));
            config.admin = Some(admin.clone());
        })
        .await;
        Self { world, gate, admin, clock, fake, key, _folder: folder }
    }

    fn pass(&self, seconds: i64) {
        self.clock.0.fetch_add(seconds * SECOND, Ordering::SeqCst);
    }

    /// Claims of the principal of a role, as of now.
    fn claims(&self, role: Role) -> Value {
        let now = self.clock.now() / SECOND;
        json!({ "iss": URL, "aud": "weir", "sub": role.as_str(), "client_id": "app", "iat": now, "exp": now + 600 })
    }

    fn token(&self, role: Role) -> String {
        self.key.token(&self.claims(role))
    }

    /// The claims of an operator with one replaced, or removed if it is null.
    fn with(&self, claim: &str, value: Value) -> Value {
        let mut claims = self.claims(Role::Installation);
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(claim)),
            value => claims[claim] = value,
        }
        claims
    }

    async fn call(&self, path: &str, token: &str, tenant: &str, id: &str) -> Status {
        // An address with ten failures within a minute is told to wait.
        self.pass(7);
        call(&self.world, path, &[&format!("Bearer {token}")], case(path).request(tenant, id)).await
    }

    /// Calls every method with tokens that are made for each call, and asserts the answers.
    async fn every_call(&self, token: impl Fn(&Self) -> String, assert: impl Fn(&str, &Rule, Status)) {
        for (path, rule) in rules() {
            let status = self.call(&path, &token(self), "tenants/-", "d1").await;
            assert(&path, &rule, status);
        }
    }
}

#[tokio::test]
async fn a_valid_token_of_the_right_role_reaches_every_method() {
    let issued = Issued::start().await;
    for (path, rule) in rules() {
        let status = issued.call(&path, &issued.token(least(&rule.permission)), "tenants/-", "d1").await;
        let refused = matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied | Code::Internal);
        assert!(!refused, "{path}: {status:?}");
    }
}

/// A token signed with HMAC and the public key of the issuer.
fn confused(issued: &Issued) -> String {
    let header = encode(json!({ "alg": "HS256", "typ": "at+jwt", "kid": "k1" }).to_string().as_bytes());
    let message = format!("{header}.{}", encode(issued.claims(Role::Installation).to_string().as_bytes()));
    let mut mac = Hmac::<Sha256>::new_from_slice(issued.key.jwk().to_string().as_bytes()).unwrap();
    mac.update(message.as_bytes());
    format!("{message}.{}", encode(&mac.finalize().into_bytes()))
}

/// An unsigned token.
fn unsigned(issued: &Issued) -> String {
    let header = encode(json!({ "alg": "none", "typ": "at+jwt", "kid": "k1" }).to_string().as_bytes());
    format!("{header}.{}.", encode(issued.claims(Role::Installation).to_string().as_bytes()))
}

fn with_header(issued: &Issued, name: &str, value: &str) -> String {
    let mut header = issued.key.header();
    header[name] = value.into();
    issued.key.sign(&header, &issued.claims(Role::Installation))
}

type Made = Box<dyn Fn(&Issued) -> String>;

#[tokio::test]
async fn tokens_that_are_not_valid_get_one_answer_at_every_method() {
    let issued = Issued::start().await;
    let stranger = TestKey::new("k1", Algorithm::Es256);
    let unknown = TestKey::new("k9", Algorithm::Es256);
    let claim = |claim: &'static str, value: Value| -> Made {
        Box::new(move |issued: &Issued| issued.key.token(&issued.with(claim, value.clone())))
    };
    let after = |name: &'static str, seconds: i64| -> Made {
        Box::new(move |issued: &Issued| {
            let now = issued.clock.now() / SECOND;
            issued.key.token(&issued.with(name, (now + seconds).into()))
        })
    };
    let cases: Vec<(&str, Made)> = vec![
        ("malformed", Box::new(|issued| issued.token(Role::Installation).replace('.', ".."))),
        ("not JSON", Box::new(|_| "eyJ.eyJ.eyJ".into())),
        ("wrong signature", Box::new(move |issued| stranger.token(&issued.claims(Role::Installation)))),
        ("expired", after("exp", -60)),
        ("not valid yet", after("nbf", 60)),
        ("issued in the future", after("iat", 60)),
        ("too long a lifetime", after("exp", 2 * 86_400)),
        ("another audience", claim("aud", "other".into())),
        ("no audience", claim("aud", Value::Null)),
        ("another issuer", claim("iss", "https://evil.example".into())),
        ("no issuer", claim("iss", Value::Null)),
        ("no subject", claim("sub", Value::Null)),
        ("no end", claim("exp", Value::Null)),
        ("alg none", Box::new(unsigned)),
        ("alg HS256 with the public key", Box::new(confused)),
        ("alg of another key", Box::new(|issued| with_header(issued, "alg", "RS256"))),
        ("unknown key", Box::new(move |issued| unknown.token(&issued.claims(Role::Installation)))),
        ("id token", Box::new(|issued| with_header(issued, "typ", "JWT"))),
    ];
    let expected = issued.call("/weir.v1.DeviceService/ListDevices", "weir_x", "tenants/-", "d1").await;
    assert_status(&expected, Code::Unauthenticated, "CREDENTIAL_INVALID");
    for (name, token) in cases {
        issued
            .every_call(token, |path, _, status| {
                assert_eq!(status.code(), Code::Unauthenticated, "{name} {path}: {status:?}");
                let (message, details) = (status.message(), status.details());
                assert_eq!((message, details), (expected.message(), expected.details()), "{name} {path}");
            })
            .await;
    }
    // A key that the issuer has withdrawn.
    let next = TestKey::new("k2", Algorithm::EdDsa);
    issued.fake.publish(&[&next]);
    issued.pass(3600);
    issued
        .every_call(
            |issued| issued.token(Role::Installation),
            |path, _, status| {
                let got = (status.code(), status.message());
                assert_eq!(got, (Code::Unauthenticated, expected.message()), "withdrawn {path}");
            },
        )
        .await;
    let good = next.token(&issued.claims(Role::Viewer));
    let status = issued.call("/weir.v1.DeviceService/ListDevices", &good, "tenants/-", "d1").await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
}

#[tokio::test]
async fn a_principal_without_a_role_and_one_of_a_suspended_tenant_are_refused() {
    let issued = Issued::start().await;
    let stranger = |issued: &Issued| issued.key.token(&issued.with("sub", "stranger".into()));
    issued
        .every_call(stranger, |path, _, status| {
            assert_status(&status, Code::PermissionDenied, "ROLE_MISSING");
            assert!(status.message().contains("oidc:https://login.example#stranger has no role"), "{path}: {status:?}");
        })
        .await;
    issued.admin.suspend_tenant("acme", &By::local()).await.unwrap();
    let operator = |issued: &Issued| issued.token(Role::Installation);
    issued
        .every_call(operator, |_, _, status| assert_status(&status, Code::PermissionDenied, "TENANT_SUSPENDED"))
        .await;
}

#[tokio::test]
async fn while_the_keys_of_the_issuer_cannot_be_read_every_call_is_unavailable() {
    let issued = Issued::start().await;
    issued.fake.fail(Some("https://10.0.0.1:8443 is away"));
    let operator = |issued: &Issued| issued.token(Role::Installation);
    issued
        .every_call(operator, |_, _, status| {
            assert_status(&status, Code::Unavailable, "AUTHENTICATION_UNAVAILABLE");
            assert!(!status.message().contains("10.0.0.1"), "{status:?}");
        })
        .await;
}

#[tokio::test]
async fn a_role_that_is_too_low_and_scopes_that_are_too_narrow_are_refused() {
    let issued = Issued::start().await;
    let all: Vec<String> = rules().into_iter().map(|(_, rule)| rule.permission.to_string()).collect();
    for (path, rule) in rules().into_iter().filter(|(_, rule)| rule.scope != Scope::Caller) {
        if let Some(lower) = ROLES.into_iter().rfind(|role| !role.has(&rule.permission)) {
            let status = issued.call(&path, &issued.token(lower), "tenants/-", "d1").await;
            assert_status(&status, Code::PermissionDenied, "PERMISSION_DENIED");
        }
        let others: Vec<&str> = all.iter().map(String::as_str).filter(|other| **other != *rule.permission).collect();
        let token = issued.key.token(&issued.with("scope", others.join(" ").into()));
        let status = issued.call(&path, &token, "tenants/-", "d1").await;
        assert_status(&status, Code::PermissionDenied, "PERMISSION_DENIED");
        assert!(status.message().contains(&*rule.permission), "{path}: {status:?}");
    }
}

#[tokio::test]
async fn another_tenants_resource_gets_the_same_answer_whether_it_exists_or_not() {
    let issued = Issued::start().await;
    for (path, rule) in rules().into_iter().filter(|(_, rule)| matches!(rule.scope, Scope::Tenant | Scope::Device)) {
        let case = case(&path);
        for (tenant, id) in [("tenants/other", "d1"), ("tenants/other", "missing"), ("tenants/nowhere", "d1")] {
            let status = issued.call(&path, &issued.token(Role::TenantAdmin), tenant, id).await;
            assert_status(&status, Code::PermissionDenied, "PERMISSION_DENIED");
            let text = status.message().replace(&case.name(tenant, id), "NAME");
            let expected = format!("permission `{}` denied on `NAME` (or it does not exist)", rule.permission);
            assert_eq!(text, expected, "{path}");
        }
    }
}

/// An event that ends the streams of a token.
enum End {
    Issuer,
    Binding,
    Rebound,
    Tenant,
    Key,
    Expiry,
}

#[tokio::test]
async fn a_stream_ends_when_the_rights_of_its_token_end() {
    for end in [End::Issuer, End::Binding, End::Rebound, End::Tenant, End::Key, End::Expiry] {
        let issued = Issued::start().await;
        let stop = CancellationToken::new();
        let follow = tokio::spawn({
            let (gate, stop) = (issued.gate.clone(), stop.clone());
            async move { gate.follow(stop).await }
        });
        let path = "/weir.v1.TelemetryService/Subscribe";
        let authorization = format!("Bearer {}", issued.token(Role::Viewer));
        let request = case(path).request("tenants/-", "d1");
        let mut stream = open(&issued.world, path, &[&authorization], request).await.unwrap();
        let by = By::local();
        match end {
            End::Issuer => issued.admin.delete_issuer("acme", Issuer::id(URL, "weir"), &by).await.unwrap(),
            End::Binding => {
                let id = RoleBinding::id("acme", &format!("oidc:{URL}#{}", Role::Viewer.as_str()));
                issued.admin.delete_role_binding("acme", id, &by).await.unwrap();
            }
            End::Rebound => {
                let principal = format!("oidc:{URL}#{}", Role::Viewer.as_str());
                let id = RoleBinding::id("acme", &principal);
                let etag = issued.admin.get_role_binding("acme", id, &by).await.unwrap().etag();
                let binding = RoleBinding { principal, role: Role::Operator, groups: Vec::new() };
                issued.admin.update_role_binding("acme", id, binding, &etag, &by).await.unwrap();
            }
            End::Tenant => drop(issued.admin.suspend_tenant("acme", &by).await.unwrap()),
            End::Key => {
                issued.fake.publish(&[&TestKey::new("k2", Algorithm::Es256)]);
                // A token of another key has the keys read again.
                let token = TestKey::new("k3", Algorithm::Es256).token(&issued.claims(Role::Viewer));
                assert_eq!(issued.call(path, &token, "tenants/-", "d1").await.code(), Code::Unauthenticated);
            }
            End::Expiry => issued.pass(630),
        }
        let status = tokio::time::timeout(BOUND, stream.message()).await.unwrap().expect_err("it ends");
        assert_status(&status, Code::Unauthenticated, "CREDENTIAL_ENDED");
        stop.cancel();
        follow.await.unwrap();
    }
}
