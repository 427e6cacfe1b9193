//! Authentication of callers.

use super::*;
use crate::{Denied, Presented, Principal};

async fn call(gate: &Gate, bearer: Option<&str>, peer: Option<&str>) -> Result<Principal, Denied> {
    gate.authenticate(&Presented { bearer, peer: peer.map(|peer| peer.parse().unwrap()) }).await
}

#[tokio::test]
async fn a_key_has_its_tenant_role_and_scopes() {
    let world = World::new().await;
    let scopes = vec!["telemetry.read".to_owned()];
    let (id, key) = world.key(NewApiKey { role: Role::Admin, scopes, ..viewer() }).await;
    let principal = call(&world.gate, Some(key.expose()), None).await.unwrap();
    assert_eq!((&*principal.tenant, &*principal.name), ("t", &*format!("apiKeys/{id}")));
    assert_eq!(principal.role, Role::Admin);
    assert!(principal.holds("telemetry.read") && !principal.holds("credentials.create"));
    let (_, all) = world.key(NewApiKey { role: Role::Admin, ..viewer() }).await;
    let principal = call(&world.gate, Some(all.expose()), None).await.unwrap();
    assert!(principal.holds("credentials.create") && !principal.holds("apiKeys.create"));
}

#[tokio::test]
async fn there_is_one_answer_for_every_key_that_is_not_valid() {
    let world = World::new().await;
    let (_, key) = world.key(viewer()).await;
    let (deleted, was_right) = world.key(viewer()).await;
    world.admin.delete_api_key("t", deleted, &By::local()).await.unwrap();
    let (_, expired) = world.key(NewApiKey { expires: Some(START + SECOND), ..viewer() }).await;
    let (_, device) = world.device("d1", None).await;
    let unknown = Token::generate(TokenKind::ApiKey).unwrap().text();
    world.pass(1);
    let wrong = ["", "x", &key.expose()[..66], was_right.expose(), expired.expose(), device.expose(), unknown.expose()];
    for bearer in wrong {
        assert_eq!(call(&world.gate, Some(bearer), None).await.unwrap_err(), Denied::Invalid, "{bearer}");
    }
    assert_eq!(call(&world.gate, None, None).await.unwrap_err(), Denied::Missing);
    assert!(call(&world.gate, Some(key.expose()), None).await.is_ok());
}

#[tokio::test]
async fn a_key_is_valid_from_its_networks_only() {
    let world = World::new().await;
    let allowed_networks = vec!["10.1.0.0/16".to_owned(), "2001:db8::/32".to_owned()];
    let (_, key) = world.key(NewApiKey { allowed_networks, ..viewer() }).await;
    for inside in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1"] {
        assert!(call(&world.gate, Some(key.expose()), Some(inside)).await.is_ok(), "{inside}");
    }
    for outside in ["10.2.0.1", "::1", "2001:db9::1"] {
        assert_eq!(call(&world.gate, Some(key.expose()), Some(outside)).await.unwrap_err(), Denied::Network);
    }
    assert_eq!(call(&world.gate, Some(key.expose()), None).await.unwrap_err(), Denied::Network);
}

#[tokio::test]
async fn an_address_that_failed_ten_times_is_told_to_wait_and_a_valid_key_is_not_held_up() {
    let world = World::new().await;
    let (_, key) = world.key(viewer()).await;
    for _ in 0..10 {
        assert_eq!(call(&world.gate, Some("x"), Some("10.0.0.1")).await.unwrap_err(), Denied::Invalid);
    }
    let unknown = Token::generate(TokenKind::ApiKey).unwrap().text();
    for wrong in ["x", unknown.expose()] {
        let told = call(&world.gate, Some(wrong), Some("10.0.0.1")).await.unwrap_err();
        assert!(matches!(&told, Denied::Unavailable(reason) if reason.contains("wait 61 s")), "{told:?}");
        assert_eq!(call(&world.gate, Some(wrong), Some("10.0.0.2")).await.unwrap_err(), Denied::Invalid);
    }
    assert!(call(&world.gate, Some(key.expose()), Some("10.0.0.1")).await.is_ok(), "it was never used before");
}

#[tokio::test]
async fn a_suspended_tenant_is_said_to_those_with_its_keys_only() {
    let world = World::new().await;
    let (_, key) = world.key(viewer()).await;
    let principal = call(&world.gate, Some(key.expose()), None).await.unwrap();
    world.admin.suspend_tenant("t", &By::local()).await.unwrap();
    assert!(principal.ended.is_cancelled());
    assert_eq!(call(&world.gate, Some(key.expose()), None).await.unwrap_err(), Denied::Suspended);
    let unknown = Token::generate(TokenKind::ApiKey).unwrap().text();
    assert_eq!(call(&world.gate, Some(unknown.expose()), None).await.unwrap_err(), Denied::Invalid);
    world.admin.resume_tenant("t", &By::local()).await.unwrap();
    assert!(call(&world.gate, Some(key.expose()), None).await.is_ok());
}
