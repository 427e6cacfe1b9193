//! Admission of devices.

use super::*;

#[tokio::test]
async fn a_device_is_admitted_with_tenant_and_topics_of_its_credential() {
    let world = World::new().await;
    let (_, secret) = world.device("d1", None).await;
    for _ in 0..2 {
        let identity = connect(&world.gate, "d1", secret.expose()).await.unwrap();
        assert_eq!((&*identity.tenant, identity.device.as_deref()), ("t", Some("d1")));
        let Topics { publish, subscribe } = topics();
        assert_eq!(*identity.grants, Grants::of(&publish, &subscribe, "d1").unwrap());
        assert!(!identity.ended.unwrap().is_cancelled());
    }
}

#[tokio::test]
async fn there_is_one_answer_for_all_that_is_not_valid() {
    let world = World::new().await;
    let (_, right) = world.device("d1", None).await;
    let (deleted, was_right) = world.device("d2", None).await;
    world.admin.delete_device_credential("t", "d2", deleted, &By::local()).await.unwrap();
    let (_, expired) = world.device("d3", Some(START + SECOND)).await;
    let (_, key) = world.key(viewer()).await;
    world.pass(1);
    let unknown = Token::generate(TokenKind::DeviceSecret).unwrap().text();
    let forged = forge(&right);
    let cases = [
        ("d1", None),
        ("d1", Some("")),
        ("d1", Some("d1")),
        ("d1", Some(&right.expose()[1..])),
        ("d1", Some(unknown.expose())),
        ("d1", Some(forged.expose())),
        ("d2", Some(was_right.expose())),
        ("d3", Some(expired.expose())),
        ("d1", Some(key.expose())),
        ("d2", Some(right.expose())),
    ];
    let mut answers = Vec::new();
    for (number, (device, password)) in cases.into_iter().enumerate() {
        let password = password.map(str::as_bytes);
        let from = peer(&format!("10.0.1.{number}:4000"));
        let credentials =
            Credentials { client: device, user: Some(device), password, token: None, certificates: &[], peer: from };
        answers.push(world.gate.admit(&credentials).await.unwrap_err());
    }
    assert_eq!(answers[0].kind, RefusalKind::BadCredentials);
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert!(connect(&world.gate, "d1", right.expose()).await.is_ok());
}

/// Returns a token with the id of another one and a secret of its own.
fn forge(right: &Secret) -> Secret {
    let other = Token::generate(TokenKind::DeviceSecret).unwrap().text();
    let body = format!("{}{}", &right.expose()[..16], &other.expose()[16..59]);
    let checksum = crc32fast::hash(body.as_bytes());
    let digits: String = (0..6).rev().map(|place| digit(checksum / 62_u32.pow(place) % 62)).collect();
    let forged = format!("{body}{digits}");
    Token::parse(TokenKind::DeviceSecret, forged.as_bytes()).expect("it is well formed").text()
}

fn digit(value: u32) -> char {
    match value {
        0..10 => char::from_digit(value, 10).unwrap(),
        10..36 => char::from_u32(u32::from('A') + value - 10).unwrap(),
        _ => char::from_u32(u32::from('a') + value - 36).unwrap(),
    }
}

#[tokio::test]
async fn a_client_id_belongs_to_the_device_of_the_credential() {
    use RefusalKind::{BadCredentials, ClientId};
    let world = World::new().await;
    let (_, secret) = world.device("d1", None).await;
    let cases = [
        (Some("d1"), "d1", None),
        (Some("d1"), "d1:app", None),
        (Some("d1"), "", None),
        (Some("d1"), "d10", Some(ClientId)),
        (Some("d1"), "d2", Some(ClientId)),
        (Some("d1"), "D1", Some(ClientId)),
        (Some("d1"), "+", Some(ClientId)),
        (Some("d2"), "d1", Some(BadCredentials)),
        (Some("d1:app"), "d1", Some(BadCredentials)),
        (None, "d1", None),
        (None, "d1:2", None),
        (None, "", None),
        (Some(""), "d1", None),
        (None, "d10", Some(BadCredentials)),
    ];
    for (number, (user, client, expected)) in cases.into_iter().enumerate() {
        let from = peer(&format!("10.0.1.{number}:4000"));
        let password = Some(secret.expose().as_bytes());
        let outcome =
            world.gate.admit(&Credentials { client, user, password, token: None, certificates: &[], peer: from }).await;
        assert_eq!(outcome.as_ref().err().map(|refusal| refusal.kind), expected, "{user:?} {client:?}");
        assert!(!format!("{outcome:?}").contains(secret.expose()));
    }
}

#[tokio::test]
async fn an_address_that_failed_ten_times_is_told_to_wait_and_its_neighbours_connect() {
    let world = World::new().await;
    let (_, known) = world.device("d1", None).await;
    let (_, fresh) = world.device("d2", None).await;
    admitted(&world.gate, "d1", &known).await;
    for _ in 0..10 {
        assert_eq!(connect(&world.gate, "d1", "wrong").await.unwrap_err().kind, RefusalKind::BadCredentials);
    }
    assert_eq!(connect(&world.gate, "d1", "wrong").await.unwrap_err().kind, RefusalKind::Busy);
    for wrong in [forge(&known), forge(&fresh), Token::generate(TokenKind::DeviceSecret).unwrap().text()] {
        assert_eq!(refused(&world.gate, "d1", &wrong).await, RefusalKind::Busy);
    }
    assert_eq!(refused(&world.gate, "d3", &known).await, RefusalKind::Busy, "the secret of another device");
    assert!(connect(&world.gate, "d1", known.expose()).await.is_ok(), "a neighbour that was verified before");
    assert!(connect(&world.gate, "d2", fresh.expose()).await.is_ok(), "a neighbour that connects first now");
    assert_eq!(
        connect_from(&world.gate, "10.0.0.2:1", "d1", "wrong").await.unwrap_err().kind,
        RefusalKind::BadCredentials
    );
    world.pass(60);
    assert_eq!(connect(&world.gate, "d1", "wrong").await.unwrap_err().kind, RefusalKind::BadCredentials);
}

#[tokio::test]
async fn while_the_registry_is_away_devices_that_were_verified_connect_and_others_wait() {
    let world = World::new().await;
    let (_, known) = world.device("d1", None).await;
    let (_, fresh) = world.device("d2", None).await;
    admitted(&world.gate, "d1", &known).await;
    world.registry.set_away(true);
    admitted(&world.gate, "d1", &known).await;
    let refusal = connect(&world.gate, "d2", fresh.expose()).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Unavailable);
    assert!(!refusal.reason.contains("/var"), "a client learns no path: {}", refusal.reason);
    world.registry.set_away(false);
    admitted(&world.gate, "d2", &fresh).await;
}

#[tokio::test]
async fn a_rotated_pepper_takes_over_the_secrets_that_are_used() {
    let world = World::new().await;
    let (_, used) = world.device("d1", None).await;
    let (_, unused) = world.device("d2", None).await;
    let gate = |peppers: &Peppers| {
        Gate::new(world.registry.clone(), Arc::new(copy(peppers)), topics(), world.clock.clone()).unwrap()
    };
    let second = world.peppers.rotated().unwrap();
    let rotated = gate(&second);
    admitted(&rotated, "d1", &used).await;
    admitted(&rotated, "d1", &used).await;
    rotated.write_uses().await;
    let third = gate(&second.rotated().unwrap());
    admitted(&third, "d1", &used).await;
    assert_eq!(refused(&third, "d2", &unused).await, RefusalKind::BadCredentials);
}

#[tokio::test]
async fn peppers_rotate_while_devices_are_connected() {
    let world = World::new().await;
    let (_, secret) = world.device("d1", None).await;
    let (id, _) = world.device("d2", None).await;
    let connected = admitted(&world.gate, "d1", &secret).await;
    for round in 0..3 {
        world.peppers.replace(&world.peppers.rotated().unwrap());
        admitted(&world.gate, "d1", &secret).await;
        world.gate.write_uses().await;
        admitted(&world.gate, "d1", &secret).await;
        assert!(!connected.is_cancelled(), "round {round}: the session goes on");
    }
    let wrong = world.device("d2", None).await.1;
    assert_eq!(refused(&world.gate, "d1", &wrong).await, RefusalKind::BadCredentials);
    let newest = world.registry.credential(id).await.unwrap().unwrap().credential;
    assert_eq!(newest.digest.unwrap().pepper, 1, "it was not used");
}

#[tokio::test]
async fn a_use_is_recorded_at_most_every_five_minutes() {
    let world = World::new().await;
    let (_, secret) = world.device("d1", None).await;
    let last_use = async || {
        world.gate.write_uses().await;
        world.admin.list_device_credentials("t", Some("d1"), None, 1).await.unwrap()[0].last_use
    };
    assert_eq!(last_use().await, None);
    admitted(&world.gate, "d1", &secret).await;
    assert_eq!(last_use().await, Some(START));
    world.pass(299);
    admitted(&world.gate, "d1", &secret).await;
    assert_eq!(last_use().await, Some(START));
    world.pass(1);
    admitted(&world.gate, "d1", &secret).await;
    assert_eq!(last_use().await, Some(START + 300 * SECOND));
}

#[tokio::test]
async fn failures_are_one_audit_event_a_minute_without_what_was_presented() {
    let world = World::new().await;
    let (_, right) = world.device("d1", None).await;
    let forged = forge(&right);
    for _ in 0..3 {
        refused(&world.gate, "d1", &forged).await;
    }
    connect(&world.gate, "d1", "hunter2").await.unwrap_err();
    world.gate.write_denials(false).await;
    let denials = async |tenant: &str| {
        let events = world.admin.list_audit(tenant, None, 9).await.unwrap();
        events.into_iter().filter(|event| !event.granted).collect::<Vec<_>>()
    };
    assert!(denials("t").await.is_empty());
    world.pass(60);
    world.gate.write_denials(false).await;
    let known = denials("t").await;
    assert_eq!((known.len(), known[0].count, known[0].principal.as_str()), (1, 3, "devices/d1"));
    assert_eq!((known[0].address.as_deref(), known[0].at), (Some("10.0.0.1"), START));
    let unknown = denials(INSTALLATION).await;
    assert_eq!((unknown.len(), unknown[0].count), (1, 1));
    let shown = format!("{known:?}{unknown:?}");
    assert!(!shown.contains("hunter2") && !shown.contains(&forged.expose()[16..59]), "{shown}");
    assert_eq!(world.admin.check_audit("t", &crate::AuditRange::default()).await.unwrap().fault, None);
}

#[tokio::test]
async fn a_topic_that_cannot_be_used_is_refused_before_any_device_connects() {
    let world = World::new().await;
    let bad = Topics { publish: vec!["v1/{tenant}/#".into()], subscribe: Vec::new() };
    let gate = Gate::new(world.registry.clone(), world.peppers.clone(), bad, world.clock.clone());
    assert!(matches!(gate, Err(GrantError::Braces(_))), "{gate:?}");
}

#[tokio::test]
async fn a_tenant_whose_chain_is_damaged_holds_up_no_denials_of_others() {
    let world = World::new().await;
    world.gate.deny("broken", "devices/d1", "Publish", None, "the topic is not granted");
    world.gate.deny("t", &"\u{e9}".repeat(300), "Publish", None, "the topic is not granted");
    world.registry.refuse_denials_of("broken");
    world.gate.write_denials(true).await;
    let events = world.admin.list_audit("t", None, 1).await.unwrap();
    assert_eq!((events[0].granted, events[0].principal.len()), (false, 256));
    world.registry.refuse_denials_of("");
    world.gate.write_denials(true).await;
    assert_eq!(world.admin.list_audit("broken", None, 9).await.unwrap()[0].count, 1);
}

/// Peppers of another process with the same file.
fn copy(peppers: &Peppers) -> Peppers {
    let copy = Peppers::generate().unwrap();
    copy.replace(peppers);
    copy
}
