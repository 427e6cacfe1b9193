//! Validation of tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::*;
use crate::Role;

fn es() -> TestKey {
    TestKey::new("k1", Algorithm::Es256)
}

#[tokio::test]
async fn a_token_of_each_algorithm_is_valid() {
    for algorithm in Algorithm::ALL {
        let key = TestKey::new("k1", algorithm);
        let world = World::new(settings(), &[&key]);
        let valid = world.check(&key.token(&claims())).await.unwrap();
        assert_eq!(valid.claims.principal, "oidc:https://login.example#alice");
        assert_eq!(valid.claims.expires, (NOW + 630) * SECOND);
        assert_eq!((valid.claims.role, valid.claims.scopes, valid.claims.tenant), (None, None, None));
    }
}

#[tokio::test]
async fn a_client_that_acts_for_itself_is_a_client() {
    let key = es();
    let world = World::new(settings(), &[&key]);
    let valid = world.check(&key.token(&with("sub", "app".into()))).await.unwrap();
    assert_eq!(valid.claims.principal, "client:https://login.example#app");
}

#[tokio::test]
async fn a_token_of_another_form_is_malformed() {
    let key = es();
    let world = World::new(settings(), &[&key]);
    let good = key.token(&claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, body) = message.split_once('.').unwrap();
    let array = testing::encode(b"[]");
    let deep = testing::encode("[".repeat(5000).as_bytes());
    let twice = testing::encode(br#"{"alg":"ES256","alg":"none","kid":"k1","typ":"at+jwt"}"#);
    let bad = [
        String::new(),
        ".".into(),
        "..".into(),
        message.into(),
        format!("{good}.{signature}"),
        format!("{header}=.{body}.{signature}"),
        format!("{array}.{body}.{signature}"),
        format!("{header}.{array}.{signature}"),
        format!("{header}.{deep}.{signature}"),
        format!("{twice}.{body}.{signature}"),
        key.token(&with("pad", "x".repeat(9000).into())),
    ];
    for token in bad {
        assert_eq!(world.fault(&token).await, TokenFault::Malformed, "{token}");
    }
    for extension in ["crit", "b64", "zip"] {
        let mut header = key.header();
        header[extension] = json!(["exp"]);
        assert_eq!(world.fault(&key.sign(&header, &claims())).await, TokenFault::Malformed, "{extension}");
    }
    assert!(UnverifiedToken::is_like(&good));
    for other in ["", "weir_4ZjQ0kq8yW2a_x", "a.b.c", "ey.x", "ey.a.b.c"] {
        assert!(!UnverifiedToken::is_like(other), "{other}");
    }
}

#[tokio::test]
async fn a_missing_or_wrong_claim_makes_a_token_invalid() {
    let key = es();
    let world = World::new(settings(), &[&key]);
    let cases = [
        ("iss", Value::Null, TokenFault::Issuer),
        ("iss", "https://login.example/".into(), TokenFault::Issuer),
        ("iss", "https://evil.example".into(), TokenFault::Issuer),
        ("iss", json!([URL]), TokenFault::Issuer),
        ("aud", Value::Null, TokenFault::Audience),
        ("aud", "".into(), TokenFault::Audience),
        ("aud", "Weir".into(), TokenFault::Audience),
        ("aud", json!([]), TokenFault::Audience),
        ("aud", json!(["other", 1]), TokenFault::Audience),
        ("aud", json!({ "weir": 1 }), TokenFault::Audience),
        ("aud", json!(["other", "another", "weir"]), TokenFault::Audience),
        ("sub", Value::Null, TokenFault::Claim),
        ("sub", "".into(), TokenFault::Claim),
        ("sub", 1.into(), TokenFault::Claim),
        ("sub", "x".repeat(300).into(), TokenFault::Claim),
        ("sub", "a\nb".into(), TokenFault::Claim),
        ("exp", Value::Null, TokenFault::Claim),
        ("exp", "1700000600".into(), TokenFault::Claim),
        ("exp", json!(1e300), TokenFault::Claim),
        ("exp", (NOW - 30).into(), TokenFault::Expired),
        ("exp", json!(-1), TokenFault::Expired),
        ("exp", (NOW + 86_401).into(), TokenFault::Lifetime),
        ("iat", Value::Null, TokenFault::Claim),
        ("iat", "now".into(), TokenFault::Claim),
        ("iat", (NOW + 31).into(), TokenFault::NotYet),
        ("iat", (NOW - 90_000).into(), TokenFault::Lifetime),
        ("nbf", (NOW + 31).into(), TokenFault::NotYet),
        ("nbf", "now".into(), TokenFault::Claim),
    ];
    for (claim, value, fault) in cases {
        assert_eq!(world.fault(&key.token(&with(claim, value.clone()))).await, fault, "{claim} {value}");
    }
    let good = [("aud", json!(["other", "weir"])), ("iat", (NOW + 30).into()), ("nbf", (NOW + 30).into())];
    for (claim, value) in good.into_iter().chain([("exp", (NOW - 29).into()), ("exp", json!(NOW as f64 + 0.5))]) {
        let claims = if claim == "exp" { with_issued(value) } else { with(claim, value) };
        assert!(world.check(&key.token(&claims)).await.is_ok(), "{claims}");
    }
}

fn with_issued(expires: Value) -> Value {
    let mut claims = with("exp", expires);
    claims["iat"] = (NOW - 60).into();
    claims
}

#[test]
fn two_audiences_of_a_token_are_looked_for() {
    let key = es();
    let of = |audiences: Value| {
        let token = key.token(&with("aud", audiences));
        let token = UnverifiedToken::parse(&token).unwrap();
        token.audiences().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of(json!(["a", "b", "c", "d"])), ["a", "b"]);
    assert_eq!(of(json!([1, "b", "c"])), ["b"]);
    assert_eq!(of(json!("a")), ["a"]);
}

#[tokio::test]
async fn an_id_token_is_refused_unless_the_issuer_may_use_any_type() {
    let key = es();
    let strict = World::new(settings(), &[&key]);
    let lax = World::new(Issuer { any_type: true, ..settings() }, &[&key]);
    for typ in ["at+jwt", "AT+JWT", "application/at+jwt"] {
        let mut header = key.header();
        header["typ"] = typ.into();
        assert!(strict.check(&key.sign(&header, &claims())).await.is_ok(), "{typ}");
    }
    for typ in [json!("JWT"), json!("id+jwt"), json!("at+jwt2"), json!(""), Value::Null] {
        let mut header = key.header();
        header["typ"] = typ.clone();
        let token = key.sign(&header, &claims());
        assert_eq!(strict.fault(&token).await, TokenFault::Type, "{typ}");
        assert!(lax.check(&token).await.is_ok(), "{typ}");
    }
}

#[tokio::test]
async fn no_header_chooses_an_algorithm_beyond_those_of_the_issuer_and_the_key() {
    let (es, rs) = (es(), TestKey::new("r1", Algorithm::Rs256));
    let world = World::new(Issuer { algorithms: vec![Algorithm::Es256, Algorithm::Rs256], ..settings() }, &[&es, &rs]);
    let with_algorithm = |key: &TestKey, algorithm: &str| {
        let mut header = key.header();
        header["alg"] = algorithm.into();
        header
    };
    for algorithm in ["none", "None", "", "HS256", "HS384", "ES384", "RS512", "es256", "PS256", "EdDSA"] {
        let token = es.sign(&with_algorithm(&es, algorithm), &claims());
        assert_eq!(world.fault(&token).await, TokenFault::Algorithm, "{algorithm}");
    }
    // The key is of another algorithm.
    assert_eq!(world.fault(&es.sign(&with_algorithm(&es, "RS256"), &claims())).await, TokenFault::Key);
    // Signed with the public key as the secret.
    let header = testing::encode(with_algorithm(&es, "HS256").to_string().as_bytes());
    let message = format!("{header}.{}", testing::encode(claims().to_string().as_bytes()));
    for secret in [es.jwk()["x"].as_str().unwrap().as_bytes().to_vec(), es.jwk().to_string().into_bytes()] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&secret).unwrap();
        mac.update(message.as_bytes());
        let token = format!("{message}.{}", testing::encode(&mac.finalize().into_bytes()));
        assert_eq!(world.fault(&token).await, TokenFault::Algorithm);
    }
    let unsigned =
        format!("{}.{}.", testing::encode(br#"{"alg":"none","kid":"k1","typ":"at+jwt"}"#), testing::encode(b"{}"));
    assert_eq!(UnverifiedToken::parse(&unsigned).err(), Some(TokenFault::Issuer));
    assert!(world.check(&es.token(&claims())).await.is_ok() && world.check(&rs.token(&claims())).await.is_ok());
}

#[tokio::test]
async fn a_changed_token_and_a_key_of_another_have_wrong_signatures() {
    for algorithm in Algorithm::ALL {
        let (key, other) = (TestKey::new("k1", algorithm), TestKey::new("k1", algorithm));
        let world = World::new(settings(), &[&key]);
        assert_eq!(world.fault(&other.token(&claims())).await, TokenFault::Signature);
        let (good, changed) = (key.token(&claims()), key.token(&with("sub", "eve".into())));
        let (message, _) = changed.rsplit_once('.').unwrap();
        let (_, signature) = good.rsplit_once('.').unwrap();
        assert_eq!(world.fault(&format!("{message}.{signature}")).await, TokenFault::Signature);
        assert_eq!(world.fault(&format!("{message}.")).await, TokenFault::Signature);
        let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        bytes[3] ^= 1;
        let (message, _) = good.rsplit_once('.').unwrap();
        assert_eq!(world.fault(&format!("{message}.{}", testing::encode(&bytes))).await, TokenFault::Signature);
    }
}

#[tokio::test]
async fn roles_come_from_the_claim_up_to_the_highest_of_the_issuer() {
    let key = es();
    let roles = [("readers", Role::Viewer), ("operators", Role::Operator), ("admins", Role::TenantAdmin)];
    let roles: Vec<_> = roles.iter().map(|(value, role)| RoleOfClaim { value: (*value).into(), role: *role }).collect();
    let of = |claim: &str| Issuer { role_claim: Some(claim.into()), roles: roles.clone(), ..settings() };
    let world = World::new(of("groups"), &[&key]);
    let cases = [
        (json!(["x", "readers", "operators"]), Some(Role::Operator)),
        (json!("readers"), Some(Role::Viewer)),
        (json!("no admins"), None),
        (json!(["no admins", "admins ", "readers"]), Some(Role::Viewer)),
        (json!("readers operators"), None),
        (json!(["Readers", 1, ""]), None),
        (json!({ "readers": 1 }), None),
        (Value::Null, None),
    ];
    for (value, role) in cases {
        let valid = world.check(&key.token(&with("groups", value.clone()))).await.unwrap();
        assert_eq!(valid.claims.role, role, "{value}");
    }
    let nested = World::new(of("realm_access.roles"), &[&key]);
    let token = key.token(&with("realm_access", json!({ "roles": ["operators"] })));
    assert_eq!(nested.check(&token).await.unwrap().claims.role, Some(Role::Operator));
    let named = World::new(of("https://weir.example/roles"), &[&key]);
    let token = key.token(&with("https://weir.example/roles", json!(["operators"])));
    assert_eq!(named.check(&token).await.unwrap().claims.role, Some(Role::Operator));
}

#[tokio::test]
async fn scopes_limit_the_role_also_when_they_name_no_permission() {
    let key = es();
    let world = World::new(settings(), &[&key]);
    let ignoring = World::new(Issuer { ignores_scopes: true, ..settings() }, &[&key]);
    let cases: [(&str, Value, &[&str]); 8] = [
        ("scope", "openid telemetry.read devices.list telemetry.read".into(), &["devices.list", "telemetry.read"]),
        ("scp", json!(["telemetry.read", "x", 1]), &["telemetry.read"]),
        ("scope", "openid profile".into(), &[]),
        ("scope", "telemetry.read,devices.list".into(), &[]),
        ("scope", "".into(), &[]),
        ("scope", 1.into(), &[]),
        ("scope", json!({ "telemetry.read": true }), &[]),
        ("scp", json!([]), &[]),
    ];
    for (claim, value, scopes) in cases {
        let token = key.token(&with(claim, value.clone()));
        let scopes: Vec<Box<str>> = scopes.iter().map(|scope| Box::from(*scope)).collect();
        assert_eq!(world.check(&token).await.unwrap().claims.scopes, Some(scopes), "{value}");
        assert_eq!(ignoring.check(&token).await.unwrap().claims.scopes, None, "{value}");
    }
    let mut null = claims();
    null["scope"] = Value::Null;
    assert_eq!(world.check(&key.token(&null)).await.unwrap().claims.scopes, Some(Vec::new()));
    assert_eq!(world.check(&key.token(&claims())).await.unwrap().claims.scopes, None, "no claim is no limit");
}

#[tokio::test]
async fn the_tenant_comes_from_a_claim_when_an_operator_said_so() {
    let key = es();
    let operated = Issuer { tenant_claim: Some("tenant".into()), is_operated: true, ..settings() };
    let world = World::new(operated, &[&key]);
    let valid = world.check(&key.token(&with("tenant", "acme".into()))).await.unwrap();
    assert_eq!(valid.claims.tenant.as_deref(), Some("acme"));
    assert_eq!(world.fault(&key.token(&claims())).await, TokenFault::Tenant);
    assert_eq!(world.fault(&key.token(&with("tenant", json!(["acme"])))).await, TokenFault::Tenant);
    let own = World::new(settings(), &[&key]);
    assert_eq!(own.check(&key.token(&with("tenant", "acme".into()))).await.unwrap().claims.tenant, None);
}
