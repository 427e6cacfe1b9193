//! Devices that present the next token, and stay connected.

use door::Sender;

use super::keys::{Signer, es256};
use super::*;

/// A connection of the device, as a door knows it.
fn known(tenant: &str, device: &str) -> Sender {
    Sender {
        tenant: tenant.into(),
        device: Some(device.into()),
        client: device.into(),
        user: Some(device.into()),
        peer: peer(PEER),
        protocol: "mqtt",
        meter: None,
    }
}

fn with_token<'a>(device: &'a str, token: &'a str, from: &str) -> Credentials<'a> {
    let token = Some(token.as_bytes());
    Credentials { client: device, user: Some(device), password: None, token, certificates: &[], peer: peer(from) }
}

async fn again(gate: &Gate, sender: &Sender, token: &str, from: &str) -> Result<Identity, Refusal> {
    gate.admit_again(&with_token(&sender.client, token, from), sender).await
}

#[tokio::test]
async fn the_next_token_may_be_of_another_key_of_the_device_and_ends_with_it() {
    let world = World::new().await;
    let (one, two): (Signer, Signer) = (es256(), es256());
    let (first, second) = (world.key_of("t", "d1", &one).await, world.key_of("t", "d1", &two).await);
    assert!(world.gate.takes_tokens());
    let token = one.valid(first);
    let opened = world.gate.admit(&with_token("d1", &token, PEER)).await.unwrap();
    assert_eq!(opened.expires, Some(START + 3630 * SECOND));
    let sender = known("t", "d1");
    let renewed = again(&world.gate, &sender, &two.lasting(second, 7200), PEER).await.unwrap();
    assert_eq!((&*renewed.tenant, renewed.device.as_deref()), ("t", Some("d1")));
    assert_eq!(renewed.expires, Some(START + 7230 * SECOND));
    world.admin.delete_device_credential("t", "d1", first, &By::local()).await.unwrap();
    assert!(opened.ended.unwrap().is_cancelled() && !renewed.ended.as_ref().unwrap().is_cancelled());
    let refused = again(&world.gate, &sender, &token, "10.0.2.1:1").await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::BadCredentials, "of a revoked key");
    world.admin.delete_device_credential("t", "d1", second, &By::local()).await.unwrap();
    assert!(renewed.ended.unwrap().is_cancelled());
}

#[tokio::test]
async fn a_token_of_another_device_or_tenant_and_a_secret_are_refused_and_audited() {
    let world = World::new().await;
    world.admin.create_tenant("u", "", &By::local()).await.unwrap();
    let (own, neighbour, foreign) = (es256(), es256(), es256());
    let own_id = world.key_of("t", "d1", &own).await;
    let neighbour_id = world.key_of("t", "d2", &neighbour).await;
    let foreign_id = world.key_of("u", "d1", &foreign).await;
    let (_, secret) = world.device("d1", None).await;
    let sender = known("t", "d1");
    let tokens = [
        neighbour.valid(neighbour_id),
        foreign.for_tenant(foreign_id, "u"),
        neighbour.valid(own_id),
        secret.expose().to_owned(),
        "not a token".to_owned(),
        String::new(),
    ];
    let mut answers = Vec::new();
    for (number, token) in tokens.iter().enumerate() {
        answers.push(again(&world.gate, &sender, token, &format!("10.0.2.{number}:1")).await.unwrap_err());
    }
    // At CONNECT, too, a token is not a secret, and stands alone.
    for (number, (token, password)) in
        [(secret.expose(), None), (&*own.valid(own_id), Some(&b"x"[..])), ("", None)].into_iter().enumerate()
    {
        let from = format!("10.0.3.{number}:1");
        let credentials = Credentials { password, ..with_token("d1", token, &from) };
        answers.push(world.gate.admit(&credentials).await.unwrap_err());
    }
    assert_eq!(answers[0].kind, RefusalKind::BadCredentials);
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert!(again(&world.gate, &sender, &own.valid(own_id), PEER).await.is_ok());
    world.gate.write_denials(true).await;
    let events = world.admin.list_audit("u", None, 9).await.unwrap();
    assert!(events.iter().any(|event| !event.granted && event.method == "Reauthenticate"), "{events:?}");
}

#[tokio::test]
async fn an_address_that_fails_again_and_again_is_told_to_wait_and_its_neighbours_go_on() {
    let world = World::new().await;
    let signer = es256();
    let id = world.key_of("t", "d1", &signer).await;
    let sender = known("t", "d1");
    for _ in 0..10 {
        again(&world.gate, &sender, "wrong", PEER).await.unwrap_err();
    }
    assert_eq!(again(&world.gate, &sender, "wrong", PEER).await.unwrap_err().kind, RefusalKind::Busy);
    assert!(again(&world.gate, &sender, &signer.valid(id), PEER).await.is_ok());
}
