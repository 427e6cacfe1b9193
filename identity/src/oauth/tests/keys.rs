//! The keys of an issuer: rotation, age, failures, forged ids.

use std::time::Duration;

use super::*;

fn key(id: &str) -> TestKey {
    TestKey::new(id, Algorithm::Es256)
}

fn fresh(world: &World) -> Value {
    let now = world.clock.now() / SECOND;
    let mut claims = claims();
    (claims["iat"], claims["exp"]) = (now.into(), (now + 600).into());
    claims
}

#[tokio::test]
async fn keys_are_read_once_for_many_tokens() {
    let key = key("k1");
    let world = World::new(settings(), &[&key]);
    assert_eq!(world.fake.reads(), 0, "no token needs them yet");
    let token = key.token(&claims());
    let (a, b, c) = tokio::join!(world.check(&token), world.check(&token), world.check(&token));
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert_eq!(world.fake.reads(), 1);
}

#[tokio::test]
async fn the_first_token_of_a_new_key_finds_it_and_those_of_the_old_one_stay_valid() {
    let (old, new) = (key("k1"), key("k2"));
    let world = World::new(settings(), &[&old]);
    let before = world.check(&old.token(&claims())).await.unwrap();
    world.fake.publish(&[&new, &old]);
    let token = new.token(&claims());
    let (a, b) = tokio::join!(world.check(&token), world.check(&token));
    assert!(a.is_ok() && b.is_ok());
    assert_eq!(world.fake.reads(), 2, "two tokens share one refresh");
    assert!(world.check(&old.token(&claims())).await.is_ok());
    assert!(world.issuer.has_key(&before.key));
    world.fake.publish(&[&new]);
    world.pass(3600);
    assert!(world.issuer.refresh().await);
    assert!(!world.issuer.has_key(&before.key), "the issuer has withdrawn it");
    assert_eq!(world.fault(&old.token(&fresh(&world))).await, TokenFault::Key);
}

#[tokio::test]
async fn a_key_with_the_id_of_another_is_another() {
    let (old, new) = (key("k1"), key("k1"));
    let world = World::new(settings(), &[&old]);
    let before = world.check(&old.token(&claims())).await.unwrap();
    world.fake.publish(&[&new]);
    world.pass(3600);
    assert!(world.issuer.refresh().await);
    assert!(!world.issuer.has_key(&before.key));
    assert_eq!(world.fault(&old.token(&fresh(&world))).await, TokenFault::Signature);
}

#[tokio::test]
async fn forged_key_ids_cost_the_issuer_one_read_in_thirty_seconds() {
    let good = key("k1");
    let world = World::new(settings(), &[&good]);
    assert!(world.check(&good.token(&claims())).await.is_ok());
    for n in 0..100 {
        assert_eq!(world.fault(&key(&format!("x{n}")).token(&claims())).await, TokenFault::Key);
    }
    assert_eq!(world.fake.reads(), 2);
    world.pass(30);
    assert_eq!(world.fault(&key("x").token(&claims())).await, TokenFault::Key);
    assert_eq!(world.fake.reads(), 3);
    for id in ["", &"x".repeat(300)] {
        assert_eq!(world.fault(&key(id).token(&claims())).await, TokenFault::Key);
    }
    let mut header = good.header();
    header.as_object_mut().unwrap().remove("kid");
    assert_eq!(world.fault(&good.sign(&header, &claims())).await, TokenFault::Key);
    assert_eq!(world.fake.reads(), 3, "these need no read");
}

#[tokio::test]
async fn keys_are_read_again_at_four_fifths_of_their_age() {
    let key = key("k1");
    for (given, age) in [(None, 3600), (Some(0), 300), (Some(1000), 1000), (Some(1_000_000), 86_400)] {
        let world = World::new(settings(), &[&key]);
        if let Some(given) = given {
            world.fake.max_age(Duration::from_secs(given));
        }
        assert!(world.check(&key.token(&claims())).await.is_ok());
        world.pass(age / 10 * 8 - 1);
        assert!(!world.issuer.is_due() && !world.issuer.refresh().await, "{given:?}");
        world.pass(1);
        assert!(world.issuer.is_due() && world.issuer.refresh().await, "{given:?}");
        assert_eq!(world.fake.reads(), 2);
    }
}

#[tokio::test]
async fn keys_are_used_for_a_day_while_the_issuer_does_not_answer() {
    let key = key("k1");
    let world = World::new(settings(), &[&key]);
    assert!(world.check(&key.token(&claims())).await.is_ok());
    world.fake.fail(Some("it is away"));
    world.pass(3600);
    assert!(world.check(&key.token(&fresh(&world))).await.is_ok(), "the refresh was tried, and failed");
    assert_eq!(world.fake.reads(), 2);
    world.pass(9);
    assert!(!world.issuer.is_due(), "a while after a failure");
    world.pass(1);
    assert!(world.issuer.is_due() && !world.issuer.refresh().await);
    world.pass(86_400 - 11);
    assert!(world.check(&key.token(&fresh(&world))).await.is_ok());
    world.pass(1);
    let refused = world.check(&key.token(&fresh(&world))).await;
    assert_eq!(refused, Err(TokenError::Unavailable("it is away".into())));
    world.fake.fail(None);
    world.pass(10);
    assert!(world.check(&key.token(&fresh(&world))).await.is_ok());
}

#[tokio::test]
async fn an_issuer_that_never_answered_is_asked_every_ten_seconds() {
    let key = key("k1");
    let world = World::new(settings(), &[&key]);
    world.fake.fail(Some("it is away"));
    for _ in 0..10 {
        let refused = world.check(&key.token(&claims())).await;
        assert_eq!(refused, Err(TokenError::Unavailable("it is away".into())));
    }
    assert_eq!(world.fake.reads(), 1);
    world.fake.fail(None);
    world.pass(10);
    assert!(world.check(&key.token(&claims())).await.is_ok());
}

#[tokio::test]
async fn a_new_key_is_unavailable_and_not_wrong_while_the_issuer_does_not_answer() {
    let (old, new) = (key("k1"), key("k2"));
    let world = World::new(settings(), &[&old]);
    assert!(world.check(&old.token(&claims())).await.is_ok());
    world.fake.fail(Some("it is away"));
    for _ in 0..2 {
        let refused = world.check(&new.token(&claims())).await;
        assert_eq!(refused, Err(TokenError::Unavailable("it is away".into())));
    }
    assert!(world.check(&old.token(&claims())).await.is_ok());
}

#[tokio::test]
async fn the_document_has_to_name_the_issuer() {
    let key = key("k1");
    let world = World::new(settings(), &[&key]);
    world.fake.name("https://login.example/");
    let Err(TokenError::Unavailable(reason)) = world.check(&key.token(&claims())).await else { panic!("it is read") };
    assert!(reason.contains(r#"is of the issuer "https://login.example/""#), "{reason}");
}

#[tokio::test]
async fn keys_for_other_uses_are_left_out() {
    let good = key("k1");
    let mut all = Vec::new();
    let mut add = |id: &str, change: &dyn Fn(&mut Value)| {
        let mut jwk = TestKey::new(id, Algorithm::Es256).jwk();
        change(&mut jwk);
        all.push(jwk);
    };
    add("enc", &|jwk| jwk["use"] = "enc".into());
    add("ops", &|jwk| jwk["key_ops"] = json!(["sign"]));
    add("curve", &|jwk| jwk["crv"] = "P-384".into());
    add("type", &|jwk| jwk["kty"] = "oct".into());
    add("alg", &|jwk| jwk["alg"] = "ES384".into());
    add("short", &|jwk| jwk["x"] = "AAAA".into());
    add("text", &|jwk| jwk["x"] = "***".into());
    add("number", &|jwk| jwk["x"] = 1.into());
    all.push(json!("not a key"));
    all.push(json!({ "kty": "RSA", "kid": "small", "n": testing::encode(&[0xff; 128]), "e": "AQAB" }));
    let ids: Vec<_> = all.iter().filter_map(|jwk| Some(jwk["kid"].as_str()?.to_owned())).collect();
    all.push(good.jwk());
    let world = World::new(settings(), &[]);
    world.fake.publish_raw(all);
    assert!(world.check(&good.token(&claims())).await.is_ok());
    assert_eq!(world.issuer.probe().await, Ok((1, None)));
    for id in ids {
        assert_eq!(world.fault(&key(&id).token(&claims())).await, TokenFault::Key, "{id}");
    }
}

#[tokio::test]
async fn a_set_without_usable_keys_or_with_too_many_is_refused() {
    let world = World::new(settings(), &[]);
    assert!(world.issuer.probe().await.unwrap_err().contains("it has no key with an id"));
    world.fake.publish_raw(vec![key("k").jwk(); 65]);
    assert!(world.issuer.probe().await.unwrap_err().contains("it has 65 keys, more than 64"));
}
