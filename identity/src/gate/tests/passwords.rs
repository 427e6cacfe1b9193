//! Devices with chosen passwords.

use super::*;
use crate::gate::live::shard_of;
use crate::password::{Lane, Params, PasswordHash, id_of};
use crate::registry::{Error, RegistryWrites};
use crate::{NewDevicePassword, Passwords};

pub(super) const RIGHT: &str = "correct horse battery";

/// A world in which passwords are accepted.
pub(super) async fn with_passwords(threads: usize) -> (World, Passwords) {
    let mut world = World::new().await;
    let passwords = Passwords::start(threads).unwrap();
    world.gate = world.gate.clone().with_passwords(passwords.clone());
    (world, passwords)
}

impl World {
    pub(super) async fn choose(&self, tenant: &str, device: &str, password: &str) -> Result<CredentialId, Error> {
        let new = NewDevicePassword { password: password.to_owned().into(), expires: None };
        let made = self.admin.create_device_password(tenant, device, &new, &By::local()).await;
        made.map(|made| made.id)
    }

    /// The gate and the changes of another process.
    fn neighbour(&self, passwords: &Passwords) -> (Gate, Admin) {
        let (registry, peppers) = (self.registry.clone(), self.peppers.clone());
        let gate = Gate::bounded(registry, peppers, topics(), self.clock.clone(), BOUNDS);
        let gate = gate.with_passwords(passwords.clone());
        let admin = self.remote.clone().with_gate(gate.clone());
        (gate, admin)
    }

    async fn kept(&self, id: CredentialId) -> PasswordHash {
        match self.registry.credential(id).await.unwrap().unwrap().credential.kind {
            CredentialKind::DevicePassword { password, .. } => password,
            other => panic!("{other:?}"),
        }
    }
}

pub(super) async fn log_in_from(gate: &Gate, from: &str, user: &str, password: &str) -> Result<Identity, Refusal> {
    let password = Some(password.as_bytes());
    let credentials =
        Credentials { client: "", user: Some(user), password, token: None, certificates: &[], peer: peer(from) };
    gate.admit(&credentials).await
}

pub(super) async fn log_in(gate: &Gate, user: &str, password: &str) -> Result<Identity, Refusal> {
    log_in_from(gate, PEER, user, password).await
}

pub(super) fn kind(outcome: Result<Identity, Refusal>) -> Option<RefusalKind> {
    outcome.err().map(|refusal| refusal.kind)
}

#[tokio::test]
async fn a_device_is_found_by_the_tenant_and_the_id_in_its_user_name() {
    let (world, _passwords) = with_passwords(2).await;
    world.admin.create_tenant("default", "", &By::local()).await.unwrap();
    world.admin.create_tenant("a/b", "", &By::local()).await.unwrap();
    for (tenant, device) in [("t", "d1"), ("default", "d1"), ("a/b", "küche 1%")] {
        world.choose(tenant, device, &format!("{RIGHT} of {tenant}")).await.unwrap();
    }
    for (user, tenant, device) in [
        ("t/d1", "t", "d1"),
        ("d1", "default", "d1"),
        ("default/d1", "default", "d1"),
        ("a%2Fb/k%C3%BCche%201%25", "a/b", "küche 1%"),
    ] {
        let identity = log_in(&world.gate, user, &format!("{RIGHT} of {tenant}")).await.unwrap();
        assert_eq!((&*identity.tenant, identity.device.as_deref()), (tenant, Some(device)), "{user}");
        assert!(identity.expires.is_none() && identity.meter.is_some() && identity.ended.is_some());
    }
    let client = async |client: &str| {
        let password = Some(RIGHT.as_bytes());
        let user = Some("t/d2");
        let credentials = Credentials { client, user, password, token: None, certificates: &[], peer: peer(PEER) };
        kind(world.gate.admit(&credentials).await)
    };
    world.choose("t", "d2", RIGHT).await.unwrap();
    for own in ["d2", "d2:config", ""] {
        assert_eq!(client(own).await, None, "{own}");
    }
    for other in ["d1", "d20", "t/d2"] {
        assert_eq!(client(other).await, Some(RefusalKind::ClientId), "{other}");
    }
    assert!(matches!(world.choose("t", "d2", "another one").await, Err(Error::Exists(_))), "one for each device");
}

#[tokio::test]
async fn there_is_one_answer_after_the_same_work_for_all_that_is_not_valid() {
    let (world, passwords) = with_passwords(2).await;
    world.choose("t", "d1", RIGHT).await.unwrap();
    let deleted = world.choose("t", "d2", RIGHT).await.unwrap();
    world.admin.delete_device_credential("t", "d2", deleted, &By::local()).await.unwrap();
    let new = NewDevicePassword { password: RIGHT.to_owned().into(), expires: Some(START + SECOND) };
    world.admin.create_device_password("t", "d3", &new, &By::local()).await.unwrap();
    world.device("d4", None).await;
    world.pass(1);
    let long = "x".repeat(129);
    // A name that could be one costs a hash, whether it is one or not.
    let cases = [
        ("t/d1", "wrong horse battery", 1),
        ("t/d2", RIGHT, 1),
        ("t/d3", RIGHT, 1),
        ("t/d4", RIGHT, 1),
        ("t/unknown", RIGHT, 1),
        ("unknown/d1", RIGHT, 1),
        ("d1", RIGHT, 1),
        ("t/d1/x", RIGHT, 1),
        ("", RIGHT, 1),
        ("t/%", RIGHT, 0),
        ("t/d1", "short", 0),
        ("t/d1", &long, 0),
        ("t/d1", "wd_is no secret", 0),
    ];
    let mut answers = Vec::new();
    for (number, (user, password, hashes)) in cases.into_iter().enumerate() {
        let before = passwords.made();
        answers.push(log_in_from(&world.gate, &format!("10.0.1.{number}:1"), user, password).await.unwrap_err());
        assert_eq!(passwords.made() - before, hashes, "{user} {password}");
    }
    assert_eq!(answers[0].kind, RefusalKind::BadCredentials);
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert!(log_in(&world.gate, "t/d1", RIGHT).await.is_ok());
    world.gate.write_denials(true).await;
    let events = world.admin.list_audit("t", None, 99).await.unwrap();
    assert!(events.iter().any(|event| !event.granted && event.principal == "devices/d1"));
    assert!(events.iter().all(|event| !event.detail.contains("horse") && !event.detail.contains("argon2")));
}

#[tokio::test]
async fn where_they_are_not_accepted_none_is_kept_and_none_is_valid() {
    let (world, passwords) = with_passwords(1).await;
    world.choose("t", "d1", RIGHT).await.unwrap();
    let gate = world.gate.clone().within(usize::MAX);
    assert_eq!(kind(log_in(&gate, "t/d1", RIGHT).await), Some(RefusalKind::BadCredentials));
    assert_eq!(passwords.made(), 1, "the one that was kept");
    let new = NewDevicePassword { password: RIGHT.to_owned().into(), expires: None };
    let error = world.remote.create_device_password("t", "d2", &new, &By::local()).await.unwrap_err().to_string();
    assert!(error.starts_with("password: ") && error.contains("`auth.passwords = true`"), "{error}");
    let error = world.choose("t", "pump-station", "Pump-Station").await.unwrap_err().to_string();
    assert!(error.starts_with("password: ") && !error.contains("Pump-Station"), "{error}");
    assert!(!format!("{new:?} {:?}", world.kept(id_of("t", "d1")).await).contains("horse"));
}

#[tokio::test]
async fn a_password_that_was_right_is_recognised_for_a_quarter_of_an_hour_without_a_hash() {
    let (world, passwords) = with_passwords(1).await;
    world.choose("t", "d1", RIGHT).await.unwrap();
    let hashes = async |password: &str| {
        let before = passwords.made();
        let outcome = kind(log_in(&world.gate, "t/d1", password).await);
        (passwords.made() - before, outcome)
    };
    assert_eq!(hashes(RIGHT).await, (1, None));
    assert_eq!(hashes(RIGHT).await, (0, None));
    assert_eq!(hashes("wrong horse battery").await, (1, Some(RefusalKind::BadCredentials)));
    world.pass(899);
    assert_eq!(hashes(RIGHT).await, (0, None));
    world.pass(1);
    assert_eq!(hashes(RIGHT).await, (1, None));
    world.pass(800);
    assert_eq!(hashes(RIGHT).await, (0, None), "since its last hash");
    // An address that fails is held up, and those that are recognised are not.
    for _ in 0..10 {
        hashes("wrong horse battery").await;
    }
    assert_eq!(hashes("wrong horse battery").await, (0, Some(RefusalKind::Busy)));
    assert_eq!(hashes(RIGHT).await, (0, None));
}

#[tokio::test]
async fn a_password_that_is_revoked_or_whose_tenant_is_suspended_ends_its_sessions() {
    let (world, passwords) = with_passwords(1).await;
    let id = world.choose("t", "d1", RIGHT).await.unwrap();
    let session = log_in(&world.gate, "t/d1", RIGHT).await.unwrap().ended.unwrap();
    world.admin.delete_device_credential("t", "d1", id, &By::local()).await.unwrap();
    assert!(session.is_cancelled());
    assert_eq!(kind(log_in(&world.gate, "t/d1", RIGHT).await), Some(RefusalKind::BadCredentials));
    assert_eq!(world.choose("t", "d1", "another password").await.unwrap(), id, "the same place");
    assert_eq!(kind(log_in(&world.gate, "t/d1", RIGHT).await), Some(RefusalKind::BadCredentials));
    let session = log_in(&world.gate, "t/d1", "another password").await.unwrap().ended.unwrap();
    world.admin.suspend_tenant("t", &By::local()).await.unwrap();
    assert!(session.is_cancelled());
    assert_eq!(kind(log_in(&world.gate, "t/d1", "another password").await), Some(RefusalKind::NotAuthorized));
    let wrong = log_in_from(&world.gate, "10.0.0.9:1", "t/d1", "a wrong password").await;
    assert_eq!(kind(wrong), Some(RefusalKind::BadCredentials), "the state of a tenant is for its devices");
    world.admin.resume_tenant("t", &By::local()).await.unwrap();
    let before = passwords.made();
    assert!(log_in(&world.gate, "t/d1", "another password").await.is_ok());
    assert_eq!(passwords.made() - before, 1, "it is hashed again");
}

#[tokio::test]
async fn a_password_that_another_process_has_changed_is_valid_at_once_and_ends_the_sessions_of_the_one_before() {
    let (world, passwords) = with_passwords(1).await;
    let (_gate, remote) = world.neighbour(&passwords);
    let id = world.choose("t", "d1", RIGHT).await.unwrap();
    let old = log_in(&world.gate, "t/d1", RIGHT).await.unwrap().ended.unwrap();
    world.pass(1);
    remote.delete_device_credential("t", "d1", id, &By::local()).await.unwrap();
    let new = NewDevicePassword { password: "another password".to_owned().into(), expires: None };
    remote.create_device_password("t", "d1", &new, &By::local()).await.unwrap();
    let session = log_in(&world.gate, "t/d1", "another password").await.unwrap().ended.unwrap();
    assert!(old.is_cancelled() && !session.is_cancelled());
    assert_eq!(kind(log_in(&world.gate, "t/d1", RIGHT).await), Some(RefusalKind::BadCredentials));
    // A process that reads its rows again ends what is of the row before.
    world.pass(1);
    remote.delete_device_credential("t", "d1", id, &By::local()).await.unwrap();
    remote.create_device_password("t", "d1", &new, &By::local()).await.unwrap();
    let mut position = Position::default();
    world.gate.step(&mut position).await;
    assert!(session.is_cancelled());
    let session = log_in(&world.gate, "t/d1", "another password").await.unwrap().ended.unwrap();
    world.gate.step(&mut position).await;
    assert!(!session.is_cancelled());
    remote.delete_device_credential("t", "d1", id, &By::local()).await.unwrap();
    world.gate.step(&mut position).await;
    assert!(session.is_cancelled());
}

#[tokio::test]
async fn a_password_is_kept_anew_when_its_parameters_are_weak_or_its_pepper_is_old() {
    let (world, passwords) = with_passwords(1).await;
    let id = id_of("t", "d1");
    let (pepper, input) = world.peppers.of_new_password(&id, RIGHT.as_bytes());
    let weak = (Params { memory: 64, passes: 1 }, [3; 16]);
    let hash = passwords.hash((Lane::Known, None), weak, input).await.unwrap();
    let password = PasswordHash { phc: hash.text(), pepper };
    let kind_of_row = CredentialKind::DevicePassword { device: "d1".into(), password: password.clone() };
    let row = Credential { id, tenant: "t".into(), kind: kind_of_row, created: START, expires: None, digest: None };
    let by = crate::registry::Origin { by: "local".into(), method: "Test", address: None, request_id: None, at: START };
    world.registry.create_credential(row, &by).await.unwrap();
    assert_eq!(kind(log_in(&world.gate, "t/d1", "wrong horse battery").await), Some(RefusalKind::BadCredentials));
    world.gate.write_uses().await;
    assert_eq!(world.kept(id).await, password, "by the right one only");
    assert!(log_in(&world.gate, "t/d1", RIGHT).await.is_ok());
    world.gate.write_uses().await;
    let stronger = world.kept(id).await;
    assert!(stronger.phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && stronger.pepper == 1, "{}", stronger.phc);
    let (gate, _admin) = world.neighbour(&passwords);
    let before = passwords.made();
    assert!(log_in(&gate, "t/d1", RIGHT).await.is_ok());
    assert_eq!(passwords.made() - before, 1, "it stays");
    // A rotation of the peppers, with a use in between.
    world.peppers.replace(&world.peppers.rotated().unwrap());
    let (gate, _admin) = world.neighbour(&passwords);
    assert!(log_in(&gate, "t/d1", RIGHT).await.is_ok());
    gate.write_uses().await;
    assert_eq!(world.kept(id).await.pepper, 2);
    world.peppers.replace(&world.peppers.rotated().unwrap());
    let (gate, _admin) = world.neighbour(&passwords);
    assert!(log_in(&gate, "t/d1", RIGHT).await.is_ok());
    // Two, without one.
    world.peppers.replace(&world.peppers.rotated().unwrap());
    let (gate, _admin) = world.neighbour(&passwords);
    assert_eq!(kind(log_in(&gate, "t/d1", RIGHT).await), Some(RefusalKind::BadCredentials));
}

#[tokio::test]
async fn ten_guesses_at_a_password_from_anywhere_hold_up_further_ones_also_for_names_that_do_not_exist() {
    let (world, passwords) = with_passwords(2).await;
    world.choose("t", "d1", RIGHT).await.unwrap();
    world.choose("t", "d2", RIGHT).await.unwrap();
    assert!(log_in(&world.gate, "t/d1", RIGHT).await.is_ok());
    for (n, user) in ["t/d1", "t/unknown"].into_iter().enumerate() {
        for guess in 0..10 {
            let outcome = log_in_from(&world.gate, &format!("10.{n}.1.{guess}:1"), user, "wrong horse battery").await;
            assert_eq!(kind(outcome), Some(RefusalKind::BadCredentials), "{user} {guess}");
        }
        let before = passwords.made();
        let outcome = log_in_from(&world.gate, &format!("10.{n}.2.1:1"), user, "wrong horse battery").await;
        assert_eq!((kind(outcome), passwords.made() - before), (Some(RefusalKind::Busy), 0), "{user}");
    }
    assert!(log_in(&world.gate, "t/d1", RIGHT).await.is_ok(), "it is recognised");
    assert!(log_in(&world.gate, "t/d2", RIGHT).await.is_ok(), "another device");
    let (gate, _admin) = world.neighbour(&passwords);
    assert!(log_in(&gate, "t/d1", RIGHT).await.is_ok(), "each process counts for itself");
    world.pass(61);
    let outcome = log_in_from(&world.gate, "10.0.2.1:1", "t/d1", "wrong horse battery").await;
    assert_eq!(kind(outcome), Some(RefusalKind::BadCredentials), "a minute later");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn guesses_that_are_made_at_the_same_time_are_as_many_as_those_one_after_the_other() {
    let (world, passwords) = with_passwords(2).await;
    world.choose("t", "d1", RIGHT).await.unwrap();
    let before = passwords.made();
    let mut guesses = tokio::task::JoinSet::new();
    for guess in 0..30 {
        let gate = world.gate.clone();
        guesses.spawn(async move {
            log_in_from(&gate, &format!("10.0.1.{guess}:1"), "t/d1", "wrong horse battery").await.unwrap_err()
        });
    }
    guesses.join_all().await;
    let made = passwords.made() - before;
    assert!((1..=10).contains(&made), "{made}");
    assert!(log_in_from(&world.gate, "10.0.2.1:1", "t/d1", RIGHT).await.is_err());
    world.pass(61);
    // Those that were right are not counted.
    for _ in 0..12 {
        assert_eq!(kind(log_in(&world.gate, "t/d1", RIGHT).await), None);
        world.gate.revoke(&id_of("t", "d1"));
    }
}

#[tokio::test]
async fn a_revocation_that_overtakes_a_lookup_repeats_it_and_not_the_hash() {
    let (world, passwords) = with_passwords(1).await;
    world.choose("t", "d1", RIGHT).await.unwrap();
    // Lookups of its own shard are those that are repeated.
    let own = shard_of(&id_of("t", "d1"));
    let mut ids = 2..;
    let (device, other) = loop {
        let device = format!("d{}", ids.next().unwrap());
        let (id, _) = world.device(&device, None).await;
        if shard_of(&id) == own {
            break (device, id);
        }
    };
    let before = passwords.made();
    world.registry.pause();
    let gate = world.gate.clone();
    let login = tokio::spawn(async move { log_in(&gate, "t/d1", RIGHT).await });
    world.registry.arrived().await;
    world.admin.delete_device_credential("t", &device, other, &By::local()).await.unwrap();
    let lookups = world.registry.lookups();
    world.registry.release();
    assert!(login.await.unwrap().is_ok());
    assert_eq!((world.registry.lookups() - lookups, passwords.made() - before), (1, 1));
}

#[tokio::test]
async fn a_registry_that_is_away_is_not_an_answer_about_a_password() {
    let (world, passwords) = with_passwords(1).await;
    world.choose("t", "d1", RIGHT).await.unwrap();
    world.registry.set_away(true);
    let before = passwords.made();
    assert_eq!(kind(log_in(&world.gate, "t/d1", RIGHT).await), Some(RefusalKind::Unavailable));
    assert_eq!(passwords.made(), before);
    world.registry.set_away(false);
    assert!(log_in(&world.gate, "t/d1", RIGHT).await.is_ok());
}

#[tokio::test]
async fn a_full_queue_is_told_at_once_and_delays_no_device_with_a_secret() {
    let (world, passwords) = with_passwords(1).await;
    world.choose("t", "d1", RIGHT).await.unwrap();
    world.choose("t", "d2", RIGHT).await.unwrap();
    let (_, secret) = world.device("s1", None).await;
    assert!(log_in(&world.gate, "t/d1", RIGHT).await.is_ok());
    // A fifth of a second each, from as many addresses.
    let slow = Params { memory: 19_456, passes: 16 };
    let hash = |last: u8| {
        let passwords = passwords.clone();
        let lane = (Lane::Known, Some([10, 1, 0, last].into()));
        tokio::spawn(async move { passwords.hash(lane, (slow, [0; 16]), [0; 32]).await })
    };
    // One is being made, and as many wait as may: those that are refused leave at once.
    const WAITING: usize = 16;
    let (mut tasks, begun) = (Vec::new(), std::time::Instant::now());
    for last in (0..250).cycle() {
        tasks.retain(|task: &tokio::task::JoinHandle<_>| !task.is_finished());
        if tasks.len() > WAITING && passwords.waiting() == WAITING {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "the queue is not full");
        tasks.push(hash(last));
        tokio::task::yield_now().await;
    }
    let refused = log_in(&world.gate, "t/d2", RIGHT).await.unwrap_err();
    assert_eq!((refused.kind, &*refused.reason), (RefusalKind::Busy, crate::gate::admit::BUSY));
    let error = world.choose("t", "d3", RIGHT).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(reason) if reason.contains("try again")), "{error}");
    assert!(log_in(&world.gate, "t/d1", RIGHT).await.is_ok(), "it is recognised");
    admitted(&world.gate, "s1", &secret).await;
    // One that waits for its turn is the last of the queue, which is empty then.
    assert!(passwords.waiting() > 0, "none of them has waited");
    // Clients that have gone give their places back, and no failure was counted.
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    futures::future::join_all(tasks).await;
    assert!(log_in(&world.gate, "t/d2", RIGHT).await.is_ok());
}
