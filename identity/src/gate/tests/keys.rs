//! Devices that sign their passwords.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RsaKeyPair,
};
use aws_lc_rs::{hmac, rand::SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::*;
use crate::NewDeviceKey;
use crate::registry::Error;

type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// A key of a device.
pub(super) struct Signer {
    algorithm: &'static str,
    pem: String,
    sign: Sign,
}

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
}

pub(super) fn es256() -> Signer {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let pem = pem(key.public_key().as_der().unwrap().as_ref());
    let sign = move |message: &[u8]| key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
    Signer { algorithm: "ES256", pem, sign: Box::new(sign) }
}

fn ed25519() -> Signer {
    let key = Ed25519KeyPair::generate().unwrap();
    let pem = pem(key.public_key().as_der().unwrap().as_ref());
    Signer { algorithm: "EdDSA", pem, sign: Box::new(move |message| key.sign(message).as_ref().to_vec()) }
}

fn rs256(size: KeySize) -> Signer {
    let key = RsaKeyPair::generate(size).unwrap();
    let pem = pem(key.public_key().as_der().unwrap().as_ref());
    let sign = move |message: &[u8]| {
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    };
    Signer { algorithm: "RS256", pem, sign: Box::new(sign) }
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

impl Signer {
    fn token(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", part(header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode((self.sign)(message.as_bytes()));
        format!("{message}.{signature}")
    }

    fn header(&self, kid: CredentialId) -> Value {
        json!({ "alg": self.algorithm, "typ": "JWT", "kid": kid.as_str() })
    }

    /// A token of some seconds from the start of the world.
    pub(super) fn lasting(&self, kid: CredentialId, seconds: i64) -> String {
        self.token(&self.header(kid), &but(json!({ "exp": BEGIN + seconds })))
    }

    /// A token of an hour for another tenant.
    pub(super) fn for_tenant(&self, kid: CredentialId, tenant: &str) -> String {
        self.token(&self.header(kid), &but(json!({ "aud": format!("weir:{tenant}") })))
    }

    /// A token of an hour from the start of the world.
    pub(super) fn valid(&self, kid: CredentialId) -> String {
        self.token(&self.header(kid), &claims())
    }
}

const BEGIN: i64 = START / SECOND;

fn claims() -> Value {
    json!({ "aud": "weir:t", "iat": BEGIN, "exp": BEGIN + 3600 })
}

/// The valid claims with some changed, or removed by null.
fn but(changes: Value) -> Value {
    let mut all = claims();
    for (name, value) in changes.as_object().unwrap() {
        all[name] = value.clone();
    }
    all.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    all
}

impl World {
    pub(super) async fn key_of(&self, tenant: &str, device: &str, signer: &Signer) -> CredentialId {
        let key = NewDeviceKey { public_key: signer.pem.clone(), algorithm: None, expires: None };
        let credential = self.admin.create_device_key(tenant, device, &key, &By::local()).await.unwrap();
        let shown = credential.detail();
        assert!(shown.contains(signer.algorithm) && shown.contains("BEGIN PUBLIC KEY"), "{shown}");
        credential.id
    }

    async fn outcome(&self, device: &str, token: &str) -> Option<RefusalKind> {
        connect(&self.gate, device, token).await.err().map(|refusal| refusal.kind)
    }
}

#[tokio::test]
async fn a_device_is_admitted_with_a_token_of_its_key_until_the_token_expires() {
    let world = World::new().await;
    for (device, signer) in [("d1", es256()), ("d2", ed25519()), ("d3", rs256(KeySize::Rsa2048))] {
        let id = world.key_of("t", device, &signer).await;
        for lookups in [1, 0] {
            let before = world.registry.lookups();
            let identity = connect(&world.gate, device, &signer.valid(id)).await.unwrap();
            assert_eq!((&*identity.tenant, identity.device.as_deref()), ("t", Some(device)));
            assert_eq!(identity.expires, Some(START + 3630 * SECOND));
            assert!(!identity.ended.unwrap().is_cancelled());
            assert_eq!(world.registry.lookups() - before, lookups, "a known key needs no lookup");
        }
    }
}

#[tokio::test]
async fn claims_have_to_be_for_the_tenant_and_the_device_and_within_their_times() {
    let world = World::new().await;
    let signer = es256();
    let id = world.key_of("t", "d1", &signer).await;
    let valid = [
        json!({}),
        json!({ "sub": "d1" }),
        json!({ "aud": ["https://elsewhere.example", "weir:t"] }),
        json!({ "nbf": BEGIN + 600 }),
        json!({ "iat": BEGIN + 600 }),
        json!({ "iat": BEGIN - 86_000, "exp": BEGIN + 1 }),
        json!({ "iat": BEGIN - 100, "exp": BEGIN - 29 }),
        json!({ "exp": BEGIN + 87_000 }),
        json!({ "iat": BEGIN as f64 + 0.25, "exp": BEGIN as f64 + 60.5 }),
    ];
    let wrong = [
        json!({ "sub": "d2" }),
        json!({ "sub": "" }),
        json!({ "aud": null }),
        json!({ "aud": "t" }),
        json!({ "aud": "weir:" }),
        json!({ "aud": "weir:other" }),
        json!({ "aud": ["weir:other"] }),
        json!({ "aud": [] }),
        json!({ "aud": 7 }),
        json!({ "nbf": BEGIN + 601 }),
        json!({ "iat": null }),
        json!({ "iat": BEGIN + 601 }),
        json!({ "iat": "now" }),
        json!({ "exp": null }),
        json!({ "iat": BEGIN - 100, "exp": BEGIN - 30 }),
        json!({ "exp": BEGIN - 3600 }),
        json!({ "iat": BEGIN + 20, "exp": BEGIN + 10 }),
        json!({ "exp": BEGIN + 87_001 }),
        json!({ "exp": BEGIN + 315_360_000 }),
        json!({ "exp": 1e300 }),
        json!({ "iat": -1e300, "exp": -1e299 }),
    ];
    // With the key in the table, and at its lookup: a new gate has an empty table.
    for known in [true, false] {
        let gate = || if known { world.gate.clone() } else { world.gate.clone().within(usize::MAX) };
        for changes in &valid {
            let token = signer.token(&signer.header(id), &but(changes.clone()));
            let outcome = connect(&gate(), "d1", &token).await;
            assert!(outcome.is_ok(), "{known} {changes} {outcome:?}");
        }
        for (number, changes) in wrong.iter().enumerate() {
            let token = signer.token(&signer.header(id), &but(changes.clone()));
            let from = format!("10.1.{}.{number}:1", u8::from(known));
            let refused = connect_from(&gate(), &from, "d1", &token).await.unwrap_err();
            assert_eq!(refused.kind, RefusalKind::BadCredentials, "{known} {changes}");
        }
    }
}

#[tokio::test]
async fn a_token_that_the_key_of_the_device_did_not_sign_is_refused_like_any_other() {
    let world = World::new().await;
    world.admin.create_tenant("u", "", &By::local()).await.unwrap();
    let (own, other, foreign, rsa) = (es256(), es256(), es256(), rs256(KeySize::Rsa2048));
    let id = world.key_of("t", "d1", &own).await;
    let other_id = world.key_of("t", "d2", &other).await;
    let foreign_id = world.key_of("u", "d1", &foreign).await;
    let rsa_id = world.key_of("t", "d3", &rsa).await;
    let (secret_id, secret) = world.device("d4", None).await;
    let unknown = CredentialId::parse("0123456789AB").unwrap();
    let hmac_key = hmac::Key::new(hmac::HMAC_SHA256, own.pem.as_bytes());
    let forger = |algorithm| Signer {
        algorithm,
        pem: String::new(),
        sign: Box::new({
            let key = hmac_key.clone();
            move |message| hmac::sign(&key, message).as_ref().to_vec()
        }),
    };
    let unsigned = Signer { algorithm: "none", pem: String::new(), sign: Box::new(|_| Vec::new()) };
    let valid = own.valid(id);
    let parts: Vec<_> = valid.split('.').collect();
    let mut critical = own.header(id);
    critical["crit"] = json!(["x"]);
    let (no_kid, numeric) = (json!({ "alg": "ES256" }), json!({ "alg": "ES256", "kid": 7 }));
    let cases = [
        ("another key of the tenant", "d1", other.valid(id)),
        ("the token of another device", "d1", other.valid(other_id)),
        ("its token for another device", "d2", valid.clone()),
        ("an unknown id", "d1", own.valid(unknown)),
        ("the id of another tenant", "d1", own.valid(foreign_id)),
        ("the token of another tenant for this one", "d1", foreign.valid(foreign_id)),
        ("the id of a secret", "d4", own.valid(secret_id)),
        ("no signature", "d1", unsigned.valid(id)),
        ("no algorithm, with the signature", "d1", format!("{}.{}.{}", part(&unsigned.header(id)), parts[1], parts[2])),
        ("HS256 with the key as the secret", "d1", forger("HS256").valid(id)),
        ("an HMAC as ES256", "d1", forger("ES256").valid(id)),
        ("RS256 by another key", "d1", rsa.valid(id)),
        ("ES256 for an RSA key", "d3", own.valid(rsa_id)),
        ("EdDSA by another key", "d1", ed25519().valid(id)),
        ("ES384", "d1", own.token(&json!({ "alg": "ES384", "kid": id.as_str() }), &claims())),
        ("no id", "d1", own.token(&no_kid, &claims())),
        ("a number as id", "d1", own.token(&numeric, &claims())),
        ("a critical extension", "d1", own.token(&critical, &claims())),
        ("other claims", "d1", format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode("{}"), parts[2])),
        ("claims that are no object", "d1", own.token(&own.header(id), &json!([1]))),
        ("two parts", "d1", format!("{}.{}", parts[0], parts[1])),
        ("four parts", "d1", format!("{valid}.{}", parts[2])),
        ("an empty signature", "d1", format!("{}.{}.", parts[0], parts[1])),
        ("padding", "d1", format!("{valid}==")),
        ("a space", "d1", format!("{valid} ")),
        ("too long", "d1", own.token(&own.header(id), &but(json!({ "x": "x".repeat(7000) })))),
    ];
    let mut answers = Vec::new();
    for (number, (what, device, token)) in cases.iter().enumerate() {
        for (round, gate) in [world.gate.clone().within(usize::MAX), world.gate.clone()].iter().enumerate() {
            let from = format!("10.2.{round}.{number}:1");
            let Err(refusal) = connect_from(gate, &from, device, token).await else { panic!("{what} was admitted") };
            assert!(!format!("{refusal:?}").contains(parts[2]), "{what}");
            answers.push(refusal);
        }
        assert_eq!(world.outcome("d1", &valid).await, None);
    }
    answers.push(connect_from(&world.gate, "10.3.0.1:1", "d1", "wrong").await.unwrap_err());
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(world.outcome("d4", secret.expose()).await, None);
}

#[tokio::test]
async fn a_key_that_is_revoked_or_expires_ends_its_sessions() {
    let world = World::new().await;
    let signer = es256();
    let id = world.key_of("t", "d1", &signer).await;
    let session = connect(&world.gate, "d1", &signer.valid(id)).await.unwrap().ended.unwrap();
    world.admin.delete_device_credential("t", "d1", id, &By::local()).await.unwrap();
    assert!(session.is_cancelled());
    assert_eq!(world.outcome("d1", &signer.valid(id)).await, Some(RefusalKind::BadCredentials));
    let key = NewDeviceKey { public_key: signer.pem.clone(), algorithm: None, expires: Some(START + 60 * SECOND) };
    let id = world.admin.create_device_key("t", "d1", &key, &By::local()).await.unwrap().id;
    let session = connect(&world.gate, "d1", &signer.valid(id)).await.unwrap().ended.unwrap();
    world.pass(60);
    assert_eq!(world.outcome("d1", &signer.valid(id)).await, Some(RefusalKind::BadCredentials));
    world.gate.step(&mut Position::default()).await;
    assert!(session.is_cancelled());
}

#[tokio::test]
async fn a_device_has_keys_and_secrets_beside_each_other_three_in_all() {
    let world = World::new().await;
    let (one, two) = (es256(), ed25519());
    let ids = [world.key_of("t", "d1", &one).await, world.key_of("t", "d1", &two).await];
    let (_, secret) = world.device("d1", None).await;
    assert_eq!(world.outcome("d1", &one.valid(ids[0])).await, None);
    assert_eq!(world.outcome("d1", &two.valid(ids[1])).await, None);
    assert_eq!(world.outcome("d1", secret.expose()).await, None);
    let key = NewDeviceKey { public_key: one.pem, algorithm: None, expires: None };
    let refused = world.admin.create_device_key("t", "d1", &key, &By::local()).await;
    assert!(matches!(refused, Err(Error::Limit { most: 3, .. })), "{refused:?}");
}

#[tokio::test]
async fn a_text_that_is_not_the_public_key_of_a_device_is_refused() {
    let world = World::new().await;
    let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let p384 = pem(p384.public_key().as_der().unwrap().as_ref());
    let private = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let good = es256().pem;
    for (text, wanted) in [
        (String::new(), "openssl pkey -in KEY -pubout"),
        ("ssh-ed25519 AAAA".into(), "openssl pkey -in KEY -pubout"),
        (good.replace("-----END", "---END"), "openssl pkey -in KEY -pubout"),
        (pem(b"not a key"), "P-256"),
        (p384, "P-256"),
        (rs256(KeySize::Rsa8192).pem, "2048 to 4096 bits"),
        (format!("{good}{private}"), "private key"),
        (format!("{good}{good}"), "several keys"),
        (format!("{good}{}", " ".repeat(9000)), "8 KiB"),
    ] {
        let key = NewDeviceKey { public_key: text.clone(), algorithm: None, expires: None };
        let refused = world.admin.create_device_key("t", "d1", &key, &By::local()).await.unwrap_err().to_string();
        assert!(refused.starts_with("public_key: ") && refused.contains(wanted), "{text}: {refused}");
    }
    let noise = format!("Subject: d1\n{good}\nBearer hunter2\n");
    let key = NewDeviceKey { public_key: noise, algorithm: Some(crate::KeyAlgorithm::Es256), expires: None };
    let kept = world.admin.create_device_key("t", "d1", &key, &By::local()).await.unwrap();
    assert!(!kept.detail().contains("hunter2"), "only the key is kept");
    let key = NewDeviceKey { public_key: good, algorithm: Some(crate::KeyAlgorithm::Rs256), expires: None };
    let refused = world.admin.create_device_key("t", "d1", &key, &By::local()).await.unwrap_err().to_string();
    assert!(refused.starts_with("algorithm: ") && refused.contains("ES256"), "{refused}");
}
