//! Callers with access tokens.

use serde_json::{Value, json};

use super::*;
use crate::oauth::testing::{TestIssuer, TestKey};
use crate::oauth::{Algorithm, Issuer, RoleOfClaim};
use crate::registry::{Created, RoleBinding};
use crate::{Credential, Denied, Presented, Principal};

const URL: &str = "https://login.example";
pub(super) const ALICE: &str = "oidc:https://login.example#alice";

pub(super) struct Issued {
    pub(super) world: World,
    fake: Arc<TestIssuer>,
    pub(super) key: TestKey,
}

pub(super) fn issuer() -> Issuer {
    Issuer { url: URL.into(), audience: "weir".into(), ..Issuer::default() }
}

impl Issued {
    /// A world whose tenant `t` has an issuer.
    pub(super) async fn new() -> Self {
        let issued = Self::without_issuer().await;
        issued.create(issuer()).await;
        issued
    }

    pub(super) async fn without_issuer() -> Self {
        let world = World::new().await;
        let key = TestKey::new("k1", Algorithm::Es256);
        let fake = TestIssuer::new(URL, &[&key]);
        let gate = world.gate.clone().with_issuers(fake.clone());
        Self { world: World { gate, ..world }, fake, key }
    }

    pub(super) async fn create(&self, issuer: Issuer) -> CredentialId {
        self.world.admin.create_issuer("t", issuer, &By::local()).await.unwrap().row.id
    }

    pub(super) async fn bind(&self, tenant: &str, principal: &str, role: Role) -> CredentialId {
        let binding = RoleBinding { principal: principal.into(), role, groups: Vec::new() };
        let bound: Created<Credential> =
            self.world.admin.create_role_binding(tenant, binding, &By::local()).await.unwrap();
        bound.row.id
    }

    pub(super) fn claims(&self) -> Value {
        let now = self.world.clock.now() / SECOND;
        json!({ "iss": URL, "aud": "weir", "sub": "alice", "client_id": "app", "iat": now, "exp": now + 600 })
    }

    pub(super) fn token(&self) -> String {
        self.key.token(&self.claims())
    }

    pub(super) async fn call(&self, token: &str) -> Result<Principal, Denied> {
        call(&self.world.gate, token).await
    }

    /// The gate reads keys that are due.
    async fn keep_keys(&self) {
        self.world.gate.0.tokens.keep_keys(self.world.clock.now()).await;
    }

    /// The gate reads of changes.
    pub(super) async fn follow(&self, position: &mut Position) {
        self.world.gate.step(position).await;
    }
}

async fn call(gate: &Gate, token: &str) -> Result<Principal, Denied> {
    gate.authenticate(&Presented { bearer: Some(token), peer: Some([10, 0, 0, 1].into()) }).await
}

#[tokio::test]
async fn a_principal_has_the_role_of_its_binding_in_the_tenant_of_its_issuer() {
    let issued = Issued::new().await;
    assert_eq!(issued.call(&issued.token()).await.unwrap_err(), Denied::NoRole(ALICE.into()));
    issued.bind("t", ALICE, Role::Operator).await;
    let mut claims = issued.claims();
    claims["scope"] = "openid telemetry.read deadLetters.list apiKeys.create".into();
    let principal = issued.call(&issued.key.token(&claims)).await.unwrap();
    assert_eq!((&*principal.tenant, &*principal.name, principal.role), ("t", ALICE, Role::Operator));
    assert!(principal.holds("telemetry.read") && principal.holds("deadLetters.list"));
    assert!(!principal.holds("devices.list"), "its scopes do not name it");
    assert!(!principal.holds("apiKeys.create"), "its role does not have it");
    claims["scope"] = "openid profile".into();
    let principal = issued.call(&issued.key.token(&claims)).await.unwrap();
    assert!(!principal.holds("telemetry.read"), "its scopes name no permission");
    assert!(issued.call(&issued.token()).await.unwrap().holds("devices.list"));
}

#[tokio::test]
async fn a_verified_token_costs_no_lookup_until_it_expires() {
    let issued = Issued::new().await;
    issued.bind("t", ALICE, Role::Viewer).await;
    let token = issued.token();
    let first = issued.call(&token).await.unwrap();
    issued.world.registry.set_away(true);
    let second = issued.call(&token).await.unwrap();
    assert_eq!(second.name, first.name);
    assert!(matches!(
        issued.call(&issued.key.token(&json!({ "iss": URL, "aud": "weir" }))).await,
        Err(Denied::Unavailable(_))
    ));
    issued.world.registry.set_away(false);
    let mut position = Position::default();
    issued.world.pass(629);
    issued.follow(&mut position).await;
    assert!(!first.ended.is_cancelled());
    issued.world.pass(1);
    assert_eq!(issued.call(&token).await.unwrap_err(), Denied::Invalid);
    issued.follow(&mut position).await;
    assert!(first.ended.is_cancelled(), "its streams end");
}

#[tokio::test]
async fn there_is_one_answer_for_every_token_that_is_not_valid_and_the_audit_has_the_reason() {
    let issued = Issued::new().await;
    issued.bind("t", ALICE, Role::Viewer).await;
    let (other, unknown) = (TestKey::new("k1", Algorithm::Es256), TestKey::new("k9", Algorithm::Es256));
    let with = |claim: &str, value: Value| {
        let mut claims = issued.claims();
        claims[claim] = value;
        claims
    };
    let mut id_token = issued.key.header();
    id_token["typ"] = "JWT".into();
    let cases = [
        ("eyJ.x.y".to_owned(), "malformed"),
        (issued.key.token(&with("iss", "https://evil.example".into())), "issuer"),
        (issued.key.token(&with("aud", "other".into())), "issuer"),
        (issued.key.token(&with("aud", Value::Null)), "issuer"),
        (other.token(&issued.claims()), "signature"),
        (unknown.token(&issued.claims()), "key"),
        (issued.key.sign(&id_token, &issued.claims()), "type"),
        (issued.key.token(&with("exp", 1.into())), "expired"),
    ];
    for (n, (token, _)) in cases.iter().enumerate() {
        let peer = Some([10, 0, 1, u8::try_from(n).unwrap()].into());
        let refused = issued.world.gate.authenticate(&Presented { bearer: Some(token), peer }).await;
        assert_eq!(refused.unwrap_err(), Denied::Invalid, "{n}");
    }
    issued.world.gate.write_denials(true).await;
    let mut events = issued.world.admin.list_audit("t", None, 50).await.unwrap();
    events.extend(issued.world.admin.list_audit(INSTALLATION, None, 50).await.unwrap());
    for (_, reason) in cases {
        assert!(events.iter().any(|event| !event.granted && event.detail.contains(reason)), "{reason}: {events:?}");
    }
}

#[tokio::test]
async fn a_deleted_issuer_or_binding_ends_its_calls_in_every_process() {
    for (is_issuer, is_remote) in [(true, true), (true, false), (false, true), (false, false)] {
        let issued = Issued::new().await;
        let binding = issued.bind("t", ALICE, Role::Viewer).await;
        let token = issued.token();
        let mut position = Position::default();
        issued.follow(&mut position).await;
        let principal = issued.call(&token).await.unwrap();
        let admin = if is_remote { &issued.world.remote } else { &issued.world.admin };
        if is_issuer {
            admin.delete_issuer("t", Issuer::id(URL, "weir"), &By::local()).await.unwrap();
        } else {
            admin.delete_role_binding("t", binding, &By::local()).await.unwrap();
        }
        assert_eq!(principal.ended.is_cancelled(), !is_remote);
        issued.follow(&mut position).await;
        assert!(principal.ended.is_cancelled());
        let expected = if is_issuer { Denied::Invalid } else { Denied::NoRole(ALICE.into()) };
        assert_eq!(issued.call(&token).await.unwrap_err(), expected);
    }
}

#[tokio::test]
async fn other_changes_end_no_call_of_a_token() {
    let issued = Issued::new().await;
    issued.bind("t", ALICE, Role::Viewer).await;
    let mut position = Position::default();
    let principal = issued.call(&issued.token()).await.unwrap();
    issued.follow(&mut position).await;
    let other = issued.bind("t", "oidc:https://login.example#bob", Role::Viewer).await;
    issued.world.remote.delete_role_binding("t", other, &By::local()).await.unwrap();
    issued.world.remote.create_tenant("u", "", &By::local()).await.unwrap();
    issued.world.remote.suspend_tenant("u", &By::local()).await.unwrap();
    issued.follow(&mut position).await;
    assert!(!principal.ended.is_cancelled());
}

#[tokio::test]
async fn a_suspended_tenant_ends_its_calls() {
    let issued = Issued::new().await;
    issued.bind("t", ALICE, Role::Viewer).await;
    let token = issued.token();
    let mut position = Position::default();
    issued.follow(&mut position).await;
    let principal = issued.call(&token).await.unwrap();
    issued.world.remote.suspend_tenant("t", &By::local()).await.unwrap();
    issued.follow(&mut position).await;
    assert!(principal.ended.is_cancelled());
    assert_eq!(issued.call(&token).await.unwrap_err(), Denied::Suspended);
    issued.world.remote.resume_tenant("t", &By::local()).await.unwrap();
    assert!(issued.call(&token).await.is_ok());
}

#[tokio::test]
async fn keys_are_rotated_without_a_failed_call_and_a_withdrawn_key_ends_the_calls_of_its_tokens() {
    let issued = Issued::new().await;
    issued.bind("t", ALICE, Role::Viewer).await;
    let old = issued.token();
    let principal = issued.call(&old).await.unwrap();
    let next = TestKey::new("k2", Algorithm::EdDsa);
    issued.fake.publish(&[&next, &issued.key]);
    let mut claims = issued.claims();
    claims["jti"] = "2".into();
    let new = issued.call(&next.token(&claims)).await.unwrap();
    assert!(issued.call(&old).await.is_ok());
    issued.keep_keys().await;
    assert!(!principal.ended.is_cancelled() && !new.ended.is_cancelled());
    issued.fake.publish(&[&next]);
    issued.world.pass(500);
    issued.keep_keys().await;
    assert!(!principal.ended.is_cancelled(), "the keys are not due to be read");
    issued.world.pass(3600);
    issued.keep_keys().await;
    assert!(principal.ended.is_cancelled() && !new.ended.is_cancelled());
}

#[tokio::test]
async fn while_the_keys_cannot_be_read_a_token_is_neither_valid_nor_wrong() {
    let issued = Issued::new().await;
    issued.bind("t", ALICE, Role::Viewer).await;
    issued.fake.fail(Some("https://10.0.0.1 is away"));
    for _ in 0..20 {
        let Denied::Unavailable(reason) = issued.call(&issued.token()).await.unwrap_err() else {
            panic!("it is checked")
        };
        assert!(!reason.contains("10.0.0.1") && !reason.contains("wait"), "{reason}");
    }
    issued.fake.fail(None);
    issued.world.pass(10);
    assert!(issued.call(&issued.token()).await.is_ok());
}

#[tokio::test]
async fn a_role_of_a_claim_and_a_binding_give_the_higher_one_up_to_that_of_the_issuer() {
    let issued = Issued::without_issuer().await;
    let roles = vec![RoleOfClaim { value: "ops".into(), role: Role::Operator }];
    let of = Issuer { role_claim: Some("groups".into()), roles, max_role: Role::Admin, ..issuer() };
    issued.create(of).await;
    let mut claims = issued.claims();
    claims["groups"] = json!(["ops"]);
    let by_claim = issued.call(&issued.key.token(&claims)).await.unwrap();
    assert_eq!(by_claim.role, Role::Operator);
    let mut position = Position::default();
    issued.follow(&mut position).await;
    issued.bind("t", ALICE, Role::Installation).await;
    issued.follow(&mut position).await;
    assert!(by_claim.ended.is_cancelled(), "its role is another now");
    let bound = issued.call(&issued.key.token(&claims)).await.unwrap();
    assert_eq!(bound.role, Role::Admin);
    issued.follow(&mut position).await;
    assert!(!bound.ended.is_cancelled());
}

#[tokio::test]
async fn a_token_names_its_tenant_when_an_operator_created_the_issuer_so() {
    let issued = Issued::without_issuer().await;
    issued.create(Issuer { tenant_claim: Some("tenant".into()), ..issuer() }).await;
    for tenant in ["u", "v"] {
        issued.world.admin.create_tenant(tenant, "", &By::local()).await.unwrap();
    }
    issued.bind("u", ALICE, Role::Viewer).await;
    let of = |tenant: &str| {
        let mut claims = issued.claims();
        claims["tenant"] = tenant.into();
        issued.key.token(&claims)
    };
    assert_eq!(&*issued.call(&of("u")).await.unwrap().tenant, "u");
    assert_eq!(issued.call(&of("v")).await.unwrap_err(), Denied::NoRole(ALICE.into()), "bound in another tenant");
    for wrong in ["", "nowhere", INSTALLATION, "a+b"] {
        assert_eq!(issued.call(&of(wrong)).await.unwrap_err(), Denied::Invalid, "{wrong}");
    }
    assert_eq!(issued.call(&issued.token()).await.unwrap_err(), Denied::Invalid);
    issued.world.admin.suspend_tenant("u", &By::local()).await.unwrap();
    assert_eq!(issued.call(&of("u")).await.unwrap_err(), Denied::Suspended);
}

#[tokio::test]
async fn a_gate_without_issuers_accepts_no_token() {
    let issued = Issued::new().await;
    issued.bind("t", ALICE, Role::Viewer).await;
    let gate = Gate::bounded(
        issued.world.registry.clone(),
        issued.world.peppers.clone(),
        topics(),
        issued.world.clock.clone(),
        BOUNDS,
    );
    assert_eq!(call(&gate, &issued.token()).await.unwrap_err(), Denied::Invalid);
    assert!(issued.call(&issued.token()).await.is_ok());
}

#[tokio::test]
async fn a_tenant_has_a_part_of_the_table_and_its_token_that_was_verified_first_leaves() {
    let issued = Issued::without_issuer().await;
    let bounds = Bounds { bytes: 8 * 1024 * 4 * 3, ..BOUNDS };
    let world = World::bounded(bounds).await;
    let gate = world.gate.clone().with_issuers(issued.fake.clone());
    let issued = Issued { world: World { gate, ..world }, ..issued };
    issued.create(issuer()).await;
    issued.bind("t", ALICE, Role::Viewer).await;
    let mut principals = Vec::new();
    for n in 0..5 {
        let mut claims = issued.claims();
        claims["jti"] = n.into();
        principals.push(issued.call(&issued.key.token(&claims)).await.unwrap());
    }
    let ended: Vec<_> = principals.iter().map(|principal| principal.ended.is_cancelled()).collect();
    assert_eq!(ended, [true, true, false, false, false]);
}

#[tokio::test]
async fn a_check_that_a_revocation_overtakes_is_repeated() {
    let issued = Issued::new().await;
    let binding = issued.bind("t", ALICE, Role::Viewer).await;
    let token = issued.token();
    let Issued { world, .. } = &issued;
    world.registry.pause();
    let revoked = async {
        // The lookup of the issuer is held up, then that of the binding, which has its row.
        world.registry.arrived().await;
        world.registry.pause();
        world.registry.release();
        world.registry.arrived().await;
        world.admin.delete_role_binding("t", binding, &By::local()).await.unwrap();
        world.registry.release();
    };
    let (answer, ()) = tokio::join!(issued.call(&token), revoked);
    assert_eq!(answer.unwrap_err(), Denied::NoRole(ALICE.into()));
}

#[tokio::test]
async fn the_keys_of_an_issuer_without_tokens_are_no_longer_read() {
    let issued = Issued::new().await;
    issued.bind("t", ALICE, Role::Viewer).await;
    assert!(issued.call(&issued.token()).await.is_ok());
    issued.world.pass(86_400);
    issued.keep_keys().await;
    assert_eq!(issued.fake.reads(), 2);
    issued.world.pass(86_400);
    issued.keep_keys().await;
    issued.keep_keys().await;
    assert_eq!(issued.fake.reads(), 2);
    assert!(issued.call(&issued.token()).await.is_ok());
    assert_eq!(issued.fake.reads(), 3);
}

/// Figures: `cargo test -p weir-identity figures -- --nocapture`.
#[tokio::test]
async fn figures_of_an_access_token() {
    const CALLS: u32 = 200;
    for algorithm in Algorithm::ALL {
        let issued = Issued::without_issuer().await;
        issued.create(issuer()).await;
        issued.bind("t", ALICE, Role::Viewer).await;
        let key = TestKey::new("k2", algorithm);
        issued.fake.publish(&[&key]);
        let token = |n: u32| {
            let mut claims = issued.claims();
            claims["jti"] = n.into();
            key.token(&claims)
        };
        let known = token(0);
        issued.call(&known).await.unwrap();
        let tokens: Vec<_> = (1..=CALLS).map(token).collect();
        let began = std::time::Instant::now();
        for token in &tokens {
            issued.call(token).await.unwrap();
        }
        let first = began.elapsed() / CALLS;
        let began = std::time::Instant::now();
        for _ in 0..CALLS * 10 {
            issued.call(&known).await.unwrap();
        }
        let again = began.elapsed() / (CALLS * 10);
        println!("{}: {first:?} for a new token, {again:?} for a known one", algorithm.as_str());
        assert!(again < first, "{again:?} {first:?}");
    }
}
